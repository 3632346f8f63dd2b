// SPDX-License-Identifier: Apache-2.0
#include "runner/text/part.h"

#include "runner/failure.h"
#include "runner/text/utf8.h"

namespace ssmrun {

void Part::refuse(const std::string& place, const std::string& expected,
                  const std::string& got) const {
  BadInput(file_ + ": " + place + ": expected " + expected + "; got " + got +
           ". ssmrun would give other tokens than this tokenizer: it runs in Python only.");
}

void Part::refuse(const char* key, const std::string& expected) const {
  const auto found = value_.find(key);
  refuse(at(key), expected, found ? found->shown() : "none");
}

std::optional<JsonValue> Part::find(const char* key) const {
  const auto found = value_.find(key);
  if (!found || found->is(JsonValue::kNull)) return {};
  return found;
}

std::string_view Part::text(const char* key) const {
  const auto found = find(key);
  if (!found || !found->is(JsonValue::kString)) refuse(key, "a text");
  return found->text();
}

std::string_view Part::text(const char* key, std::string_view absent) const {
  return find(key) ? text(key) : absent;
}

bool Part::flag(const char* key) const {
  const auto found = find(key);
  if (!found || (!found->is(JsonValue::kTrue) && !found->is(JsonValue::kFalse))) {
    refuse(key, "true or false");
  }
  return found->is(JsonValue::kTrue);
}

bool Part::flag(const char* key, bool absent) const { return find(key) ? flag(key) : absent; }

uint64_t Part::number(const char* key) const {
  const auto found = find(key);
  const auto number = found ? found->unsigned_integer() : std::nullopt;
  if (!number) refuse(key, "an integer of at least 0");
  return *number;
}

uint32_t Part::character(const char* key) const {
  const std::string_view found = text(key);
  size_t length = 0;
  const uint32_t character = found.empty() ? kNoCharacter : DecodeUtf8(found, 0, &length);
  if (character == kNoCharacter || length != found.size()) refuse(key, "one character");
  return character;
}

std::optional<Part> Part::part(const char* key) const {
  const auto found = find(key);
  if (!found) return {};
  if (!found->is(JsonValue::kObject)) refuse(key, "an object");
  return Part(*found, file_, at(key));
}

std::vector<Part> Part::members(const char* key) const {
  const auto found = find(key);
  if (!found || !found->is(JsonValue::kArray)) refuse(key, "a list");
  std::vector<Part> members;
  for (const JsonValue item : *found) {
    members.emplace_back(item, file_, at(key) + "[" + std::to_string(members.size()) + "]");
    if (!item.is(JsonValue::kObject)) members.back().refuse("type", "a kind that ssmrun has");
  }
  return members;
}

}  // namespace ssmrun
