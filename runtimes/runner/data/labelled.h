// SPDX-License-Identifier: Apache-2.0
// Labelled texts, as toolchain/ssmpress/data/labelled.py reads them.
#ifndef SSMPRESS_RUNNER_LABELLED_H_
#define SSMPRESS_RUNNER_LABELLED_H_

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace ssmrun {

// Tokens of a text; the second argument begins the message of a failure.
using Encode = std::function<std::vector<int64_t>(std::string_view, const std::string&)>;

// A text of at most max_length tokens, and the number of its class.
struct LabelledText {
  std::vector<int64_t> tokens;
  size_t label;
};

// What the texts of a file are read for.
struct LabelledTexts {
  const std::vector<std::string>& classes;
  int64_t max_length;  // tokens of a text that are read
  const Encode& encode;
};

// A .jsonl file: each line an object with `label`, a class, and `text`, or `tokens` instead.
// limit: texts at most, 0 is all. Throws kBadInput with the line.
std::vector<LabelledText> ReadLabelled(const std::string& path, const LabelledTexts& expected,
                                       uint64_t limit);

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_LABELLED_H_
