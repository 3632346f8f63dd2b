// SPDX-License-Identifier: Apache-2.0
// SentencePiece's `precompiled_charsmap`: a trie of what is replaced, and the replacements. Its
// layout is described in charsmap_writer.py.
#ifndef SSMPRESS_RUNNER_CHARSMAP_H_
#define SSMPRESS_RUNNER_CHARSMAP_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace ssmrun {

class Charsmap {
 public:
  // base64: the entry of tokenizer.json. Nothing if it is damaged.
  static std::optional<Charsmap> Parse(std::string_view base64);

  // What the shortest key that the text begins with is replaced by, or nothing.
  std::optional<std::string_view> replacement(std::string_view text) const;
  size_t longest() const;  // bytes of a replacement at most

 private:
  std::vector<uint32_t> units_;
  std::string replacements_;
};

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_CHARSMAP_H_
