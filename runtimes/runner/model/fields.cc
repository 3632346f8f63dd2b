// SPDX-License-Identifier: Apache-2.0
#include "runner/model/fields.h"

#include <algorithm>
#include <set>

#include "runner/failure.h"

namespace ssmrun {

std::optional<JsonValue> Fields::find(const char* name) const {
  if (!object_.is(JsonValue::kObject)) return std::nullopt;
  return object_.find(name);
}

int64_t Fields::integer(const char* name, int64_t limit) const {
  const auto found = find(name);
  const int64_t value = found ? found->integer().value_or(0) : 0;
  if (value < 1 || value > limit) fail(name, "an integer of at least 1");
  return value;
}

std::vector<std::string> Fields::names(const char* name, size_t least) const {
  std::vector<std::string> names;
  const auto found = find(name);
  if (found && found->is(JsonValue::kArray)) {
    for (const JsonValue item : *found) {
      if (!item.is(JsonValue::kString) || item.text().empty()) fail(name, "names");
      names.emplace_back(item.text());
    }
  }
  const std::set<std::string> different(names.begin(), names.end());
  if (names.size() < least || different.size() != names.size() || names.size() > kTaskLimit) {
    fail(name, "at least " + std::to_string(least) + " different names");
  }
  return names;
}

std::vector<double> Fields::numbers(const char* name, size_t count) const {
  std::vector<double> numbers;
  const auto found = find(name);
  if (found && found->is(JsonValue::kArray)) {
    for (const JsonValue item : *found) {
      if (!item.number()) fail(name, "numbers");
      numbers.push_back(*item.number());
    }
  }
  if (numbers.size() != count) fail(name, std::to_string(count) + " numbers, one per variate");
  return numbers;
}

std::vector<int64_t> Fields::tokens(const char* name, size_t most, int64_t vocab) const {
  std::vector<int64_t> tokens;
  const auto found = find(name);
  bool good = found && found->is(JsonValue::kArray) && found->size() <= most;
  if (good) {
    for (const JsonValue item : *found) {
      const int64_t token = item.integer().value_or(-1);
      good = good && token >= 0 && token < vocab &&
             std::find(tokens.begin(), tokens.end(), token) == tokens.end();
      tokens.push_back(token);
    }
  }
  if (!good) {
    fail(name, "at most " + std::to_string(most) + " different tokens from 0 to " +
                   std::to_string(vocab - 1));
  }
  return tokens;
}

void Fields::fail(const std::string& name, const std::string& expected) const {
  const auto found = find(name.c_str());
  BadInput(where_ + name + ": expected " + expected + "; got " + (found ? found->shown() : "none") +
           ".");
}

}  // namespace ssmrun
