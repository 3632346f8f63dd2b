// SPDX-License-Identifier: Apache-2.0
// Continues a text, one token at a time; the same tokens as `generate` of
// toolchain/ssmpress/runtime/session.py.
#ifndef SSMPRESS_RUNNER_GENERATE_H_
#define SSMPRESS_RUNNER_GENERATE_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "runner/model/sampling.h"
#include "runner/model/session.h"
#include "runner/model/state.h"

namespace ssmrun {

struct Generation {
  Sampling sampling;
  uint64_t max_tokens = 100;
  bool ignore_eos = false;  // goes on after an end token of the model
};

struct Generated {
  std::vector<int64_t> tokens;
  bool ended = false;  // the last token is an end token of the model, and nothing came after it
  double prefill_ms = 0;
  std::vector<double> decode_ms;  // of every step: one less than tokens
};

// From the zero state. use: called with every token as soon as it is drawn.
Generated Generate(Model& model, State& state, const std::vector<int64_t>& prompt,
                   const Generation& settings, const std::function<void(int64_t)>& use);

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_GENERATE_H_
