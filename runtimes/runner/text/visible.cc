// SPDX-License-Identifier: Apache-2.0
#include "runner/text/visible.h"

#include <cstdio>

#include "runner/text/utf8.h"

namespace ssmrun {
namespace {

bool IsPlain(char c) { return (c >= 0x20 && c < 0x7F) || c == '\n' || c == '\t'; }

bool IsObeyed(uint32_t c) {
  return c < 0x20 || (c >= 0x7F && c < 0xA0) || c == 0x61C || c == 0x200E || c == 0x200F ||
         (c >= 0x2028 && c <= 0x202E) || (c >= 0x2066 && c <= 0x2069);
}

}  // namespace

std::string Visible(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  size_t length = 1;
  for (size_t at = 0; at < text.size(); at += length) {
    length = 1;
    if (IsPlain(text[at])) {
      out += text[at];
      continue;
    }
    const uint32_t character = DecodeUtf8(text, at, &length);
    if (character == kNoCharacter) {
      AppendUtf8(out, 0xFFFD);
    } else if (IsObeyed(character)) {
      char escape[16];
      std::snprintf(escape, sizeof escape, "\\u%04x", character);
      out += escape;
    } else {
      out += text.substr(at, length);
    }
  }
  return out;
}

std::string VisibleLine(std::string_view text) {
  std::string out;
  for (const char c : Visible(text)) {
    if (c == '\n') {
      out += "\\n";
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace ssmrun
