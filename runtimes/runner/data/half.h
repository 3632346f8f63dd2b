// SPDX-License-Identifier: Apache-2.0
// float16 by its bits: IEEE 754 binary16.
#ifndef SSMPRESS_RUNNER_HALF_H_
#define SSMPRESS_RUNNER_HALF_H_

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace ssmrun {

inline float Widened(uint16_t half) {
  const int exponent = half >> 10 & 31, fraction = half & 1023;
  const float sign = half & 0x8000 ? -1.0f : 1.0f;
  if (exponent == 31) {
    const float limit = std::numeric_limits<float>::infinity();
    return fraction != 0 ? std::numeric_limits<float>::quiet_NaN() : sign * limit;
  }
  const int mantissa = exponent != 0 ? fraction + 1024 : fraction;
  return sign * std::ldexp(static_cast<float>(mantissa), (exponent != 0 ? exponent : 1) - 25);
}

// The nearest one, of two the even one; from 65520 on infinity.
inline uint16_t Narrowed(float value) {
  uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  uint32_t magnitude = bits & 0x7FFFFFFF;
  if (magnitude >= 0x47800000) {  // 65536
    return static_cast<uint16_t>(sign | (magnitude > 0x7F800000 ? 0x7E00 : 0x7C00));
  }
  if (magnitude < 0x38800000) {  // 2^-14: a sum with 0.5 rounds to steps of 2^-24
    const float sum = std::fabs(value) + 0.5f;
    std::memcpy(&magnitude, &sum, sizeof magnitude);
    return static_cast<uint16_t>(sign | (magnitude - 0x3F000000));
  }
  magnitude += 0xFFF + (magnitude >> 13 & 1);  // carries into the exponent where it must
  return static_cast<uint16_t>(sign | ((magnitude - (uint32_t{112} << 23)) >> 13));
}

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_HALF_H_
