// SPDX-License-Identifier: Apache-2.0
// Byte-level BPE from a tokenizer.json, with the ids that the tokenizers library gives for
// `encode(text, add_special_tokens=False)` and the text of its `decode`.
#ifndef SSMPRESS_RUNNER_TOKENIZER_H_
#define SSMPRESS_RUNNER_TOKENIZER_H_

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "runner/json/json.h"
#include "runner/text/byte_trie.h"
#include "runner/text/utf8.h"

namespace ssmrun {

class Tokenizer {
 public:
  // Throws kBadInput: damaged, or of a kind that is not byte-level BPE; the message names the
  // entry.
  explicit Tokenizer(const std::string& path);

  // Text is UTF-8; throws kBadInput with the offset where it is not. `what` begins the message.
  std::vector<int64_t> encode(std::string_view text, const std::string& what) const;
  std::string decode(const std::vector<int64_t>& tokens) const;
  // What a token adds to the text: bytes, which need not be whole characters. Empty for special
  // tokens and ids that the file does not have.
  std::string_view bytes(int64_t token) const;

 private:
  struct Added {
    std::string content;
    uint32_t id;
    bool lstrip, rstrip, normalized, special;
  };
  struct Merge {
    uint32_t rank, id;
  };

  void read(const JsonValue& root);
  void read_pre_tokenizer(const JsonValue& root);
  void read_vocabulary(const JsonValue& vocabulary);
  void read_merges(const JsonValue& merges);
  void read_added(const JsonValue& list);
  void check_added(const Added& token, const std::string& where) const;
  void set_symbols();
  [[noreturn]] void refuse(const std::string& where, const std::string& expected,
                           const std::string& got) const;
  bool flag(const JsonValue& object, const char* key, bool absent, const std::string& where) const;
  void require_nothing(const JsonValue& object, const char* key, const std::string& where) const;

  // The added token that begins first in the text from `at` on, the longest of those, or nullptr.
  const Added* find_added(std::string_view text, size_t at, bool normalized, size_t* begin) const;
  void split_added(std::string_view text, bool normalized, std::vector<int64_t>& out) const;
  void encode_piece(std::string_view text, std::vector<int64_t>& out) const;
  void encode_word(std::string_view word, std::vector<int64_t>& out) const;
  void merge(std::vector<uint32_t>& symbols) const;

  std::string path_;
  bool add_prefix_space_ = false, use_regex_ = true, ignore_merges_ = false;
  bool normalize_ = false;
  std::array<int64_t, 256> symbol_;  // id of the token that is one byte, or -1
  int64_t unknown_ = -1;
  std::vector<std::string> tokens_;  // bytes of every id
  std::vector<bool> special_;
  std::unordered_map<std::string, uint32_t> ids_;  // as written; kept for ignore_merges
  std::unordered_map<uint64_t, Merge> merges_;     // by left id << 32 | right id
  std::vector<Added> added_;
  ByteTrie added_plain_, added_normalized_;  // their contents, as they are matched
};

// Ends of the words that GPT-2's split cuts a text into, by byte: every merge stays inside one.
std::vector<size_t> SplitWords(std::string_view text);
bool IsSpace(uint32_t character);

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_TOKENIZER_H_
