// SPDX-License-Identifier: Apache-2.0
#include "runner/text/added_tokens.h"

#include <algorithm>
#include <map>

#include "runner/text/characters.h"

namespace ssmrun {
namespace {

// As in toolchain/ssmpress/data/tokenizer_bounds.py.
constexpr size_t kMost = 1 << 16;   // added tokens; the most in use are 6,400
constexpr size_t kMostBytes = 256;  // of one of them

bool IsWord(uint32_t character) { return (Properties(character) & kWord) != 0; }

// Whether neither neighbour of a stretch belongs to a word.
bool StandsAlone(std::string_view text, size_t begin, size_t end) {
  size_t length = 0;
  const bool before = begin > 0 && IsWord(DecodeUtf8(text, PreviousBegin(text, begin), &length));
  return !before && (end == text.size() || !IsWord(DecodeUtf8(text, end, &length)));
}

// A search costs the longest content per byte of text. A token that strips spaces where it has one
// itself would be found again in what it stripped: as many times as there are spaces.
void CheckBounds(const Part& root, const Part& part, const std::string& text, size_t before) {
  size_t length = 0;
  if (before >= kMost) {
    root.refuse("added_tokens", "at most " + std::to_string(kMost) + " tokens", "more");
  }
  if (text.size() > kMostBytes) {
    root.refuse("added_tokens", "at most " + std::to_string(kMostBytes) + " bytes a token",
                std::to_string(text.size()));
  }
  if (part.flag("rstrip", false) && IsSpace(DecodeUtf8(text, 0, &length))) {
    part.refuse("added_tokens." + text, "no space where it strips them", "one at its beginning");
  }
  if (part.flag("lstrip", false) &&
      IsSpace(DecodeUtf8(text, PreviousBegin(text, text.size()), &length))) {
    part.refuse("added_tokens." + text, "no space where it strips them", "one at its end");
  }
}

}  // namespace

const AddedTokens::Token* AddedTokens::Finder::find(std::string_view text, size_t at,
                                                    size_t* begin) const {
  for (; at < text.size(); ++at) {
    const uint32_t found = places.longest(text.substr(at));
    if (found == ByteTrie::kNone) continue;
    *begin = at;
    return &tokens[found];
  }
  return nullptr;
}

AddedTokens::AddedTokens(const Part& root, const Vocabulary& vocabulary,
                         const Normalizer& normalizer) {
  const auto list = root.find("added_tokens");
  if (!list) return;
  if (!list->is(JsonValue::kArray)) root.refuse("added_tokens", "a list");
  // Tokens that the model does not have are numbered on, as the library numbers them.
  auto next = static_cast<uint32_t>(vocabulary.size());
  std::map<std::string, uint32_t> ids;
  std::map<uint32_t, Part> by_id;
  for (const JsonValue item : *list) {
    const auto content = item.find("content"), id = item.find("id");
    if (!content || !content->is(JsonValue::kString) || !id || !id->unsigned_integer() ||
        *id->unsigned_integer() >= kTokenLimit) {
      root.refuse("added_tokens", "content and id", item.shown());
    }
    const std::string text(content->text());
    if (text.empty()) continue;
    const Part part(item, root.file(), "added_tokens." + text);
    CheckBounds(root, part, text, ids.size());
    const auto known = vocabulary.find(text);
    const auto [place, is_new] = ids.emplace(text, known.value_or(next));
    if (is_new && !known) ++next;
    if (place->second != *id->unsigned_integer()) {
      part.refuse("added_tokens." + text,
                  "id " + std::to_string(place->second) + (known ? " as in model.vocab" : ""),
                  id->shown());
    }
    if (part.flag("special", false)) special_.insert(text);
    by_id.insert_or_assign(place->second, part);
  }
  std::unordered_set<std::string> different[2];
  for (const auto& [id, part] : by_id) {
    const bool normalized = part.flag("normalized", true);
    WayText text{std::string(part.text("content")), 0};
    if (normalized) normalizer.apply(text);
    texts_[id] = text.text;
    // The library finds nothing everywhere, and of equal texts now this one and now that.
    if (text.text.empty() || !different[normalized].insert(text.text).second) {
      part.refuse("content", "a text that normalisation leaves, and leaves different from others");
    }
    Finder& finder = normalized ? normalized_ : plain_;
    finder.places.add(text.text, static_cast<uint32_t>(finder.tokens.size()));
    finder.tokens.push_back({text.text.size(), id, part.flag("single_word", false),
                             part.flag("lstrip", false), part.flag("rstrip", false)});
  }
}

std::vector<AddedTokens::Stretch> AddedTokens::split(std::string_view text, bool normalized) const {
  const Finder& finder = normalized ? normalized_ : plain_;
  std::vector<Stretch> stretches;
  size_t done = 0, at = 0, begin = 0, length = 0;
  size_t spaces_begin = 0, spaces_end = 0;  // of the spaces that were stripped last
  const Token* token = nullptr;
  while (!finder.tokens.empty() && (token = finder.find(text, at, &begin)) != nullptr) {
    size_t end = begin + token->bytes;
    // The search goes on behind the token itself, even where spaces behind it were stripped.
    at = end;
    if (token->single_word && !StandsAlone(text, begin, end)) continue;
    if (token->lstrip) {
      while (begin > done) {
        const size_t previous = PreviousBegin(text, begin);
        if (!IsSpace(DecodeUtf8(text, previous, &length))) break;
        begin = previous;
      }
      // The token before it may have stripped them already.
      begin = std::max(begin, done);
    }
    if (token->rstrip) {
      if (end < spaces_begin || end > spaces_end) {
        spaces_begin = spaces_end = end;
        while (spaces_end < text.size() && IsSpace(DecodeUtf8(text, spaces_end, &length))) {
          spaces_end += length;
        }
      }
      end = spaces_end;
    }
    if (done < begin) stretches.push_back({done, begin, {}});
    // Of spaces alone that the token before it has stripped nothing is left.
    if (begin < end) stretches.push_back({begin, end, token->id});
    done = end;
  }
  if (done < text.size()) stretches.push_back({done, text.size(), {}});
  return stretches;
}

const std::string* AddedTokens::find(int64_t token) const {
  const auto found = texts_.find(token);
  return found == texts_.end() ? nullptr : &found->second;
}

}  // namespace ssmrun
