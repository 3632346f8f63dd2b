// SPDX-License-Identifier: Apache-2.0
#include "runner/data/npy.h"

#include <algorithm>

#include "runner/failure.h"
#include "runner/files.h"

namespace ssmrun {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr size_t kHeaderLimit = 1 << 16;  // bytes; NumPy itself reads 10,000
constexpr size_t kAlignment = 64;

// The text between `'key': ` and the next of `ends` in a .npy header, a Python dict of three keys.
std::string_view Entry(std::string_view header, const std::string& key, char end) {
  const std::string start = "'" + key + "': ";
  const size_t at = header.find(start);
  if (at == header.npos) return {};
  const std::string_view rest = header.substr(at + start.size());
  const size_t stop = rest.find(end);
  return stop == rest.npos ? std::string_view() : rest.substr(0, stop);
}

// `(12,`, `(3, 4` or `(` -> sizes; nothing if it is anything else.
std::optional<std::vector<int64_t>> Shape(std::string_view text) {
  std::vector<int64_t> sizes;
  if (text.empty() || text.front() != '(') return {};
  size_t at = 1;
  while (at < text.size()) {
    const size_t end = std::min(text.find(',', at), text.size());
    int64_t value = 0;
    size_t digits = 0;
    for (const char c : text.substr(at, end - at)) {
      if (c == ' ' && digits == 0) continue;
      if (c < '0' || c > '9' || ++digits > 15) return {};
      value = 10 * value + (c - '0');
    }
    if (digits == 0 || sizes.size() == kRankLimit) return {};
    sizes.push_back(value);
    at = end + 1;
  }
  return sizes;
}

bool HasOneRow(const std::vector<int64_t>& shape) {
  return std::count_if(shape.begin(), shape.end(), [](int64_t size) { return size != 1; }) <= 1;
}

}  // namespace

bool IsNpy(std::string_view file) { return file.substr(0, kMagic.size()) == kMagic; }

std::optional<NpyHeader> ReadNpyHeader(std::string_view file) {
  const auto byte = [&](size_t i) { return size_t{static_cast<uint8_t>(file[i])}; };
  if (file.size() < 12 || !IsNpy(file) || byte(6) < 1 || byte(6) > 3) return {};
  const bool first = byte(6) == 1;
  const size_t begin = first ? 10 : 12;
  const size_t length =
      first ? byte(8) | byte(9) << 8 : byte(8) | byte(9) << 8 | byte(10) << 16 | byte(11) << 24;
  if (length > kHeaderLimit || length > file.size() - begin) return {};
  const std::string_view header = file.substr(begin, length);
  std::string_view descr = Entry(header, "descr", ',');
  if (descr.size() > 2) descr = descr.substr(1, descr.size() - 2);
  const std::string_view fortran_order = Entry(header, "fortran_order", ',');
  const auto shape = Shape(Entry(header, "shape", ')'));
  if (descr.empty() || !shape || (fortran_order != "True" && fortran_order != "False")) return {};
  const bool c_order = fortran_order == "False" || HasOneRow(*shape);
  return NpyHeader{DtypeOfNpy(descr), std::string(descr.substr(0, 40)), c_order, *shape,
                   begin + length};
}

Array ReadNpy(const std::string& path) {
  const std::string file = ReadFile(path, kArrayLimit + kHeaderLimit);
  const auto header = ReadNpyHeader(file);
  if (!header) {
    BadInput(path + ": expected a .npy file with the header of one array; got another one. " +
             "Write it with numpy.save.");
  }
  if (header->dtype == nullptr) {
    BadInput(path + ": expected little-endian numbers, of at most 64 bits; got " + header->descr +
             ". Convert them with .astype before numpy.save.");
  }
  if (!header->c_order) {
    BadInput(path + ": expected an array in C order; got one in Fortran order. " +
             "Write it with numpy.save(path, numpy.ascontiguousarray(array)).");
  }
  const auto bytes = BytesOf(*header->dtype, header->shape);
  const std::string_view data = std::string_view(file).substr(header->begin);
  if (!bytes || *bytes != data.size()) {
    BadInput(path + ": expected " + (bytes ? std::to_string(*bytes) : "at most 4 GiB") +
             " bytes of numbers for " + ShownShape(header->shape) + " of " + header->dtype->name +
             "; got " + std::to_string(data.size()) +
             ". The file was cut or something was added to it: write it again.");
  }
  Array array{header->dtype, header->shape, {data.begin(), data.end()}};
  NormalizeTruths(array);
  return array;
}

std::string NpyHeaderOf(const Dtype& dtype, const std::vector<int64_t>& shape) {
  std::string text = std::string("{'descr': '") + dtype.descr +
                     "', 'fortran_order': False, 'shape': " + ShownShape(shape) + ", }";
  constexpr size_t kBefore = 10;
  const size_t whole = (kBefore + text.size() + 1 + kAlignment - 1) / kAlignment * kAlignment;
  text.resize(whole - kBefore - 1, ' ');
  text += '\n';
  std::string header(kMagic);
  header +=
      {'\x01', '\0', static_cast<char>(text.size() & 255), static_cast<char>(text.size() >> 8)};
  return header + text;
}

}  // namespace ssmrun
