// SPDX-License-Identifier: Apache-2.0
// What the adapters share: reading tensors, checking shapes, errors, threads.
//
// Every function that can fail returns a Status*: nullptr, or an error that the caller hands back
// to ONNX Runtime. Nothing throws, so nothing can cross the ABI.
#ifndef SSMPRESS_OPS_OP_H_
#define SSMPRESS_OPS_OP_H_

#include "kernels/kernels.h"
#include "ops/ort_abi.h"

namespace ssmpress {

constexpr size_t kMaxRank = 8;
constexpr size_t kMaxInputs = 9;

// One custom op: what ONNX Runtime asks about it. `base` must come first.
struct OpDefinition {
  ort::CustomOp base;
  const char* name;
  const char* input_names[kMaxInputs];
  ort::ElementType input_types[kMaxInputs];
  size_t input_count;
  size_t output_count;
  Structure structure;  // ops with a packed matrix only
  Values values;        // ops with a packed matrix only
};

struct Tensor {
  void* data;
  size_t rank;
  int64_t dims[kMaxRank];
};

const OpDefinition& Definition(const ort::CustomOp* op);

// The members of ort::CustomOp that are the same for every op; kernel functions are left null.
ort::CustomOp CommonCustomOp();

// printf-like; `op` and a colon come first.
__attribute__((format(printf, 3, 4))) ort::Status* Error(const ort::Api* api,
                                                         const OpDefinition& op, const char* format,
                                                         ...);

ort::Status* ReadValue(const ort::Api* api, const OpDefinition& op, const ort::Value* value,
                       size_t input, Tensor* tensor);
ort::Status* ReadInput(const ort::Api* api, const OpDefinition& op,
                       const ort::KernelContext* context, size_t input, Tensor* tensor);
ort::Status* MakeOutput(const ort::Api* api, ort::KernelContext* context, size_t output,
                        const int64_t* dims, size_t rank, float** data);

// Compares a shape with what it must be; a negative number allows any size.
ort::Status* CheckShape(const ort::Api* api, const OpDefinition& op, size_t input,
                        const Tensor& tensor, size_t rank, const int64_t* expected);

// The session's threads. `context` and `api` must outlive the result.
struct SessionThreads {
  const ort::Api* api;
  const ort::KernelContext* context;
  ort::Status* status;  // of the last ParallelFor
};
ParallelFor UseThreads(SessionThreads* threads);

// What every kernel holds.
struct Kernel {
  const ort::Api* api;
  const OpDefinition* op;
  const Isa* isa;
  int64_t columns;  // ops with a packed matrix only
  // Ops with a packed matrix only: the sections are constant initializers, which stay where they
  // are as long as the session, and have been checked: `matrix` points at them.
  bool constant;
  PackedMatrix matrix;
};

// Allocates a kernel of `size` bytes, which starts with a Kernel and is zero after it, and picks
// its instruction set.
ort::Status* CreateKernel(const ort::CustomOp* op, const ort::Api* api, size_t size,
                          Kernel** kernel);
void DestroyKernel(void* kernel);

// Creates a kernel of an op with attributes: K is a Kernel, perhaps with more members, which
// kRead(info, &kernel) fills.
template <class K, ort::Status* (*kRead)(const ort::KernelInfo*, K*)>
ort::Status* CreateKernelWith(const ort::CustomOp* op, const ort::Api* api,
                              const ort::KernelInfo* info, void** result) {
  Kernel* kernel = nullptr;
  *result = nullptr;
  if (ort::Status* s = CreateKernel(op, api, sizeof(K), &kernel)) return s;
  ort::Status* status = kRead(info, static_cast<K*>(kernel));
  if (status != nullptr) {
    DestroyKernel(kernel);
    return status;
  }
  *result = kernel;
  return nullptr;
}

// Creates a kernel of an op without attributes.
ort::Status* CreatePlainKernel(const ort::CustomOp* op, const ort::Api* api,
                               const ort::KernelInfo* info, void** result);

using CreateFunction = ort::Status* (*)(const ort::CustomOp* op, const ort::Api* api,
                                        const ort::KernelInfo* info, void** result);
using ComputeFunction = ort::Status* (*)(void* kernel, ort::KernelContext* context);

// An op all of whose inputs are float32.
OpDefinition DefineFloatOp(const char* name, const char* const* inputs, size_t input_count,
                           size_t output_count, ComputeFunction compute,
                           CreateFunction create = CreatePlainKernel);
// An op of one output whose inputs from 1 on are the sections of a packed matrix
// (matrix_sections.cc). Its kernel reads the attributes when it is created, and checks the contents
// of sections that are constant.
OpDefinition DefineMatrixOp(const char* name, const char* first, ort::ElementType first_type,
                            Structure structure, Values values, ComputeFunction compute);

// All inputs of an op that DefineFloatOp made.
template <size_t kInputs>
ort::Status* ReadInputs(const Kernel& kernel, const ort::KernelContext* context,
                        Tensor (&in)[kInputs]) {
  for (size_t i = 0; i < kInputs; ++i) {
    if (ort::Status* s = ReadInput(kernel.api, *kernel.op, context, i, &in[i])) return s;
  }
  return nullptr;
}
// Reads input 0 into `first` and points `matrix` at the sections, whose shapes and contents are
// checked where they are not constant.
ort::Status* ReadMatrixInputs(const Kernel& kernel, ort::KernelContext* context, Tensor* first,
                              PackedMatrix* matrix);

// The ops of a file; they live as long as the process.
struct OpList {
  const OpDefinition* ops;
  size_t count;
};
template <size_t kCount>
constexpr OpList ListOf(const OpDefinition (&ops)[kCount]) {
  return {ops, kCount};
}
OpList SelectiveScanOps();
OpList CausalConv1dOps();
OpList SsdScanOps();
OpList GatedRmsNormOps();
OpList LinearOps();
OpList EmbeddingOps();

}  // namespace ssmpress

#endif  // SSMPRESS_OPS_OP_H_
