// SPDX-License-Identifier: Apache-2.0
#include "runner/text/graphemes.h"

#include "runner/text/characters.h"
#include "runner/text/grapheme_tables.h"

namespace ssmrun {
namespace {

constexpr uint32_t kZeroWidthJoiner = 0x200D;

// What the rules ask of the characters before a place.
struct Before {
  uint32_t kind = kGraphemeControl;
  uint32_t character = 0;
  bool pictographic = false;  // a pictograph and no more than Joins behind it
  bool consonant = false;     // a consonant and no more than what a conjunct may have behind it
  bool linked = false;        // and a linker among that

  void add(uint32_t next, uint32_t properties) {
    kind = properties & kGraphemeMask;
    pictographic = (properties & kPictographic) != 0 || (pictographic && kind == kGraphemeJoins);
    const bool extends = (properties & kConjunctExtend) != 0;
    linked = consonant && extends && (linked || (properties & kLinker) != 0);
    consonant = (properties & kConsonant) != 0 || (consonant && extends);
    character = next;
  }
};

bool Joined(const Before& before, uint32_t character, uint32_t properties) {
  const uint32_t kind = properties & kGraphemeMask;
  if (before.character == '\r' && character == '\n') return true;                 // GB3
  if (before.kind == kGraphemeControl || kind == kGraphemeControl) return false;  // GB4, 5
  const bool vowel = kind == kGraphemeV, tail = kind == kGraphemeT;
  switch (before.kind) {
    case kGraphemeL:  // GB6
      if (kind == kGraphemeL || vowel || kind == kGraphemeLV || kind == kGraphemeLVT) return true;
      break;
    case kGraphemeLV:
    case kGraphemeV:  // GB7
      if (vowel || tail) return true;
      break;
    case kGraphemeLVT:
    case kGraphemeT:  // GB8
      if (tail) return true;
      break;
    case kGraphemePrepend:  // GB9b
      return true;
    default:
      break;
  }
  if (kind == kGraphemeJoins) return true;                               // GB9, 9a
  if (before.linked && (properties & kConsonant) != 0) return true;      // GB9c
  return before.pictographic && before.character == kZeroWidthJoiner &&  // GB11
         (properties & kPictographic) != 0;
}

}  // namespace

size_t GraphemeEnd(std::string_view text, size_t at) {
  Before before;
  bool first = true;
  size_t length = 0;
  for (; at < text.size(); at += length) {
    const uint32_t character = DecodeUtf8(text, at, &length);
    const uint32_t properties = RunValue(kGraphemeRuns, 8, character);
    if (!first && !Joined(before, character, properties)) break;
    before.add(character, properties);
    first = false;
  }
  return at;
}

}  // namespace ssmrun
