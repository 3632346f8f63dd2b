// SPDX-License-Identifier: Apache-2.0
#include "runner/text/decoder.h"

#include <algorithm>
#include <optional>
#include <string_view>

#include "runner/text/byte_characters.h"
#include "runner/text/characters.h"
#include "runner/text/known_parts.h"
#include "runner/text/split_pattern.h"
#include "runner/text/utf8.h"

namespace ssmrun {
namespace {

using Tokens = std::vector<std::string>;

Tokens Fuse(const Tokens& tokens) {
  std::string text;
  for (const std::string& token : tokens) text += token;
  return {std::move(text)};
}

Tokens FromByteCharacters(const Tokens& tokens) {
  std::string bytes;
  for (const std::string& token : tokens) AppendBytes(bytes, token);
  return {Utf8Lossy(bytes)};
}

void ReplaceAll(std::string& text, std::string_view from, std::string_view to) {
  for (size_t at = text.find(from); at != text.npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
}

// Of the first token the mark is a beginning, not a space, unless none was prepended.
Tokens FromMetaspace(Tokens tokens, const std::string& mark, bool keep_first) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    ReplaceAll(tokens[i], mark, i == 0 && !keep_first ? "" : " ");
  }
  return tokens;
}

void CleanUp(std::string& text) {
  constexpr std::pair<const char*, const char*> kRules[] = {
      {" .", "."},   {" ?", "?"},     {" !", "!"},     {" ,", ","},
      {" ' ", "'"},  {" n't", "n't"}, {" 'm", "'m"},   {" do not", " don't"},
      {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"},
  };
  for (const auto& [from, to] : kRules) ReplaceAll(text, from, to);
}

Tokens FromWordPiece(Tokens tokens, const std::string& prefix, bool clean_up) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    std::string& token = tokens[i];
    if (i > 0 && token.compare(0, prefix.size(), prefix) == 0) {
      token.erase(0, prefix.size());
    } else if (i > 0) {
      token.insert(0, 1, ' ');
    }
    if (clean_up) CleanUp(token);
  }
  return tokens;
}

Tokens FromSuffix(Tokens tokens, const std::string& suffix) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    ReplaceAll(tokens[i], suffix, i + 1 == tokens.size() ? "" : " ");
  }
  return tokens;
}

Tokens Replace(Tokens tokens, const SplitPattern& pattern, const std::string& content) {
  for (std::string& token : tokens) {
    std::string written;
    size_t done = 0;
    while (const auto match = pattern.find(token, done)) {
      written.append(token, done, match->begin - done);
      written += content;
      done = match->end;
    }
    token = written.append(token, done);
  }
  return tokens;
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// The byte of a token such as `<0x0A>`. The library takes a plus for a sign.
std::optional<char> ByteOf(const std::string& token) {
  if (token.size() != 6 || token.compare(0, 3, "<0x") != 0 || token[5] != '>') return {};
  const int high = token[3] == '+' ? 0 : HexDigit(token[3]), low = HexDigit(token[4]);
  if (high < 0 || low < 0) return {};
  return static_cast<char>(high << 4 | low);
}

// Tokens of bytes that adjoin become their text, or U+FFFD each where they are none.
Tokens FromBytes(const Tokens& tokens) {
  Tokens after;
  std::string bytes;
  const auto flush = [&] {
    if (bytes.empty()) return;
    if (FindInvalidUtf8(bytes) == bytes.npos) {
      after.push_back(bytes);
    } else {
      after.insert(after.end(), bytes.size(), std::string(kReplacement));
    }
    bytes.clear();
  };
  for (const std::string& token : tokens) {
    if (const auto byte = ByteOf(token)) {
      bytes += *byte;
    } else {
      flush();
      after.push_back(token);
    }
  }
  flush();
  return after;
}

// Takes up to so many of a character from either end of each token.
Tokens Strip(Tokens tokens, const std::string& character, uint64_t start, uint64_t stop) {
  const size_t size = character.size();
  for (std::string& token : tokens) {
    size_t begin = 0, end = token.size();
    for (uint64_t i = 0; i < start && token.compare(begin, size, character) == 0; ++i)
      begin += size;
    for (uint64_t i = 0; i < stop && end >= begin + size; ++i) {
      if (token.compare(end - size, size, character) != 0) break;
      end -= size;
    }
    token = token.substr(begin, end - begin);
  }
  return tokens;
}

}  // namespace

std::string Decoder::decode(Tokens tokens) const {
  for (const auto& step : steps_) tokens = step(std::move(tokens));
  std::string text;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (i > 0) text += separator_;
    text += tokens[i];
  }
  return text;
}

void Decoder::add(const Part& part) {
  switch (part.kind<DecoderKind>(kDecoderKinds)) {
    case DecoderKind::kSequence:
      for (const Part& member : part.members("decoders")) add(member);
      break;
    case DecoderKind::kByteLevel:
      steps_.push_back(FromByteCharacters);
      break;
    case DecoderKind::kMetaspace: {
      std::string mark;
      AppendUtf8(mark, part.character("replacement"));
      const bool keep_first =
          part.text("prepend_scheme", "always") == "never" || !part.flag("add_prefix_space", true);
      steps_.push_back([=](Tokens t) { return FromMetaspace(std::move(t), mark, keep_first); });
      break;
    }
    case DecoderKind::kWordPiece: {
      const std::string prefix(part.text("prefix"));
      const bool clean_up = part.flag("cleanup");
      steps_.push_back([=](Tokens t) { return FromWordPiece(std::move(t), prefix, clean_up); });
      break;
    }
    case DecoderKind::kBPEDecoder: {
      const std::string suffix(part.text("suffix"));
      if (suffix.empty()) part.refuse("suffix", "a text");
      steps_.push_back([=](Tokens t) { return FromSuffix(std::move(t), suffix); });
      break;
    }
    case DecoderKind::kReplace: {
      const SplitPattern pattern(part);
      const std::string content(part.text("content"));
      steps_.push_back([=](Tokens t) { return Replace(std::move(t), pattern, content); });
      break;
    }
    case DecoderKind::kByteFallback:
      steps_.push_back(FromBytes);
      break;
    case DecoderKind::kFuse:
      steps_.push_back(Fuse);
      break;
    case DecoderKind::kStrip: {
      std::string character;
      AppendUtf8(character, part.character("content"));
      const uint64_t start = part.number("start"), stop = part.number("stop");
      steps_.push_back([=](Tokens t) { return Strip(std::move(t), character, start, stop); });
      break;
    }
  }
}

}  // namespace ssmrun
