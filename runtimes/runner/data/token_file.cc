// SPDX-License-Identifier: Apache-2.0
#include "runner/data/token_file.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>
#include <string_view>

#include "runner/failure.h"
#include "runner/files.h"

namespace ssmrun {
namespace {

constexpr uint64_t kFileLimit = uint64_t{4} << 30;
constexpr std::string_view kMagic = "\x93NUMPY";

struct Layout {
  size_t size;  // bytes of one integer
  bool is_signed;
};

std::optional<Layout> LayoutOf(std::string_view type) {
  if (type == "<u2" || type == "uint16") return Layout{2, false};
  if (type == "<i2") return Layout{2, true};
  if (type == "<u4") return Layout{4, false};
  if (type == "<i4" || type == "int32") return Layout{4, true};
  if (type == "<i8") return Layout{8, true};
  return {};
}

// The text between `'key': ` and the next of `ends` in a .npy header, a Python dict of three keys.
std::string_view Entry(std::string_view header, const std::string& key, char end) {
  const std::string start = "'" + key + "': ";
  const size_t at = header.find(start);
  if (at == header.npos) return {};
  const std::string_view rest = header.substr(at + start.size());
  const size_t stop = rest.find(end);
  return stop == rest.npos ? std::string_view() : rest.substr(0, stop);
}

// `(12,` or `(3, 4` -> sizes; empty if it is anything else.
std::vector<uint64_t> Shape(std::string_view text) {
  std::vector<uint64_t> sizes;
  if (text.empty() || text.front() != '(') return {};
  size_t at = 1;
  while (at < text.size()) {
    const size_t end = std::min(text.find(',', at), text.size());
    uint64_t value = 0;
    size_t digits = 0;
    for (const char c : text.substr(at, end - at)) {
      if (c == ' ' && digits == 0) continue;
      if (c < '0' || c > '9' || ++digits > 15) return {};
      value = 10 * value + static_cast<uint64_t>(c - '0');
    }
    if (digits == 0) return {};
    sizes.push_back(value);
    at = end + 1;
  }
  return sizes;
}

int64_t ReadInteger(const char* bytes, const Layout& layout) {
  uint64_t value = 0;
  for (size_t i = layout.size; i-- > 0;) value = value << 8 | static_cast<uint8_t>(bytes[i]);
  if (!layout.is_signed || layout.size == 8) return static_cast<int64_t>(value);
  const uint64_t sign = uint64_t{1} << (8 * layout.size - 1);
  return static_cast<int64_t>(value ^ sign) - static_cast<int64_t>(sign);
}

struct Content {
  Layout layout;
  std::string_view data;
  uint64_t count, row;
};

Content ReadNpy(const std::string& file, const std::string& path) {
  const auto fail = [&](const std::string& got) {
    BadInput(path + ": expected a .npy array of integers (n,) or (count, w), little-endian; got " +
             got + ". Write it with numpy.save from an integer array.");
  };
  const auto byte = [&](size_t i) { return size_t{static_cast<uint8_t>(file[i])}; };
  if (file.size() < 12) fail("a file cut short");
  const bool first = byte(6) == 1;
  const size_t begin = first ? 10 : 12;
  const size_t length =
      first ? byte(8) | byte(9) << 8 : byte(8) | byte(9) << 8 | byte(10) << 16 | byte(11) << 24;
  if (length > file.size() - begin) fail("a file cut short");
  const std::string_view header = std::string_view(file).substr(begin, length);
  std::string_view type = Entry(header, "descr", ',');
  if (type.size() > 2) type = type.substr(1, type.size() - 2);
  const std::optional<Layout> layout = LayoutOf(type);
  const std::vector<uint64_t> shape = Shape(Entry(header, "shape", ')'));
  const bool in_rows = Entry(header, "fortran_order", ',') == "False" || shape.size() == 1;
  if (!layout || shape.empty() || shape.size() > 2 || !in_rows) fail("another type or shape");
  const std::string_view data = std::string_view(file).substr(begin + length);
  const uint64_t row = shape.size() == 2 ? shape[1] : 0;
  const uint64_t most = data.size() / layout->size;
  if (shape[0] > most || (row > 0 && shape[0] > most / row)) fail("a file cut short");
  if (shape.size() == 2 && row < 2) fail("rows of fewer than 2 tokens");
  return {*layout, data, shape[0] * (row > 0 ? row : 1), row};
}

void CheckHolds(const Layout& layout, int64_t vocab, const std::string& path) {
  const int64_t highest = layout.is_signed ? INT16_MAX : UINT16_MAX;
  if (layout.size > 2 || vocab - 1 <= highest) return;
  BadInput(path + ": expected integers that hold the model's tokens, 0 to " +
           std::to_string(vocab - 1) + "; got " + (layout.is_signed ? "int16" : "uint16") +
           ", which ends at " + std::to_string(highest) +
           ". Write the tokens as int32, for raw files with --dtype int32.");
}

}  // namespace

TokenFile ReadTokens(const std::string& path, const std::string& raw_type, uint64_t limit,
                     int64_t vocab) {
  const std::string file = ReadFile(path, kFileLimit);
  const Layout raw = *LayoutOf(raw_type);
  Content content{raw, file, file.size() / raw.size, 0};
  if (std::string_view(file).substr(0, kMagic.size()) == kMagic) {
    content = ReadNpy(file, path);
  } else if (file.size() % raw.size != 0) {
    BadInput(path + ": expected a .npy file or raw " + raw_type + ", a multiple of " +
             std::to_string(raw.size) + " bytes; got " + std::to_string(file.size()) +
             ". Give --dtype.");
  }
  CheckHolds(content.layout, vocab, path);
  if (limit > 0) content.count = std::min(content.count, limit);
  TokenFile result;
  result.row = content.row;
  result.tokens.reserve(content.count);
  for (uint64_t i = 0; i < content.count; ++i) {
    result.tokens.push_back(
        ReadInteger(content.data.data() + i * content.layout.size, content.layout));
  }
  return result;
}

Windows CutWindows(const TokenFile& file, uint64_t length, const std::string& path) {
  const uint64_t count = file.tokens.size();
  const uint64_t size = file.row != 0 ? file.row : std::min(length, count);
  if (size < 2 || count < size) {
    BadInput(path + ": expected at least one window of " +
             std::to_string(std::max<uint64_t>(size, 2)) + " tokens; got " + std::to_string(count) +
             " tokens. Give more of them.");
  }
  Windows windows;
  for (uint64_t begin = 0; begin + size <= count; begin += size) {
    const auto first = file.tokens.begin() + static_cast<ptrdiff_t>(begin);
    windows.emplace_back(first, first + static_cast<ptrdiff_t>(size));
  }
  return windows;
}

}  // namespace ssmrun
