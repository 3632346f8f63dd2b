// SPDX-License-Identifier: Apache-2.0
#include "runner/text/normalize.h"

#include <algorithm>
#include <iterator>
#include <vector>

#include "runner/text/normalization_tables.h"
#include "runner/text/utf8.h"

namespace ssmrun {
namespace {

// Hangul syllables are computed, not listed (Unicode Standard, section 3.12).
constexpr uint32_t kSyllable = 0xAC00, kLead = 0x1100, kVowel = 0x1161, kTail = 0x11A7;
constexpr uint32_t kLeads = 19, kVowels = 21, kTails = 28;
constexpr uint32_t kSyllables = kLeads * kVowels * kTails;

uint32_t CombiningClass(uint32_t character) {
  const uint32_t* run =
      std::upper_bound(std::begin(kCombiningRuns), std::end(kCombiningRuns), character << 8 | 0xFF);
  return run[-1] & 0xFF;
}

void Decompose(uint32_t character, std::vector<uint32_t>& out) {
  if (const uint32_t index = character - kSyllable; index < kSyllables) {
    out.push_back(kLead + index / (kVowels * kTails));
    out.push_back(kVowel + index / kTails % kVowels);
    if (index % kTails != 0) out.push_back(kTail + index % kTails);
    return;
  }
  const auto less = [](const Decomposition& d, uint32_t c) { return d.whole < c; };
  const Decomposition* found =
      std::lower_bound(std::begin(kDecompositions), std::end(kDecompositions), character, less);
  if (found == std::end(kDecompositions) || found->whole != character) {
    out.push_back(character);
    return;
  }
  Decompose(found->first, out);
  if (found->second != 0) out.push_back(found->second);
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
void Reorder(std::vector<uint32_t>& text) {
  const auto by_class = [](uint32_t a, uint32_t b) {
    return CombiningClass(a) < CombiningClass(b);
  };
  for (auto begin = text.begin(); begin != text.end();) {
    if (CombiningClass(*begin) == 0) {
      ++begin;
      continue;
    }
    const auto is_starter = [](uint32_t c) { return CombiningClass(c) == 0; };
    const auto end = std::find_if(begin, text.end(), is_starter);
    std::stable_sort(begin, end, by_class);
    begin = end;
  }
}

void ComposeAll(std::vector<uint32_t>& text) {
  size_t kept = 0, starter = text.size();  // no starter yet
  uint32_t last_class = 0;                 // of the character kept after the starter
  for (const uint32_t character : std::vector<uint32_t>(text)) {
    const uint32_t kind = CombiningClass(character);
    const bool adjacent = starter + 1 == kept;
    // Blocked by a starter or a mark of the same or a higher class in between.
    if (starter < kept && (adjacent || (last_class != 0 && last_class < kind))) {
      const uint32_t whole = Compose(text[starter], character);
      if (whole != kNoCharacter) {
        text[starter] = whole;
        continue;
      }
    }
    if (kind == 0) starter = kept;
    last_class = kind;
    text[kept++] = character;
  }
  text.resize(kept);
}

}  // namespace

std::string NormalizeNfc(std::string_view text) {
  std::vector<uint32_t> characters;
  size_t length = 0;
  bool inert = true;  // no character below U+0300 composes with another one below it
  for (size_t at = 0; at < text.size(); at += length) {
    const uint32_t character = DecodeUtf8(text, at, &length);
    inert = inert && character < 0x300;
    Decompose(character, characters);
  }
  if (inert) return std::string(text);
  Reorder(characters);
  ComposeAll(characters);
  std::string out;
  for (const uint32_t character : characters) AppendUtf8(out, character);
  return out;
}

}  // namespace ssmrun
