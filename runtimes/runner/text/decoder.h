// SPDX-License-Identifier: Apache-2.0
// The `decoder` of a tokenizer.json: turns tokens, as they are written, into text.
#ifndef SSMPRESS_RUNNER_DECODER_H_
#define SSMPRESS_RUNNER_DECODER_H_

#include <functional>
#include <string>
#include <vector>

#include "runner/text/part.h"

namespace ssmrun {

class Decoder {
 public:
  Decoder() = default;  // puts a space between tokens
  // Throws kBadInput: a kind or an entry that is not known.
  explicit Decoder(const Part& part) : separator_("") { add(part); }
  std::string decode(std::vector<std::string> tokens) const;

 private:
  using Tokens = std::vector<std::string>;
  void add(const Part& part);
  std::vector<std::function<Tokens(Tokens)>> steps_;
  const char* separator_ = " ";
};

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_DECODER_H_
