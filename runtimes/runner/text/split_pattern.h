// SPDX-License-Identifier: Apache-2.0
// The `pattern` of Split and Replace: a text, or a regular expression of those that are known.
#ifndef SSMPRESS_RUNNER_SPLIT_PATTERN_H_
#define SSMPRESS_RUNNER_SPLIT_PATTERN_H_

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runner/text/part.h"
#include "runner/text/split_rules.h"

namespace ssmrun {

class SplitPattern {
 public:
  // part: of a Split or a Replace. Throws kBadInput: a pattern that is not known.
  explicit SplitPattern(const Part& part);
  // GPT-2's, which ByteLevel has without saying so.
  static SplitPattern Gpt2();

  struct Match {
    size_t begin, end;
  };
  // The first match that begins at `at` or behind it; never an empty one.
  std::optional<Match> find(std::string_view text, size_t at) const;

 private:
  SplitPattern() = default;
  // False: one of the alternatives is not known.
  bool add_expression(std::string_view expression);

  std::string literal_;  // of a text
  std::vector<SplitAlternative> alternatives_;
};

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_SPLIT_PATTERN_H_
