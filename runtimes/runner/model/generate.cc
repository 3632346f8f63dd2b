// SPDX-License-Identifier: Apache-2.0
#include "runner/model/generate.h"

#include "runner/system.h"

namespace ssmrun {

Generated Generate(Model& model, State& state, const std::vector<int64_t>& prompt,
                   const Generation& settings, const std::function<void(int64_t)>& use) {
  Generated result;
  Sampler sampler(settings.sampling);
  const auto vocab = static_cast<size_t>(model.interface().vocab_size);
  std::vector<float> first(vocab);
  const float* logits = first.data();
  state.clear();
  double begin = NowMs();
  if (settings.max_tokens > 0) {
    model.prefill(prompt, {static_cast<int64_t>(prompt.size()) - 1}, first.data(), state);
    result.prefill_ms = NowMs() - begin;
  }
  while (result.tokens.size() < settings.max_tokens) {
    const int64_t token = sampler.draw(logits, vocab);
    result.tokens.push_back(token);
    use(token);
    result.ended = !settings.ignore_eos && model.interface().is_end(token);
    if (result.ended || result.tokens.size() == settings.max_tokens) break;
    begin = NowMs();
    logits = model.step(token, state);
    result.decode_ms.push_back(NowMs() - begin);
  }
  return result;
}

}  // namespace ssmrun
