// SPDX-License-Identifier: Apache-2.0
// What the parts of a tokenizer know of single characters.
#ifndef SSMPRESS_RUNNER_CHARACTERS_H_
#define SSMPRESS_RUNNER_CHARACTERS_H_

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <string_view>

#include "runner/text/character_tables.h"
#include "runner/text/utf8.h"

namespace ssmrun {

// The value of the run that a character lies in. runs: ascending, (first character << shift |
// value), the first of them for character 0.
template <size_t kCount>
uint32_t RunValue(const uint32_t (&runs)[kCount], uint32_t shift, uint32_t character) {
  const uint32_t low = (1u << shift) - 1;
  return std::upper_bound(std::begin(runs), std::end(runs), character << shift | low)[-1] & low;
}

// Category and flags of character_tables.h; 0 is no character.
uint32_t Properties(uint32_t character);

inline bool IsSpace(uint32_t character) { return (Properties(character) & kSpace) != 0; }

// Bytes of the character that begins with this byte, of text that is UTF-8.
inline size_t Utf8Length(char first) {
  const auto byte = static_cast<uint8_t>(first);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

// Where the character before `end` begins, of text that is UTF-8. end > 0.
inline size_t PreviousBegin(std::string_view text, size_t end) {
  do {
    --end;
  } while (end > 0 && (static_cast<uint8_t>(text[end]) & 0xC0) == 0x80);
  return end;
}

// Calls use(character, begin, end) for each character of text that is UTF-8.
template <class Use>
void ForEachCharacter(std::string_view text, const Use& use) {
  size_t length = 0;
  for (size_t at = 0; at < text.size(); at += length) {
    const uint32_t character = DecodeUtf8(text, at, &length);
    use(character, at, at + length);
  }
}

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_CHARACTERS_H_
