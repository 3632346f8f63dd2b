// SPDX-License-Identifier: Apache-2.0
#include "runner/text/split_pattern.h"

#include <algorithm>
#include <iterator>

#include "runner/text/characters.h"

namespace ssmrun {
namespace {

constexpr std::string_view kGpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr size_t kNone = std::string_view::npos;

bool Belongs(const SplitClass& one, uint32_t character) {
  const uint32_t properties = Properties(character);
  bool found = (one.categories >> (properties & kCategoryMask) & 1) != 0 ||
               (one.space && (properties & kSpace) != 0);
  for (size_t i = 0; i < one.ranges && !found; ++i) {
    const SplitRange& range = kSplitRanges[one.first_range + i];
    found = range.first <= character && character <= range.last;
  }
  return found != one.negated;
}

bool EndsBeforeSpace(std::string_view text, size_t at) {
  size_t length = 0;
  return at == text.size() || IsSpace(DecodeUtf8(text, at, &length));
}

size_t MatchRules(size_t first, size_t count, std::string_view text, size_t at);

// End of what the items from `item` on match at `at`, or kNone. An item takes as much as it can and
// gives back a character at a time; no rule of the list has more than three that can.
size_t MatchItems(const SplitRule& rule, size_t item, std::string_view text, size_t at) {
  if (item == rule.items) {
    if (rule.before_space && !EndsBeforeSpace(text, at)) return kNone;
    const size_t end = MatchRules(rule.first_tail, rule.tails, text, at);
    return end != kNone ? end : at;
  }
  const SplitItem& one = kSplitItems[rule.first_item + item];
  const SplitClass& wanted = kSplitClasses[one.class_number];
  size_t count = 0, end = at, length = 0;
  const size_t most = one.most == UINT16_MAX ? text.size() : one.most;
  while (count < most && end < text.size() && Belongs(wanted, DecodeUtf8(text, end, &length))) {
    end += length;
    ++count;
  }
  for (; count >= one.least; --count) {
    const size_t found = MatchItems(rule, item + 1, text, end);
    if (found != kNone || one.keeps || count == 0) return found;
    end = PreviousBegin(text, end);
  }
  return kNone;
}

// By the first of the rules that matches.
size_t MatchRules(size_t first, size_t count, std::string_view text, size_t at) {
  for (size_t i = first; i < first + count; ++i) {
    const size_t end = MatchItems(kSplitRules[i], 0, text, at);
    if (end != kNone) return end;
  }
  return kNone;
}

// What `|` separates outside of brackets; line ends become escapes, which mean the same. The twin
// of split_alternatives in ssmpress.data.device_tokenizer.
std::vector<std::string> SplitAlternatives(std::string_view expression) {
  std::vector<std::string> parts(1);
  int depth = 0;
  bool escaped = false;
  for (const char c : expression) {
    if (c == '\r' || c == '\n') {
      parts.back() += c == '\r' ? "\\r" : "\\n";
      continue;
    }
    if (escaped) {
      escaped = false;
    } else if (c == '\\') {
      escaped = true;
    } else if (c == '[' || c == '(') {
      ++depth;
    } else if (c == ']' || c == ')') {
      --depth;
    } else if (c == '|' && depth == 0) {
      parts.emplace_back();
      continue;
    }
    parts.back() += c;
  }
  return parts;
}

}  // namespace

SplitPattern::SplitPattern(const Part& part) {
  const auto pattern = part.part("pattern");
  const auto literal = pattern ? pattern->find("String") : std::nullopt;
  const auto expression = pattern ? pattern->find("Regex") : std::nullopt;
  if (literal && literal->is(JsonValue::kString)) {
    literal_ = literal->text();
    if (literal_.empty()) part.refuse("pattern", "a text");
  } else if (!expression || !expression->is(JsonValue::kString) ||
             !add_expression(expression->text())) {
    part.refuse("pattern", "a regular expression that ssmrun has");
  }
}

SplitPattern SplitPattern::Gpt2() {
  SplitPattern pattern;
  pattern.add_expression(kGpt2);
  return pattern;
}

bool SplitPattern::add_expression(std::string_view expression) {
  for (const std::string& text : SplitAlternatives(expression)) {
    const auto is_it = [&](const SplitAlternative& one) { return one.text == text; };
    const SplitAlternative* found =
        std::find_if(std::begin(kSplitAlternatives), std::end(kSplitAlternatives), is_it);
    if (found == std::end(kSplitAlternatives)) return false;
    alternatives_.push_back(*found);
  }
  return true;
}

std::optional<SplitPattern::Match> SplitPattern::find(std::string_view text, size_t at) const {
  if (!literal_.empty()) {
    at = text.find(literal_, at);
    if (at == kNone) return {};
    return Match{at, at + literal_.size()};
  }
  for (; at < text.size(); at += Utf8Length(text[at])) {
    for (const SplitAlternative& one : alternatives_) {
      const size_t end = MatchRules(one.first_rule, one.rules, text, at);
      if (end != kNone) return Match{at, end};
    }
  }
  return {};
}

}  // namespace ssmrun
