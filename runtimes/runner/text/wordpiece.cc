// SPDX-License-Identifier: Apache-2.0
#include "runner/text/characters.h"
#include "runner/text/token_model.h"

namespace ssmrun {
namespace {

class WordPiece : public TokenModel {
 public:
  explicit WordPiece(const Part& model)
      : TokenModel(model, false),
        prefixes_(vocabulary()),
        prefix_(model.text("continuing_subword_prefix")),
        most_(model.number("max_input_chars_per_word")),
        unknown_(vocabulary().find(model.text("unk_token"))) {}

  // The longest piece that the rest of the word begins with, again and again; the whole word is
  // unknown where there is none, or where it is too long.
  void encode(std::string_view word, std::vector<int64_t>& out) const override {
    const size_t before = out.size();
    uint64_t characters = 0;
    ForEachCharacter(word, [&](uint32_t, size_t, size_t) { ++characters; });
    size_t at = characters > most_ ? word.size() : 0;
    while (at < word.size()) {
      size_t longest = 0;
      uint32_t piece = 0;
      prefixes_.search(at > 0 ? std::string_view(prefix_) : std::string_view(), word.substr(at),
                       [&](uint32_t token, size_t length) { piece = token, longest = length; });
      if (longest == 0) break;
      out.push_back(piece);
      at += longest;
    }
    if (at == word.size() && characters <= most_) return;
    if (!unknown_) refuse_unknown();
    out.resize(before);
    out.push_back(*unknown_);
  }

 private:
  PrefixSearch prefixes_;
  std::string prefix_;
  uint64_t most_;
  std::optional<uint32_t> unknown_;
};

class WordLevel : public TokenModel {
 public:
  explicit WordLevel(const Part& model)
      : TokenModel(model, false), unknown_(vocabulary().find(model.text("unk_token"))) {}

  void encode(std::string_view word, std::vector<int64_t>& out) const override {
    const auto token = vocabulary().find(word);
    if (!token && !unknown_) refuse_unknown();
    out.push_back(token ? *token : *unknown_);
  }

 private:
  std::optional<uint32_t> unknown_;
};

}  // namespace

std::unique_ptr<TokenModel> ReadWordPiece(const Part& model) {
  return std::make_unique<WordPiece>(model);
}

std::unique_ptr<TokenModel> ReadWordLevel(const Part& model) {
  return std::make_unique<WordLevel>(model);
}

}  // namespace ssmrun
