// SPDX-License-Identifier: Apache-2.0
#include "runner/model/evaluate.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "runner/model/state.h"

namespace ssmrun {

double TokenNll(const float* logits, size_t vocab, int64_t target) {
  float top = logits[0];
  for (size_t i = 1; i < vocab; ++i) top = std::max(top, logits[i]);
  double total = 0;
  for (size_t i = 0; i < vocab; ++i) total += static_cast<double>(std::exp(logits[i] - top));
  return std::log(total) + static_cast<double>(top) - static_cast<double>(logits[target]);
}

double WindowNll(Model& model, const std::vector<int64_t>& window) {
  model.require(Task::kLanguageModel);
  if (window.size() < 2) BadInput("windows: expected at least 2 tokens; got fewer.");
  model.check_tokens(window, "windows");
  const auto vocab = static_cast<size_t>(model.interface().vocab_size);
  State state(model);
  std::vector<float> logits(std::min(kChunkTokens, window.size() - 1) * vocab);
  double total = 0;
  for (size_t begin = 0; begin + 1 < window.size(); begin += kChunkTokens) {
    const size_t count = std::min(kChunkTokens, window.size() - 1 - begin);
    const auto first = window.begin() + static_cast<ptrdiff_t>(begin);
    const std::vector<int64_t> tokens(first, first + static_cast<ptrdiff_t>(count));
    std::vector<int64_t> positions(count);
    std::iota(positions.begin(), positions.end(), 0);
    model.prefill(tokens, positions, logits.data(), state);
    for (size_t i = 0; i < count; ++i) {
      total += TokenNll(logits.data() + i * vocab, vocab, window[begin + i + 1]);
    }
  }
  return total;
}

Perplexity EvaluatePerplexity(Model& model, const Windows& windows) {
  Perplexity result{0, 0, 0, {}};
  double lost = 0;  // what the sum's rounding left out (Neumaier)
  for (const std::vector<int64_t>& window : windows) {
    const double nll = WindowNll(model, window);
    const double sum = result.nll + nll;
    lost += std::abs(result.nll) >= std::abs(nll) ? result.nll - sum + nll : nll - sum + result.nll;
    result.nll = sum;
    result.tokens += window.size() - 1;
    result.window_nll.push_back(nll);
  }
  result.nll += lost;
  if (!std::isfinite(result.nll)) result.nll = std::numeric_limits<double>::quiet_NaN();
  result.perplexity = std::exp(result.nll / static_cast<double>(result.tokens));
  return result;
}

void WritePercentiles(JsonWriter& out, std::vector<double> samples, double tokens) {
  std::sort(samples.begin(), samples.end());
  const auto at = [&](double share) {
    const double place = share * static_cast<double>(samples.size() - 1);
    const auto below = static_cast<size_t>(place);
    const size_t above = std::min(below + 1, samples.size() - 1);
    return samples[below] + (place - std::floor(place)) * (samples[above] - samples[below]);
  };
  if (samples.empty()) {
    out.null();
    return;
  }
  out.begin_object().field("p50_ms", at(0.5)).field("p90_ms", at(0.9)).field("p99_ms", at(0.99));
  out.field("tokens_per_s", 1000 * tokens / at(0.5)).end_object();
}

Windows CutWindows(const TokenFile& file, uint64_t length, const std::string& path) {
  const uint64_t count = file.tokens.size();
  const uint64_t size = file.row != 0 ? file.row : std::min(length, count);
  if (size < 2 || count < size) {
    BadInput(path + ": expected at least one window of " +
             std::to_string(std::max<uint64_t>(size, 2)) + " tokens; got " + std::to_string(count) +
             " tokens. Give more of them.");
  }
  Windows windows;
  for (uint64_t begin = 0; begin + size <= count; begin += size) {
    const auto first = file.tokens.begin() + static_cast<ptrdiff_t>(begin);
    windows.emplace_back(first, first + static_cast<ptrdiff_t>(size));
  }
  return windows;
}

}  // namespace ssmrun
