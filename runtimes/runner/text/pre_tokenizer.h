// SPDX-License-Identifier: Apache-2.0
// The `pre_tokenizer` of a tokenizer.json: cuts a text into words that are encoded one by one.
#ifndef SSMPRESS_RUNNER_PRE_TOKENIZER_H_
#define SSMPRESS_RUNNER_PRE_TOKENIZER_H_

#include <functional>
#include <string>
#include <vector>

#include "runner/text/normalizer.h"
#include "runner/text/part.h"

namespace ssmrun {

// A text and the stretches of it that are left, ascending, none of them empty.
struct Words {
  struct Stretch {
    size_t begin, end;
  };
  WayText text;
  std::vector<Stretch> stretches;
};

class PreTokenizer {
 public:
  PreTokenizer() = default;  // leaves a text whole
  // Throws kBadInput: a kind or an entry that is not known.
  explicit PreTokenizer(const Part& part) { add(part); }
  Words split(WayText text) const;

 private:
  void add(const Part& part);
  void add_byte_level(const Part& part);
  void add_metaspace(const Part& part);
  std::vector<std::function<void(Words&)>> steps_;
};

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_PRE_TOKENIZER_H_
