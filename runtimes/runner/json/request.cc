// SPDX-License-Identifier: Apache-2.0
#include "runner/json/request.h"

#include <cmath>

#include "runner/failure.h"

namespace ssmrun {

Request::Request(JsonValue root) : root_(root) {
  if (!root.is(JsonValue::kObject)) BadInput("worker: expected an object; got " + root.shown());
  name_ = text("do");
}

bool Request::is_null(const char* key) const {
  const auto found = root_.find(key);
  return found && found->is(JsonValue::kNull);
}

std::string Request::text(const char* key) const {
  const auto found = root_.find(key);
  if (!found || !found->is(JsonValue::kString)) fail(key, "a string");
  return std::string(found->text());
}

uint64_t Request::number(const char* key, uint64_t low, uint64_t high,
                         std::optional<uint64_t> absent) const {
  const auto found = root_.find(key);
  if (!found && absent) return *absent;
  const auto value = found ? found->unsigned_integer() : std::nullopt;
  if (!value || *value < low || *value > high) {
    fail(key, "an integer from " + std::to_string(low) + " to " + std::to_string(high));
  }
  return *value;
}

double Request::real(const char* key, double absent) const {
  const auto found = root_.find(key);
  if (!found) return absent;
  if (!found->number()) fail(key, "a number");
  return *found->number();
}

bool Request::flag(const char* key) const {
  const auto found = root_.find(key);
  if (found && !found->is(JsonValue::kTrue) && !found->is(JsonValue::kFalse)) {
    fail(key, "true or false");
  }
  return found && found->is(JsonValue::kTrue);
}

std::vector<int64_t> Request::integers(const char* key) const {
  const auto found = root_.find(key);
  if (!found) fail(key, "a list of integers");
  return integers_of(*found, key);
}

std::vector<float> Request::reals(const char* key) const {
  const auto found = root_.find(key);
  std::vector<float> reals;
  if (!found || !found->is(JsonValue::kArray)) fail(key, "a list of numbers");
  for (const JsonValue item : *found) {
    const auto value = item.number();
    if (!value || !std::isfinite(static_cast<float>(*value))) fail(key, "a list of numbers");
    reals.push_back(static_cast<float>(*value));
  }
  return reals;
}

std::vector<std::vector<int64_t>> Request::lists(const char* key) const {
  const auto found = root_.find(key);
  if (!found || !found->is(JsonValue::kArray)) fail(key, "a list of lists");
  std::vector<std::vector<int64_t>> lists;
  for (const JsonValue item : *found) lists.push_back(integers_of(item, key));
  return lists;
}

JsonValue Request::object(const char* key) const {
  const auto found = root_.find(key);
  if (!found || !found->is(JsonValue::kObject)) fail(key, "an object");
  return *found;
}

void Request::fail(const std::string& key, const std::string& expected) const {
  const auto found = root_.find(key);
  BadInput("worker: " + (name_.empty() ? "" : name_ + ": ") + key + ": expected " + expected +
           "; got " + (found ? found->shown() : "nothing") + ".");
}

std::vector<int64_t> Request::integers_of(JsonValue list, const char* key) const {
  std::vector<int64_t> integers;
  if (!list.is(JsonValue::kArray)) fail(key, "a list of integers");
  for (const JsonValue item : list) {
    if (!item.integer()) fail(key, "a list of integers");
    integers.push_back(*item.integer());
  }
  return integers;
}

}  // namespace ssmrun
