// SPDX-License-Identifier: Apache-2.0
#include "runner/text/characters.h"

#include <array>

namespace ssmrun {
namespace {

constexpr uint32_t kShift = 8;         // of kPropertyRuns
constexpr uint32_t kFrequent = 0x800;  // characters of one and two bytes: looked up, not searched

std::array<uint16_t, kFrequent> FrequentProperties() {
  std::array<uint16_t, kFrequent> properties;
  for (uint32_t c = 0; c < kFrequent; ++c) {
    properties[c] = kProperties[RunValue(kPropertyRuns, kShift, c)];
  }
  return properties;
}

}  // namespace

uint32_t Properties(uint32_t character) {
  static const std::array<uint16_t, kFrequent> frequent = FrequentProperties();
  if (character < kFrequent) return frequent[character];
  return kProperties[RunValue(kPropertyRuns, kShift, character)];
}

}  // namespace ssmrun
