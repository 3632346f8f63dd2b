// SPDX-License-Identifier: Apache-2.0
// A model's `ssmpress.config`: sizes and task, as toolchain/ssmpress/interface.py reads them.
#include <set>

#include "runner/model/session.h"

namespace ssmrun {
namespace {

constexpr int64_t kSizeLimit = 1 << 24;  // no size of a real model comes near; beyond is damage
constexpr int64_t kTaskLimit = 1 << 20;  // largest length, and most classes or variates
constexpr Task::Kind kKinds[] = {Task::kLanguageModel, Task::kClassification, Task::kForecast};

// The fields of one object of the config; a message names path, place and field.
class Fields {
 public:
  Fields(JsonValue object, std::string where) : object_(object), where_(std::move(where)) {}

  int64_t integer(const char* name, int64_t limit) const {
    const auto found = object_.find(name);
    const int64_t value = found ? found->integer().value_or(0) : 0;
    if (value < 1 || value > limit) fail(name, "an integer of at least 1");
    return value;
  }

  std::vector<std::string> names(const char* name, size_t least) const {
    std::vector<std::string> names;
    const auto found = object_.find(name);
    if (found && found->is(JsonValue::kArray)) {
      for (const JsonValue item : *found) {
        if (!item.is(JsonValue::kString) || item.text().empty()) fail(name, "names");
        names.emplace_back(item.text());
      }
    }
    const std::set<std::string> different(names.begin(), names.end());
    if (names.size() < least || different.size() != names.size() || names.size() > kTaskLimit) {
      fail(name, "at least " + std::to_string(least) + " different names");
    }
    return names;
  }

  std::vector<double> numbers(const char* name, size_t count) const {
    std::vector<double> numbers;
    const auto found = object_.find(name);
    if (found && found->is(JsonValue::kArray)) {
      for (const JsonValue item : *found) {
        if (!item.number()) fail(name, "numbers");
        numbers.push_back(*item.number());
      }
    }
    if (numbers.size() != count) fail(name, std::to_string(count) + " numbers, one per variate");
    return numbers;
  }

  // Channels of each layer; none means `most` everywhere.
  std::vector<int64_t> channels(int64_t layers, int64_t most) const {
    std::vector<int64_t> channels;
    const auto found = object_.find("channels");
    if (!found) return channels;
    bool fits = found->is(JsonValue::kArray);
    if (fits) {
      for (const JsonValue item : *found) {
        channels.push_back(item.integer().value_or(0));
        fits = fits && channels.back() >= 1 && channels.back() <= most;
      }
    }
    if (!fits || static_cast<int64_t>(channels.size()) != layers) {
      fail("channels", std::to_string(layers) + " integers from 1 to " + std::to_string(most));
    }
    return channels;
  }

  [[noreturn]] void fail(const std::string& name, const std::string& expected) const {
    const auto found = object_.find(name);
    BadInput(where_ + name + ": expected " + expected + "; got " +
             (found ? found->shown() : "none") + ".");
  }

 private:
  JsonValue object_;
  std::string where_;
};

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

std::vector<TensorShape> Interface::states(int64_t batch) const {
  std::vector<TensorShape> shapes;
  if (task.kind != Task::kLanguageModel) return shapes;
  for (int64_t layer = 0; layer < n_layer; ++layer) {
    const std::string number = std::to_string(layer);
    const int64_t width = channels.empty() ? d_inner : channels[static_cast<size_t>(layer)];
    shapes.push_back({"conv_state." + number, {batch, d_conv - 1, width}});
    shapes.push_back({"scan_state." + number, {batch, d_state, width}});
  }
  return shapes;
}

Interface ReadInterface(std::string config, const std::string& path) {
  const std::string where = path + ": ssmpress.config: ";
  const Json document(std::move(config), path + ": ssmpress.config");
  const JsonValue root = document.root();
  Interface interface;
  interface.config = root.canonical();
  if (const auto block = root.find("task")) interface.task = ReadTask(*block, where + "task.");
  const Fields fields(root, where);
  interface.n_layer = fields.integer("n_layer", kSizeLimit);
  if (interface.task.kind != Task::kForecast) {
    interface.vocab_size = fields.integer("vocab_size", kSizeLimit);
  }
  interface.d_conv = fields.integer("d_conv", kSizeLimit);
  interface.d_state = fields.integer("d_state", kSizeLimit);
  interface.d_inner = fields.integer("d_inner", kSizeLimit);
  interface.channels = fields.channels(interface.n_layer, interface.d_inner);
  return interface;
}

}  // namespace ssmrun
