// SPDX-License-Identifier: Apache-2.0
// Unicode's normalisation forms and lower case, as the tokenizers library has them. Source: Unicode
// Standard Annex 15.
#ifndef SSMPRESS_RUNNER_UNICODE_FORMS_H_
#define SSMPRESS_RUNNER_UNICODE_FORMS_H_

#include <cstdint>
#include <string_view>
#include <vector>

namespace ssmrun {

// A character of a text that was rewritten, and what it stands for: 0 takes the next character of
// the text before, -n that and n more, 1 none (it belongs to the character before it).
struct Written {
  uint32_t character;
  int32_t change;
};

enum class UnicodeForm { kNfc, kNfd, kNfkc, kNfkd };

// A text in one of the forms.
std::vector<Written> Normalize(std::string_view text, UnicodeForm form);

// Appends a character's lower case, which may be several characters.
void AppendLower(uint32_t character, std::vector<Written>& out);

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_UNICODE_FORMS_H_
