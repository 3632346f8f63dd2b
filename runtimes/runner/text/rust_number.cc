// SPDX-License-Identifier: Apache-2.0
#include "runner/text/rust_number.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <string>

namespace ssmrun {
namespace {

constexpr int kPowers = 309;         // 10^0 .. 10^308 are doubles
constexpr int kExponents = 100'000;  // no exponent beyond it makes a difference

std::array<double, kPowers> PowersOfTen() {
  std::array<double, kPowers> powers;
  for (int i = 0; i < kPowers; ++i) {
    powers[static_cast<size_t>(i)] = std::strtod(("1e" + std::to_string(i)).c_str(), nullptr);
  }
  return powers;
}

double Scaled(uint64_t significand, int exponent) {
  static const std::array<double, kPowers> powers = PowersOfTen();
  auto value = static_cast<double>(significand);
  while (exponent <= -kPowers && value != 0) {
    value /= powers[kPowers - 1];
    exponent += kPowers - 1;
  }
  if (value == 0) return 0;
  if (exponent >= kPowers) return std::numeric_limits<double>::infinity();
  return exponent >= 0 ? value * powers[static_cast<size_t>(exponent)]
                       : value / powers[static_cast<size_t>(-exponent)];
}

}  // namespace

double RustNumber(std::string_view json) {
  const bool negative = !json.empty() && json.front() == '-';
  if (negative) json.remove_prefix(1);
  uint64_t significand = 0;
  int exponent = 0;
  size_t at = 0;
  bool point = false, full = false;
  for (; at < json.size() && json[at] != 'e' && json[at] != 'E'; ++at) {
    if (json[at] == '.') {
      point = true;
      continue;
    }
    const auto digit = static_cast<uint64_t>(json[at] - '0');
    full = full || significand > (UINT64_MAX - digit) / 10;  // further digits are left out
    if (!full) significand = 10 * significand + digit;
    exponent += (point && !full) ? -1 : (!point && full) ? 1 : 0;
  }
  if (at < json.size()) {
    const std::string written(json.substr(at + 1));
    const long more = std::strtol(written.c_str(), nullptr, 10);
    exponent += static_cast<int>(std::max<long>(-kExponents, std::min<long>(kExponents, more)));
  }
  const double value = Scaled(significand, exponent);
  return negative ? -value : value;
}

}  // namespace ssmrun
