// SPDX-License-Identifier: Apache-2.0
#include "runner/data/labelled.h"

#include <algorithm>

#include "runner/failure.h"
#include "runner/files.h"
#include "runner/json/json.h"

namespace ssmrun {
namespace {

constexpr uint64_t kFileLimit = uint64_t{1} << 30;
constexpr size_t kLineLimit = 64 << 20;  // bytes of a text; as JSON it takes 8 times as much

LabelledText ReadLine(const JsonValue& row, const std::string& where,
                      const LabelledTexts& expected) {
  const auto label = row.find("label"), text = row.find("text"), tokens = row.find("tokens");
  const bool named = label && (label->is(JsonValue::kString) || label->integer());
  if (!named || (text ? !text->is(JsonValue::kString) : !tokens)) {
    BadInput(where + "expected `label` (a string or an integer) and `text` or `tokens`; got " +
             row.shown() + ". Rename the keys.");
  }
  const auto found = std::find(expected.classes.begin(), expected.classes.end(), label->text());
  if (found == expected.classes.end()) {
    BadInput(where + "expected a label among the model's classes (config, task.classes); got " +
             label->shown() + ".");
  }
  LabelledText result{{}, static_cast<size_t>(found - expected.classes.begin())};
  if (text) {
    result.tokens = expected.encode(text->text(), where + "text");
  } else {
    for (const JsonValue token : *tokens) {
      if (!token.integer())
        BadInput(where + "tokens: expected integers; got " + token.shown() + ".");
      result.tokens.push_back(*token.integer());
    }
  }
  const auto most = static_cast<size_t>(expected.max_length);
  if (result.tokens.size() > most) result.tokens.resize(most);
  if (result.tokens.empty()) BadInput(where + "expected a text; got an empty one.");
  return result;
}

}  // namespace

std::vector<LabelledText> ReadLabelled(const std::string& path, const LabelledTexts& expected,
                                       uint64_t limit) {
  const std::string file = ReadFile(path, kFileLimit);
  std::vector<LabelledText> texts;
  size_t line = 0;
  for (size_t begin = 0; begin < file.size() && (limit == 0 || texts.size() < limit);) {
    const size_t end = std::min(file.find('\n', begin), file.size());
    const std::string row = file.substr(begin, end - begin);
    const std::string where = path + ", line " + std::to_string(++line);
    begin = end + 1;
    if (row.size() > kLineLimit) {
      BadInput(where + ": expected at most " + std::to_string(kLineLimit) +
               " bytes; it has more. Write one text per line.");
    }
    if (row.find_first_not_of(" \t\r") == row.npos) continue;
    const Json document(row, where);
    texts.push_back(ReadLine(document.root(), where + ": ", expected));
  }
  if (texts.empty()) BadInput(path + ": expected at least one labelled text; got none.");
  return texts;
}

}  // namespace ssmrun
