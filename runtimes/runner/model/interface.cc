// SPDX-License-Identifier: Apache-2.0
// A model's metadata: vocabulary, task and states, as toolchain/ssmpress/runtime/interface.py reads
// it.
#include "runner/model/fields.h"
#include "runner/model/session.h"

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
  if (metadata.states) {
    interface.states = ReadStates(*metadata.states, path + ": ssmpress.states");
  } else if (interface.task.kind == Task::kLanguageModel) {
    interface.states = OldStates(root, inputs, place + ": ");
  }
  return interface;
}

}  // namespace ssmrun
