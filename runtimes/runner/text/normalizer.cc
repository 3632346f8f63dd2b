// SPDX-License-Identifier: Apache-2.0
#include "runner/text/normalizer.h"

#include <algorithm>
#include <string_view>

#include "runner/text/byte_characters.h"
#include "runner/text/characters.h"
#include "runner/text/charsmap.h"
#include "runner/text/graphemes.h"
#include "runner/text/known_parts.h"
#include "runner/text/split_pattern.h"
#include "runner/text/unicode_forms.h"

namespace ssmrun {
namespace {

constexpr size_t kMostGrowth = 1000;  // as in toolchain/ssmpress/data/tokenizer_bounds.py
constexpr size_t kClusterLimit = 6;   // bytes: SentencePiece replaces shorter clusters as a whole

// A text in other characters. removed: characters that are left out at its beginning.
WayText Rewritten(const WayText& before, const std::vector<Written>& written, size_t removed = 0) {
  WayText after;
  after.text.reserve(before.text.size());
  size_t at = 0;  // in the text before
  const auto skip = [&](size_t characters) {
    for (; characters > 0 && at < before.text.size(); --characters) {
      at += Utf8Length(before.text[at]);
    }
  };
  skip(removed);
  for (const Written& one : written) {
    // One that stands for none of the text before has the origin of the byte before it.
    const size_t origin = one.change > 0 && at > 0 ? at - 1 : at;
    AppendUtf8(after.text, one.character);
    if (origin < before.head) after.head = after.text.size();
    if (one.change <= 0) skip(1 + static_cast<size_t>(-one.change));
  }
  return after;
}

// Whether the form certainly leaves a text as it is. No form changes ASCII; characters below
// U+0300, whose bytes are below 0xCC, decompose in the other forms, but stay as they are in NFC.
bool IsInert(std::string_view text, UnicodeForm form) {
  const uint8_t end = form == UnicodeForm::kNfc ? 0xCC : 0x80;
  return std::all_of(text.begin(), text.end(),
                     [end](char c) { return static_cast<uint8_t>(c) < end; });
}

WayText InForm(const WayText& before, UnicodeForm form) {
  if (IsInert(before.text, form)) return before;
  return Rewritten(before, Normalize(before.text, form));
}

WayText Lowercase(const WayText& before) {
  std::vector<Written> written;
  ForEachCharacter(before.text, [&](uint32_t c, size_t, size_t) { AppendLower(c, written); });
  return Rewritten(before, written);
}

// Leaves out the characters for which keep() is false, and replaces the others by map().
template <class Keep, class Map>
WayText Filter(const WayText& before, const Keep& keep, const Map& map) {
  size_t removed = 0;
  std::vector<Written> written;
  ForEachCharacter(before.text, [&](uint32_t c, size_t, size_t) {
    if (keep(c)) {
      written.push_back({map(c), 0});
    } else if (written.empty()) {
      ++removed;
    } else {
      --written.back().change;
    }
  });
  return Rewritten(before, written, removed);
}

WayText Without(const WayText& before, uint32_t flag) {
  const auto keep = [flag](uint32_t c) { return (Properties(c) & flag) == 0; };
  return Filter(before, keep, [](uint32_t c) { return c; });
}

// SentencePiece's rules for neural machine translation.
WayText Nmt(const WayText& before) {
  const auto keep = [](uint32_t c) {
    return !((c >= 0x01 && c <= 0x08) || c == 0x0B || (c >= 0x0E && c <= 0x1F) || c == 0x7F ||
             c == 0x8F || c == 0x9F);
  };
  const auto map = [](uint32_t c) -> uint32_t {
    const bool space = c == 0x09 || c == 0x0A || c == 0x0C || c == 0x0D || c == 0x1680 ||
                       (c >= 0x200B && c <= 0x200F) || c == 0x2028 || c == 0x2029 || c == 0x2581 ||
                       c == 0xFEFF || c == 0xFFFD;
    return space ? ' ' : c;
  };
  return Filter(before, keep, map);
}

WayText Strip(const WayText& before, bool left, bool right) {
  const std::string& text = before.text;
  size_t begin = 0, end = text.size(), length = 0;
  while (left && begin < end && IsSpace(DecodeUtf8(text, begin, &length))) begin += length;
  while (right && end > begin) {
    const size_t last = PreviousBegin(text, end);
    if (!IsSpace(DecodeUtf8(text, last, &length))) break;
    end = last;
  }
  return {text.substr(begin, end - begin), std::clamp(before.head, begin, end) - begin};
}

WayText Replace(const WayText& before, const SplitPattern& pattern, const std::string& content) {
  const std::string_view text = before.text;
  WayText after;
  size_t done = 0;
  const auto keep = [&](size_t end) {
    after.text += text.substr(done, end - done);
    if (done < before.head) after.head = after.text.size() - (end - std::min(end, before.head));
    done = end;
  };
  while (const auto match = pattern.find(text, done)) {
    keep(match->begin);
    after.text += content;  // it belongs to the last character that it replaces
    if (match->end <= before.head) after.head = after.text.size();
    done = match->end;
  }
  keep(text.size());
  return after;
}

WayText Prepend(const WayText& before, const std::string& beginning) {
  if (before.text.empty()) return before;
  return {beginning + before.text, before.head > 0 ? beginning.size() + before.head : 0};
}

WayText ToByteCharacters(const WayText& before) {
  std::vector<Written> written;
  ForEachCharacter(before.text, [&](uint32_t, size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) {
      written.push_back({ByteCharacter(static_cast<uint8_t>(before.text[i])), i > begin});
    }
  });
  return Rewritten(before, written);
}

// The blocks that BERT takes for Chinese.
bool IsChinese(uint32_t c) {
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) ||
         (c >= 0x20000 && c <= 0x2A6DF) || (c >= 0x2A700 && c <= 0x2B73F) ||
         (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
         (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

WayText SpacesAroundChinese(const WayText& before) {
  std::vector<Written> written;
  ForEachCharacter(before.text, [&](uint32_t c, size_t, size_t) {
    if (IsChinese(c)) {
      written.insert(written.end(), {{' ', 0}, {c, 1}, {' ', 1}});
    } else {
      written.push_back({c, 0});
    }
  });
  return Rewritten(before, written);
}

WayText CleanForBert(const WayText& before) {
  const auto keep = [](uint32_t c) {
    return c != 0 && c != 0xFFFD && (Properties(c) & kBertRemoves) == 0;
  };
  return Filter(before, keep, [](uint32_t c) { return IsSpace(c) ? ' ' : c; });
}

// Appends what replaces `characters` characters. Counted as the library does: the last character
// written takes what is more than they are, even if it was written for an earlier replacement.
void AppendReplacement(std::string_view replacement, int32_t characters,
                       std::vector<Written>& out) {
  int32_t more = -characters;
  ForEachCharacter(replacement, [&](uint32_t c, size_t, size_t) {
    out.push_back({c, 0});
    ++more;
  });
  for (int32_t i = 0; i < more; ++i) out[out.size() - 1 - static_cast<size_t>(i)].change = 1;
  if (more < 0 && !out.empty()) out.back().change += more;
}

WayText Precompiled(const WayText& before, const Charsmap& map) {
  const std::string_view text = before.text;
  std::vector<Written> written;
  bool modified = false;
  const auto replaced = [&](std::string_view part, int32_t characters) {
    const auto found = map.replacement(part);
    if (found) AppendReplacement(*found, characters, written);
    modified = modified || found.has_value();
    return found.has_value();
  };
  size_t end = 0;
  for (size_t begin = 0; begin < text.size(); begin = end) {
    end = GraphemeEnd(text, begin);
    const std::string_view cluster = text.substr(begin, end - begin);
    int32_t characters = 0;
    ForEachCharacter(cluster, [&](uint32_t, size_t, size_t) { ++characters; });
    if (cluster.size() < kClusterLimit && replaced(cluster, characters)) continue;
    ForEachCharacter(cluster, [&](uint32_t c, size_t from, size_t to) {
      if (!replaced(cluster.substr(from, to - from), 1)) written.push_back({c, 0});
    });
  }
  return modified ? Rewritten(before, written) : before;
}

}  // namespace

void Normalizer::apply(WayText& text) const {
  for (const auto& step : steps_) text = step(text);
}

// Replacements of replacements could otherwise fill any memory.
void Normalizer::grow(const Part& part, const char* key, size_t times) {
  growth_ *= std::max<size_t>(times, 1);
  if (growth_ > kMostGrowth) {
    part.refuse(key, "replacements that make a text at most " + std::to_string(kMostGrowth) +
                         " times as long");
  }
}

void Normalizer::add(const Part& part) {
  switch (part.kind<NormalizerKind>(kNormalizerKinds)) {
    case NormalizerKind::kSequence:
      for (const Part& member : part.members("normalizers")) add(member);
      break;
    case NormalizerKind::kNFC:
      steps_.push_back([](const WayText& t) { return InForm(t, UnicodeForm::kNfc); });
      break;
    case NormalizerKind::kNFD:
      steps_.push_back([](const WayText& t) { return InForm(t, UnicodeForm::kNfd); });
      break;
    case NormalizerKind::kNFKC:
      steps_.push_back([](const WayText& t) { return InForm(t, UnicodeForm::kNfkc); });
      break;
    case NormalizerKind::kNFKD:
      steps_.push_back([](const WayText& t) { return InForm(t, UnicodeForm::kNfkd); });
      break;
    case NormalizerKind::kNmt:
      steps_.push_back(Nmt);
      break;
    case NormalizerKind::kLowercase:
      steps_.push_back(Lowercase);
      break;
    case NormalizerKind::kStrip: {
      const bool left = part.flag("strip_left"), right = part.flag("strip_right");
      steps_.push_back([left, right](const WayText& t) { return Strip(t, left, right); });
      break;
    }
    case NormalizerKind::kStripAccents:
      steps_.push_back([](const WayText& t) { return Without(t, kMark); });
      break;
    case NormalizerKind::kReplace: {
      const SplitPattern pattern(part);
      const std::string content(part.text("content"));
      grow(part, "content", content.size());
      steps_.push_back([=](const WayText& t) { return Replace(t, pattern, content); });
      break;
    }
    case NormalizerKind::kPrepend: {
      const std::string beginning(part.text("prepend"));
      if (beginning.empty()) part.refuse("prepend", "a text");
      grow(part, "prepend", beginning.size());
      steps_.push_back([=](const WayText& t) { return Prepend(t, beginning); });
      break;
    }
    case NormalizerKind::kBertNormalizer:
      add_bert(part);
      break;
    case NormalizerKind::kPrecompiled: {
      const auto map = Charsmap::Parse(part.text("precompiled_charsmap"));
      if (!map) part.refuse("precompiled_charsmap", "a charsmap of SentencePiece");
      grow(part, "precompiled_charsmap", map->longest());
      steps_.push_back([map = *map](const WayText& t) { return Precompiled(t, map); });
      break;
    }
    case NormalizerKind::kByteLevel:
      steps_.push_back(ToByteCharacters);
      break;
  }
}

void Normalizer::add_bert(const Part& part) {
  const bool lower = part.flag("lowercase");
  if (part.flag("clean_text")) steps_.push_back(CleanForBert);
  if (part.flag("handle_chinese_chars")) steps_.push_back(SpacesAroundChinese);
  if (part.flag("strip_accents", lower)) {
    steps_.push_back([](const WayText& t) { return InForm(t, UnicodeForm::kNfd); });
    steps_.push_back([](const WayText& t) { return Without(t, kNonspacing); });
  }
  if (lower) steps_.push_back(Lowercase);
}

}  // namespace ssmrun
