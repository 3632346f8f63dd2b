// SPDX-License-Identifier: Apache-2.0
// What a model's metadata says of it, and whether its graph agrees: the twin of
// toolchain/ssmpress/runtime/interface.py.
#ifndef SSMPRESS_RUNNER_INTERFACE_H_
#define SSMPRESS_RUNNER_INTERFACE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "runner/model/runtime.h"
#include "runner/model/state_tensor.h"

namespace ssmrun {

// What a model is for: the `task` of its config. Without one it is a language model.
struct Task {
  enum Kind { kLanguageModel, kClassification, kForecast };
  Kind kind = kLanguageModel;
  std::vector<std::string> classes;   // by the order of the logits
  int64_t max_length = 0;             // tokens that a classifier reads of a text
  int64_t lookback = 0, horizon = 0;  // time steps that a forecaster reads and predicts
  std::vector<std::string> variates;
  std::vector<double> mean, std;  // of each variate: inputs and forecasts are (x - mean) / std
  const char* name() const;
};

// What a model's metadata says, checked. Inputs and outputs are as in docs/ops.md; only language
// models carry states, and a forecaster has no vocabulary.
struct Interface {
  std::string config;  // JSON
  Task task;
  int64_t vocab_size = 0;
  std::vector<StateTensor> states;
  std::vector<int64_t> end_tokens;  // where a text ends; none in a bundle that does not list them
  bool is_end(int64_t token) const;
};

// The entries of a model's metadata. states: none in a bundle from before it listed them.
struct Metadata {
  std::string config;
  std::optional<std::string> states;
};

// inputs: of the graph. Throws kBadInput; the message begins with `path`.
Interface ReadInterface(const Metadata& metadata, size_t inputs, const std::string& path);

// Checks the inputs and outputs of a session against its metadata; throws kBadInput.
void CheckInterface(const Runtime& runtime, const ort::Session* session, const Interface& expected,
                    const std::string& path);

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_INTERFACE_H_
