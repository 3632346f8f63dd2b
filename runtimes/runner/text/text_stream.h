// SPDX-License-Identifier: Apache-2.0
// The text of tokens as they are made, in whole characters; docs/ssmrun.md specifies it.
#ifndef SSMPRESS_RUNNER_TEXT_STREAM_H_
#define SSMPRESS_RUNNER_TEXT_STREAM_H_

#include <cstdint>
#include <string>
#include <vector>

#include "runner/text/tokenizer.h"

namespace ssmrun {

class TextStream {
 public:
  // prompt: the tokens before, which decide whether the first one begins a text.
  TextStream(const Tokenizer& tokenizer, std::vector<int64_t> prompt)
      : tokenizer_(tokenizer), before_(std::move(prompt)) {}
  std::string add(int64_t token);  // the text that is complete now, perhaps none
  std::string finish();            // what is left over

 private:
  std::string piece() const;
  const Tokenizer& tokenizer_;
  std::vector<int64_t> before_, waiting_;
};

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_TEXT_STREAM_H_
