// SPDX-License-Identifier: Apache-2.0
// Classification: the class of a text.
#include <algorithm>
#include <cmath>

#include "runner/format.h"
#include "runner/json/request.h"
#include "runner/model/fields.h"
#include "runner/model/session.h"
#include "runner/tasks/task.h"

namespace ssmrun {

extern const TaskKind kClassification;

namespace {

class Classification final : public Task {
 public:
  explicit Classification(const Fields& block)
      : classes_(block.names("classes", 2)), max_length_(block.integer("max_length", kTaskLimit)) {}

  const TaskKind& kind() const override { return kClassification; }

  Ports ports(int64_t) const override {
    return {{{"input_ids", ort::kInt64, {kFree, kFree}}},
            {{"logits", ort::kFloat, {kFree, static_cast<int64_t>(classes_.size())}}}};
  }

  void first_prediction(Model& model, State&) const override { predict(model, {0}, 1); }

  Round timed_round(Model& model, State&, SplitMix64& random, uint64_t steps,
                    uint64_t singles) const override {
    return TimeBatches(singles, [&](size_t batch) {
      return
          [&, batch, tokens = RandomTokens(random, batch * steps, model.interface().vocab_size)] {
            predict(model, tokens, batch);
          };
    });
  }

  // A text whose logits are not finite is wrong; of equal logits the first counts.
  Metric evaluate(Model& model, const Samples& samples) const override {
    std::vector<bool> right;
    const LabelledTexts expected{classes_, max_length_, samples.encode};
    for (const LabelledText& text : ReadLabelled(samples.path, expected, samples.limit)) {
      const std::vector<float> logits = predict(model, text.tokens, 1);
      const bool finite =
          std::all_of(logits.begin(), logits.end(), [](float x) { return std::isfinite(x); });
      const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
      right.push_back(finite && static_cast<size_t>(best) == text.label);
    }
    const auto hits = std::count(right.begin(), right.end(), true);
    const double accuracy = static_cast<double>(hits) / static_cast<double>(right.size());
    Metric metric;
    metric.fields.field("accuracy", accuracy).field("samples", static_cast<uint64_t>(right.size()));
    metric.fields.key("right").begin_array();
    for (const bool one : right) metric.fields.value(one);
    metric.fields.end_array();
    metric.text = Format("accuracy %.4f over %zu texts", accuracy, right.size());
    return metric;
  }

  void answer(const Request& request, Model& model, State&, JsonWriter& out) const override {
    std::vector<float> all;
    const std::vector<std::vector<int64_t>> texts = request.lists("texts");
    for (const std::vector<int64_t>& text : texts) {
      const std::vector<float> logits = predict(model, text, 1);
      all.insert(all.end(), logits.begin(), logits.end());
    }
    WriteArray(out, {texts.size(), classes_.size()}, "logits", all);
  }

 private:
  // Logits (batch, classes) of texts of one length, (batch, l).
  std::vector<float> predict(Model& model, const std::vector<int64_t>& tokens, size_t batch) const {
    model.check_tokens(tokens, "tokens");
    const auto texts = static_cast<int64_t>(batch);
    std::vector<float> logits(batch * classes_.size());
    const Runtime& runtime = model.runtime();
    const OwnedValue ids =
        runtime.tensor(tokens, {texts, static_cast<int64_t>(tokens.size() / batch)});
    const OwnedValue result =
        runtime.tensor(logits, {texts, static_cast<int64_t>(classes_.size())});
    model.run_whole("input_ids", ids, "logits", result);
    return logits;
  }

  std::vector<std::string> classes_;  // by the order of the logits
  int64_t max_length_;                // tokens that are read of a text
};

}  // namespace

const TaskKind kClassification = {
    "classification",
    [](const Fields& block) -> std::unique_ptr<const Task> {
      return std::make_unique<Classification>(block);
    },
    {"classify"},
};

}  // namespace ssmrun
