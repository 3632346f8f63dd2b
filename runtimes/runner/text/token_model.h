// SPDX-License-Identifier: Apache-2.0
// The `model` of a tokenizer.json: turns words into tokens.
#ifndef SSMPRESS_RUNNER_TOKEN_MODEL_H_
#define SSMPRESS_RUNNER_TOKEN_MODEL_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runner/text/part.h"
#include "runner/text/vocabulary.h"

namespace ssmrun {

class TokenModel {
 public:
  virtual ~TokenModel() = default;
  // Appends the tokens of a word, which is not empty. Throws kBadInput where the model has no token
  // for a character and none that is unknown.
  virtual void encode(std::string_view word, std::vector<int64_t>& out) const = 0;
  const Vocabulary& vocabulary() const { return vocabulary_; }

 protected:
  TokenModel(const Part& model, bool scored) : file_(model.file()), vocabulary_(model, scored) {}
  const std::string& file() const { return file_; }  // for messages
  [[noreturn]] void refuse_unknown() const;
  // The tokens `<0x00>` .. `<0xFF>` of a text's bytes; nothing where one of them is missing.
  bool add_bytes(std::string_view text, std::vector<uint32_t>& out) const;
  void read_bytes();

 private:
  std::string file_;
  Vocabulary vocabulary_;
  std::vector<std::optional<uint32_t>> bytes_;
};

// model: the part `model`. Throws kBadInput: a kind or an entry that is not known.
std::unique_ptr<TokenModel> ReadModel(const Part& model);

// Byte-pair encoding: bpe.cc. Source: Sennrich, Haddow, Birch (2016).
std::unique_ptr<TokenModel> ReadBpe(const Part& model);

// The most likely pieces by their scores: unigram.cc. Source: Kudo (2018).
std::unique_ptr<TokenModel> ReadUnigram(const Part& model);

// The longest pieces from the left, and whole words: wordpiece.cc.
std::unique_ptr<TokenModel> ReadWordPiece(const Part& model);
std::unique_ptr<TokenModel> ReadWordLevel(const Part& model);

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_TOKEN_MODEL_H_
