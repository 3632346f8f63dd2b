// SPDX-License-Identifier: Apache-2.0
#include "runner/text/unicode_forms.h"

#include <algorithm>
#include <iterator>

#include "runner/text/characters.h"
#include "runner/text/normalization_tables.h"

namespace ssmrun {
namespace {

// Hangul syllables are computed, not listed (Unicode Standard, section 3.12).
constexpr uint32_t kSyllable = 0xAC00, kLead = 0x1100, kVowel = 0x1161, kTail = 0x11A7;
constexpr uint32_t kLeads = 19, kVowels = 21, kTails = 28;
constexpr uint32_t kSyllables = kLeads * kVowels * kTails;

uint32_t CombiningClass(uint32_t character) { return RunValue(kCombiningRuns, 8, character); }

// A new character: the first one stands for the character that it comes from.
void Append(uint32_t character, size_t begin, std::vector<Written>& out) {
  out.push_back({character, out.size() > begin ? 1 : 0});
}

// begin: where the decomposition of the character begins in `out`.
void Decompose(uint32_t character, size_t begin, std::vector<Written>& out) {
  if (const uint32_t index = character - kSyllable; index < kSyllables) {
    Append(kLead + index / (kVowels * kTails), begin, out);
    Append(kVowel + index / kTails % kVowels, begin, out);
    if (index % kTails != 0) Append(kTail + index % kTails, begin, out);
    return;
  }
  const auto less = [](const Decomposition& d, uint32_t c) { return d.whole < c; };
  const Decomposition* found =
      std::lower_bound(std::begin(kDecompositions), std::end(kDecompositions), character, less);
  if (found == std::end(kDecompositions) || found->whole != character) {
    Append(character, begin, out);
    return;
  }
  Decompose(found->first, begin, out);
  if (found->second != 0) Append(found->second, begin, out);
}

// The expansion of a character, or nullptr.
template <size_t kCount>
const Expansion* FindExpansion(const Expansion (&table)[kCount], uint32_t character) {
  const auto less = [](const Expansion& e, uint32_t c) { return e.character < c; };
  const Expansion* found = std::lower_bound(std::begin(table), std::end(table), character, less);
  return found != std::end(table) && found->character == character ? found : nullptr;
}

void DecomposeCompatible(uint32_t character, std::vector<Written>& out) {
  const size_t begin = out.size();
  const Expansion* found = FindExpansion(kCompatible, character);
  if (found == nullptr) return Decompose(character, begin, out);
  for (uint32_t i = 0; i < found->length; ++i) {
    Append(kCompatibleCharacters[found->place + i], begin, out);
  }
}

// The pairs that compose, ascending by first and second.
std::vector<Decomposition> ComposingPairs() {
  std::vector<Decomposition> pairs;
  for (const Decomposition& one : kDecompositions) {
    if (one.composes) pairs.push_back(one);
  }
  std::sort(pairs.begin(), pairs.end(), [](const Decomposition& a, const Decomposition& b) {
    return a.first != b.first ? a.first < b.first : a.second < b.second;
  });
  return pairs;
}

// What two characters compose to, or kNoCharacter.
uint32_t Compose(uint32_t first, uint32_t second) {
  if (const uint32_t lead = first - kLead, vowel = second - kVowel;
      lead < kLeads && vowel < kVowels) {
    return kSyllable + (lead * kVowels + vowel) * kTails;
  }
  if (const uint32_t index = first - kSyllable, tail = second - kTail;
      index < kSyllables && index % kTails == 0 && tail > 0 && tail < kTails) {
    return first + tail;
  }
  static const std::vector<Decomposition> pairs = ComposingPairs();
  const auto less = [&](const Decomposition& d, int) {
    return d.first != first ? d.first < first : d.second < second;
  };
  const auto found = std::lower_bound(pairs.begin(), pairs.end(), 0, less);
  const bool fits = found != pairs.end() && found->first == first && found->second == second;
  return fits ? found->whole : kNoCharacter;
}

// Marks after a starter, sorted by their classes; those of one class keep their order.
void Reorder(std::vector<Written>& text) {
  const auto by_class = [](const Written& a, const Written& b) {
    return CombiningClass(a.character) < CombiningClass(b.character);
  };
  const auto is_starter = [](const Written& w) { return CombiningClass(w.character) == 0; };
  for (auto begin = text.begin(); begin != text.end();) {
    if (is_starter(*begin)) {
      ++begin;
      continue;
    }
    const auto end = std::find_if(begin, text.end(), is_starter);
    std::stable_sort(begin, end, by_class);
    begin = end;
  }
}

void ComposeAll(std::vector<Written>& text) {
  size_t kept = 0, starter = text.size();  // no starter yet
  uint32_t last_class = 0;                 // of the character kept after the starter
  for (size_t i = 0; i < text.size(); ++i) {
    const Written one = text[i];
    const uint32_t kind = CombiningClass(one.character);
    const bool adjacent = starter + 1 == kept;
    // Blocked by a starter or a mark of the same or a higher class in between.
    if (starter < kept && (adjacent || (last_class != 0 && last_class < kind))) {
      const uint32_t whole = Compose(text[starter].character, one.character);
      if (whole != kNoCharacter) {
        text[starter] = {whole, text[starter].change + one.change - 1};
        continue;
      }
    }
    if (kind == 0) starter = kept;
    last_class = kind;
    text[kept++] = one;
  }
  text.resize(kept);
}

}  // namespace

std::vector<Written> Normalize(std::string_view text, UnicodeForm form) {
  const bool compatible = form == UnicodeForm::kNfkc || form == UnicodeForm::kNfkd;
  std::vector<Written> written;
  written.reserve(text.size());
  ForEachCharacter(text, [&](uint32_t character, size_t, size_t) {
    if (compatible) {
      DecomposeCompatible(character, written);
    } else {
      Decompose(character, written.size(), written);
    }
  });
  Reorder(written);
  if (form == UnicodeForm::kNfc || form == UnicodeForm::kNfkc) ComposeAll(written);
  return written;
}

void AppendLower(uint32_t character, std::vector<Written>& out) {
  const size_t begin = out.size();
  const Expansion* found = FindExpansion(kLower, character);
  if (found == nullptr) return Append(character, begin, out);
  for (uint32_t i = 0; i < found->length; ++i) {
    Append(kLowerCharacters[found->place + i], begin, out);
  }
}

}  // namespace ssmrun
