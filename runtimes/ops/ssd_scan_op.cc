// SPDX-License-Identifier: Apache-2.0
// SsdScan: shapes, attributes and pointers in, kernels/ssd/ssd_scan.cc does the work.
#include "ops/op.h"

namespace ssmpress {
namespace {

enum Input { kX, kDelta, kDeltaBias, kA, kB, kC, kD, kState, kInputs };

constexpr const char* kInputNames[kInputs] = {"x", "delta", "delta_bias", "A",
                                              "B", "C",     "D",          "state"};

struct SsdKernel : Kernel {
  float dt_min, dt_max;
};

ort::Status* ReadAttributes(const ort::KernelInfo* info, SsdKernel* kernel) {
  const ort::Api* api = kernel->api;
  if (ort::Status* s = ort::kGetAttributeFloat(api)(info, "dt_min", &kernel->dt_min)) return s;
  if (ort::Status* s = ort::kGetAttributeFloat(api)(info, "dt_max", &kernel->dt_max)) return s;
  if (kernel->dt_min >= 0 && kernel->dt_min <= kernel->dt_max) return nullptr;
  return Error(api, *kernel->op, "dt_min: expected 0 to dt_max = %g, got %g",
               static_cast<double>(kernel->dt_max), static_cast<double>(kernel->dt_min));
}

// Sizes that others are multiples of: h and p of d, n of the width of B, g of h.
ort::Status* CheckSizes(const Kernel& kernel, const Tensor (&in)[kInputs]) {
  const ort::Api* api = kernel.api;
  const OpDefinition& op = *kernel.op;
  const long long h = in[kDelta].dims[2], n = in[kState].dims[2], p = in[kState].dims[3];
  const long long d = in[kX].dims[2], width = in[kB].dims[2];
  if (h < 1) return Error(api, op, "delta: expected at least 1 head, got 0");
  if (n < 1 || p < 1) {
    return Error(api, op, "state: expected at least 1 row and 1 column, got %lld and %lld", n, p);
  }
  if (d % h != 0 || d / h != p) {
    return Error(api, op,
                 "x: expected a last dimension of %lld heads (delta) times %lld columns (state), "
                 "got %lld",
                 h, p, d);
  }
  if (width < 1 || width % n != 0) {
    return Error(api, op,
                 "B: expected a last dimension that is a multiple of %lld (state), got %lld", n,
                 width);
  }
  if (h % (width / n) != 0) {
    return Error(api, op, "B: expected groups that divide the %lld heads, got %lld groups", h,
                 width / n);
  }
  return nullptr;
}

ort::Status* CheckShapes(const Kernel& kernel, const Tensor (&in)[kInputs]) {
  const ort::Api* api = kernel.api;
  const OpDefinition& op = *kernel.op;
  const int64_t any[3] = {-1, -1, -1};
  if (ort::Status* s = CheckShape(api, op, kX, in[kX], 3, any)) return s;
  const int64_t b = in[kX].dims[0], l = in[kX].dims[1], d = in[kX].dims[2];
  const int64_t per_token[3] = {b, l, -1};
  if (ort::Status* s = CheckShape(api, op, kDelta, in[kDelta], 3, per_token)) return s;
  const int64_t h = in[kDelta].dims[2], state[4] = {b, h, -1, -1};
  if (ort::Status* s = CheckShape(api, op, kState, in[kState], 4, state)) return s;
  if (ort::Status* s = CheckShape(api, op, kB, in[kB], 3, per_token)) return s;
  if (ort::Status* s = CheckSizes(kernel, in)) return s;
  const struct {
    Input input;
    size_t rank;
    const int64_t* shape;
  } expected[] = {{kC, 3, in[kB].dims}, {kDeltaBias, 1, &h}, {kA, 1, &h}, {kD, 1, &d}};
  for (const auto& e : expected) {
    if (ort::Status* s = CheckShape(api, op, e.input, in[e.input], e.rank, e.shape)) return s;
  }
  return nullptr;
}

ort::Status* Compute(void* self, ort::KernelContext* context) {
  const SsdKernel& kernel = *static_cast<const SsdKernel*>(self);
  const ort::Api* api = kernel.api;
  Tensor in[kInputs];
  if (ort::Status* s = ReadInputs(kernel, context, in)) return s;
  if (ort::Status* s = CheckShapes(kernel, in)) return s;
  SsdScan args = {};
  if (ort::Status* s = MakeOutput(api, context, 0, in[kX].dims, 3, &args.y)) return s;
  if (ort::Status* s = MakeOutput(api, context, 1, in[kState].dims, 4, &args.state_out)) return s;
  auto size = [&](Input i, size_t axis) { return static_cast<size_t>(in[i].dims[axis]); };
  auto data = [&](Input i) { return static_cast<const float*>(in[i].data); };
  args.b = size(kX, 0), args.l = size(kX, 1), args.h = size(kDelta, 2);
  args.n = size(kState, 2), args.p = size(kState, 3), args.g = size(kB, 2) / args.n;
  args.x = data(kX), args.delta = data(kDelta), args.delta_bias = data(kDeltaBias);
  args.A = data(kA), args.B = data(kB), args.C = data(kC), args.D = data(kD);
  args.state = data(kState);
  args.dt_min = kernel.dt_min, args.dt_max = kernel.dt_max;
  SessionThreads threads = {api, context, nullptr};
  if (!RunSsdScan(*kernel.isa, args, UseThreads(&threads))) {
    return Error(api, *kernel.op, "out of memory");
  }
  return threads.status;
}

const OpDefinition kOps[] = {DefineFloatOp("SsdScan", kInputNames, kInputs, 2, Compute,
                                           CreateKernelWith<SsdKernel, ReadAttributes>)};

}  // namespace

OpList SsdScanOps() { return ListOf(kOps); }

}  // namespace ssmpress
