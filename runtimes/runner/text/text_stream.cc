// SPDX-License-Identifier: Apache-2.0
#include "runner/text/text_stream.h"

#include <algorithm>
#include <string_view>

#include "runner/text/characters.h"

namespace ssmrun {
namespace {

// Whether the last bytes are no character yet.
bool EndsUnfinished(std::string_view text) {
  return text.size() >= kReplacement.size() &&
         text.substr(text.size() - kReplacement.size()) == kReplacement;
}

size_t CountCharacters(std::string_view text) {
  const auto begins = [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; };
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), begins));
}

}  // namespace

std::string TextStream::add(int64_t token) {
  if (!tokenizer_.is_shown(token, special_)) return {};
  waiting_.push_back(token);
  std::string text = piece();
  const bool whole = !text.empty() && !EndsUnfinished(text);
  if (!whole && waiting_.size() < kMostWaiting) return {};
  before_ = std::move(waiting_);
  waiting_.clear();
  return text;
}

std::string TextStream::finish() {
  std::string text = waiting_.empty() ? std::string() : piece();
  waiting_.clear();
  return text;
}

std::string TextStream::piece() const {
  std::vector<int64_t> all = before_;
  all.insert(all.end(), waiting_.begin(), waiting_.end());
  std::string text = tokenizer_.decode(all, special_);
  size_t begin = 0;
  for (size_t left = CountCharacters(tokenizer_.decode(before_, special_)); left > 0; --left) {
    if (begin >= text.size()) break;
    begin += Utf8Length(text[begin]);
  }
  return text.substr(std::min(begin, text.size()));
}

}  // namespace ssmrun
