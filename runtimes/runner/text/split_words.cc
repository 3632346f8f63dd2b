// SPDX-License-Identifier: Apache-2.0
// GPT-2's split of a text into words, as the regular expression
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
#include <algorithm>
#include <iterator>

#include "runner/text/tokenizer.h"
#include "runner/text/unicode_classes.h"

namespace ssmrun {
namespace {

CharacterClass ClassOf(uint32_t character) {
  const uint32_t* run =
      std::upper_bound(std::begin(kClassRuns), std::end(kClassRuns), character << 2 | 3);
  return static_cast<CharacterClass>(run[-1] & 3);
}

class Splitter {
 public:
  explicit Splitter(std::string_view text) : text_(text) {}

  // End of the word that begins at `at`.
  size_t word(size_t at) const {
    if (const size_t length = contraction(at)) return at + length;
    const size_t body = text_[at] == ' ' && at + 1 < text_.size() ? at + 1 : at;
    size_t length = 0;
    const CharacterClass kind = ClassOf(DecodeUtf8(text_, body, &length));
    if (kind != kSpace) return run(body, kind).end;
    const Run spaces = run(at, kSpace);
    // The last space goes with the word after it, if other spaces are left to stand alone.
    const bool leave_last = spaces.end < text_.size() && spaces.last > at;
    return leave_last ? spaces.last : spaces.end;
  }

 private:
  struct Run {
    size_t last, end;  // where its last character begins and ends
  };

  size_t contraction(size_t at) const {
    if (text_[at] != '\'') return 0;
    for (const std::string_view ending : {"s", "t", "re", "ve", "m", "ll", "d"}) {
      if (text_.substr(at + 1, ending.size()) == ending) return 1 + ending.size();
    }
    return 0;
  }

  Run run(size_t at, CharacterClass kind) const {
    size_t last = at, length = 0;
    while (at < text_.size() && ClassOf(DecodeUtf8(text_, at, &length)) == kind) {
      last = at;
      at += length;
    }
    return {last, at};
  }

  std::string_view text_;
};

}  // namespace

bool IsSpace(uint32_t character) { return ClassOf(character) == kSpace; }

std::vector<size_t> SplitWords(std::string_view text) {
  std::vector<size_t> ends;
  const Splitter splitter(text);
  for (size_t at = 0; at < text.size(); at = ends.back()) ends.push_back(splitter.word(at));
  return ends;
}

}  // namespace ssmrun
