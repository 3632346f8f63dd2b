// SPDX-License-Identifier: Apache-2.0
#include "runner/text/charsmap.h"

#include <algorithm>

#include "runner/files.h"
#include "runner/text/utf8.h"

namespace ssmrun {
namespace {

constexpr uint32_t kLabelMask = 0x800000FF, kHasLeaf = 1 << 8, kValueMask = 0x7FFFFFFF;

// Children of a unit lie at its place xor this.
size_t Offset(uint32_t unit) { return size_t{unit >> 10} << ((unit & (1u << 9)) >> 6); }

uint32_t ReadUnit(std::string_view bytes, size_t at) {
  uint32_t unit = 0;
  for (size_t i = 4; i-- > 0;) unit = unit << 8 | static_cast<uint8_t>(bytes[at + i]);
  return unit;
}

}  // namespace

std::optional<Charsmap> Charsmap::Parse(std::string_view base64) {
  const std::optional<std::string> bytes = DecodeBase64(base64);
  if (!bytes || bytes->size() < 4) return {};
  const size_t units = ReadUnit(*bytes, 0) / 4;
  if (units == 0 || units > bytes->size() / 4 - 1) return {};
  Charsmap map;
  map.units_.reserve(units);
  for (size_t i = 1; i <= units; ++i) map.units_.push_back(ReadUnit(*bytes, 4 * i));
  map.replacements_ = bytes->substr(4 * units + 4);
  if (FindInvalidUtf8(map.replacements_) != std::string::npos) return {};
  return map;
}

size_t Charsmap::longest() const {
  size_t longest = 0, begin = 0;
  while (begin < replacements_.size()) {
    const size_t end = std::min(replacements_.find('\0', begin), replacements_.size());
    longest = std::max(longest, end - begin);
    begin = end + 1;
  }
  return longest;
}

// Every place is checked before it is read: the trie is untrusted.
std::optional<std::string_view> Charsmap::replacement(std::string_view text) const {
  size_t place = Offset(units_[0]);
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    if (byte == 0) return {};
    place ^= byte;
    if (place >= units_.size() || (units_[place] & kLabelMask) != byte) return {};
    const uint32_t unit = units_[place];
    place ^= Offset(unit);
    if ((unit & kHasLeaf) == 0) continue;
    if (place >= units_.size()) return {};
    const size_t begin = units_[place] & kValueMask;
    if (begin > replacements_.size()) return {};
    const std::string_view rest = std::string_view(replacements_).substr(begin);
    return rest.substr(0, rest.find('\0'));
  }
  return {};
}

}  // namespace ssmrun
