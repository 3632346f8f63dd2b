// SPDX-License-Identifier: Apache-2.0
#include "runner/model/interface.h"

#include <algorithm>
#include <string_view>

#include "runner/json/json.h"
#include "runner/model/fields.h"

namespace ssmrun {
namespace {

constexpr Task::Kind kKinds[] = {Task::kLanguageModel, Task::kClassification, Task::kForecast};

Task ReadTask(JsonValue block, const std::string& where) {
  const Fields fields(block, where);
  Task task;
  const auto kind = block.find("kind");
  bool known = false;
  for (const Task::Kind one : kKinds) {
    task.kind = one;
    known = kind && kind->is(JsonValue::kString) && kind->text() == task.name();
    if (known) break;
  }
  if (!known) fields.fail("kind", "language-model, classification or forecast");
  if (task.kind == Task::kClassification) {
    task.classes = fields.names("classes", 2);
    task.max_length = fields.integer("max_length", kTaskLimit);
  } else if (task.kind == Task::kForecast) {
    task.lookback = fields.integer("lookback", kTaskLimit);
    task.horizon = fields.integer("horizon", kTaskLimit);
    task.variates = fields.names("variates", 1);
    task.mean = fields.numbers("mean", task.variates.size());
    task.std = fields.numbers("std", task.variates.size());
    for (const double deviation : task.std) {
      if (!(deviation > 0)) fields.fail("std", "positive numbers");
    }
  }
  return task;
}

}  // namespace

const char* Task::name() const {
  return kind == kClassification ? "classification"
         : kind == kForecast     ? "forecast"
                                 : "language-model";
}

bool Interface::is_end(int64_t token) const {
  return std::find(end_tokens.begin(), end_tokens.end(), token) != end_tokens.end();
}

Interface ReadInterface(const Metadata& metadata, size_t inputs, const std::string& path) {
  const std::string place = path + ": ssmpress.config";
  const Json document(metadata.config, place);
  const JsonValue root = document.root();
  if (!root.is(JsonValue::kObject)) {
    BadInput(place + ": expected an object; got " + root.shown() + ".");
  }
  Interface interface;
  interface.config = root.canonical();
  if (const auto block = root.find("task")) interface.task = ReadTask(*block, place + ": task.");
  const Fields fields(root, place + ": ");
  if (interface.task.kind != Task::kForecast) {
    interface.vocab_size = fields.integer("vocab_size", kSizeLimit);
  }
  if (interface.task.kind == Task::kLanguageModel && root.find("end_tokens")) {
    interface.end_tokens = fields.tokens("end_tokens", kEndTokenLimit, interface.vocab_size);
  }
  if (metadata.states) {
    interface.states = ReadStates(*metadata.states, path + ": ssmpress.states");
  } else if (interface.task.kind == Task::kLanguageModel) {
    interface.states = OldStates(root, inputs, place + ": ");
  }
  return interface;
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
