// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <limits>

#include "runner/failure.h"
#include "runner/text/characters.h"
#include "runner/text/token_model.h"

namespace ssmrun {
namespace {

constexpr double kUnknownPenalty = 10;  // below the lowest score, as in SentencePiece

class Unigram : public TokenModel {
 public:
  explicit Unigram(const Part& model);
  void encode(std::string_view word, std::vector<int64_t>& out) const override;

 private:
  // The best path that ends at a place of the word.
  struct Node {
    double score = 0;
    size_t begin = kNowhere;  // of its last piece
    uint32_t token = 0;
  };
  static constexpr size_t kNowhere = std::numeric_limits<size_t>::max();

  std::vector<Node> best_paths(std::string_view word) const;
  void add(std::string_view piece, std::vector<int64_t>& out) const;

  PrefixSearch prefixes_;
  double unknown_score_ = 0;
  std::optional<uint32_t> unknown_;
};

Unigram::Unigram(const Part& model) : TokenModel(model, true), prefixes_(vocabulary()) {
  if (model.flag("byte_fallback", false)) read_bytes();
  if (model.find("unk_id")) {
    const uint64_t id = model.number("unk_id");
    if (id >= vocabulary().end()) model.refuse("unk_id", "a token of model.vocab");
    unknown_ = static_cast<uint32_t>(id);
  }
  const std::vector<double>& scores = vocabulary().scores();
  unknown_score_ = std::numeric_limits<double>::infinity();
  for (const double score : scores) unknown_score_ = std::min(unknown_score_, score);
  unknown_score_ -= kUnknownPenalty;
}

std::vector<Unigram::Node> Unigram::best_paths(std::string_view word) const {
  std::vector<Node> nodes(word.size() + 1);
  const std::vector<double>& scores = vocabulary().scores();
  for (size_t begin = 0; begin < word.size(); begin += Utf8Length(word[begin])) {
    const double here = nodes[begin].score;
    const size_t one = Utf8Length(word[begin]);
    bool has_one = false;
    const auto offer = [&](uint32_t token, size_t length, double score) {
      Node& node = nodes[begin + length];
      if (node.begin == kNowhere || score > node.score) node = {score, begin, token};
    };
    prefixes_.search({}, word.substr(begin), [&](uint32_t token, size_t length) {
      offer(token, length, scores[token] + here);
      has_one = has_one || length == one;
    });
    if (has_one) continue;
    const Node& node = nodes[begin + one];
    const double score = unknown_score_ + here;
    if (!unknown_ && (node.begin == kNowhere || score > node.score)) refuse_unknown();
    offer(unknown_.value_or(0), one, score);
  }
  return nodes;
}

void Unigram::encode(std::string_view word, std::vector<int64_t>& out) const {
  const std::vector<Node> nodes = best_paths(word);
  struct Piece {
    size_t begin, end;
    bool unknown;
  };
  std::vector<Piece> pieces;  // from the last to the first
  for (size_t end = word.size(); end > 0; end = nodes[end].begin) {
    const bool unknown = unknown_ && nodes[end].token == *unknown_;
    // Unknown ones that adjoin are one.
    if (unknown && !pieces.empty() && pieces.back().unknown) {
      pieces.back().begin = nodes[end].begin;
    } else {
      pieces.push_back({nodes[end].begin, end, unknown});
    }
  }
  for (auto piece = pieces.rbegin(); piece != pieces.rend(); ++piece) {
    add(word.substr(piece->begin, piece->end - piece->begin), out);
  }
}

void Unigram::add(std::string_view piece, std::vector<int64_t>& out) const {
  if (const auto token = vocabulary().find(piece)) {
    out.push_back(*token);
    return;
  }
  std::vector<uint32_t> bytes;
  if (add_bytes(piece, bytes)) {
    out.insert(out.end(), bytes.begin(), bytes.end());
    return;
  }
  if (!unknown_) refuse_unknown();
  out.push_back(*unknown_);
}

}  // namespace

std::unique_ptr<TokenModel> ReadUnigram(const Part& model) {
  return std::make_unique<Unigram>(model);
}

}  // namespace ssmrun
