// SPDX-License-Identifier: Apache-2.0
// Language models: the next token.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "runner/data/token_file.h"
#include "runner/failure.h"
#include "runner/files.h"
#include "runner/format.h"
#include "runner/json/request.h"
#include "runner/model/generate.h"
#include "runner/model/state.h"
#include "runner/system.h"
#include "runner/tasks/task.h"

namespace ssmrun {
namespace {

constexpr size_t kChunkTokens = 256;  // per call of the model: bounds the logits' memory

// -log softmax(logits)[target] in nats, stable. NaN where the logits are not finite.
double TokenNll(const float* logits, size_t vocab, int64_t target) {
  float top = logits[0];
  for (size_t i = 1; i < vocab; ++i) top = std::max(top, logits[i]);
  double total = 0;
  for (size_t i = 0; i < vocab; ++i) total += static_cast<double>(std::exp(logits[i] - top));
  return std::log(total) + static_cast<double>(top) - static_cast<double>(logits[target]);
}

// Sum of the negative log likelihoods of tokens 1 .. w-1, from the zero state, in nats.
double WindowNll(Model& model, const std::vector<int64_t>& window) {
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

// exp(mean negative log likelihood per token) over windows of one length.
struct Perplexity {
  double perplexity, nll;  // NaN if any window's is not finite
  uint64_t tokens;         // predictions
  std::vector<double> window_nll;
};

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

void WriteStates(const State& state, JsonWriter& out) {
  out.key("states").begin_object();
  for (const State::Tensor& tensor : state.tensors()) {
    const std::vector<int64_t>& shape = tensor.shape[state.front()];
    out.key(tensor.kind.name).begin_object();
    WriteArray(out, {shape.begin(), shape.end()}, "data", tensor.values(state.front()));
    out.end_object();
  }
  out.end_object();
}

class LanguageModel final : public Task {
 public:
  const TaskKind& kind() const override { return kLanguageModel; }
  bool recurrent() const override { return true; }
  bool generates() const override { return true; }

  Ports ports(int64_t vocab_size) const override {
    return {
        {{"input_ids", ort::kInt64, {kFree, kFree}}, {"logits_positions", ort::kInt64, {kFree}}},
        {{"logits", ort::kFloat, {kFree, kFree, vocab_size}}}};
  }

  void first_prediction(Model& model, State& state) const override {
    std::vector<float> logits(static_cast<size_t>(model.interface().vocab_size));
    model.prefill({0}, {0}, logits.data(), state);
  }

  // One prefill from the zero state, then single tokens with the state carried along.
  Round timed_round(Model& model, State& state, SplitMix64& random, uint64_t steps,
                    uint64_t singles) const override {
    const int64_t vocab = model.interface().vocab_size;
    const std::vector<int64_t> prompt = RandomTokens(random, steps, vocab);
    const std::vector<int64_t> tokens = RandomTokens(random, singles, vocab);
    std::vector<float> logits(static_cast<size_t>(vocab));
    state.clear();
    Round round;
    round.decode_ms.reserve(tokens.size());
    double begin = NowMs();
    model.prefill(prompt, {static_cast<int64_t>(prompt.size()) - 1}, logits.data(), state);
    round.prefill_ms = NowMs() - begin;
    for (const int64_t token : tokens) {
      begin = NowMs();
      model.step(token, state);
      round.decode_ms.push_back(NowMs() - begin);
    }
    return round;
  }

  Metric evaluate(Model& model, const Samples& samples) const override {
    const TokenFile file =
        ReadTokens(samples.path, samples.dtype, samples.limit, model.interface().vocab_size);
    const Windows windows = CutWindows(file, samples.window, samples.path);
    model.check_tokens(file.tokens, samples.path);
    const Perplexity result = EvaluatePerplexity(model, windows);
    Metric metric;
    metric.fields.field("perplexity", result.perplexity).field("nll", result.nll);
    metric.fields.field("tokens", result.tokens);
    metric.fields.field("window", static_cast<uint64_t>(windows[0].size()));
    metric.fields.field("window_nll", result.window_nll);
    metric.text =
        Format("perplexity %.4f over %llu predictions in %zu windows of %zu", result.perplexity,
               static_cast<unsigned long long>(result.tokens), windows.size(), windows[0].size());
    return metric;
  }

  void answer(const Request& request, Model& model, State& state, JsonWriter& out) const override {
    if (request.name() == "logits") {
      logits(request, model, state, out);
    } else if (request.name() == "nll") {
      nll(request, model, out);
    } else {
      generate(request, model, state, out);
    }
  }

 private:
  static void logits(const Request& request, Model& model, State& state, JsonWriter& out) {
    const std::vector<int64_t> tokens = request.integers("tokens");
    model.check_tokens(tokens, "worker: logits: tokens");
    const uint64_t split = request.number("prefill", 0, tokens.size(), tokens.size());
    const auto vocab = static_cast<size_t>(model.interface().vocab_size);
    std::vector<float> all(tokens.size() * vocab);
    state.clear();
    if (split > 0) {
      const std::vector<int64_t> first(tokens.begin(),
                                       tokens.begin() + static_cast<ptrdiff_t>(split));
      std::vector<int64_t> positions(split);
      std::iota(positions.begin(), positions.end(), 0);
      model.prefill(first, positions, all.data(), state);
    }
    for (size_t i = split; i < tokens.size(); ++i) {
      const float* row = model.step(tokens[i], state);
      std::copy(row, row + vocab, all.begin() + static_cast<ptrdiff_t>(i * vocab));
    }
    const std::vector<uint64_t> shape = {tokens.size(), vocab};
    if (request.has("file")) {
      const auto* bytes = reinterpret_cast<const char*>(all.data());
      WriteFile(request.text("file"), {std::string_view(bytes, sizeof(float) * all.size())});
      out.field("shape", shape).field("file", request.text("file"));
    } else {
      WriteArray(out, shape, "logits", all);
    }
    if (request.flag("states")) WriteStates(state, out);
  }

  static void nll(const Request& request, Model& model, JsonWriter& out) {
    std::vector<double> sums;
    uint64_t predictions = 0;
    for (const std::vector<int64_t>& window : request.lists("windows")) {
      sums.push_back(WindowNll(model, window));
      predictions += window.size() - 1;
    }
    out.field("window_nll", sums).field("tokens", predictions);
  }

  static void generate(const Request& request, Model& model, State& state, JsonWriter& out) {
    const std::vector<int64_t> prompt = request.integers("tokens");
    model.check_tokens(prompt, "worker: generate: tokens");
    const Generation settings{
        {request.real("temperature", 0), request.number("top_k", 0, kCountLimit, 0),
         request.number("seed", 0, UINT64_MAX, 0)},
        request.number("max_tokens", 0, kCountLimit),
        request.flag("ignore_eos")};
    CheckTemperature(settings.sampling.temperature);
    out.field("tokens", Generate(model, state, prompt, settings, [](int64_t) {}).tokens);
  }
};

}  // namespace

const TaskKind kLanguageModel = {
    "language-model",
    [](const Fields&) -> std::unique_ptr<const Task> { return std::make_unique<LanguageModel>(); },
    {"logits", "nll", "generate"},
};

}  // namespace ssmrun
