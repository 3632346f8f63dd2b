// SPDX-License-Identifier: Apache-2.0
// Loading the two libraries, and checking what a model has for inputs and outputs.
#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "runner/files.h"
#include "runner/model/session.h"

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

namespace {

constexpr int64_t kFree = -1;  // a dimension that the caller chooses

struct Signature {
  std::string name;
  int type;
  std::vector<int64_t> shape;
};

// Half of an interface: inputs, whose sizes must be declared, or outputs, which may leave any open.
class Side {
 public:
  Side(const Runtime& runtime, const ort::Session* session, const std::string& path, bool input)
      : runtime_(runtime), session_(session), path_(path), input_(input) {
    ort::Allocator* allocator = nullptr;
    check(ort::kGetAllocatorWithDefaultOptions(api())(&allocator));
    size_t count = 0;
    check(input ? ort::kSessionGetInputCount(api())(session, &count)
                : ort::kSessionGetOutputCount(api())(session, &count));
    for (size_t i = 0; i < count; ++i) {
      char* name = nullptr;
      check(input ? ort::kSessionGetInputName(api())(session, i, allocator, &name)
                  : ort::kSessionGetOutputName(api())(session, i, allocator, &name));
      found_.push_back(read(i, name));
      check(ort::kAllocatorFree(api())(allocator, name));
    }
  }

  void compare(const std::vector<Signature>& expected) const {
    for (const Signature& wanted : expected) {
      const auto has_name = [&](const Signature& one) { return one.name == wanted.name; };
      const auto item = std::find_if(found_.begin(), found_.end(), has_name);
      if (item == found_.end()) {
        BadInput(path_ + ": expected an " + kind() + " named " + wanted.name + "; it has none.");
      }
      if (!fits(wanted, *item)) {
        BadInput(path_ + ": " + kind() + " " + wanted.name + ": expected " + shown(wanted) +
                 "; got " + shown(*item) + ". The metadata and the graph disagree.");
      }
    }
    for (const Signature& item : found_) {
      const auto has_name = [&](const Signature& one) { return one.name == item.name; };
      if (std::none_of(expected.begin(), expected.end(), has_name)) {
        BadInput(path_ + ": unexpected " + kind() + " " + item.name +
                 "; the metadata and the graph disagree.");
      }
    }
  }

 private:
  const ort::Api* api() const { return runtime_.api(); }
  void check(ort::Status* status) const { runtime_.check(status, kInternal, path_); }
  std::string kind() const { return input_ ? "input" : "output"; }

  Signature read(size_t index, std::string name) const {
    ort::TypeInfo* info = nullptr;
    check(input_ ? ort::kSessionGetInputTypeInfo(api())(session_, index, &info)
                 : ort::kSessionGetOutputTypeInfo(api())(session_, index, &info));
    const Owned<ort::TypeInfo, ort::kReleaseTypeInfo> owner(info, {api()});
    const ort::TensorInfo* tensor = nullptr;
    check(ort::kCastTypeInfoToTensorInfo(api())(info, &tensor));
    Signature result{std::move(name), 0, {}};
    if (tensor == nullptr) return result;  // no tensor: a sequence or a map
    size_t rank = 0;
    check(ort::kGetTensorElementType(api())(tensor, &result.type));
    check(ort::kGetDimensionsCount(api())(tensor, &rank));
    result.shape.resize(rank);
    check(ort::kGetDimensions(api())(tensor, result.shape.data(), rank));
    return result;
  }

  bool fits(const Signature& wanted, const Signature& found) const {
    const auto size_fits = [&](int64_t want, int64_t got) {
      return got >= 0 ? got == want : want == kFree || !input_;
    };
    return wanted.type == found.type &&
           std::equal(wanted.shape.begin(), wanted.shape.end(), found.shape.begin(),
                      found.shape.end(), size_fits);
  }

  static std::string shown(const Signature& one) {
    std::string text = one.type == ort::kFloat     ? "float32 ("
                       : one.type == ort::kFloat16 ? "float16 ("
                       : one.type == ort::kInt64
                           ? "int64 ("
                           : "element type " + std::to_string(one.type) + " (";
    for (size_t i = 0; i < one.shape.size(); ++i) {
      text += (i > 0 ? ", " : "") + (one.shape[i] < 0 ? "any" : std::to_string(one.shape[i]));
    }
    return text + ")";
  }

  const Runtime& runtime_;
  const ort::Session* session_;
  const std::string& path_;
  bool input_;
  std::vector<Signature> found_;
};

}  // namespace

void CheckInterface(const Runtime& runtime, const ort::Session* session, const Interface& expected,
                    const std::string& path) {
  const Task& task = expected.task;
  std::vector<Signature> inputs, outputs;
  if (task.kind == Task::kLanguageModel) {
    inputs = {{"input_ids", ort::kInt64, {kFree, kFree}},
              {"logits_positions", ort::kInt64, {kFree}}};
    outputs = {{"logits", ort::kFloat, {kFree, kFree, expected.vocab_size}}};
  } else if (task.kind == Task::kClassification) {
    inputs = {{"input_ids", ort::kInt64, {kFree, kFree}}};
    outputs = {{"logits", ort::kFloat, {kFree, static_cast<int64_t>(task.classes.size())}}};
  } else {
    const auto variates = static_cast<int64_t>(task.variates.size());
    inputs = {{"series", ort::kFloat, {kFree, task.lookback, variates}}};
    outputs = {{"forecast", ort::kFloat, {kFree, task.horizon, variates}}};
  }
  for (const StateTensor& state : expected.states) {
    inputs.push_back({"past_" + state.name, state.type, state.shape_at(kFree, kFree)});
    outputs.push_back({"present_" + state.name, state.type, state.shape_at(kFree, kFree)});
  }
  Side(runtime, session, path, true).compare(inputs);
  Side(runtime, session, path, false).compare(outputs);
}

}  // namespace ssmrun
