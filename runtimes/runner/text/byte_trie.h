// SPDX-License-Identifier: Apache-2.0
// Strings by their bytes, to find the longest that a text begins with: its length is what a search
// costs, however many strings there are.
#ifndef SSMPRESS_RUNNER_BYTE_TRIE_H_
#define SSMPRESS_RUNNER_BYTE_TRIE_H_

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace ssmrun {

class ByteTrie {
 public:
  static constexpr uint32_t kNone = 0xFFFFFFFF;

  // Of a string that is added twice the first value stays.
  void add(std::string_view string, uint32_t value) {
    uint32_t node = 0;
    for (const char byte : string) {
      const auto next = static_cast<uint32_t>(values_.size());
      const auto [child, is_new] = children_.try_emplace(key(node, byte), next);
      if (is_new) values_.push_back(kNone);
      node = child->second;
    }
    if (values_[node] == kNone) values_[node] = value;
  }

  // Value of the longest string that `text` begins with, or kNone.
  uint32_t longest(std::string_view text) const {
    uint32_t node = 0, found = kNone;
    for (const char byte : text) {
      const auto child = children_.find(key(node, byte));
      if (child == children_.end()) break;
      node = child->second;
      if (values_[node] != kNone) found = values_[node];
    }
    return found;
  }

 private:
  static uint64_t key(uint32_t node, char byte) {
    return uint64_t{node} << 8 | static_cast<uint8_t>(byte);
  }
  std::unordered_map<uint64_t, uint32_t> children_;
  std::vector<uint32_t> values_{kNone};  // of the strings that end at a node
};

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_BYTE_TRIE_H_
