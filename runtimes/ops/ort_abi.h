// SPDX-License-Identifier: Apache-2.0
// The part of ONNX Runtime's C ABI that a CPU custom op needs, written from its published layout.
//
// OrtApi is a table of function pointers that only ever grows at its end, and OrtCustomOp a struct
// that does the same, so an entry is a fixed slot number. What is declared here exists from API
// version 17 (ONNX Runtime 1.17) on. Opaque types are only ever used through pointers. Enumerations
// are passed as int, which is what the C ABI makes of them.
#ifndef SSMPRESS_OPS_ORT_ABI_H_
#define SSMPRESS_OPS_ORT_ABI_H_

#include <cstddef>
#include <cstdint>

namespace ssmpress::ort {

constexpr uint32_t kApiVersion = 17;

struct Status;
struct Value;
struct TensorInfo;
struct KernelInfo;
struct KernelContext;
struct SessionOptions;
struct CustomOpDomain;
struct ShapeInferContext;

using Function = void (*)();

struct Api {
  Function slot[1];  // about 300 in truth
};

struct ApiBase {
  const Api* (*get_api)(uint32_t version);
  const char* (*get_version_string)();
};

enum ErrorCode : int { kFail = 1, kInvalidArgument = 2 };
enum ElementType : int { kFloat = 1, kUint8 = 2, kInt8 = 3, kInt32 = 6, kInt64 = 7, kFloat16 = 10 };
enum Characteristic : int { kRequired = 0 };

struct CustomOp {
  uint32_t version;
  void* (*create_kernel)(const CustomOp*, const Api*, const KernelInfo*);
  const char* (*get_name)(const CustomOp*);
  const char* (*get_execution_provider)(const CustomOp*);
  ElementType (*get_input_type)(const CustomOp*, size_t);
  size_t (*get_input_count)(const CustomOp*);
  ElementType (*get_output_type)(const CustomOp*, size_t);
  size_t (*get_output_count)(const CustomOp*);
  void (*compute)(void*, KernelContext*);
  void (*destroy)(void*);
  Characteristic (*get_input_characteristic)(const CustomOp*, size_t);
  Characteristic (*get_output_characteristic)(const CustomOp*, size_t);
  int (*get_input_memory_type)(const CustomOp*, size_t);
  int (*get_variadic_input_min_arity)(const CustomOp*);
  int (*get_variadic_input_homogeneity)(const CustomOp*);
  int (*get_variadic_output_min_arity)(const CustomOp*);
  int (*get_variadic_output_homogeneity)(const CustomOp*);
  Status* (*create_kernel_v2)(const CustomOp*, const Api*, const KernelInfo*, void**);
  Status* (*compute_v2)(void*, KernelContext*);
  Status* (*infer_output_shape)(const CustomOp*, ShapeInferContext*);
  int (*get_start_version)(const CustomOp*);
  int (*get_end_version)(const CustomOp*);
  size_t (*get_may_inplace)(int**, int**);
  void (*release_may_inplace)(int*, int*);
  size_t (*get_alias_map)(int**, int**);
  void (*release_alias_map)(int*, int*);
};
static_assert(sizeof(void*) != 8 || sizeof(CustomOp) == 208, "OrtCustomOp has 26 slots");
static_assert(sizeof(void*) != 8 || offsetof(CustomOp, compute_v2) == 144, "slot 18");

// A typed slot of OrtApi: kSlot(api)(arguments...).
template <size_t kIndex, class Signature>
struct Slot {
  Signature* operator()(const Api* api) const {
    return reinterpret_cast<Signature*>(api->slot[kIndex]);
  }
};

inline constexpr Slot<0, Status*(int, const char*)> kCreateStatus;
inline constexpr Slot<26, Status*(const char*, CustomOpDomain**)> kCreateCustomOpDomain;
inline constexpr Slot<27, Status*(CustomOpDomain*, const CustomOp*)> kCustomOpDomainAdd;
inline constexpr Slot<28, Status*(SessionOptions*, CustomOpDomain*)> kAddCustomOpDomain;
inline constexpr Slot<51, Status*(Value*, void**)> kGetTensorMutableData;
inline constexpr Slot<60, Status*(const TensorInfo*, int*)> kGetTensorElementType;
inline constexpr Slot<61, Status*(const TensorInfo*, size_t*)> kGetDimensionsCount;
inline constexpr Slot<62, Status*(const TensorInfo*, int64_t*, size_t)> kGetDimensions;
inline constexpr Slot<65, Status*(const Value*, TensorInfo**)> kGetTensorTypeAndShape;
inline constexpr Slot<85, Status*(const KernelInfo*, const char*, float*)> kGetAttributeFloat;
inline constexpr Slot<86, Status*(const KernelInfo*, const char*, int64_t*)> kGetAttributeInt64;
inline constexpr Slot<90, Status*(const KernelContext*, size_t, const Value**)> kGetInput;
inline constexpr Slot<91, Status*(KernelContext*, size_t, const int64_t*, size_t, Value**)>
    kGetOutput;
inline constexpr Slot<93, void(Status*)> kReleaseStatus;
inline constexpr Slot<99, void(TensorInfo*)> kReleaseTensorInfo;
inline constexpr Slot<101, void(CustomOpDomain*)> kReleaseCustomOpDomain;
inline constexpr Slot<249, Status*(const KernelInfo*, size_t, int*, const Value**)>
    kGetConstantInput;
inline constexpr Slot<274,
                      Status*(const KernelContext*, void (*)(void*, size_t), size_t, size_t, void*)>
    kParallelFor;

}  // namespace ssmpress::ort

#endif  // SSMPRESS_OPS_ORT_ABI_H_
