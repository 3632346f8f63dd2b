// SPDX-License-Identifier: Apache-2.0
// Matrices packed for the benchmark: the bytes of docs/sparse_format.md, made as pack/matrix.py and
// pack/layouts/ make them, but for the rounding of fp16, which costs no time.
#ifndef SSMPRESS_BENCH_PACKED_MATRIX_H_
#define SSMPRESS_BENCH_PACKED_MATRIX_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

#include "kernels/kernels.h"

namespace ssmpress::bench {

constexpr int kFormats = 9, kWindowFormat = 6, kInt4Format = 7, kFp16WindowFormat = 8;
constexpr const char* kFormatNames[kFormats] = {"dense-fp32",   "dense-fp16",   "dense-int8",
                                                "bitmask-fp32", "bitmask-fp16", "bitmask-int8",
                                                "window-int8",  "dense-int4",   "window-fp16"};

struct Weights {
  size_t rows, columns;
  std::vector<float> data;
  float At(size_t row, size_t column) const { return data[row * columns + column]; }
};

inline uint16_t ToHalf(float value) {  // normal numbers, truncated: only the speed matters here
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint32_t exponent = bits >> 23 & 255;
  const uint32_t sign = bits >> 16 & 0x8000;
  if (exponent < 113 || exponent > 142) return static_cast<uint16_t>(sign);
  return static_cast<uint16_t>(sign | (exponent - 112) << 10 | (bits >> 13 & 1023));
}

struct Packed {
  PackedMatrix m = {};
  std::vector<uint8_t> value, bits, step, position;
  std::vector<int32_t> start, order;
  std::vector<int8_t> ratio;
  std::vector<float> scale;
  size_t bytes = 0;

  Packed(const Weights& w, int format) {
    m.structure = format < 3 || format == kInt4Format ? Structure::kDense
                  : format < kWindowFormat            ? Structure::kBitmask
                                                      : Structure::kWindow;
    m.values = format == kInt4Format         ? Values::kInt4
               : format == kFp16WindowFormat ? Values::kFp16
               : format == kWindowFormat     ? Values::kInt8
                                             : static_cast<Values>(format % 3);
    m.rows = w.rows;
    m.columns = w.columns;
    for (size_t i = 0; i < w.rows; ++i) {
      float max = 0;
      for (size_t j = 0; j < w.columns; ++j) max = std::max(max, std::fabs(w.At(i, j)));
      scale.push_back(max / 127);
    }
    if (format == kInt4Format) {
      PackInt4(w);
    } else if (format == kFp16WindowFormat) {
      PackFp16Windows(w);
    } else if (format == kWindowFormat) {
      PackWindows(w);
    } else {
      PackRows(w);
    }
    bytes = value.size() + ratio.size() + bits.size() + step.size() + position.size() +
            (start.size() + order.size()) * 4 + (m.values >= Values::kInt8 ? scale.size() * 4 : 0);
    if (m.structure == Structure::kBitmask) value.resize(value.size() + kValuePadding);
    m.value = value.data();
    m.value_count = value.size() / ElementSize();
    m.bits = bits.data();
    m.start = start.data();
    m.scale = scale.data();
    m.order = order.data();
    m.step = step.data();
    m.position = position.data();
    m.ratio = ratio.data();
  }

 private:
  size_t ElementSize() const {
    return m.values == Values::kFp32 ? 4 : m.values == Values::kFp16 ? 2 : 1;
  }
  int8_t ToInt8(size_t row, float w) const {
    return static_cast<int8_t>(scale[row] > 0 ? std::lrint(w / scale[row]) : 0);
  }

  void PackRows(const Weights& w) {
    const bool masked = m.structure == Structure::kBitmask;
    const size_t row_bytes = (w.columns + 63) / 64 * 8;
    if (masked) bits.resize(w.rows * row_bytes);
    if (masked) start.push_back(0);
    for (size_t i = 0; i < w.rows; ++i) {
      int32_t count = 0;
      for (size_t j = 0; j < w.columns; ++j) {
        if (masked && w.At(i, j) == 0) continue;
        if (masked) bits[i * row_bytes + j / 8] |= static_cast<uint8_t>(1 << j % 8);
        Append(i, w.At(i, j));
        ++count;
      }
      if (masked) start.push_back(start.back() + count);
    }
  }

  void Append(size_t row, float w) {
    const uint16_t half = ToHalf(w);
    const int8_t q = ToInt8(row, w);
    const void* from = m.values == Values::kFp32   ? static_cast<const void*>(&w)
                       : m.values == Values::kFp16 ? static_cast<const void*>(&half)
                                                   : &q;
    const uint8_t* p = static_cast<const uint8_t*>(from);
    value.insert(value.end(), p, p + ElementSize());
  }

  // Rounded to the nearest of 16 steps of the row's largest weight: only the speed matters here.
  void PackInt4(const Weights& w) {
    const size_t tiles = (w.rows + 15) / 16, groups = (w.columns + 15) / 16;
    value.assign(tiles * groups * kInt4Bytes, 0x88);
    ratio.assign(tiles * groups * kInt4Rows, 16);
    for (size_t i = 0; i < w.rows; ++i) {
      for (size_t j = 0; j < w.columns; ++j) {
        const int nibble = 8 + ToInt8(i, w.At(i, j)) / 16;
        uint8_t& byte =
            value[(i / 16 * groups + j / 16) * kInt4Bytes + j % 16 / 8 * 64 + i % 16 * 4 + j % 4];
        const int shift = j / 4 % 2 == 0 ? 0 : 4;
        byte = static_cast<uint8_t>((byte & (0xf0 >> shift)) | nibble << shift);
      }
    }
  }

  struct Record {
    size_t first;
    uint8_t position[16];
    int8_t value[16];
  };

  // Up to 4 weights of an entry in the record's window; moves `at` on.
  void FillEntry(const Weights& w, size_t row, size_t slot, const std::vector<size_t>& columns,
                 Record& record, size_t& at) const {
    size_t used = 0;
    for (; used < 4 && at < columns.size() && columns[at] < record.first + 16; ++used, ++at) {
      record.position[slot + used] = static_cast<uint8_t>(columns[at] - record.first);
      record.value[slot + used] = ToInt8(row, w.At(row, columns[at]));
    }
    if (used == 0) record.position[slot] = 1;
    for (size_t k = used; used > 0 && k < 4; ++k) {
      record.position[slot + k] = record.position[slot + used - 1];
    }
  }

  std::vector<Record> FillLane(const Weights& w, const int32_t* rows) const {
    std::vector<size_t> columns[4];
    for (size_t i = 0; i < 4; ++i) {
      for (size_t j = 0; rows[i] >= 0 && j < w.columns; ++j) {
        if (w.At(static_cast<size_t>(rows[i]), j) != 0) columns[i].push_back(j);
      }
    }
    std::vector<Record> records;
    size_t at[4] = {}, first = 0;
    for (;;) {
      size_t next = w.columns;
      for (size_t i = 0; i < 4; ++i) {
        if (at[i] < columns[i].size()) next = std::min(next, columns[i][at[i]]);
      }
      if (next == w.columns) return records;
      first = std::min(next, first + 255);
      Record record = {first, {}, {}};
      for (size_t i = 0; i < 4; ++i) {
        FillEntry(w, static_cast<size_t>(std::max(rows[i], 0)), 4 * i, columns[i], record, at[i]);
      }
      records.push_back(record);
    }
  }

  void AppendTile(const std::vector<Record>& low, const std::vector<Record>& high) {
    const std::vector<Record>* lane[2] = {&low, &high};
    const size_t count = std::max(low.size(), high.size());
    size_t first[2] = {0, 0};
    for (size_t i = 0; i < count; ++i) {
      Record pair[2];
      for (size_t side = 0; side < 2; ++side) {
        pair[side] = {first[side], {1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0}, {}};
        if (i < lane[side]->size()) pair[side] = (*lane[side])[i];
        step.push_back(static_cast<uint8_t>(pair[side].first - first[side]));
        first[side] = pair[side].first;
        value.insert(value.end(), pair[side].value, pair[side].value + 16);
      }
      for (size_t k = 0; k < 16; ++k) {
        const int both = pair[0].position[k] | pair[1].position[k] << 4;
        position.push_back(static_cast<uint8_t>(both));
      }
    }
    start.push_back(start.back() + static_cast<int32_t>(count));
  }

  // Numbers 0 .. n - 1, the largest key first.
  static std::vector<int32_t> SortBy(const std::vector<size_t>& key) {
    std::vector<int32_t> sorted(key.size());
    std::iota(sorted.begin(), sorted.end(), 0);
    std::stable_sort(sorted.begin(), sorted.end(), [&](int32_t a, int32_t b) {
      return key[static_cast<size_t>(a)] > key[static_cast<size_t>(b)];
    });
    return sorted;
  }

  // Rows into tiles by their number of weights; a window begins at the first weight that is left.
  void PackFp16Windows(const Weights& w) {
    std::vector<size_t> counts(w.rows);
    std::vector<std::vector<size_t>> columns(w.rows);
    for (size_t i = 0; i < w.rows; ++i) {
      for (size_t j = 0; j < w.columns; ++j) {
        if (w.At(i, j) != 0) columns[i].push_back(j);
      }
      counts[i] = columns[i].size();
    }
    order = SortBy(counts);
    order.resize((w.rows + 7) / 8 * 8, -1);
    start.push_back(0);
    for (size_t tile = 0; tile < order.size(); tile += 8) {
      size_t at[8] = {}, first = 0;
      for (;;) {
        size_t next = w.columns;
        for (size_t i = 0; i < 8; ++i) {
          if (order[tile + i] < 0) continue;
          const auto& left = columns[static_cast<size_t>(order[tile + i])];
          if (at[i] < left.size()) next = std::min(next, left[at[i]]);
        }
        if (next == w.columns) break;
        next = std::min(next, first + 255);
        step.push_back(static_cast<uint8_t>(next - first));
        first = next;
        position.resize(position.size() + 4);
        for (size_t i = 0; i < 8; ++i) {
          const size_t row = static_cast<size_t>(std::max(order[tile + i], 0));
          const bool use = order[tile + i] >= 0 && at[i] < columns[row].size() &&
                           columns[row][at[i]] < first + 16;
          const size_t column = use ? columns[row][at[i]++] : first;
          const uint16_t half = use ? ToHalf(w.At(row, column)) : kNothing;
          value.push_back(static_cast<uint8_t>(half));
          value.push_back(static_cast<uint8_t>(half >> 8));
          position[position.size() - 4 + i / 2] |=
              static_cast<uint8_t>((column - first) << i % 2 * 4);
        }
      }
      start.push_back(static_cast<int32_t>(step.size()));
    }
  }

  // Rows into lanes by their number of weights, lanes into tiles by their number of records.
  void PackWindows(const Weights& w) {
    std::vector<size_t> counts(w.rows), lengths;
    for (size_t i = 0; i < w.rows; ++i) {
      for (size_t j = 0; j < w.columns; ++j) counts[i] += w.At(i, j) != 0;
    }
    std::vector<int32_t> rows = SortBy(counts);
    rows.resize((w.rows + 7) / 8 * 8, -1);
    std::vector<std::vector<Record>> lanes;
    for (size_t i = 0; i < rows.size(); i += 4) {
      lanes.push_back(FillLane(w, &rows[i]));
      lengths.push_back(lanes.back().size());
    }
    const std::vector<int32_t> sorted = SortBy(lengths);
    start.push_back(0);
    for (size_t i = 0; i < sorted.size(); ++i) {
      const size_t lane = static_cast<size_t>(sorted[i]);
      if (i % 2 == 1) AppendTile(lanes[static_cast<size_t>(sorted[i - 1])], lanes[lane]);
      order.insert(order.end(), &rows[4 * lane], &rows[4 * lane] + 4);
    }
  }
};

}  // namespace ssmpress::bench

#endif  // SSMPRESS_BENCH_PACKED_MATRIX_H_
