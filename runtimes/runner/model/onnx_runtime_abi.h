// SPDX-License-Identifier: Apache-2.0
// The part of ONNX Runtime's C ABI that opening and running a session needs, beside the part that
// an op needs (ops/ort_abi.h): slots of OrtApi that exist since API version 11 and never move.
#ifndef SSMPRESS_RUNNER_ONNX_RUNTIME_ABI_H_
#define SSMPRESS_RUNNER_ONNX_RUNTIME_ABI_H_

#include <cstddef>
#include <cstdint>

#include "ops/ort_abi.h"

namespace ssmpress::ort {

struct Env;
struct Session;
struct RunOptions;
struct IoBinding;
struct MemoryInfo;
struct TypeInfo;
struct Allocator;
struct ModelMetadata;

constexpr int kLogFatal = 4;
constexpr int kSequential = 0;
constexpr int kDeviceAllocator = 0;
constexpr int kDefaultMemory = 0;
constexpr int kTensorType = 1;
constexpr int kBool = 9;  // an element type that no op of the library has

inline constexpr Slot<2, const char*(const Status*)> kGetErrorMessage;
inline constexpr Slot<3, Status*(int, const char*, Env**)> kCreateEnv;
inline constexpr Slot<7, Status*(const Env*, const char*, const SessionOptions*, Session**)>
    kCreateSession;
inline constexpr Slot<9, Status*(Session*, const RunOptions*, const char* const*,
                                 const Value* const*, size_t, const char* const*, size_t, Value**)>
    kRun;
inline constexpr Slot<10, Status*(SessionOptions**)> kCreateSessionOptions;
inline constexpr Slot<13, Status*(SessionOptions*, int)> kSetSessionExecutionMode;
inline constexpr Slot<22, Status*(SessionOptions*, int)> kSetSessionLogSeverityLevel;
inline constexpr Slot<24, Status*(SessionOptions*, int)> kSetIntraOpNumThreads;
inline constexpr Slot<25, Status*(SessionOptions*, int)> kSetInterOpNumThreads;
inline constexpr Slot<30, Status*(const Session*, size_t*)> kSessionGetInputCount;
inline constexpr Slot<31, Status*(const Session*, size_t*)> kSessionGetOutputCount;
inline constexpr Slot<33, Status*(const Session*, size_t, TypeInfo**)> kSessionGetInputTypeInfo;
inline constexpr Slot<34, Status*(const Session*, size_t, TypeInfo**)> kSessionGetOutputTypeInfo;
inline constexpr Slot<36, Status*(const Session*, size_t, Allocator*, char**)> kSessionGetInputName;
inline constexpr Slot<37, Status*(const Session*, size_t, Allocator*, char**)>
    kSessionGetOutputName;
inline constexpr Slot<49, Status*(const MemoryInfo*, void*, size_t, const int64_t*, size_t, int,
                                  Value**)>
    kCreateTensorWithData;
inline constexpr Slot<55, Status*(const TypeInfo*, const TensorInfo**)> kCastTypeInfoToTensorInfo;
inline constexpr Slot<69, Status*(int, int, MemoryInfo**)> kCreateCpuMemoryInfo;
inline constexpr Slot<76, Status*(Allocator*, void*)> kAllocatorFree;
inline constexpr Slot<78, Status*(Allocator**)> kGetAllocatorWithDefaultOptions;
inline constexpr Slot<92, void(Env*)> kReleaseEnv;
inline constexpr Slot<94, void(MemoryInfo*)> kReleaseMemoryInfo;
inline constexpr Slot<95, void(Session*)> kReleaseSession;
inline constexpr Slot<96, void(Value*)> kReleaseValue;
inline constexpr Slot<98, void(TypeInfo*)> kReleaseTypeInfo;
inline constexpr Slot<100, void(SessionOptions*)> kReleaseSessionOptions;
inline constexpr Slot<111, Status*(const Session*, ModelMetadata**)> kSessionGetModelMetadata;
inline constexpr Slot<116, Status*(const ModelMetadata*, Allocator*, const char*, char**)>
    kModelMetadataLookup;
inline constexpr Slot<118, void(ModelMetadata*)> kReleaseModelMetadata;
inline constexpr Slot<130, Status*(SessionOptions*, const char*, const char*)>
    kAddSessionConfigEntry;
inline constexpr Slot<133, Status*(Session*, const RunOptions*, const IoBinding*)> kRunWithBinding;
inline constexpr Slot<134, Status*(Session*, IoBinding**)> kCreateIoBinding;
inline constexpr Slot<135, void(IoBinding*)> kReleaseIoBinding;
inline constexpr Slot<136, Status*(IoBinding*, const char*, const Value*)> kBindInput;
inline constexpr Slot<137, Status*(IoBinding*, const char*, const Value*)> kBindOutput;

}  // namespace ssmpress::ort

#endif  // SSMPRESS_RUNNER_ONNX_RUNTIME_ABI_H_
