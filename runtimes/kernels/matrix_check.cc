// SPDX-License-Identifier: Apache-2.0
// The limits that docs/sparse_format.md asks a reader to check, before a kernel relies on them.
#include <cmath>
#include <cstdio>
#include <cstring>

#include "kernels/kernels.h"

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

bool CheckInt8(const PackedMatrix& m, char* error, size_t size) {
  for (size_t i = 0; i < m.rows; ++i) {
    if (!(m.scale[i] >= 0.0f) || std::isinf(m.scale[i])) {
      std::snprintf(error, size, "scale[%zu]: expected a finite number not below 0, got %g", i,
                    static_cast<double>(m.scale[i]));
      return false;
    }
  }
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
  return matrix.values != Values::kInt8 || CheckInt8(matrix, error, error_size);
}

}  // namespace ssmpress
