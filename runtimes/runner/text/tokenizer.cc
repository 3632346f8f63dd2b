// SPDX-License-Identifier: Apache-2.0
#include "runner/text/tokenizer.h"

#include "runner/failure.h"
#include "runner/files.h"
#include "runner/text/characters.h"

namespace ssmrun {
namespace {

// Bytes; the largest in use need 35 MB. As in toolchain/ssmpress/data/tokenizer_bounds.py.
constexpr uint64_t kTokenizerLimit = 64 << 20;

}  // namespace

Tokenizer::Tokenizer(const std::string& path) {
  const Json document(ReadFile(path, kTokenizerLimit), path);
  const Part root(document.root(), path, "");
  if (!document.root().is(JsonValue::kObject)) {
    root.refuse("the file", "an object", document.root().shown());
  }
  const auto model = root.part("model");
  if (!model) Part(document.root(), path, "model").refuse("model.type", "a kind", "none");
  model_ = ReadModel(*model);
  if (const auto part = root.part("normalizer")) normalizer_ = Normalizer(*part);
  if (const auto part = root.part("pre_tokenizer")) pre_tokenizer_ = PreTokenizer(*part);
  if (const auto part = root.part("decoder")) decoder_ = Decoder(*part);
  added_ = AddedTokens(root, model_->vocabulary(), normalizer_);
}

std::vector<int64_t> Tokenizer::encode(std::string_view text, const std::string& what) const {
  if (const size_t at = FindInvalidUtf8(text); at != text.npos) {
    BadInput(what + ": expected UTF-8 text; the byte at offset " + std::to_string(at) +
             " is not. Convert it, e.g. with iconv -t UTF-8.");
  }
  std::vector<int64_t> out;
  for (const AddedTokens::Stretch& stretch : added_.split(text, false)) {
    if (stretch.token) {
      out.push_back(*stretch.token);
    } else {
      encode_plain(text.substr(stretch.begin, stretch.end - stretch.begin), stretch.begin == 0,
                   out);
    }
  }
  return out;
}

void Tokenizer::encode_plain(std::string_view text, bool at_beginning,
                             std::vector<int64_t>& out) const {
  WayText normal{std::string(text), at_beginning ? Utf8Length(text.front()) : 0};
  normalizer_.apply(normal);
  for (const AddedTokens::Stretch& stretch : added_.split(normal.text, true)) {
    if (stretch.token) {
      out.push_back(*stretch.token);
      continue;
    }
    const size_t head = normal.head > stretch.begin ? normal.head - stretch.begin : 0;
    const Words words = pre_tokenizer_.split(
        {normal.text.substr(stretch.begin, stretch.end - stretch.begin), head});
    const std::string_view cut = words.text.text;
    for (const Words::Stretch& word : words.stretches) {
      model_->encode(cut.substr(word.begin, word.end - word.begin), out);
    }
  }
}

const std::string* Tokenizer::text_of(int64_t token) const {
  const std::string* text = added_.find(token);
  return text != nullptr ? text : model_->vocabulary().text(token);
}

const std::string* Tokenizer::shown(int64_t token, SpecialTokens special) const {
  const std::string* text = text_of(token);
  const bool hidden =
      text != nullptr && special == SpecialTokens::kHidden && added_.is_special(*text);
  return hidden ? nullptr : text;
}

std::string Tokenizer::decode(const std::vector<int64_t>& tokens, SpecialTokens special) const {
  std::vector<std::string> texts;
  texts.reserve(tokens.size());
  for (const int64_t token : tokens) {
    if (const std::string* text = shown(token, special)) texts.push_back(*text);
  }
  return decoder_.decode(std::move(texts));
}

}  // namespace ssmrun
