// SPDX-License-Identifier: Apache-2.0
// A tokenizer.json of the tokenizers library, with the ids of its
// `encode(text, add_special_tokens=False)` and the texts of its `decode`:
//
//   text -> added tokens -> normalizer -> added tokens -> pre-tokenizer -> model -> ids
//   ids -> tokens as they are written, less the special ones -> decoder -> text
//
// known_parts.h and split_rules.h list what there is; anything else is refused by name.
#ifndef SSMPRESS_RUNNER_TOKENIZER_H_
#define SSMPRESS_RUNNER_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runner/text/added_tokens.h"
#include "runner/text/decoder.h"
#include "runner/text/normalizer.h"
#include "runner/text/pre_tokenizer.h"
#include "runner/text/token_model.h"

namespace ssmrun {

enum class SpecialTokens { kHidden, kShown };

class Tokenizer {
 public:
  // Throws kBadInput: damaged, or with a part that ssmrun does not have; the message names it.
  explicit Tokenizer(const std::string& path);

  // Text is UTF-8; throws kBadInput with the offset where it is not. `what` begins the message.
  std::vector<int64_t> encode(std::string_view text, const std::string& what) const;
  // Special tokens, where they are hidden, and ids that there are not, are left out.
  std::string decode(const std::vector<int64_t>& tokens, SpecialTokens special) const;
  // Whether a token may add something to a text: it is there, and not hidden.
  bool is_shown(int64_t token, SpecialTokens special) const {
    return shown(token, special) != nullptr;
  }
  // The token as it is written, before any decoder; nullptr if there is none.
  const std::string* text_of(int64_t token) const;

 private:
  void encode_plain(std::string_view text, bool at_beginning, std::vector<int64_t>& out) const;
  // As text_of; nullptr where the token is hidden.
  const std::string* shown(int64_t token, SpecialTokens special) const;

  std::unique_ptr<TokenModel> model_;
  Normalizer normalizer_;
  AddedTokens added_;
  PreTokenizer pre_tokenizer_;
  Decoder decoder_;
};

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_TOKENIZER_H_
