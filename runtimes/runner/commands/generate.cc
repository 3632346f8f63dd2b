// SPDX-License-Identifier: Apache-2.0
// ssmrun generate: continues a text.
#include "runner/model/generate.h"

#include "runner/commands/commands.h"
#include "runner/files.h"
#include "runner/format.h"
#include "runner/system.h"
#include "runner/text/text_stream.h"
#include "runner/text/tokenizer.h"

namespace ssmrun {
namespace {

constexpr uint64_t kPromptLimit = 64 << 20;  // bytes

std::string ReadPrompt(const Options& options) {
  if (options.has_prompt) return options.prompt;
  if (options.prompt_file == "-") return ReadStdin(kPromptLimit);
  return ReadFile(options.prompt_file, kPromptLimit);
}

}  // namespace

void RunGenerate(const Options& options, const Output& output) {
  const Opened opened(options);
  const Tokenizer tokenizer(opened.bundle().path(kTokenizerName));
  const std::string what = options.has_prompt ? "--prompt" : options.prompt_file;
  const std::vector<int64_t> prompt = tokenizer.encode(ReadPrompt(options), what);
  const Loaded loaded = opened.load(false);
  loaded.model->require(kLanguageModel);
  loaded.model->check_tokens(prompt, what);
  const SpecialTokens special =
      options.show_special ? SpecialTokens::kShown : SpecialTokens::kHidden;
  TextStream stream(tokenizer, prompt, special);
  std::string text;  // of --json, which is written in one piece
  const auto write = [&](const std::string& piece) {
    options.json ? void(text += piece) : output.write_generated(piece);
  };
  const Generated result = Generate(*loaded.model, *loaded.state, prompt, options.generation,
                                    [&](int64_t token) { write(stream.add(token)); });
  write(stream.finish());
  if (!options.json) return output.write_generated("\n");
  JsonWriter out;
  out.begin_object().field("prompt_tokens", prompt).field("tokens", result.tokens);
  out.field("text", text).field("ended", result.ended).field("prefill_ms", result.prefill_ms);
  out.field("decode_ms", result.decode_ms).key("decode");
  WritePercentiles(out, result.decode_ms, 1);
  out.field("threads", options.thread_count()).field("ops_isa", Maybe(opened.isa()));
  output.write(out.field("peak_rss_bytes", MemoryBytes("VmHWM")).end_object().text() + "\n");
}

}  // namespace ssmrun
