// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <queue>
#include <unordered_map>

#include "runner/failure.h"
#include "runner/text/characters.h"
#include "runner/text/token_model.h"

namespace ssmrun {
namespace {

class Bpe : public TokenModel {
 public:
  explicit Bpe(const Part& model);
  void encode(std::string_view word, std::vector<int64_t>& out) const override;

 private:
  struct Merge {
    uint32_t rank, id;
  };

  void read_merges(const Part& model);
  std::vector<uint32_t> symbols(std::string_view word) const;
  // The token of one character of a word.
  std::optional<uint32_t> symbol(std::string_view character, bool first, bool last) const;
  void merge(std::vector<uint32_t>& symbols) const;

  std::string prefix_, suffix_;  // of characters behind the first one, and of the last one
  bool fuse_unknown_, byte_fallback_, ignore_merges_;
  bool has_unknown_ = false;
  std::optional<uint32_t> unknown_;
  std::unordered_map<uint64_t, Merge> merges_;  // by left id << 32 | right id
};

Bpe::Bpe(const Part& model)
    : TokenModel(model, false),
      prefix_(model.text("continuing_subword_prefix", "")),
      suffix_(model.text("end_of_word_suffix", "")),
      fuse_unknown_(model.flag("fuse_unk", false)),
      byte_fallback_(model.flag("byte_fallback", false)),
      ignore_merges_(model.flag("ignore_merges", false)) {
  const auto dropout = model.find("dropout");
  if (dropout && dropout->number() != 0.0) model.refuse("dropout", "none");
  if (byte_fallback_) read_bytes();
  if (model.find("unk_token")) {
    has_unknown_ = true;
    unknown_ = vocabulary().find(model.text("unk_token"));
  }
  read_merges(model);
}

void Bpe::read_merges(const Part& model) {
  const auto merges = model.find("merges");
  if (!merges || !merges->is(JsonValue::kArray)) model.refuse("merges", "a list");
  merges_.reserve(merges->size());
  const auto id_of = [&](std::string_view token) {
    const auto found = vocabulary().find(token);
    if (!found) {
      model.refuse("model.merges", "tokens of model.vocab", "\"" + std::string(token) + "\"");
    }
    return *found;
  };
  uint32_t rank = 0;
  for (const JsonValue item : *merges) {
    std::string_view left, right;
    const std::string_view text = item.text();
    if (const size_t space = text.find(' '); item.is(JsonValue::kString) && space != text.npos &&
                                             text.find(' ', space + 1) == text.npos) {
      left = text.substr(0, space), right = text.substr(space + 1);
    } else if (item.is(JsonValue::kArray) && item.size() == 2) {
      auto part = item.begin();
      left = (*part).text();
      right = (*++part).text();
    } else {
      model.refuse("model.merges", "pairs of tokens", item.shown());
    }
    const uint64_t pair = uint64_t{id_of(left)} << 32 | id_of(right);
    // Whatever stands in place of the prefix goes, as in the library.
    if (right.size() < prefix_.size()) {
      model.refuse("model.merges", "tokens that begin with " + prefix_, item.shown());
    }
    const std::string whole = std::string(left) + std::string(right.substr(prefix_.size()));
    merges_[pair] = {rank++, id_of(whole)};
  }
}

void Bpe::encode(std::string_view word, std::vector<int64_t>& out) const {
  if (ignore_merges_) {
    if (const auto whole = vocabulary().find(word)) {
      out.push_back(*whole);
      return;
    }
  }
  std::vector<uint32_t> found = symbols(word);
  merge(found);
  out.insert(out.end(), found.begin(), found.end());
}

std::optional<uint32_t> Bpe::symbol(std::string_view character, bool first, bool last) const {
  if ((first || prefix_.empty()) && (!last || suffix_.empty())) {
    return vocabulary().find(character);
  }
  return vocabulary().find((first ? "" : prefix_) + std::string(character) + (last ? suffix_ : ""));
}

std::vector<uint32_t> Bpe::symbols(std::string_view word) const {
  std::vector<uint32_t> found;
  found.reserve(word.size());
  bool unknown = false;  // one waits, to be joined with those behind it
  const auto add_unknown = [&] {
    if (unknown) found.push_back(*unknown_);
    unknown = false;
  };
  ForEachCharacter(word, [&](uint32_t, size_t begin, size_t end) {
    const std::string_view character = word.substr(begin, end - begin);
    const bool first = begin == 0, last = end == word.size();
    if (const auto id = symbol(character, first, last)) {
      add_unknown();
      found.push_back(*id);
      return;
    }
    // Bytes overtake an unknown token that waits: the library's order.
    if (byte_fallback_) {
      const std::string written =
          (first ? "" : prefix_) + std::string(character) + (last ? suffix_ : "");
      if (add_bytes(written, found)) return;
    }
    if (!has_unknown_) return;  // left out
    if (!unknown_) refuse_unknown();
    if (!fuse_unknown_) add_unknown();
    unknown = true;
  });
  add_unknown();
  return found;
}

// Joins the pair of the lowest rank, the leftmost of equals, until no pair has a rank. A heap of
// candidates, stale ones skipped: n log n for a word of any length.
void Bpe::merge(std::vector<uint32_t>& symbols) const {
  constexpr uint32_t kNone = 0xFFFFFFFF;
  struct Candidate {
    uint32_t rank, at, left, right;
    bool operator>(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : at > other.at;
    }
  };
  if (symbols.size() >= kNone) BadInput(file() + ": a word of 4 GiB cannot be encoded.");
  const auto count = static_cast<uint32_t>(symbols.size());
  std::vector<uint32_t> next(count), previous(count);
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> heap;
  const auto offer = [&](uint32_t at) {
    if (at == kNone || next[at] == kNone) return;
    const uint32_t left = symbols[at], right = symbols[next[at]];
    const auto found = merges_.find(uint64_t{left} << 32 | right);
    if (found != merges_.end()) heap.push({found->second.rank, at, left, right});
  };
  for (uint32_t i = 0; i < count; ++i) {
    next[i] = i + 1 < count ? i + 1 : kNone;
    previous[i] = i > 0 ? i - 1 : kNone;
  }
  for (uint32_t i = 0; i < count; ++i) offer(i);
  while (!heap.empty()) {
    const Candidate top = heap.top();
    heap.pop();
    const uint32_t after = next[top.at];
    if (symbols[top.at] != top.left || after == kNone || symbols[after] != top.right) continue;
    symbols[top.at] = merges_.find(uint64_t{top.left} << 32 | top.right)->second.id;
    symbols[after] = kNone;  // no longer the beginning of a symbol
    next[top.at] = next[after];
    if (next[after] != kNone) previous[next[after]] = top.at;
    offer(top.at);
    offer(previous[top.at]);
  }
  symbols.erase(std::remove(symbols.begin(), symbols.end(), kNone), symbols.end());
}

}  // namespace

std::unique_ptr<TokenModel> ReadBpe(const Part& model) { return std::make_unique<Bpe>(model); }

}  // namespace ssmrun
