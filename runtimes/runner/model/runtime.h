// SPDX-License-Identifier: Apache-2.0
// The two libraries that a model runs with: ONNX Runtime and the op library.
#ifndef SSMPRESS_RUNNER_RUNTIME_H_
#define SSMPRESS_RUNNER_RUNTIME_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "runner/failure.h"
#include "runner/model/onnx_runtime_abi.h"

namespace ssmrun {

namespace ort = ssmpress::ort;

// A thing that ONNX Runtime owns and its Release... function frees.
template <class T, const auto& kRelease>
struct Releaser {
  const ort::Api* api = nullptr;
  void operator()(T* thing) const { kRelease(api)(thing); }
};
template <class T, const auto& kRelease>
using Owned = std::unique_ptr<T, Releaser<T, kRelease>>;
using OwnedValue = Owned<ort::Value, ort::kReleaseValue>;
using OwnedBinding = Owned<ort::IoBinding, ort::kReleaseIoBinding>;

// libonnxruntime.so. It stays loaded until the process ends: its threads may still be ending.
class Runtime {
 public:
  // Throws kDevice: for another machine, not loadable, or older than API version 17.
  explicit Runtime(const std::string& path);

  const ort::Api* api() const { return api_; }
  const ort::ApiBase* base() const { return base_; }
  ort::Env* env() const { return env_.get(); }
  const ort::MemoryInfo* memory() const { return memory_.get(); }
  std::string version() const { return base_->get_version_string(); }
  // Throws `code` with `where` and the first line of ONNX Runtime's message.
  void check(ort::Status* status, ExitCode code, const std::string& where) const;
  // A tensor that is the caller's buffer.
  OwnedValue tensor(void* data, size_t bytes, const std::vector<int64_t>& shape, int type) const;
  // The same of a vector. ONNX Runtime only reads an input, which may be constant, but its C ABI
  // has one type for inputs and outputs.
  template <class T>
  OwnedValue tensor(const std::vector<T>& values, const std::vector<int64_t>& shape) const {
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, int64_t>);
    return tensor(const_cast<T*>(values.data()), sizeof(T) * values.size(), shape,
                  std::is_same_v<T, float> ? ort::kFloat : ort::kInt64);
  }

 private:
  const ort::ApiBase* base_ = nullptr;
  const ort::Api* api_ = nullptr;
  Owned<ort::Env, ort::kReleaseEnv> env_;
  Owned<ort::MemoryInfo, ort::kReleaseMemoryInfo> memory_;
};

class OpLibrary {
 public:
  // Throws kDevice: for another machine, not loadable, or SSMPRESS_ISA names a set it cannot use.
  explicit OpLibrary(const std::string& path);
  const std::string& path() const { return path_; }
  const std::string& isa() const { return isa_; }
  ort::Status* add_to(ort::SessionOptions* options, const Runtime& runtime) const {
    return register_(options, runtime.base());
  }

 private:
  std::string path_, isa_;
  ort::Status* (*register_)(ort::SessionOptions*, const ort::ApiBase*) = nullptr;
};

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_RUNTIME_H_
