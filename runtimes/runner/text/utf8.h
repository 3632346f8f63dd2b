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
inline constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD, of damaged bytes

// The character at text[at] and, in `length`, its bytes; kNoCharacter if there is none, and then
// `length` is how many bytes belong to the damaged sequence (its maximal valid start, at least 1).
uint32_t DecodeUtf8(std::string_view text, size_t at, size_t* length);

void AppendUtf8(std::string& out, uint32_t character);

// Offset of the first byte that is not UTF-8, or npos.
size_t FindInvalidUtf8(std::string_view text);

// The text of bytes: what is no UTF-8 becomes U+FFFD, once per maximal valid start, as in the
// WHATWG and Rust's from_utf8_lossy.
std::string Utf8Lossy(std::string_view bytes);

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_UTF8_H_
