// SPDX-License-Identifier: Apache-2.0
// The limits that docs/sparse_format.md asks a reader to check, before a kernel relies on them.
#include <cmath>
#include <cstdio>
#include <cstring>

#include "kernels/kernels.h"
#include "kernels/scratch.h"

namespace ssmpress {
namespace {

size_t ElementSize(Values values) {
  return values == Values::kFp32 ? 4 : values == Values::kFp16 ? 2 : 1;
}

bool CheckStart(const PackedMatrix& m, char* error, size_t size) {
  if (m.start[0] != 0) {
    std::snprintf(error, size, "start[0]: expected 0, got %d", m.start[0]);
    return false;
  }
  for (size_t i = 0; i < m.rows; ++i) {
    if (m.start[i + 1] < m.start[i]) {
      std::snprintf(error, size, "start[%zu]: expected at least start[%zu] = %d, got %d", i + 1, i,
                    m.start[i], m.start[i + 1]);
      return false;
    }
  }
  const size_t padding = kValuePadding / ElementSize(m.values);
  const size_t nnz = static_cast<size_t>(m.start[m.rows]);
  if (m.value_count < padding || nnz > m.value_count - padding) {
    std::snprintf(error, size,
                  "value: expected at least start[%zu] = %zu elements and %zu of padding, got %zu",
                  m.rows, nnz, padding, m.value_count);
    return false;
  }
  return true;
}

bool CheckBits(const PackedMatrix& m, char* error, size_t size) {
  const size_t words = (m.columns + 63) / 64;
  const uint64_t beyond = m.columns % 64 == 0 ? 0 : ~uint64_t{0} << m.columns % 64;
  for (size_t i = 0; i < m.rows; ++i) {
    size_t count = 0;
    uint64_t word = 0;
    for (size_t w = 0; w < words; ++w) {
      std::memcpy(&word, m.bits + (i * words + w) * 8, 8);
      count += static_cast<size_t>(__builtin_popcountll(word));
    }
    if ((word & beyond) != 0) {
      std::snprintf(error, size, "bits: expected 0 from column %zu on, got a 1 in row %zu",
                    m.columns, i);
      return false;
    }
    const size_t expected = static_cast<size_t>(m.start[i + 1] - m.start[i]);
    if (count != expected) {
      std::snprintf(error, size, "bits: expected %zu set in row %zu (from start), got %zu",
                    expected, i, count);
      return false;
    }
  }
  return true;
}

// Every row once; what is left, -1.
bool CheckOrder(const PackedMatrix& m, char* error, size_t size) {
  Scratch seen;
  if (!seen.Allocate(m.rows, 1)) {
    std::snprintf(error, size, "order: no memory to check %zu rows", m.rows);
    return false;
  }
  std::memset(seen.as<char>(), 0, m.rows);
  const size_t entries = (m.rows + kWindowTile - 1) / kWindowTile * kWindowTile;
  size_t without = 0;
  for (size_t i = 0; i < entries; ++i) {
    const int32_t row = m.order[i];
    if (row == -1 && ++without <= entries - m.rows) continue;
    if (row < 0 || static_cast<size_t>(row) >= m.rows || seen.as<char>()[row] != 0) {
      std::snprintf(error, size,
                    "order[%zu]: expected each of %zu rows once and %zu times -1, got %d", i,
                    m.rows, entries - m.rows, row);
      return false;
    }
    seen.as<char>()[row] = 1;
  }
  return true;
}

bool CheckWindowStart(const PackedMatrix& m, char* error, size_t size) {
  const size_t tiles = (m.rows + kWindowTile - 1) / kWindowTile;
  const size_t slots = m.values == Values::kFp16 ? kWindowTile : kWindowSlots;
  const size_t records = m.value_count / slots;
  if (m.start[0] != 0) {
    std::snprintf(error, size, "start[0]: expected 0, got %d", m.start[0]);
    return false;
  }
  for (size_t i = 0; i < tiles; ++i) {
    if (m.start[i + 1] < m.start[i]) {
      std::snprintf(error, size, "start[%zu]: expected at least start[%zu] = %d, got %d", i + 1, i,
                    m.start[i], m.start[i + 1]);
      return false;
    }
  }
  if (static_cast<size_t>(m.start[tiles]) != records) {
    std::snprintf(error, size, "start[%zu]: expected %zu (records), got %d", tiles, records,
                  m.start[tiles]);
    return false;
  }
  return true;
}

// Slots that positions p[0..3] say are in use, or -1 when they have no meaning.
int SlotsInUse(const unsigned* p) {
  if (p[0] > p[1]) return p[0] == 1 && p[1] == 0 && p[2] == 0 && p[3] == 0 ? 0 : -1;
  int used = 1;
  while (used < 4 && p[used] > p[used - 1]) ++used;
  for (int k = used; k < 4; ++k) {
    if (p[k] != p[k - 1]) return -1;
  }
  return used;
}

// The slots of one entry in one record. `next`: the first column that its row may still store.
bool CheckEntry(const PackedMatrix& m, size_t record, size_t entry, size_t first, bool has_row,
                size_t* next) {
  const auto* value = static_cast<const int8_t*>(m.value) + record * kWindowSlots + entry * 4;
  const uint8_t* byte = m.position + record * 16 + entry % 4 * 4;
  unsigned p[4];
  for (int k = 0; k < 4; ++k) p[k] = byte[k] >> entry / 4 * 4 & 15;
  const int used = SlotsInUse(p);
  if (used < 0 || (used > 0 && !has_row)) return false;
  for (int k = 0; k < 4; ++k) {
    const size_t column = first + p[k];
    if (k >= used) {
      if (value[k] != 0) return false;
    } else {
      if (column >= m.columns || column < *next) return false;
      *next = column + 1;
    }
  }
  return true;
}

bool CheckTile(const PackedMatrix& m, size_t tile, char* error, size_t size) {
  size_t first[2] = {0, 0}, next[kWindowTile] = {};
  for (int32_t i = m.start[tile]; i < m.start[tile + 1]; ++i) {
    const size_t record = static_cast<size_t>(i);
    for (size_t lane = 0; lane < 2; ++lane) {
      first[lane] += m.step[2 * record + lane];
      if (first[lane] < m.columns) continue;
      std::snprintf(error, size, "step: expected columns below %zu, got %zu in record %zu",
                    m.columns, first[lane], record);
      return false;
    }
    for (size_t entry = 0; entry < kWindowTile; ++entry) {
      const bool has_row = m.order[tile * kWindowTile + entry] >= 0;
      if (CheckEntry(m, record, entry, first[entry / 4], has_row, &next[entry])) continue;
      std::snprintf(error, size,
                    "position: expected ascending columns below %zu, and 0 in slots that are not "
                    "in use; got something else in record %zu, entry %zu",
                    m.columns, record, entry);
      return false;
    }
  }
  return true;
}

bool CheckFp16Tile(const PackedMatrix& m, size_t tile, char* error, size_t size) {
  size_t first = 0, next[kWindowTile] = {};
  for (int32_t i = m.start[tile]; i < m.start[tile + 1]; ++i) {
    const size_t record = static_cast<size_t>(i);
    first += m.step[record];
    if (first >= m.columns) {
      std::snprintf(error, size, "step: expected columns below %zu, got %zu in record %zu",
                    m.columns, first, record);
      return false;
    }
    for (size_t entry = 0; entry < kWindowTile; ++entry) {
      uint16_t value;
      std::memcpy(&value, static_cast<const uint8_t*>(m.value) + 2 * (kWindowTile * record + entry),
                  sizeof value);
      const unsigned position = m.position[4 * record + entry / 2] >> entry % 2 * 4 & 15;
      const size_t column = first + position;
      const bool has_row = m.order[tile * kWindowTile + entry] >= 0;
      const bool good = value == kNothing ? position == 0
                                          : has_row && column < m.columns && column >= next[entry];
      if (!good) {
        std::snprintf(error, size,
                      "position: expected ascending columns below %zu, and 0 in slots that are not "
                      "in use; got something else in record %zu, entry %zu",
                      m.columns, record, entry);
        return false;
      }
      if (value != kNothing) next[entry] = column + 1;
    }
  }
  return true;
}

bool CheckWindows(const PackedMatrix& m, char* error, size_t size) {
  if (!CheckOrder(m, error, size) || !CheckWindowStart(m, error, size)) return false;
  for (size_t tile = 0; tile * kWindowTile < m.rows; ++tile) {
    const auto check = m.values == Values::kFp16 ? CheckFp16Tile : CheckTile;
    if (!check(m, tile, error, size)) return false;
  }
  return true;
}

bool CheckScale(const PackedMatrix& m, char* error, size_t size) {
  for (size_t i = 0; i < m.rows; ++i) {
    if (!(m.scale[i] >= 0.0f) || std::isinf(m.scale[i])) {
      std::snprintf(error, size, "scale[%zu]: expected a finite number not below 0, got %g", i,
                    static_cast<double>(m.scale[i]));
      return false;
    }
  }
  return true;
}

bool CheckInt4(const PackedMatrix& m, char* error, size_t size) {
  const size_t tiles = (m.rows + kInt4Rows - 1) / kInt4Rows;
  const size_t count = tiles * ((m.columns + kInt4Group - 1) / kInt4Group) * kInt4Rows;
  for (size_t i = 0; i < count; ++i) {
    if (m.ratio[i] == -128) {
      std::snprintf(error, size, "ratio %zu: expected -127 to 127, got -128", i);
      return false;
    }
  }
  return true;
}

bool CheckInt8(const PackedMatrix& m, char* error, size_t size) {
  const int8_t* value = static_cast<const int8_t*>(m.value);
  for (size_t i = 0; i < m.value_count; ++i) {
    if (value[i] == -128) {
      std::snprintf(error, size, "weight %zu: expected -127 to 127, got -128", i);
      return false;
    }
  }
  return true;
}

}  // namespace

bool CheckMatrix(const PackedMatrix& matrix, char* error, size_t error_size) {
  if (matrix.structure == Structure::kBitmask) {
    if (!CheckStart(matrix, error, error_size)) return false;
    if (!CheckBits(matrix, error, error_size)) return false;
  }
  if (matrix.structure == Structure::kWindow && !CheckWindows(matrix, error, error_size)) {
    return false;
  }
  if (matrix.values == Values::kInt8) {
    return CheckScale(matrix, error, error_size) && CheckInt8(matrix, error, error_size);
  }
  if (matrix.values == Values::kInt4) {
    return CheckScale(matrix, error, error_size) && CheckInt4(matrix, error, error_size);
  }
  return true;
}

}  // namespace ssmpress
