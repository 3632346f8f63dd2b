// SPDX-License-Identifier: Apache-2.0
// The `added_tokens` of a tokenizer.json: texts that are tokens wherever they stand.
#ifndef SSMPRESS_RUNNER_ADDED_TOKENS_H_
#define SSMPRESS_RUNNER_ADDED_TOKENS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "runner/text/byte_trie.h"
#include "runner/text/normalizer.h"
#include "runner/text/part.h"
#include "runner/text/vocabulary.h"

namespace ssmrun {

class AddedTokens {
 public:
  // A stretch of a text, in bytes, and the token that it is; none: text to be encoded.
  struct Stretch {
    size_t begin, end;
    std::optional<uint32_t> token;
  };

  AddedTokens() = default;
  // root: the whole file. Throws kBadInput: an entry is damaged, or its id is not the one that the
  // library gives it.
  AddedTokens(const Part& root, const Vocabulary& vocabulary, const Normalizer& normalizer);

  // Cuts a text at its tokens: those that are matched before normalisation, or the others.
  std::vector<Stretch> split(std::string_view text, bool normalized) const;

  // The text of a token for decoders; nothing if it is not an added one.
  const std::string* find(int64_t token) const;
  // Whether decoding leaves tokens of this text out.
  bool is_special(const std::string& text) const { return special_.count(text) != 0; }

 private:
  struct Token {
    size_t bytes;
    uint32_t id;
    bool single_word, lstrip, rstrip;
  };
  // Tokens that are looked for in the same text.
  struct Finder {
    ByteTrie places;
    std::vector<Token> tokens;
    // The token that begins first in the text from `at` on, the longest of those, or nullptr.
    const Token* find(std::string_view text, size_t at, size_t* begin) const;
  };

  Finder plain_, normalized_;
  std::unordered_map<int64_t, std::string> texts_;
  std::unordered_set<std::string> special_;
};

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_ADDED_TOKENS_H_
