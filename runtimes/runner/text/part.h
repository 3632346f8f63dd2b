// SPDX-License-Identifier: Apache-2.0
// One part of a tokenizer.json while it is read: a JSON object and its place, for messages.
#ifndef SSMPRESS_RUNNER_PART_H_
#define SSMPRESS_RUNNER_PART_H_

#include <algorithm>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runner/json/json.h"

namespace ssmrun {

class Part {
 public:
  // file: path of the tokenizer.json. place: of the part in it, such as `pre_tokenizer`; empty is
  // the whole file.
  Part(JsonValue value, std::string file, std::string place)
      : value_(value), file_(std::move(file)), place_(std::move(place)) {}

  // The value is needed: any other is refused.
  std::string_view text(const char* key) const;
  bool flag(const char* key) const;
  uint64_t number(const char* key) const;
  // The value may be missing or null.
  std::optional<JsonValue> find(const char* key) const;
  std::optional<Part> part(const char* key) const;
  bool flag(const char* key, bool absent) const;
  std::string_view text(const char* key, std::string_view absent) const;
  // One character, of those that stand as a text.
  uint32_t character(const char* key) const;
  // The parts of a Sequence.
  std::vector<Part> members(const char* key) const;

  // Which of the names of known_parts.h `type` is.
  template <class Kind, size_t kCount>
  Kind kind(const std::string_view (&names)[kCount]) const {
    const auto type = find("type");
    const std::string_view name = type ? type->text() : std::string_view();
    const auto found = std::find(std::begin(names), std::end(names), name);
    if (!type || !type->is(JsonValue::kString) || found == std::end(names)) {
      refuse("type", "a kind that ssmrun has");
    }
    return static_cast<Kind>(found - std::begin(names));
  }

  // Throws kBadInput; the message names the file, the place, and what stands there.
  [[noreturn]] void refuse(const char* key, const std::string& expected) const;
  [[noreturn]] void refuse(const std::string& place, const std::string& expected,
                           const std::string& got) const;
  const std::string& file() const { return file_; }

 private:
  std::string at(const char* key) const { return place_.empty() ? key : place_ + "." + key; }
  JsonValue value_;
  std::string file_, place_;
};

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_PART_H_
