// SPDX-License-Identifier: Apache-2.0
// The `vocab` of a model: tokens as they are written, and their ids.
#ifndef SSMPRESS_RUNNER_VOCABULARY_H_
#define SSMPRESS_RUNNER_VOCABULARY_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "runner/text/part.h"

namespace ssmrun {

// ids: rows of the largest embedding; as in toolchain/ssmpress/data/tokenizer_bounds.py.
constexpr uint32_t kTokenLimit = 1 << 22;

class Vocabulary {
 public:
  // model: with `vocab` as an object of ids, or, where `scored`, as a list of tokens with scores.
  // Throws kBadInput.
  Vocabulary(const Part& model, bool scored);
  Vocabulary(const Vocabulary&) = delete;
  Vocabulary& operator=(const Vocabulary&) = delete;

  std::optional<uint32_t> find(std::string_view token) const;
  size_t size() const { return size_; }                                   // entries
  uint32_t end() const { return static_cast<uint32_t>(tokens_.size()); }  // beyond the largest id
  // Nothing if no token has the id.
  const std::string* text(int64_t id) const;
  const std::vector<double>& scores() const { return scores_; }  // by id

 private:
  void read_ids(const Part& model);
  void read_scored(const Part& model);
  size_t size_ = 0;
  std::vector<std::string> tokens_;
  std::vector<bool> has_;
  std::vector<double> scores_;
  std::unordered_map<std::string_view, uint32_t> ids_;  // views of tokens_
};

// Finds the tokens that a text begins with: sorted ids instead of a trie, which would need ten
// times the memory.
class PrefixSearch {
 public:
  explicit PrefixSearch(const Vocabulary& vocabulary);

  // Calls use(token, length) for every token that prefix + text begins with and that is longer than
  // the prefix, the shortest first; length: without the prefix.
  template <class Use>
  void search(std::string_view prefix, std::string_view text, const Use& use) const {
    Range range{0, sorted_.size()};
    size_t depth = 0;
    for (const std::string_view part : {prefix, text}) {
      for (size_t i = 0; i < part.size(); ++i) {
        range = narrow(range, depth++, static_cast<uint8_t>(part[i]));
        if (range.begin == range.end) return;
        if (const auto id = complete(range, depth); id && depth > prefix.size()) {
          use(*id, depth - prefix.size());
        }
      }
    }
  }

 private:
  struct Range {
    size_t begin, end;
  };
  Range narrow(Range range, size_t depth, uint8_t byte) const;
  // The token that ends at this depth: the first of the range if any.
  std::optional<uint32_t> complete(Range range, size_t depth) const;

  const Vocabulary& vocabulary_;
  std::vector<uint32_t> sorted_;  // ids, by the bytes of their tokens
  std::array<Range, 256> by_first_{};
};

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_VOCABULARY_H_
