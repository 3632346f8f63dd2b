// SPDX-License-Identifier: Apache-2.0
// The `normalizer` of a tokenizer.json: rewrites a text before it is cut into words.
#ifndef SSMPRESS_RUNNER_NORMALIZER_H_
#define SSMPRESS_RUNNER_NORMALIZER_H_

#include <functional>
#include <string>
#include <vector>

#include "runner/text/part.h"

namespace ssmrun {

// A text on its way to tokens. head: bytes at its beginning that come from the first character of
// the whole text, which Metaspace's prepend_scheme `first` asks for; 0 where it begins later. The
// tokenizers library keeps such an origin for every byte; no more than this of it decides a token.
struct WayText {
  std::string text;
  size_t head = 0;
};

class Normalizer {
 public:
  Normalizer() = default;  // leaves texts as they are
  // Throws kBadInput: a kind or an entry that is not known.
  explicit Normalizer(const Part& part) { add(part); }
  void apply(WayText& text) const;

 private:
  void add(const Part& part);
  void add_bert(const Part& part);
  void grow(const Part& part, const char* key, size_t times);
  std::vector<std::function<WayText(const WayText&)>> steps_;
  size_t growth_ = 1;  // bytes that one byte may become
};

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_NORMALIZER_H_
