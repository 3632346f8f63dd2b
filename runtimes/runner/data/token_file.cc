// SPDX-License-Identifier: Apache-2.0
#include "runner/data/token_file.h"

#include <algorithm>
#include <string_view>

#include "runner/data/npy.h"
#include "runner/failure.h"
#include "runner/files.h"

namespace ssmrun {
namespace {

constexpr uint64_t kFileLimit = uint64_t{4} << 30;

// Integers of one byte hold no model's tokens.
bool HoldsTokens(const Dtype& dtype) {
  return (dtype.kind == Dtype::kSigned && dtype.size > 1) ||
         (dtype.kind == Dtype::kUnsigned && (dtype.size == 2 || dtype.size == 4));
}

struct Content {
  const Dtype& dtype;
  std::string_view data;
  uint64_t count, row;
};

Content ReadArray(std::string_view file, const std::string& path) {
  const auto fail = [&](const std::string& got) {
    BadInput(path + ": expected a .npy array of integers (n,) or (count, w), little-endian; got " +
             got + ". Write it with numpy.save from an integer array.");
  };
  const auto header = ReadNpyHeader(file);
  if (!header) fail("a file cut short");
  const std::vector<int64_t>& shape = header->shape;
  const bool known = header->dtype != nullptr && HoldsTokens(*header->dtype);
  if (!known || shape.empty() || shape.size() > 2 || !header->c_order) {
    fail("another type or shape");
  }
  const std::string_view data = file.substr(header->begin);
  const auto bytes = BytesOf(*header->dtype, shape);
  if (!bytes || *bytes > data.size()) fail("a file cut short");
  if (shape.size() == 2 && shape[1] < 2) fail("rows of fewer than 2 tokens");
  const auto row = static_cast<uint64_t>(shape.size() == 2 ? shape[1] : 0);
  return {*header->dtype, data, *bytes / header->dtype->size, row};
}

void CheckHolds(const Dtype& dtype, int64_t vocab, const std::string& path) {
  const int64_t highest = dtype.kind == Dtype::kSigned ? INT16_MAX : UINT16_MAX;
  if (dtype.size > 2 || vocab - 1 <= highest) return;
  BadInput(path + ": expected integers that hold the model's tokens, 0 to " +
           std::to_string(vocab - 1) + "; got " + dtype.name + ", which ends at " +
           std::to_string(highest) +
           ". Write the tokens as int32, for raw files with --dtype int32.");
}

}  // namespace

TokenFile ReadTokens(const std::string& path, const std::string& raw_type, uint64_t limit,
                     int64_t vocab) {
  const std::string file = ReadFile(path, kFileLimit);
  const Dtype& raw = *DtypeNamed(raw_type);
  const bool npy = IsNpy(file);
  if (!npy && file.size() % raw.size != 0) {
    BadInput(path + ": expected a .npy file or raw " + raw_type + ", a multiple of " +
             std::to_string(raw.size) + " bytes; got " + std::to_string(file.size()) +
             ". Give --dtype.");
  }
  const Content content =
      npy ? ReadArray(file, path) : Content{raw, file, file.size() / raw.size, 0};
  CheckHolds(content.dtype, vocab, path);
  const uint64_t count = limit > 0 ? std::min(content.count, limit) : content.count;
  TokenFile result;
  result.row = content.row;
  result.tokens.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    result.tokens.push_back(IntegerAt(content.data.data() + i * content.dtype.size, content.dtype));
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
