// SPDX-License-Identifier: Apache-2.0
// The table of tasks, and what several of them use.
#include <algorithm>

#include "runner/files.h"
#include "runner/format.h"
#include "runner/model/fields.h"
#include "runner/system.h"
#include "runner/tasks/task.h"

namespace ssmrun {

extern const TaskKind kClassification, kForecast;

const std::vector<const TaskKind*>& TaskKinds() {
  static const std::vector<const TaskKind*> kinds = {
      &kLanguageModel,
      &kClassification,
      &kForecast,
      &kNetwork,
  };
  return kinds;
}

std::unique_ptr<const Task> ReadTask(JsonValue config, const std::string& where) {
  const auto block = config.find("task");
  const Fields fields(block.value_or(config), where + "task.");
  if (!block) return kLanguageModel.read(fields);
  const auto name = fields.find("kind");
  std::vector<std::string> known;
  for (const TaskKind* kind : TaskKinds()) {
    if (name && name->is(JsonValue::kString) && name->text() == kind->name) {
      return kind->read(fields);
    }
    known.emplace_back(kind->name);
  }
  fields.fail("kind", OneOf(known));
}

const TaskKind* FindRequest(std::string_view name) {
  for (const TaskKind* kind : TaskKinds()) {
    const auto& names = kind->requests;
    if (std::find(names.begin(), names.end(), name) != names.end()) return kind;
  }
  return nullptr;
}

void WriteArray(JsonWriter& out, const std::vector<uint64_t>& shape, const char* name,
                const std::vector<float>& values) {
  out.field("shape", shape);
  out.field(name, Base64(values.data(), sizeof(float) * values.size()));
}

std::vector<int64_t> RandomTokens(SplitMix64& random, uint64_t count, int64_t vocab_size) {
  std::vector<int64_t> tokens(count);
  for (int64_t& token : tokens) {
    token = static_cast<int64_t>(random.next() % static_cast<uint64_t>(vocab_size));
  }
  return tokens;
}

Round TimeBatches(uint64_t singles,
                  const std::function<std::function<void()>(size_t batch)>& predictor,
                  size_t batch) {
  const auto time = [&](size_t samples) {
    const std::function<void()> predict = predictor(samples);
    const double begin = NowMs();
    predict();
    return NowMs() - begin;
  };
  Round round{time(batch), {}};
  while (round.decode_ms.size() < singles) round.decode_ms.push_back(time(1));
  return round;
}

}  // namespace ssmrun
