// SPDX-License-Identifier: Apache-2.0
// GatedRMSNorm: shapes, attributes and pointers in, kernels/ssd/gated_rms_norm.cc does the work.
#include <cmath>

#include "ops/op.h"

namespace ssmpress {
namespace {

enum Input { kX, kZ, kWeight, kInputs };

constexpr const char* kInputNames[kInputs] = {"x", "z", "weight"};

struct NormKernel : Kernel {
  float epsilon;
  int64_t groups;
  bool gate_first;
};

ort::Status* ReadAttributes(const ort::KernelInfo* info, NormKernel* kernel) {
  const ort::Api* api = kernel->api;
  const OpDefinition& op = *kernel->op;
  int64_t gate_first = 0;
  if (ort::Status* s = ort::kGetAttributeFloat(api)(info, "epsilon", &kernel->epsilon)) return s;
  if (ort::Status* s = ort::kGetAttributeInt64(api)(info, "groups", &kernel->groups)) return s;
  if (ort::Status* s = ort::kGetAttributeInt64(api)(info, "gate_first", &gate_first)) return s;
  if (!std::isfinite(kernel->epsilon) || kernel->epsilon < 0) {
    return Error(api, op, "epsilon: expected a finite number not below 0, got %g",
                 static_cast<double>(kernel->epsilon));
  }
  if (kernel->groups < 1) {
    return Error(api, op, "groups: expected at least 1, got %lld",
                 static_cast<long long>(kernel->groups));
  }
  if (gate_first != 0 && gate_first != 1) {
    return Error(api, op, "gate_first: expected 0 or 1, got %lld",
                 static_cast<long long>(gate_first));
  }
  kernel->gate_first = gate_first == 1;
  return nullptr;
}

ort::Status* CheckShapes(const NormKernel& kernel, const Tensor (&in)[kInputs]) {
  const ort::Api* api = kernel.api;
  const OpDefinition& op = *kernel.op;
  const int64_t any[3] = {-1, -1, -1};
  if (ort::Status* s = CheckShape(api, op, kX, in[kX], 3, any)) return s;
  const int64_t d = in[kX].dims[2];
  if (d < 1 || d % kernel.groups != 0) {
    return Error(api, op,
                 "x: expected a last dimension that is a multiple of %lld (groups), got %lld",
                 static_cast<long long>(kernel.groups), static_cast<long long>(d));
  }
  if (ort::Status* s = CheckShape(api, op, kZ, in[kZ], 3, in[kX].dims)) return s;
  return CheckShape(api, op, kWeight, in[kWeight], 1, &d);
}

ort::Status* Compute(void* self, ort::KernelContext* context) {
  const NormKernel& kernel = *static_cast<const NormKernel*>(self);
  const ort::Api* api = kernel.api;
  Tensor in[kInputs];
  if (ort::Status* s = ReadInputs(kernel, context, in)) return s;
  if (ort::Status* s = CheckShapes(kernel, in)) return s;
  float* y;
  if (ort::Status* s = MakeOutput(api, context, 0, in[kX].dims, 3, &y)) return s;
  auto data = [&](Input i) { return static_cast<const float*>(in[i].data); };
  const int64_t* x = in[kX].dims;
  const GatedRmsNorm args = {static_cast<size_t>(x[0]) * static_cast<size_t>(x[1]),
                             static_cast<size_t>(x[2]),
                             static_cast<size_t>(kernel.groups),
                             kernel.gate_first,
                             kernel.epsilon,
                             data(kX),
                             data(kZ),
                             data(kWeight),
                             y};
  SessionThreads threads = {api, context, nullptr};
  RunGatedRmsNorm(*kernel.isa, args, UseThreads(&threads));
  return threads.status;
}

const OpDefinition kOps[] = {DefineFloatOp("GatedRMSNorm", kInputNames, kInputs, 1, Compute,
                                           CreateKernelWith<NormKernel, ReadAttributes>)};

}  // namespace

OpList GatedRmsNormOps() { return ListOf(kOps); }

}  // namespace ssmpress
