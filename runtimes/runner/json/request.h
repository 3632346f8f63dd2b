// SPDX-License-Identifier: Apache-2.0
// A request to `ssmrun worker`: the fields of one JSON object, typed; a message names the request
// and the field.
#ifndef SSMPRESS_RUNNER_REQUEST_H_
#define SSMPRESS_RUNNER_REQUEST_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "runner/json/json.h"

namespace ssmrun {

constexpr uint64_t kCountLimit = 1 << 24;  // of a number of tokens in a request

// Everything throws kBadInput where the field is missing, of another kind or out of range.
class Request {
 public:
  explicit Request(JsonValue root);
  const std::string& name() const { return name_; }
  bool has(const char* key) const { return root_.find(key).has_value(); }
  bool is_null(const char* key) const;

  std::string text(const char* key) const;
  // absent: what a field that is missing means.
  uint64_t number(const char* key, uint64_t low, uint64_t high,
                  std::optional<uint64_t> absent = {}) const;
  double real(const char* key, double absent) const;
  bool flag(const char* key) const;  // missing is false
  std::vector<int64_t> integers(const char* key) const;
  std::vector<float> reals(const char* key) const;
  std::vector<std::vector<int64_t>> lists(const char* key) const;
  JsonValue object(const char* key) const;

 private:
  [[noreturn]] void fail(const std::string& key, const std::string& expected) const;
  std::vector<int64_t> integers_of(JsonValue list, const char* key) const;

  JsonValue root_;
  std::string name_;
};

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_REQUEST_H_
