// SPDX-License-Identifier: Apache-2.0
#include "ops/op.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>

namespace ssmpress {
namespace {

void ShapeText(const int64_t* dims, size_t rank, char* text, size_t size) {
  size_t used = static_cast<size_t>(std::snprintf(text, size, "("));
  for (size_t i = 0; i < rank && used < size; ++i) {
    const char* comma = i == 0 ? "" : ", ";
    const int n = dims[i] < 0 ? std::snprintf(text + used, size - used, "%sany", comma)
                              : std::snprintf(text + used, size - used, "%s%lld", comma,
                                              static_cast<long long>(dims[i]));
    used += static_cast<size_t>(n);
  }
  if (used < size) std::snprintf(text + used, size - used, ")");
}

void RunOnSession(void* self, size_t count, ParallelFor::Task task, void* context) {
  SessionThreads& threads = *static_cast<SessionThreads*>(self);
  if (count == 0) return;
  ort::Status* status = ort::kParallelFor(threads.api)(threads.context, task, count, 0, context);
  if (status == nullptr) return;
  if (threads.status != nullptr) ort::kReleaseStatus(threads.api)(threads.status);
  threads.status = status;
}

}  // namespace

const OpDefinition& Definition(const ort::CustomOp* op) {
  return *reinterpret_cast<const OpDefinition*>(op);
}

ort::CustomOp CommonCustomOp() {
  using Op = const ort::CustomOp*;
  ort::CustomOp base = {};
  base.version = ort::kApiVersion;
  base.get_name = [](Op op) { return Definition(op).name; };
  base.get_execution_provider = [](Op) -> const char* { return "CPUExecutionProvider"; };
  base.get_input_type = [](Op op, size_t i) { return Definition(op).input_types[i]; };
  base.get_input_count = [](Op op) { return Definition(op).input_count; };
  base.get_output_type = [](Op, size_t) { return ort::kFloat; };
  base.get_output_count = [](Op op) { return Definition(op).output_count; };
  base.get_input_characteristic = [](Op, size_t) { return ort::kRequired; };
  base.get_output_characteristic = [](Op, size_t) { return ort::kRequired; };
  base.get_input_memory_type = [](Op, size_t) { return 0; };
  base.get_variadic_input_min_arity = [](Op) { return 0; };
  base.get_variadic_input_homogeneity = [](Op) { return 0; };
  base.get_variadic_output_min_arity = [](Op) { return 0; };
  base.get_variadic_output_homogeneity = [](Op) { return 0; };
  base.get_start_version = [](Op) { return 1; };
  base.get_end_version = [](Op) { return 1; };
  base.destroy = DestroyKernel;
  return base;
}

ort::Status* Error(const ort::Api* api, const OpDefinition& op, const char* format, ...) {
  char text[512];
  const int n = std::snprintf(text, sizeof text, "%s: ", op.name);
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text + n, sizeof text - static_cast<size_t>(n), format, arguments);
  va_end(arguments);
  return ort::kCreateStatus(api)(ort::kInvalidArgument, text);
}

ort::Status* ReadValue(const ort::Api* api, const OpDefinition& op, const ort::Value* value,
                       size_t input, Tensor* tensor) {
  if (value == nullptr) return Error(api, op, "%s: the input is missing", op.input_names[input]);
  ort::TensorInfo* info = nullptr;
  if (ort::Status* s = ort::kGetTensorTypeAndShape(api)(value, &info)) return s;
  int type = 0;
  ort::Status* status = ort::kGetTensorElementType(api)(info, &type);
  if (status == nullptr) status = ort::kGetDimensionsCount(api)(info, &tensor->rank);
  if (status == nullptr && type != op.input_types[input]) {
    status = Error(api, op, "%s: expected element type %d, got %d", op.input_names[input],
                   op.input_types[input], type);
  }
  if (status == nullptr && tensor->rank > kMaxRank) {
    status = Error(api, op, "%s: expected at most %zu dimensions, got %zu", op.input_names[input],
                   kMaxRank, tensor->rank);
  }
  if (status == nullptr) {
    status = ort::kGetDimensions(api)(info, tensor->dims, tensor->rank);
  }
  ort::kReleaseTensorInfo(api)(info);
  if (status != nullptr) return status;
  return ort::kGetTensorMutableData(api)(const_cast<ort::Value*>(value), &tensor->data);
}

ort::Status* ReadInput(const ort::Api* api, const OpDefinition& op,
                       const ort::KernelContext* context, size_t input, Tensor* tensor) {
  const ort::Value* value = nullptr;
  if (ort::Status* s = ort::kGetInput(api)(context, input, &value)) return s;
  return ReadValue(api, op, value, input, tensor);
}

ort::Status* MakeOutput(const ort::Api* api, ort::KernelContext* context, size_t output,
                        const int64_t* dims, size_t rank, float** data) {
  ort::Value* value = nullptr;
  if (ort::Status* s = ort::kGetOutput(api)(context, output, dims, rank, &value)) return s;
  return ort::kGetTensorMutableData(api)(value, reinterpret_cast<void**>(data));
}

ort::Status* CheckShape(const ort::Api* api, const OpDefinition& op, size_t input,
                        const Tensor& tensor, size_t rank, const int64_t* expected) {
  bool equal = tensor.rank == rank;
  for (size_t i = 0; equal && i < rank; ++i) {
    equal = expected[i] < 0 || expected[i] == tensor.dims[i];
  }
  if (equal) return nullptr;
  char want[192], got[192];
  ShapeText(expected, rank, want, sizeof want);
  ShapeText(tensor.dims, tensor.rank, got, sizeof got);
  return Error(api, op, "%s: expected shape %s, got %s", op.input_names[input], want, got);
}

ParallelFor UseThreads(SessionThreads* threads) { return {RunOnSession, threads}; }

ort::Status* CreateKernel(const ort::CustomOp* op, const ort::Api* api, size_t size,
                          Kernel** kernel) {
  const OpDefinition& definition = Definition(op);
  char error[256];
  const Isa* isa = SelectIsa(error, sizeof error);
  if (isa == nullptr) return Error(api, definition, "%s", error);
  *kernel = static_cast<Kernel*>(std::calloc(1, size));
  if (*kernel == nullptr) return Error(api, definition, "out of memory");
  **kernel = {api, &definition, isa, 0, false, {}};
  return nullptr;
}

ort::Status* CreatePlainKernel(const ort::CustomOp* op, const ort::Api* api, const ort::KernelInfo*,
                               void** result) {
  Kernel* kernel = nullptr;
  ort::Status* status = CreateKernel(op, api, sizeof(Kernel), &kernel);
  *result = kernel;
  return status;
}

OpDefinition DefineFloatOp(const char* name, const char* const* inputs, size_t input_count,
                           size_t output_count, ComputeFunction compute, CreateFunction create) {
  OpDefinition op = {};
  op.base = CommonCustomOp();
  op.base.create_kernel_v2 = create;
  op.base.compute_v2 = compute;
  op.name = name;
  op.input_count = input_count;
  op.output_count = output_count;
  for (size_t i = 0; i < input_count; ++i) {
    op.input_names[i] = inputs[i];
    op.input_types[i] = ort::kFloat;
  }
  return op;
}

void DestroyKernel(void* kernel) { std::free(kernel); }

}  // namespace ssmpress
