// SPDX-License-Identifier: Apache-2.0
// The characters that stand for bytes in byte-level tokens: printable ones of Latin-1 for
// themselves, U+0100, U+0101, ... for the other bytes, in their order. Source: GPT-2's encoder.py.
#ifndef SSMPRESS_RUNNER_BYTE_CHARACTERS_H_
#define SSMPRESS_RUNNER_BYTE_CHARACTERS_H_

#include <cstdint>
#include <string>
#include <string_view>

namespace ssmrun {

// The character that stands for a byte.
uint32_t ByteCharacter(uint8_t byte);

// Appends the characters that stand for a text's bytes.
void AppendByteCharacters(std::string& out, std::string_view bytes);

// Appends the bytes of a token; its own text if a character of it stands for none.
void AppendBytes(std::string& out, std::string_view token);

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_BYTE_CHARACTERS_H_
