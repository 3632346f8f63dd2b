// SPDX-License-Identifier: Apache-2.0
// Metrics, as toolchain/ssmpress/evaluate.py defines them.
#ifndef SSMPRESS_RUNNER_EVALUATE_H_
#define SSMPRESS_RUNNER_EVALUATE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "runner/json/json.h"
#include "runner/model/session.h"

namespace ssmrun {

constexpr size_t kChunkTokens = 256;  // per call of the model: bounds the memory of the logits

using Windows = std::vector<std::vector<int64_t>>;

// -log softmax(logits)[target] in nats, stable. NaN where the logits are not finite.
double TokenNll(const float* logits, size_t vocab, int64_t target);

// Sum of the negative log likelihoods of tokens 1 .. w-1, from the zero state, in nats.
double WindowNll(Model& model, const std::vector<int64_t>& window);

// exp(mean negative log likelihood per token) over windows of one length.
struct Perplexity {
  double perplexity, nll;  // NaN if any window's is not finite
  uint64_t tokens;         // predictions
  std::vector<double> window_nll;
};
Perplexity EvaluatePerplexity(Model& model, const Windows& windows);

// p50, p90 and p99 of samples in milliseconds, linear between neighbours; tokens per sample.
void WritePercentiles(JsonWriter& out, std::vector<double> samples_ms, double tokens);

// Tokens of a file: integers as .npy (count) or (count, w), or raw little-endian of `raw_type`,
// `uint16` or `int32`. limit: tokens to take at most, 0 is all. vocab: of the model; a type that
// cannot hold its tokens has cut them. Throws kBadInput.
struct TokenFile {
  std::vector<int64_t> tokens;
  size_t row = 0;  // w of a (count, w) array, else 0
};
TokenFile ReadTokens(const std::string& path, const std::string& raw_type, uint64_t limit,
                     int64_t vocab);

// Consecutive windows that do not overlap, a shorter rest left out.
Windows CutWindows(const TokenFile& file, uint64_t length, const std::string& path);

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_EVALUATE_H_
