// SPDX-License-Identifier: Apache-2.0
// SelectiveScan and UngatedScan: shapes and pointers in, kernels/scan/selective_scan.cc does the
// work.
#include <cmath>

#include "ops/op.h"

namespace ssmpress {
namespace {

enum Input { kU, kDelta, kDeltaBias, kA, kB, kC, kD };  // of both; state is the last input

constexpr const char* kGatedNames[] = {"u", "delta", "delta_bias", "A",    "B",
                                       "C", "D",     "z",          "state"};
constexpr const char* kUngatedNames[] = {"u", "delta", "delta_bias", "A", "B", "C", "D", "state"};
constexpr size_t kZ = 7, kGatedInputs = 9, kUngatedInputs = 8;

// Of an UngatedScan.
struct UngatedKernel : Kernel {
  ScanOptions options;
};

ort::Status* ReadFlag(const ort::KernelInfo* info, const Kernel& kernel, const char* name,
                      bool* flag) {
  int64_t value = 0;
  if (ort::Status* s = ort::kGetAttributeInt64(kernel.api)(info, name, &value)) return s;
  if (value != 0 && value != 1) {
    return Error(kernel.api, *kernel.op, "%s: expected 0 or 1, got %lld", name,
                 static_cast<long long>(value));
  }
  *flag = value == 1;
  return nullptr;
}

ort::Status* ReadAttributes(const ort::KernelInfo* info, UngatedKernel* kernel) {
  ScanOptions& options = kernel->options;
  if (ort::Status* s = ReadFlag(info, *kernel, "softplus", &options.softplus)) return s;
  if (ort::Status* s = ReadFlag(info, *kernel, "reverse", &options.reverse)) return s;
  if (ort::Status* s = ort::kGetAttributeFloat(kernel->api)(info, "offset", &options.offset)) {
    return s;
  }
  if (!std::isfinite(options.offset)) {
    return Error(kernel->api, *kernel->op, "offset: expected a finite number, got %g",
                 static_cast<double>(options.offset));
  }
  return nullptr;
}

template <size_t kInputs>
ort::Status* CheckShapes(const Kernel& kernel, const Tensor (&in)[kInputs]) {
  const ort::Api* api = kernel.api;
  const OpDefinition& op = *kernel.op;
  const int64_t any[3] = {-1, -1, -1};
  if (ort::Status* s = CheckShape(api, op, kU, in[kU], 3, any)) return s;
  if (ort::Status* s = CheckShape(api, op, kA, in[kA], 2, any)) return s;
  const int64_t b = in[kU].dims[0], l = in[kU].dims[1], d = in[kU].dims[2], n = in[kA].dims[0];
  const int64_t per_channel[3] = {b, l, d}, per_state[3] = {b, l, n}, state[3] = {b, n, d};
  const struct {
    size_t input;
    size_t rank;
    const int64_t* shape;
  } expected[] = {{kDelta, 3, per_channel}, {kDeltaBias, 1, per_channel + 2},
                  {kA, 2, state + 1},       {kB, 3, per_state},
                  {kC, 3, per_state},       {kD, 1, per_channel + 2},
                  {kInputs - 1, 3, state}};
  for (const auto& e : expected) {
    if (ort::Status* s = CheckShape(api, op, e.input, in[e.input], e.rank, e.shape)) return s;
  }
  if constexpr (kInputs == kGatedInputs) {
    return CheckShape(api, op, kZ, in[kZ], 3, per_channel);
  }
  return nullptr;
}

// Reads the inputs and makes the outputs.
template <size_t kInputs>
ort::Status* MakeScan(const Kernel& kernel, ort::KernelContext* context, SelectiveScan* args) {
  Tensor in[kInputs];
  if (ort::Status* s = ReadInputs(kernel, context, in)) return s;
  if (ort::Status* s = CheckShapes(kernel, in)) return s;
  const Tensor& state = in[kInputs - 1];
  float *y, *state_out;
  if (ort::Status* s = MakeOutput(kernel.api, context, 0, in[kU].dims, 3, &y)) return s;
  if (ort::Status* s = MakeOutput(kernel.api, context, 1, state.dims, 3, &state_out)) return s;
  auto size = [&](Input i, size_t axis) { return static_cast<size_t>(in[i].dims[axis]); };
  auto data = [&](size_t i) { return static_cast<const float*>(in[i].data); };
  const float* z = kInputs == kGatedInputs ? data(kZ) : nullptr;
  *args = {size(kU, 0),       size(kU, 1), size(kU, 2), size(kA, 0), data(kU), data(kDelta),
           data(kDeltaBias),  data(kA),    data(kB),    data(kC),    data(kD), z,
           data(kInputs - 1), y,           state_out};
  return nullptr;
}

ort::Status* Finish(const Kernel& kernel, const SessionThreads& threads, bool has_memory) {
  return has_memory ? threads.status : Error(kernel.api, *kernel.op, "out of memory");
}

ort::Status* ComputeGated(void* self, ort::KernelContext* context) {
  const Kernel& kernel = *static_cast<const Kernel*>(self);
  SelectiveScan args;
  if (ort::Status* s = MakeScan<kGatedInputs>(kernel, context, &args)) return s;
  SessionThreads threads = {kernel.api, context, nullptr};
  const bool has_memory = RunSelectiveScan(*kernel.isa, args, UseThreads(&threads));
  return Finish(kernel, threads, has_memory);
}

ort::Status* ComputeUngated(void* self, ort::KernelContext* context) {
  const UngatedKernel& kernel = *static_cast<const UngatedKernel*>(self);
  UngatedScan args = {{}, kernel.options};
  if (ort::Status* s = MakeScan<kUngatedInputs>(kernel, context, &args.scan)) return s;
  SessionThreads threads = {kernel.api, context, nullptr};
  const bool has_memory = RunUngatedScan(*kernel.isa, args, UseThreads(&threads));
  return Finish(kernel, threads, has_memory);
}

const OpDefinition kOps[] = {
    DefineFloatOp("SelectiveScan", kGatedNames, kGatedInputs, 2, ComputeGated),
    DefineFloatOp("UngatedScan", kUngatedNames, kUngatedInputs, 2, ComputeUngated,
                  CreateKernelWith<UngatedKernel, ReadAttributes>)};

}  // namespace

OpList SelectiveScanOps() { return ListOf(kOps); }

}  // namespace ssmpress
