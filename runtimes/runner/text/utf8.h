// SPDX-License-Identifier: Apache-2.0
// UTF-8, strict: no overlong forms, no surrogates, nothing beyond U+10FFFF.
#ifndef SSMPRESS_RUNNER_UTF8_H_
#define SSMPRESS_RUNNER_UTF8_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace ssmrun {

constexpr uint32_t kNoCharacter = 0xFFFFFFFF;

// The character at text[at] and, in `length`, its bytes; kNoCharacter if there is none, and then
// `length` is how many bytes belong to the damaged sequence (its maximal valid start, at least 1).
// `incomplete`: the bytes up to the end of the text could still become a character.
uint32_t DecodeUtf8(std::string_view text, size_t at, size_t* length, bool* incomplete = nullptr);

void AppendUtf8(std::string& out, uint32_t character);

// Offset of the first byte that is not UTF-8, or npos.
size_t FindInvalidUtf8(std::string_view text);

// Turns bytes that arrive in pieces into whole characters; what can never become one is replaced
// by U+FFFD, once per maximal valid start, as in the WHATWG and Rust's from_utf8_lossy.
class Utf8Stream {
 public:
  std::string add(std::string_view bytes);  // the characters that are complete now
  std::string finish();                     // what is left over

 private:
  std::string drain(bool final);
  std::string pending_;
};

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_UTF8_H_
