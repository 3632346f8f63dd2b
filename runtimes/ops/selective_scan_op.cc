// SPDX-License-Identifier: Apache-2.0
// SelectiveScan: shapes and pointers in, kernels/scan/selective_scan.cc does the work.
#include "ops/op.h"

namespace ssmpress {
namespace {

enum Input { kU, kDelta, kDeltaBias, kA, kB, kC, kD, kZ, kState, kInputs };

constexpr const char* kInputNames[kInputs] = {"u", "delta", "delta_bias", "A",    "B",
                                              "C", "D",     "z",          "state"};

ort::Status* CheckShapes(const Kernel& kernel, const Tensor (&in)[kInputs]) {
  const ort::Api* api = kernel.api;
  const OpDefinition& op = *kernel.op;
  const int64_t any[3] = {-1, -1, -1};
  if (ort::Status* s = CheckShape(api, op, kU, in[kU], 3, any)) return s;
  if (ort::Status* s = CheckShape(api, op, kA, in[kA], 2, any)) return s;
  const int64_t b = in[kU].dims[0], l = in[kU].dims[1], d = in[kU].dims[2], n = in[kA].dims[0];
  const int64_t per_channel[3] = {b, l, d}, per_state[3] = {b, l, n}, state[3] = {b, n, d};
  const struct {
    Input input;
    size_t rank;
    const int64_t* shape;
  } expected[] = {{kDelta, 3, per_channel}, {kDeltaBias, 1, per_channel + 2},
                  {kA, 2, state + 1},       {kB, 3, per_state},
                  {kC, 3, per_state},       {kD, 1, per_channel + 2},
                  {kZ, 3, per_channel},     {kState, 3, state}};
  for (const auto& e : expected) {
    if (ort::Status* s = CheckShape(api, op, e.input, in[e.input], e.rank, e.shape)) return s;
  }
  return nullptr;
}

ort::Status* Compute(void* self, ort::KernelContext* context) {
  const Kernel& kernel = *static_cast<const Kernel*>(self);
  const ort::Api* api = kernel.api;
  Tensor in[kInputs];
  if (ort::Status* s = ReadInputs(kernel, context, in)) return s;
  if (ort::Status* s = CheckShapes(kernel, in)) return s;
  float *y, *state_out;
  if (ort::Status* s = MakeOutput(api, context, 0, in[kU].dims, 3, &y)) return s;
  if (ort::Status* s = MakeOutput(api, context, 1, in[kState].dims, 3, &state_out)) return s;
  auto size = [&](Input i, size_t axis) { return static_cast<size_t>(in[i].dims[axis]); };
  auto data = [&](Input i) { return static_cast<const float*>(in[i].data); };
  const SelectiveScan args = {size(kU, 0),  size(kU, 1),      size(kU, 2),  size(kA, 0), data(kU),
                              data(kDelta), data(kDeltaBias), data(kA),     data(kB),    data(kC),
                              data(kD),     data(kZ),         data(kState), y,           state_out};
  SessionThreads threads = {api, context, nullptr};
  if (!RunSelectiveScan(*kernel.isa, args, UseThreads(&threads))) {
    return Error(api, *kernel.op, "out of memory");
  }
  return threads.status;
}

const OpDefinition kOps[] = {DefineFloatOp("SelectiveScan", kInputNames, kInputs, 2, Compute)};

}  // namespace

OpList SelectiveScanOps() { return ListOf(kOps); }

}  // namespace ssmpress
