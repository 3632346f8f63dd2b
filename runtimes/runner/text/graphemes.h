// SPDX-License-Identifier: Apache-2.0
// Extended grapheme clusters, where SentencePiece's normalizer looks for what to replace. Source:
// Unicode Standard Annex 29, less the pairs of regional indicators (see generate_graphemes.py).
#ifndef SSMPRESS_RUNNER_GRAPHEMES_H_
#define SSMPRESS_RUNNER_GRAPHEMES_H_

#include <cstddef>
#include <string_view>

namespace ssmrun {

// End of the cluster that begins at `at`, before the end of text that is UTF-8.
size_t GraphemeEnd(std::string_view text, size_t at);

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_GRAPHEMES_H_
