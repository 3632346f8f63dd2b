// SPDX-License-Identifier: Apache-2.0
#include "runner/model/runtime.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "runner/files.h"

namespace ssmrun {
namespace {

void* Load(const std::string& path, const std::string& what, const std::string& cure) {
  if (!IsFile(path)) BadDevice(path + ": " + what + " is missing. " + cure);
  const std::string machine = ElfMachine(path);
  if (machine != ThisMachine()) {
    BadDevice(path + ": expected a library for " + ThisMachine() + "; got one for " + machine +
              ". Make the bundle for this device: compress --target.");
  }
  // With a slash, so that the loader looks nowhere else.
  const std::string place = RealPath(path);
  void* handle = dlopen(place.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* message = dlerror();
    const std::string reason = message != nullptr ? message : "unknown reason";
    const bool lacks_cpp = reason.find("libstdc++") != reason.npos ||
                           reason.find("libgcc_s") != reason.npos ||
                           reason.find("GLIBCXX") != reason.npos;
    BadDevice(path + ": cannot be loaded: " + reason +
              (lacks_cpp ? ". Install this system's C++ runtime (libstdc++6, libgcc-s1)." : "."));
  }
  return handle;
}

template <class Function>
Function Find(void* handle, const char* name, const std::string& path) {
  void* const symbol = dlsym(handle, name);
  if (symbol == nullptr) {
    BadDevice(path + ": expected a library with " + name + "; it has none. Copy the whole bundle.");
  }
  return reinterpret_cast<Function>(symbol);
}

}  // namespace

Runtime::Runtime(const std::string& path) {
  // Read when the library is loaded, and never again: without it ONNX Runtime 1.31 and later keep
  // an identifier of the machine below the user's cache folder and look up a host to report to.
  setenv("ORT_DISABLE_TELEMETRY", "1", 1);
  void* const handle = Load(path, "ONNX Runtime", "Copy the whole bundle, or give --runtime FILE.");
  base_ = Find<const ort::ApiBase* (*)()>(handle, "OrtGetApiBase", path)();
  api_ = base_->get_api(ort::kApiVersion);
  if (api_ == nullptr) {
    BadDevice(path + ": expected ONNX Runtime 1.17 or later; got " + version() + ".");
  }
  ort::Env* env = nullptr;
  check(ort::kCreateEnv(api_)(ort::kLogFatal, "ssmrun", &env), kDevice, path);
  env_ = {env, {api_}};
  ort::MemoryInfo* memory = nullptr;
  check(ort::kCreateCpuMemoryInfo(api_)(ort::kDeviceAllocator, ort::kDefaultMemory, &memory),
        kInternal, path);
  memory_ = {memory, {api_}};
}

void Runtime::check(ort::Status* status, ExitCode code, const std::string& where) const {
  if (status == nullptr) return;
  const std::string_view text = ort::kGetErrorMessage(api_)(status);
  const auto says = [&](const char* words) { return text.find(words) != text.npos; };
  const bool no_memory =
      says("bad_alloc") || says("Failed to allocate memory") || says("out of memory");
  std::string message = where + ": " + std::string(text.substr(0, text.find('\n')));
  ort::kReleaseStatus(api_)(status);
  if (no_memory) BadDevice(where + ": " + kNoMemory);
  throw Failure{code, std::move(message)};
}

OwnedValue Runtime::tensor(void* data, size_t bytes, const std::vector<int64_t>& shape,
                           int type) const {
  static float nothing;  // an empty tensor needs an address all the same
  ort::Value* value = nullptr;
  check(ort::kCreateTensorWithData(api_)(memory(), data != nullptr ? data : &nothing, bytes,
                                         shape.data(), shape.size(), type, &value),
        kInternal, "tensor");
  return OwnedValue(value, {api_});
}

OpLibrary::OpLibrary(const std::string& path) : path_(path) {
  void* const handle = Load(path, "the op library", "Copy the whole bundle, or give --stock.");
  register_ = Find<decltype(register_)>(handle, "RegisterCustomOps", path);
  isa_ = Find<const char* (*)()>(handle, "ssmpress_isa", path)();
  const auto is_name = [](char c) {
    return c == '_' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z');
  };
  if (isa_.empty() || !std::all_of(isa_.begin(), isa_.end(), is_name)) {
    BadDevice(path + ": " + isa_ + ".");
  }
}

}  // namespace ssmrun
