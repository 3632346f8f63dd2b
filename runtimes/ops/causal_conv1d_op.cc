// SPDX-License-Identifier: Apache-2.0
// CausalConv1d: shapes and pointers in, kernels/scan/causal_conv1d.cc does the work.
#include "ops/op.h"

namespace ssmpress {
namespace {

enum Input { kX, kWeight, kBias, kState, kInputs };

constexpr const char* kInputNames[kInputs] = {"x", "weight", "bias", "state"};

ort::Status* CheckShapes(const Kernel& kernel, const Tensor (&in)[kInputs]) {
  const ort::Api* api = kernel.api;
  const OpDefinition& op = *kernel.op;
  const int64_t any[3] = {-1, -1, -1};
  if (ort::Status* s = CheckShape(api, op, kX, in[kX], 3, any)) return s;
  const int64_t b = in[kX].dims[0], d = in[kX].dims[2];
  const int64_t weight[2] = {-1, d};
  if (ort::Status* s = CheckShape(api, op, kWeight, in[kWeight], 2, weight)) return s;
  const int64_t k = in[kWeight].dims[0];
  if (k < 1) return Error(api, op, "weight: expected at least 1 tap, got 0");
  const int64_t state[3] = {b, k - 1, d};
  if (ort::Status* s = CheckShape(api, op, kBias, in[kBias], 1, &d)) return s;
  return CheckShape(api, op, kState, in[kState], 3, state);
}

ort::Status* Compute(void* self, ort::KernelContext* context) {
  const Kernel& kernel = *static_cast<const Kernel*>(self);
  const ort::Api* api = kernel.api;
  Tensor in[kInputs];
  if (ort::Status* s = ReadInputs(kernel, context, in)) return s;
  if (ort::Status* s = CheckShapes(kernel, in)) return s;
  float *y, *state_out;
  if (ort::Status* s = MakeOutput(api, context, 0, in[kX].dims, 3, &y)) return s;
  if (ort::Status* s = MakeOutput(api, context, 1, in[kState].dims, 3, &state_out)) return s;
  auto data = [&](Input i) { return static_cast<const float*>(in[i].data); };
  const int64_t* x = in[kX].dims;
  const CausalConv1d args = {static_cast<size_t>(x[0]),
                             static_cast<size_t>(x[1]),
                             static_cast<size_t>(x[2]),
                             static_cast<size_t>(in[kWeight].dims[0]),
                             data(kX),
                             data(kWeight),
                             data(kBias),
                             data(kState),
                             y,
                             state_out};
  SessionThreads threads = {api, context, nullptr};
  if (!RunCausalConv1d(*kernel.isa, args, UseThreads(&threads))) {
    return Error(api, *kernel.op, "out of memory");
  }
  return threads.status;
}

const OpDefinition kOps[] = {DefineFloatOp("CausalConv1d", kInputNames, kInputs, 2, Compute)};

}  // namespace

OpList CausalConv1dOps() { return ListOf(kOps); }

}  // namespace ssmpress
