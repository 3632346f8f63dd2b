// SPDX-License-Identifier: Apache-2.0
// Words of messages.
#ifndef SSMPRESS_RUNNER_FORMAT_H_
#define SSMPRESS_RUNNER_FORMAT_H_

#include <cstdio>
#include <optional>
#include <string>
#include <vector>

namespace ssmrun {

// printf to a string of at most 511 bytes.
template <class... Arguments>
std::string Format(const char* format, Arguments... arguments) {
  char text[512];
  std::snprintf(text, sizeof text, format, arguments...);
  return text;
}

// `a, b or c`.
inline std::string OneOf(const std::vector<std::string>& names) {
  std::string text;
  for (size_t i = 0; i < names.size(); ++i) {
    text += (i == 0 ? "" : i + 1 == names.size() ? " or " : ", ") + names[i];
  }
  return text;
}

// Nothing, which JSON has as null, for a text that is empty.
inline std::optional<std::string> Maybe(std::string text) {
  if (text.empty()) return {};
  return text;
}

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_FORMAT_H_
