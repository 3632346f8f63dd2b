// SPDX-License-Identifier: Apache-2.0
#include "runner/text/utf8.h"

namespace ssmrun {
namespace {

// Bytes after the first, and the range of the second: the first byte decides both (Unicode
// standard, table 3-7).
struct Lead {
  size_t following;
  uint8_t low, high;
};

Lead ReadLead(uint8_t byte) {
  if (byte >= 0xC2 && byte <= 0xDF) return {1, 0x80, 0xBF};
  if (byte == 0xE0) return {2, 0xA0, 0xBF};
  if (byte == 0xED) return {2, 0x80, 0x9F};
  if (byte >= 0xE1 && byte <= 0xEF) return {2, 0x80, 0xBF};
  if (byte == 0xF0) return {3, 0x90, 0xBF};
  if (byte >= 0xF1 && byte <= 0xF3) return {3, 0x80, 0xBF};
  if (byte == 0xF4) return {3, 0x80, 0x8F};
  return {0, 0, 0};
}

}  // namespace

uint32_t DecodeUtf8(std::string_view text, size_t at, size_t* length) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  *length = 1;
  const uint8_t first = byte(at);
  if (first < 0x80) return first;
  const Lead lead = ReadLead(first);
  if (lead.following == 0) return kNoCharacter;
  uint32_t character = first & (0x3Fu >> lead.following);
  for (size_t i = 1; i <= lead.following; ++i) {
    if (at + i >= text.size()) return kNoCharacter;
    const uint8_t low = i == 1 ? lead.low : 0x80, high = i == 1 ? lead.high : 0xBF;
    if (byte(at + i) < low || byte(at + i) > high) return kNoCharacter;
    character = character << 6 | (byte(at + i) & 0x3F);
    *length = i + 1;
  }
  return character;
}

void AppendUtf8(std::string& out, uint32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | c >> 6);
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | c >> 12);
    out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | c >> 18);
    out += static_cast<char>(0x80 | (c >> 12 & 0x3F));
    out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  }
}

size_t FindInvalidUtf8(std::string_view text) {
  size_t length = 0;
  for (size_t at = 0; at < text.size(); at += length) {
    if (DecodeUtf8(text, at, &length) == kNoCharacter) return at;
  }
  return std::string_view::npos;
}

std::string Utf8Lossy(std::string_view bytes) {
  std::string text;
  size_t length = 0;
  for (size_t at = 0; at < bytes.size(); at += length) {
    const bool whole = DecodeUtf8(bytes, at, &length) != kNoCharacter;
    text += whole ? bytes.substr(at, length) : kReplacement;
  }
  return text;
}

}  // namespace ssmrun
