// SPDX-License-Identifier: Apache-2.0
#include "runner/text/byte_characters.h"

#include <algorithm>
#include <iterator>

#include "runner/text/utf8.h"

namespace ssmrun {
namespace {

constexpr uint32_t kEnd = 0x200;  // no character from here on stands for a byte

struct ByteTable {
  uint32_t character[256];
  int16_t byte[kEnd];  // -1 where a character stands for none
  ByteTable() {
    std::fill(std::begin(byte), std::end(byte), int16_t{-1});
    uint32_t next = 0x100;
    for (uint32_t b = 0; b < 256; ++b) {
      const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b != 0xAD);
      character[b] = printable ? b : next++;
      byte[character[b]] = static_cast<int16_t>(b);
    }
  }
};

const ByteTable& Table() {
  static const ByteTable table;
  return table;
}

}  // namespace

uint32_t ByteCharacter(uint8_t byte) { return Table().character[byte]; }

void AppendByteCharacters(std::string& out, std::string_view bytes) {
  for (const char c : bytes) AppendUtf8(out, ByteCharacter(static_cast<uint8_t>(c)));
}

void AppendBytes(std::string& out, std::string_view token) {
  const size_t begin = out.size();
  size_t length = 0;
  for (size_t at = 0; at < token.size(); at += length) {
    const uint32_t c = DecodeUtf8(token, at, &length);
    if (c >= kEnd || Table().byte[c] < 0) {
      out.replace(begin, out.npos, token);
      return;
    }
    out += static_cast<char>(Table().byte[c]);
  }
}

}  // namespace ssmrun
