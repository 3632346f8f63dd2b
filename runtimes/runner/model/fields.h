// SPDX-License-Identifier: Apache-2.0
// The fields of one JSON object of a model's metadata, which may be anybody's: typed, bounded, and
// with a message that names path, place and field.
#ifndef SSMPRESS_RUNNER_FIELDS_H_
#define SSMPRESS_RUNNER_FIELDS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "runner/json/json.h"

namespace ssmrun {

// Of a vocabulary and of a state, as in toolchain/ssmpress/formats.py: no size of a real model
// comes near, and one beyond it is damage.
constexpr int64_t kSizeLimit = 1 << 24;
constexpr int64_t kTaskLimit = 1 << 20;  // largest length, and most classes or variates
constexpr size_t kEndTokenLimit = 256;   // as in toolchain/ssmpress/formats.py

// Everything throws kBadInput where the field is missing or of another kind.
class Fields {
 public:
  // where: what a message begins with.
  Fields(JsonValue object, std::string where) : object_(object), where_(std::move(where)) {}

  int64_t integer(const char* name, int64_t limit) const;                // 1 to limit
  std::vector<std::string> names(const char* name, size_t least) const;  // all different
  std::vector<double> numbers(const char* name, size_t count) const;
  // At most so many, all different, each 0 to vocab - 1.
  std::vector<int64_t> tokens(const char* name, size_t most, int64_t vocab) const;
  std::optional<JsonValue> find(const char* name) const;  // does not throw
  // Those of an object in this one; `place` is where it stands.
  Fields at(JsonValue object, const std::string& place) const { return {object, where_ + place}; }

  [[noreturn]] void fail(const std::string& name, const std::string& expected) const;

 private:
  JsonValue object_;
  std::string where_;
};

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_FIELDS_H_
