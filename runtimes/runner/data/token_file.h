// SPDX-License-Identifier: Apache-2.0
// Token files: NumPy's .npy, and raw integers.
#ifndef SSMPRESS_RUNNER_TOKEN_FILE_H_
#define SSMPRESS_RUNNER_TOKEN_FILE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace ssmrun {

using Windows = std::vector<std::vector<int64_t>>;

// Tokens of a file: integers as .npy (count) or (count, w), or raw little-endian of `raw_type`,
// `uint16` or `int32`. limit: tokens to take at most, 0 is all. vocab: of the model; a type that
// cannot hold its tokens has cut them. Throws kBadInput.
struct TokenFile {
  std::vector<int64_t> tokens;
  size_t row = 0;  // w of a (count, w) array, else 0
};
TokenFile ReadTokens(const std::string& path, const std::string& raw_type, uint64_t limit,
                     int64_t vocab);

// Consecutive windows that do not overlap, a shorter rest left out.
Windows CutWindows(const TokenFile& file, uint64_t length, const std::string& path);

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_TOKEN_FILE_H_
