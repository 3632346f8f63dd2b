// SPDX-License-Identifier: Apache-2.0
#include "runner/text/tokenizer.h"

#include <algorithm>
#include <optional>
#include <queue>

#include "runner/failure.h"
#include "runner/files.h"
#include "runner/text/normalize.h"

namespace ssmrun {
namespace {

// What toolchain/ssmpress/data/tokenizer_bounds.py allows; beyond it is damage, or meant to harm.
constexpr uint64_t kTokenizerLimit = 64 << 20;  // bytes; the largest in use need 35 MB
constexpr uint32_t kTokenLimit = 1 << 22;       // ids: rows of the largest embedding
constexpr size_t kAddedLimit = 1 << 16;         // added tokens; the most in use are 6,400
constexpr size_t kAddedBytes = 256;             // of one of them

// GPT-2's table: printable characters of Latin-1 stand for themselves, the other bytes for
// U+0100, U+0101, ... in their order.
struct ByteTable {
  uint32_t character[256];
  int16_t byte[0x200];  // -1 where a character stands for none
  ByteTable() {
    std::fill(std::begin(byte), std::end(byte), int16_t{-1});
    uint32_t next = 0x100;
    for (uint32_t b = 0; b < 256; ++b) {
      const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b != 0xAD);
      character[b] = printable ? b : next++;
      byte[character[b]] = static_cast<int16_t>(b);
    }
  }
};

const ByteTable& Table() {
  static const ByteTable table;
  return table;
}

// Bytes of a vocabulary entry; its own text if a character of it stands for no byte.
std::string BytesOf(std::string_view token) {
  std::string bytes;
  size_t length = 0;
  for (size_t at = 0; at < token.size(); at += length) {
    const uint32_t c = DecodeUtf8(token, at, &length);
    if (c >= 0x200 || Table().byte[c] < 0) return std::string(token);
    bytes += static_cast<char>(Table().byte[c]);
  }
  return bytes;
}

}  // namespace

Tokenizer::Tokenizer(const std::string& path) : path_(path) {
  symbol_.fill(-1);
  const Json document(ReadFile(path, kTokenizerLimit), path);
  read(document.root());
}

void Tokenizer::refuse(const std::string& where, const std::string& expected,
                       const std::string& got) const {
  BadInput(path_ + ": " + where + ": expected " + expected + "; got " + got +
           ". ssmrun reads byte-level BPE, and the ids of this file would be wrong.");
}

bool Tokenizer::flag(const JsonValue& object, const char* key, bool absent,
                     const std::string& where) const {
  const auto found = object.find(key);
  if (!found) return absent;
  if (!found->is(JsonValue::kTrue) && !found->is(JsonValue::kFalse)) {
    refuse(where + "." + key, "true or false", found->shown());
  }
  return found->is(JsonValue::kTrue);
}

void Tokenizer::require_nothing(const JsonValue& object, const char* key,
                                const std::string& where) const {
  const auto found = object.find(key);
  if (!found || found->is(JsonValue::kNull) || found->is(JsonValue::kFalse)) return;
  if (found->is(JsonValue::kString) && found->text().empty()) return;
  if (found->number() == 0.0) return;
  refuse(where + "." + key, "none", found->shown());
}

void Tokenizer::read(const JsonValue& root) {
  if (!root.is(JsonValue::kObject)) refuse("the file", "an object", root.shown());
  const auto model = root.find("model");
  const auto type = model ? model->find("type") : std::nullopt;
  // Old files leave the type out; they are BPE if they have merges.
  if (!model || (type ? type->text() != "BPE" : !model->find("merges"))) {
    refuse("model.type", "\"BPE\"", type ? type->shown() : "none");
  }
  if (const auto normalizer = root.find("normalizer"); normalizer && normalizer->size() != 0) {
    const auto kind = normalizer->find("type");
    if (!kind || kind->text() != "NFC") refuse("normalizer", "none or NFC", normalizer->shown());
    normalize_ = true;
  }
  read_pre_tokenizer(root);
  for (const char* key :
       {"dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"}) {
    require_nothing(*model, key, "model");
  }
  ignore_merges_ = flag(*model, "ignore_merges", false, "model");
  const auto vocabulary = model->find("vocab"), merges = model->find("merges");
  if (!vocabulary || !vocabulary->is(JsonValue::kObject))
    refuse("model.vocab", "an object", "none");
  if (!merges || !merges->is(JsonValue::kArray)) refuse("model.merges", "a list", "none");
  read_vocabulary(*vocabulary);
  if (const auto unknown = model->find("unk_token"); unknown && unknown->is(JsonValue::kString)) {
    const auto found = vocabulary->find(unknown->text());
    unknown_ = found ? found->integer().value_or(-1) : -1;
  }
  read_merges(*merges);
  set_symbols();
  if (unknown_ >= 0 && *std::min_element(symbol_.begin(), symbol_.end()) < 0) {
    require_nothing(*model, "fuse_unk", "model");
  }
  if (const auto added = root.find("added_tokens")) read_added(*added);
  if (!ignore_merges_) ids_.clear();
}

void Tokenizer::read_pre_tokenizer(const JsonValue& root) {
  const auto split = root.find("pre_tokenizer"), decoder = root.find("decoder");
  const auto kind = split ? split->find("type") : std::nullopt;
  if (!kind || kind->text() != "ByteLevel") {
    refuse("pre_tokenizer.type", "\"ByteLevel\"", kind ? kind->shown() : "none");
  }
  add_prefix_space_ = flag(*split, "add_prefix_space", true, "pre_tokenizer");
  use_regex_ = flag(*split, "use_regex", true, "pre_tokenizer");
  const auto decoding = decoder ? decoder->find("type") : std::nullopt;
  if (!decoding || decoding->text() != "ByteLevel") {
    refuse("decoder.type", "\"ByteLevel\"", decoding ? decoding->shown() : "none");
  }
}

void Tokenizer::read_vocabulary(const JsonValue& vocabulary) {
  // Written form -> id: merges and added tokens refer to that.
  ids_.reserve(vocabulary.size());
  for (auto item = vocabulary.begin(); item != vocabulary.end(); ++item) {
    const auto id = item.value().unsigned_integer();
    if (!id || *id >= kTokenLimit) {
      refuse("model.vocab", "ids below " + std::to_string(kTokenLimit), item.value().shown());
    }
    if (*id >= tokens_.size()) tokens_.resize(*id + 1);
    tokens_[*id] = BytesOf(item.key());
    ids_.emplace(item.key(), static_cast<uint32_t>(*id));
  }
}

void Tokenizer::read_merges(const JsonValue& merges) {
  merges_.reserve(merges.size());
  const auto id_of = [&](std::string_view token) {
    const auto found = ids_.find(std::string(token));
    if (found == ids_.end()) {
      refuse("model.merges", "tokens of model.vocab", "\"" + std::string(token) + "\"");
    }
    return found->second;
  };
  uint32_t rank = 0;
  for (const JsonValue item : merges) {
    std::string_view left, right;
    const std::string_view text = item.text();
    if (const size_t space = text.find(' '); item.is(JsonValue::kString) && space != text.npos &&
                                             text.find(' ', space + 1) == text.npos) {
      left = text.substr(0, space), right = text.substr(space + 1);
    } else if (item.is(JsonValue::kArray) && item.size() == 2) {
      auto part = item.begin();
      left = (*part).text();
      right = (*++part).text();
    } else {
      refuse("model.merges", "pairs of tokens", item.shown());
    }
    const uint64_t pair = uint64_t{id_of(left)} << 32 | id_of(right);
    merges_[pair] = {rank++, id_of(std::string(left) + std::string(right))};
  }
}

void Tokenizer::set_symbols() {
  for (uint32_t byte = 0; byte < 256; ++byte) {
    std::string token;
    AppendUtf8(token, Table().character[byte]);
    const auto found = ids_.find(token);
    if (found != ids_.end()) symbol_[byte] = found->second;
  }
}

void Tokenizer::read_added(const JsonValue& list) {
  if (!list.is(JsonValue::kArray)) refuse("added_tokens", "a list", list.shown());
  for (const JsonValue item : list) {
    const auto content = item.find("content"), id = item.find("id");
    if (!content || !content->is(JsonValue::kString) || !id || !id->unsigned_integer() ||
        *id->unsigned_integer() >= kTokenLimit) {
      refuse("added_tokens", "content and id", item.shown());
    }
    if (content->text().empty()) continue;
    const std::string where = "added_tokens." + std::string(content->text());
    require_nothing(item, "single_word", where);
    const auto number = static_cast<uint32_t>(*id->unsigned_integer());
    const auto found = ids_.find(std::string(content->text()));
    if (found != ids_.end() && found->second != number) {
      refuse(where, "id " + std::to_string(found->second) + " as in model.vocab", id->shown());
    }
    Added token{std::string(content->text()),          number,
                flag(item, "lstrip", false, where),    flag(item, "rstrip", false, where),
                flag(item, "normalized", true, where), flag(item, "special", false, where)};
    if (number >= tokens_.size()) tokens_.resize(number + 1);
    if (number >= special_.size()) special_.resize(number + 1);
    tokens_[number] = BytesOf(token.content);
    special_[number] = token.special;
    if (normalize_ && token.normalized) token.content = NormalizeNfc(token.content);
    check_added(token, where);
    ByteTrie& trie = token.normalized ? added_normalized_ : added_plain_;
    trie.add(token.content, static_cast<uint32_t>(added_.size()));
    added_.push_back(std::move(token));
  }
}

// A search costs the longest content per byte of text. A token that strips the spaces after it and
// begins with one would be found again in what it stripped: as many times as there are spaces.
void Tokenizer::check_added(const Added& token, const std::string& where) const {
  size_t length = 0;
  if (added_.size() >= kAddedLimit) {
    refuse("added_tokens", "at most " + std::to_string(kAddedLimit) + " tokens", "more");
  }
  if (token.content.size() > kAddedBytes) {
    refuse("added_tokens", "at most " + std::to_string(kAddedBytes) + " bytes a token",
           std::to_string(token.content.size()));
  }
  if (token.rstrip && IsSpace(DecodeUtf8(token.content, 0, &length))) {
    refuse(where, "no space where it strips them", "one at its beginning");
  }
}

std::vector<int64_t> Tokenizer::encode(std::string_view text, const std::string& what) const {
  if (const size_t at = FindInvalidUtf8(text); at != text.npos) {
    BadInput(what + ": expected UTF-8 text; the byte at offset " + std::to_string(at) +
             " is not. Convert it, e.g. with iconv -t UTF-8.");
  }
  std::vector<int64_t> out;
  split_added(text, false, out);
  return out;
}

const Tokenizer::Added* Tokenizer::find_added(std::string_view text, size_t at, bool normalized,
                                              size_t* begin) const {
  const ByteTrie& trie = normalized ? added_normalized_ : added_plain_;
  for (; at < text.size(); ++at) {
    const uint32_t found = trie.longest(text.substr(at));
    if (found == ByteTrie::kNone) continue;
    *begin = at;
    return &added_[found];
  }
  return nullptr;
}

// The text is cut at the tokens that are matched before normalisation first, and what is between
// them at the others. An empty text is a piece too.
void Tokenizer::split_added(std::string_view text, bool normalized,
                            std::vector<int64_t>& out) const {
  const auto plain = [&](size_t begin, size_t end) {
    const std::string_view piece = text.substr(begin, end - begin);
    if (normalized) {
      encode_piece(piece, out);
    } else {
      split_added(normalize_ ? NormalizeNfc(piece) : std::string(piece), true, out);
    }
  };
  size_t done = 0, at = 0, begin = 0;
  while (const Added* token = find_added(text, at, normalized, &begin)) {
    at = begin + token->content.size();
    size_t end = at, length = 0;
    if (token->lstrip) {
      // Back over whole characters while they are spaces.
      while (begin > done) {
        size_t previous = begin - 1;
        while (previous > done && (static_cast<uint8_t>(text[previous]) & 0xC0) == 0x80) --previous;
        if (!IsSpace(DecodeUtf8(text, previous, &length))) break;
        begin = previous;
      }
    }
    while (token->rstrip && end < text.size() && IsSpace(DecodeUtf8(text, end, &length))) {
      end += length;
    }
    if (done < begin) plain(done, begin);
    out.push_back(token->id);
    done = end;
  }
  if (done < text.size() || text.empty()) plain(done, text.size());
}

void Tokenizer::encode_piece(std::string_view text, std::vector<int64_t>& out) const {
  std::string prefixed;
  if (add_prefix_space_ && !text.empty() && text.front() != ' ') {
    prefixed = " " + std::string(text);
    text = prefixed;
  }
  if (!use_regex_) return encode_word(text, out);
  size_t begin = 0;
  for (const size_t end : SplitWords(text)) {
    encode_word(text.substr(begin, end - begin), out);
    begin = end;
  }
}

void Tokenizer::encode_word(std::string_view word, std::vector<int64_t>& out) const {
  if (word.empty()) return;
  if (ignore_merges_) {
    std::string written;
    for (const char c : word) AppendUtf8(written, Table().character[static_cast<uint8_t>(c)]);
    if (const auto found = ids_.find(written); found != ids_.end()) {
      out.push_back(found->second);
      return;
    }
  }
  std::vector<uint32_t> symbols;
  symbols.reserve(word.size());
  for (const char c : word) {
    const int64_t id = symbol_[static_cast<uint8_t>(c)];
    if (id >= 0 || unknown_ >= 0) symbols.push_back(static_cast<uint32_t>(id >= 0 ? id : unknown_));
  }
  merge(symbols);
  out.insert(out.end(), symbols.begin(), symbols.end());
}

// Joins the pair of the lowest rank, the leftmost of equals, until no pair has a rank. A heap of
// candidates, stale ones skipped: n log n for a word of any length.
void Tokenizer::merge(std::vector<uint32_t>& symbols) const {
  constexpr uint32_t kNone = 0xFFFFFFFF;
  struct Candidate {
    uint32_t rank, at, left, right;
    bool operator>(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : at > other.at;
    }
  };
  if (symbols.size() >= kNone) BadInput(path_ + ": a word of 4 GiB cannot be encoded.");
  const auto count = static_cast<uint32_t>(symbols.size());
  std::vector<uint32_t> next(count), previous(count);
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> heap;
  const auto offer = [&](uint32_t at) {
    if (at == kNone || next[at] == kNone) return;
    const uint32_t left = symbols[at], right = symbols[next[at]];
    const auto found = merges_.find(uint64_t{left} << 32 | right);
    if (found != merges_.end()) heap.push({found->second.rank, at, left, right});
  };
  for (uint32_t i = 0; i < count; ++i) {
    next[i] = i + 1 < count ? i + 1 : kNone;
    previous[i] = i > 0 ? i - 1 : kNone;
  }
  for (uint32_t i = 0; i < count; ++i) offer(i);
  while (!heap.empty()) {
    const Candidate top = heap.top();
    heap.pop();
    const uint32_t after = next[top.at];
    if (symbols[top.at] != top.left || after == kNone || symbols[after] != top.right) continue;
    symbols[top.at] = merges_.find(uint64_t{top.left} << 32 | top.right)->second.id;
    symbols[after] = kNone;  // no longer the beginning of a symbol
    next[top.at] = next[after];
    if (next[after] != kNone) previous[next[after]] = top.at;
    offer(top.at);
    offer(previous[top.at]);
  }
  symbols.erase(std::remove(symbols.begin(), symbols.end(), kNone), symbols.end());
}

std::string_view Tokenizer::bytes(int64_t token) const {
  const auto id = static_cast<size_t>(token);
  if (token < 0 || id >= tokens_.size() || (id < special_.size() && special_[id])) return {};
  return tokens_[id];
}

std::string Tokenizer::decode(const std::vector<int64_t>& tokens) const {
  std::string all;
  for (const int64_t token : tokens) all += bytes(token);
  Utf8Stream stream;
  std::string text = stream.add(all);
  return text + stream.finish();
}

}  // namespace ssmrun
