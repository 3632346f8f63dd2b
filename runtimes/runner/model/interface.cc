// SPDX-License-Identifier: Apache-2.0
#include "runner/model/interface.h"

#include <algorithm>
#include <string_view>

#include "runner/data/array.h"
#include "runner/json/json.h"
#include "runner/model/fields.h"

namespace ssmrun {

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
  interface.task = ReadTask(root, place + ": ");
  const Fields fields(root, place + ": ");
  if (interface.task->reads_tokens()) {
    interface.vocab_size = fields.integer("vocab_size", kSizeLimit);
  }
  if (interface.task->generates() && root.find("end_tokens")) {
    interface.end_tokens = fields.tokens("end_tokens", kEndTokenLimit, interface.vocab_size);
  }
  if (metadata.states) {
    interface.states = ReadStates(*metadata.states, path + ": ssmpress.states");
  } else if (interface.task->recurrent()) {
    interface.states = OldStates(root, inputs, place + ": ");
  }
  return interface;
}

namespace {

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

  void compare(const std::vector<Port>& expected) const {
    for (const Port& wanted : expected) {
      const auto has_name = [&](const Port& one) { return one.name == wanted.name; };
      const auto item = std::find_if(found_.begin(), found_.end(), has_name);
      if (item == found_.end()) {
        BadInput(path_ + ": expected an " + kind() + " named " + wanted.name + "; it has none.");
      }
      if (!fits(wanted, *item)) {
        BadInput(path_ + ": " + kind() + " " + wanted.name + ": expected " + shown(wanted) +
                 "; got " + shown(*item) + ". The metadata and the graph disagree.");
      }
    }
    for (const Port& item : found_) {
      const auto has_name = [&](const Port& one) { return one.name == item.name; };
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

  Port read(size_t index, std::string name) const {
    ort::TypeInfo* info = nullptr;
    check(input_ ? ort::kSessionGetInputTypeInfo(api())(session_, index, &info)
                 : ort::kSessionGetOutputTypeInfo(api())(session_, index, &info));
    const Owned<ort::TypeInfo, ort::kReleaseTypeInfo> owner(info, {api()});
    const ort::TensorInfo* tensor = nullptr;
    check(ort::kCastTypeInfoToTensorInfo(api())(info, &tensor));
    Port result{std::move(name), 0, {}};
    if (tensor == nullptr) return result;  // no tensor: a sequence or a map
    size_t rank = 0;
    check(ort::kGetTensorElementType(api())(tensor, &result.type));
    check(ort::kGetDimensionsCount(api())(tensor, &rank));
    result.shape.resize(rank);
    check(ort::kGetDimensions(api())(tensor, result.shape.data(), rank));
    return result;
  }

  bool fits(const Port& wanted, const Port& found) const {
    const auto size_fits = [&](int64_t want, int64_t got) {
      return got >= 0 ? got == want : want == kFree || !input_;
    };
    return wanted.type == found.type &&
           std::equal(wanted.shape.begin(), wanted.shape.end(), found.shape.begin(),
                      found.shape.end(), size_fits);
  }

  static std::string shown(const Port& one) {
    const Dtype* dtype = NetworkDtype(one.type);
    std::string text = dtype != nullptr ? dtype->name : "element type " + std::to_string(one.type);
    text += " (";
    for (size_t i = 0; i < one.shape.size(); ++i) {
      text += (i > 0 ? ", " : "") + (one.shape[i] < 0 ? "any" : std::to_string(one.shape[i]));
    }
    return text + ")";
  }

  const Runtime& runtime_;
  const ort::Session* session_;
  const std::string& path_;
  bool input_;
  std::vector<Port> found_;
};

}  // namespace

void CheckInterface(const Runtime& runtime, const ort::Session* session, const Interface& expected,
                    const std::string& path) {
  auto [inputs, outputs] = expected.task->ports(expected.vocab_size);
  for (const StateTensor& state : expected.states) {
    inputs.push_back({"past_" + state.name, state.type, state.shape_at(kFree, kFree)});
    outputs.push_back({"present_" + state.name, state.type, state.shape_at(kFree, kFree)});
  }
  Side(runtime, session, path, true).compare(inputs);
  Side(runtime, session, path, false).compare(outputs);
}

}  // namespace ssmrun
