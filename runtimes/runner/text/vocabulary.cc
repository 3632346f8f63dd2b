// SPDX-License-Identifier: Apache-2.0
#include "runner/text/vocabulary.h"

#include <algorithm>
#include <cstdlib>

#include "runner/text/rust_number.h"

namespace ssmrun {
Vocabulary::Vocabulary(const Part& model, bool scored) {
  if (scored) {
    read_scored(model);
  } else {
    read_ids(model);
  }
  ids_.reserve(size_);
  // Of equal tokens the last one counts.
  for (uint32_t id = 0; id < end(); ++id) {
    if (has_[id]) ids_[tokens_[id]] = id;
  }
}

void Vocabulary::read_ids(const Part& model) {
  const auto vocabulary = model.find("vocab");
  if (!vocabulary || !vocabulary->is(JsonValue::kObject)) model.refuse("vocab", "an object");
  size_ = vocabulary->size();
  for (auto item = vocabulary->begin(); item != vocabulary->end(); ++item) {
    const auto id = item.value().unsigned_integer();
    if (!id || *id >= kTokenLimit) {
      model.refuse("model.vocab", "ids below " + std::to_string(kTokenLimit), item.value().shown());
    }
    if (*id >= tokens_.size()) {
      tokens_.resize(*id + 1);
      has_.resize(*id + 1);
    }
    tokens_[*id] = item.key();
    has_[*id] = true;
  }
}

void Vocabulary::read_scored(const Part& model) {
  const auto vocabulary = model.find("vocab");
  if (!vocabulary || !vocabulary->is(JsonValue::kArray)) model.refuse("vocab", "a list");
  size_ = vocabulary->size();
  if (size_ > kTokenLimit) {
    model.refuse("model.vocab", "at most " + std::to_string(kTokenLimit) + " tokens",
                 std::to_string(size_));
  }
  for (const JsonValue item : *vocabulary) {
    if (!item.is(JsonValue::kArray) || item.size() != 2) {
      model.refuse("model.vocab", "pairs of a token and its score", item.shown());
    }
    auto part = item.begin();
    const JsonValue token = *part, score = *++part;
    if (!token.is(JsonValue::kString) || !score.is(JsonValue::kNumber)) {
      model.refuse("model.vocab", "pairs of a token and its score", item.shown());
    }
    tokens_.emplace_back(token.text());
    scores_.push_back(RustNumber(score.text()));
  }
  has_.assign(tokens_.size(), true);
}

std::optional<uint32_t> Vocabulary::find(std::string_view token) const {
  const auto found = ids_.find(token);
  if (found == ids_.end()) return {};
  return found->second;
}

const std::string* Vocabulary::text(int64_t id) const {
  if (id < 0 || id >= static_cast<int64_t>(tokens_.size())) return nullptr;
  const auto place = static_cast<size_t>(id);
  return has_[place] ? &tokens_[place] : nullptr;
}

PrefixSearch::PrefixSearch(const Vocabulary& vocabulary) : vocabulary_(vocabulary) {
  sorted_.reserve(vocabulary.size());
  for (uint32_t id = 0; id < vocabulary.end(); ++id) {
    const std::string* token = vocabulary.text(id);
    // Of equal tokens the one that find() gives; none of them is searched for as nothing.
    if (token != nullptr && !token->empty() && vocabulary.find(*token) == id) sorted_.push_back(id);
  }
  std::sort(sorted_.begin(), sorted_.end(),
            [&](uint32_t a, uint32_t b) { return *vocabulary.text(a) < *vocabulary.text(b); });
  const Range all{0, sorted_.size()};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    by_first_[byte] = narrow(all, 0, static_cast<uint8_t>(byte));
  }
}

PrefixSearch::Range PrefixSearch::narrow(Range range, size_t depth, uint8_t byte) const {
  if (depth == 0 && by_first_[byte].end > 0) return by_first_[byte];
  // Tokens of the range have `depth` bytes in common; those that end there come first.
  const auto at = [&](uint32_t id) {
    const std::string& token = *vocabulary_.text(id);
    return token.size() > depth ? static_cast<int>(static_cast<uint8_t>(token[depth])) : -1;
  };
  const auto first = sorted_.begin() + static_cast<ptrdiff_t>(range.begin);
  const auto last = sorted_.begin() + static_cast<ptrdiff_t>(range.end);
  const auto low = std::lower_bound(first, last, static_cast<int>(byte),
                                    [&](uint32_t id, int value) { return at(id) < value; });
  const auto high = std::upper_bound(low, last, static_cast<int>(byte),
                                     [&](int value, uint32_t id) { return value < at(id); });
  return {static_cast<size_t>(low - sorted_.begin()), static_cast<size_t>(high - sorted_.begin())};
}

std::optional<uint32_t> PrefixSearch::complete(Range range, size_t depth) const {
  const uint32_t id = sorted_[range.begin];
  if (vocabulary_.text(id)->size() != depth) return {};
  return id;
}

}  // namespace ssmrun
