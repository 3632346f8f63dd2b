// SPDX-License-Identifier: Apache-2.0
// The text of tokens as they are made, in whole characters: the twin of
// toolchain/ssmpress/runtime/text_stream.py. docs/ssmrun.md specifies it.
#ifndef SSMPRESS_RUNNER_TEXT_STREAM_H_
#define SSMPRESS_RUNNER_TEXT_STREAM_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "runner/text/tokenizer.h"

namespace ssmrun {

// Tokens that wait for the rest of a character at most; none needs so many.
constexpr size_t kMostWaiting = 32;

class TextStream {
 public:
  // prompt: the tokens before, which decide whether the first one begins a text.
  TextStream(const Tokenizer& tokenizer, std::vector<int64_t> prompt, SpecialTokens special)
      : tokenizer_(tokenizer), before_(std::move(prompt)), special_(special) {}
  std::string add(int64_t token);  // the text that is complete now, perhaps none
  std::string finish();            // what is left over

 private:
  std::string piece() const;
  const Tokenizer& tokenizer_;
  std::vector<int64_t> before_, waiting_;
  SpecialTokens special_;
};

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_TEXT_STREAM_H_
