// SPDX-License-Identifier: Apache-2.0
// Unicode's normalisation form C, as tokenizers apply it. Source: Unicode Standard Annex 15.
#ifndef SSMPRESS_RUNNER_NORMALIZE_H_
#define SSMPRESS_RUNNER_NORMALIZE_H_

#include <string>
#include <string_view>

namespace ssmrun {

// The text, which is UTF-8, in NFC.
std::string NormalizeNfc(std::string_view text);

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_NORMALIZE_H_
