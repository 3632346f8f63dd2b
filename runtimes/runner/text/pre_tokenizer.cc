// SPDX-License-Identifier: Apache-2.0
#include "runner/text/pre_tokenizer.h"

#include <algorithm>
#include <string_view>

#include "runner/text/byte_characters.h"
#include "runner/text/characters.h"
#include "runner/text/known_parts.h"
#include "runner/text/split_pattern.h"

namespace ssmrun {
namespace {

using Stretches = std::vector<Words::Stretch>;

// What becomes of the matches that a text is cut at.
enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };
constexpr std::string_view kBehaviors[] = {"Removed", "Isolated", "MergedWithPrevious",
                                           "MergedWithNext", "Contiguous"};

struct Cut {
  size_t begin, end;
  bool is_match;
};

Behavior ReadBehavior(const Part& part, std::string_view absent) {
  const std::string_view name = part.text("behavior", absent);
  const auto found = std::find(std::begin(kBehaviors), std::end(kBehaviors), name);
  if (found == std::end(kBehaviors)) part.refuse("behavior", "a kind that ssmrun has");
  return static_cast<Behavior>(found - std::begin(kBehaviors));
}

// Joins cuts that adjoin: a match that is the first of a run of matches to its neighbour, or a run
// of either kind.
template <class Iterator, class Join>
Stretches Merge(Iterator cut, Iterator end, const Join& join, bool any) {
  Stretches merged;
  bool previous = false;
  for (; cut != end; ++cut) {
    const bool joins = any ? cut->is_match == previous : cut->is_match && !previous;
    if (joins && !merged.empty()) {
      join(merged.back(), *cut);
    } else {
      merged.push_back({cut->begin, cut->end});
    }
    previous = cut->is_match;
  }
  return merged;
}

Stretches Resolve(const std::vector<Cut>& cuts, Behavior behavior) {
  const auto extend = [](Words::Stretch& s, const Cut& cut) { s.end = cut.end; };
  const auto precede = [](Words::Stretch& s, const Cut& cut) { s.begin = cut.begin; };
  switch (behavior) {
    case Behavior::kMergedWithPrevious:
      return Merge(cuts.begin(), cuts.end(), extend, false);
    case Behavior::kContiguous:
      return Merge(cuts.begin(), cuts.end(), extend, true);
    case Behavior::kMergedWithNext: {
      Stretches merged = Merge(cuts.rbegin(), cuts.rend(), precede, false);
      std::reverse(merged.begin(), merged.end());
      return merged;
    }
    case Behavior::kRemoved:
    case Behavior::kIsolated:
      break;
  }
  Stretches kept;
  for (const Cut& cut : cuts) {
    if (behavior == Behavior::kIsolated || !cut.is_match) kept.push_back({cut.begin, cut.end});
  }
  return kept;
}

// Cuts every stretch: find(text) gives the cuts of one, which cover it.
template <class Find>
void CutAll(Words& words, const Find& find, Behavior behavior) {
  Stretches all;
  for (const Words::Stretch& stretch : words.stretches) {
    const std::string_view text =
        std::string_view(words.text.text).substr(stretch.begin, stretch.end - stretch.begin);
    for (const Words::Stretch& one : Resolve(find(text), behavior)) {
      all.push_back({stretch.begin + one.begin, stretch.begin + one.end});
    }
  }
  words.stretches = std::move(all);
}

// The cuts where single characters match.
template <class Matches>
std::vector<Cut> CutAtCharacters(std::string_view text, const Matches& matches) {
  std::vector<Cut> cuts;
  size_t done = 0;
  ForEachCharacter(text, [&](uint32_t character, size_t begin, size_t end) {
    if (!matches(character)) return;
    if (done < begin) cuts.push_back({done, begin, false});
    cuts.push_back({begin, end, true});
    done = end;
  });
  if (done < text.size()) cuts.push_back({done, text.size(), false});
  return cuts;
}

template <class Matches>
std::function<void(Words&)> AtCharacters(const Matches& matches, Behavior behavior) {
  return [=](Words& words) {
    CutAll(words, [&](std::string_view text) { return CutAtCharacters(text, matches); }, behavior);
  };
}

std::function<void(Words&)> AtFlag(uint32_t flag, Behavior behavior) {
  return AtCharacters([=](uint32_t c) { return (Properties(c) & flag) != 0; }, behavior);
}

// invert: what lies between the matches is what matches.
std::function<void(Words&)> AtPattern(SplitPattern pattern, Behavior behavior, bool invert) {
  return [=](Words& words) {
    const auto find = [&](std::string_view text) {
      std::vector<Cut> cuts;
      size_t done = 0;
      while (const auto match = pattern.find(text, done)) {
        if (done < match->begin) cuts.push_back({done, match->begin, invert});
        cuts.push_back({match->begin, match->end, !invert});
        done = match->end;
      }
      if (done < text.size()) cuts.push_back({done, text.size(), invert});
      return cuts;
    };
    CutAll(words, find, behavior);
  };
}

// Runs of word characters, and runs of others that are no spaces.
void SplitWhitespace(Words& words) {
  const auto find = [](std::string_view text) {
    std::vector<Cut> cuts;
    uint32_t last = kSpace;
    ForEachCharacter(text, [&](uint32_t character, size_t begin, size_t end) {
      // A word character that is a space would be a word; there is none.
      const uint32_t kind = Properties(character) & (kWord | kSpace);
      if (kind == last && !cuts.empty()) {
        cuts.back().end = end;
      } else {
        cuts.push_back({begin, end, kind == kSpace});
      }
      last = kind;
    });
    return cuts;
  };
  CutAll(words, find, Behavior::kRemoved);
}

void SplitLength(Words& words, uint64_t length) {
  const auto find = [=](std::string_view text) {
    std::vector<Cut> cuts;
    uint64_t count = 0;
    ForEachCharacter(text, [&](uint32_t, size_t begin, size_t end) {
      if (count++ % length == 0) cuts.push_back({begin, end, false});
      cuts.back().end = end;
    });
    return cuts;
  };
  CutAll(words, find, Behavior::kIsolated);
}

// Writes every stretch anew: begin(text) gives what stands before it, write(character, out) appends
// what becomes of a character.
template <class Begin, class Write>
void Rewrite(Words& words, const Begin& beginning, const Write& write) {
  Words after;
  after.text.text.reserve(words.text.text.size());
  std::string& out = after.text.text;
  for (const Words::Stretch& stretch : words.stretches) {
    const size_t begin = out.size();
    const std::string_view text =
        std::string_view(words.text.text).substr(stretch.begin, stretch.end - stretch.begin);
    out += beginning(text, stretch.begin < words.text.head);
    ForEachCharacter(text, [&](uint32_t, size_t from, size_t to) {
      write(text.substr(from, to - from), out);
      if (stretch.begin + from < words.text.head) after.text.head = out.size();
    });
    after.stretches.push_back({begin, out.size()});
  }
  words = std::move(after);
}

}  // namespace

Words PreTokenizer::split(WayText text) const {
  Words words{std::move(text), {}};
  if (!words.text.text.empty()) words.stretches.push_back({0, words.text.text.size()});
  for (const auto& step : steps_) step(words);
  return words;
}

void PreTokenizer::add(const Part& part) {
  switch (part.kind<PreTokenizerKind>(kPreTokenizerKinds)) {
    case PreTokenizerKind::kSequence:
      for (const Part& member : part.members("pretokenizers")) add(member);
      break;
    case PreTokenizerKind::kByteLevel:
      add_byte_level(part);
      break;
    case PreTokenizerKind::kMetaspace:
      add_metaspace(part);
      break;
    case PreTokenizerKind::kWhitespace:
      steps_.push_back(SplitWhitespace);
      break;
    case PreTokenizerKind::kWhitespaceSplit:
      steps_.push_back(AtFlag(kSpace, Behavior::kRemoved));
      break;
    case PreTokenizerKind::kBertPreTokenizer:
      steps_.push_back(AtFlag(kSpace, Behavior::kRemoved));
      steps_.push_back(AtFlag(kSign, Behavior::kIsolated));
      break;
    case PreTokenizerKind::kPunctuation:
      steps_.push_back(AtFlag(kSign, ReadBehavior(part, "Isolated")));
      break;
    case PreTokenizerKind::kDigits: {
      const bool each = part.flag("individual_digits");
      steps_.push_back(AtFlag(kNumeric, each ? Behavior::kIsolated : Behavior::kContiguous));
      break;
    }
    case PreTokenizerKind::kSplit:
      steps_.push_back(AtPattern(SplitPattern(part), ReadBehavior(part, ""), part.flag("invert")));
      break;
    case PreTokenizerKind::kCharDelimiterSplit: {
      const uint32_t delimiter = part.character("delimiter");
      steps_.push_back(
          AtCharacters([=](uint32_t c) { return c == delimiter; }, Behavior::kRemoved));
      break;
    }
    case PreTokenizerKind::kFixedLength: {
      const uint64_t length = part.find("length") ? part.number("length") : 5;
      if (length == 0) part.refuse("length", "at least 1");
      steps_.push_back([=](Words& words) { SplitLength(words, length); });
      break;
    }
  }
}

void PreTokenizer::add_byte_level(const Part& part) {
  if (part.flag("add_prefix_space", true)) {
    steps_.push_back([](Words& words) {
      const auto beginning = [](std::string_view text, bool) {
        return text.front() == ' ' ? "" : " ";
      };
      Rewrite(words, beginning, [](std::string_view c, std::string& out) { out += c; });
    });
  }
  if (part.flag("use_regex", true)) {
    steps_.push_back(AtPattern(SplitPattern::Gpt2(), Behavior::kIsolated, false));
  }
  steps_.push_back([](Words& words) {
    Rewrite(
        words, [](std::string_view, bool) { return ""; },
        [](std::string_view c, std::string& out) { AppendByteCharacters(out, c); });
  });
}

void PreTokenizer::add_metaspace(const Part& part) {
  std::string mark;
  AppendUtf8(mark, part.character("replacement"));
  const std::string_view scheme = part.text("prepend_scheme", "always");
  // Older files have a flag instead of the scheme.
  const bool never = scheme == "never" || !part.flag("add_prefix_space", true);
  if (!never && scheme != "always" && scheme != "first") {
    part.refuse("prepend_scheme", "always, first or never");
  }
  const bool first_only = scheme == "first";
  steps_.push_back([=](Words& words) {
    const auto beginning = [&](std::string_view text, bool at_head) -> std::string_view {
      const bool marked = text.front() == ' ' || text.substr(0, mark.size()) == mark;
      return never || marked || (first_only && !at_head) ? std::string_view() : mark;
    };
    const auto write = [&](std::string_view c, std::string& out) { out += c == " " ? mark : c; };
    Rewrite(words, beginning, write);
  });
  if (!part.flag("split", true)) return;
  size_t length = 0;
  const uint32_t character = DecodeUtf8(mark, 0, &length);
  steps_.push_back(
      AtCharacters([=](uint32_t c) { return c == character; }, Behavior::kMergedWithNext));
}

}  // namespace ssmrun
