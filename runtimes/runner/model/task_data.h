// SPDX-License-Identifier: Apache-2.0
// What classifiers and forecasters are evaluated on: labelled texts and series, as
// toolchain/ssmpress/labelled.py and series.py read them.
#ifndef SSMPRESS_RUNNER_TASK_DATA_H_
#define SSMPRESS_RUNNER_TASK_DATA_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "runner/model/session.h"

namespace ssmrun {

// Tokens of a text; the second argument begins the message of a failure.
using Encode = std::function<std::vector<int64_t>(std::string_view, const std::string&)>;

// A text of at most max_length tokens, and the number of its class.
struct LabelledText {
  std::vector<int64_t> tokens;
  size_t label;
};

// A .jsonl file: each line an object with `label`, a class, and `text`, or `tokens` instead.
// limit: texts at most, 0 is all. Throws kBadInput with the line.
std::vector<LabelledText> ReadLabelled(const std::string& path, const Task& task,
                                       const Encode& encode, uint64_t limit);

// A .csv file with a heading, rows in the order of time: (rows, variates), (x - mean) / std.
// Throws kBadInput with the line.
std::vector<float> ReadSeries(const std::string& path, const Task& task);

struct Accuracy {
  double accuracy;
  std::vector<bool> right;
};
// A text whose logits are not finite is wrong; of equal logits the first counts.
Accuracy EvaluateAccuracy(Model& model, const std::vector<LabelledText>& texts);

struct ForecastError {
  double mse, mae;
  uint64_t windows, predictions;
};
// Over every window of the series, time step and variate; limit: windows at most, 0 is all.
ForecastError EvaluateForecast(Model& model, const std::vector<float>& series,
                               const std::string& path, uint64_t limit);

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_TASK_DATA_H_
