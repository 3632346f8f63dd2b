// SPDX-License-Identifier: Apache-2.0
// Few tokens: the packed bytes stream through once, a tile of rows x tokens of dot products at a
// time. A product is summed in the same order in every tile: two accumulators for alternate vectors
// of columns, added at the end, then the lanes. Included by a kernels_<isa>.cc.

// One word of 64 columns. kWhole: the matrix has all of them.
template <bool kWhole, class Reader, int kRows, int kTokens>
SSMPRESS_INLINE void AddWord(Reader (&reader)[kRows], const float* x, size_t x_stride,
                             F32 (&even)[kRows][kTokens], F32 (&odd)[kRows][kTokens]) {
  SSMPRESS_UNROLL
  for (int r = 0; r < kRows; ++r) reader[r].BeginWord();
  SSMPRESS_UNROLL
  for (size_t i = 0; i < 64; i += 2 * kLanes) {
    SSMPRESS_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const F32 w0 = reader[r].template Next<kWhole>();
      const F32 w1 = reader[r].template Next<kWhole>();
      SSMPRESS_UNROLL
      for (int t = 0; t < kTokens; ++t) {
        even[r][t] = Fma(w0, Load(x + t * x_stride + i), even[r][t]);
        odd[r][t] = Fma(w1, Load(x + t * x_stride + i + kLanes), odd[r][t]);
      }
    }
  }
}

template <class Reader, int kRows, int kTokens>
SSMPRESS_INLINE void DotFloat(const LinearBlock& b, size_t row, size_t token) {
  const PackedMatrix& m = *b.matrix;
  Reader reader[kRows];
  for (int r = 0; r < kRows; ++r) reader[r].Seek(m, row + r, 0, RowStart(m, row + r));
  const float* x = static_cast<const float*>(b.x) + token * b.x_stride;
  F32 even[kRows][kTokens], odd[kRows][kTokens];
  SSMPRESS_UNROLL
  for (int r = 0; r < kRows; ++r) {
    SSMPRESS_UNROLL
    for (int t = 0; t < kTokens; ++t) even[r][t] = odd[r][t] = Zero();
  }
  size_t j = 0;
  for (; j + 64 <= m.columns; j += 64) AddWord<true>(reader, x + j, b.x_stride, even, odd);
  if (j < m.columns) AddWord<false>(reader, x + j, b.x_stride, even, odd);
  SSMPRESS_UNROLL
  for (int t = 0; t < kTokens; ++t) {
    float* y = b.y + (token + t) * m.rows + row;
    SSMPRESS_UNROLL
    for (int r = 0; r < kRows; ++r) y[r] = HorizontalSum(Add(even[r][t], odd[r][t]));
  }
}

template <bool kWhole, class Reader, int kRows, int kTokens>
SSMPRESS_INLINE void AddWord(Reader (&reader)[kRows], const int8_t* x, size_t x_stride,
                             I32 (&sum)[kRows][kTokens]) {
  SSMPRESS_UNROLL
  for (int r = 0; r < kRows; ++r) {
    reader[r].BeginWord();
    SSMPRESS_UNROLL
    for (size_t i = 0; i < 64; i += sizeof(Bytes)) {
      const Bytes w = reader[r].template NextBytes<Bytes, kWhole>();
      SSMPRESS_UNROLL
      for (int t = 0; t < kTokens; ++t) {
        sum[r][t] = DotAdd(sum[r][t], w, LoadBytes<Bytes>(x + t * x_stride + i));
      }
    }
  }
}

template <class Reader, int kRows, int kTokens>
SSMPRESS_INLINE void DotInt8(const LinearBlock& b, size_t row, size_t token) {
  const PackedMatrix& m = *b.matrix;
  Reader reader[kRows];
  for (int r = 0; r < kRows; ++r) reader[r].Seek(m, row + r, 0, RowStart(m, row + r));
  const int8_t* x = static_cast<const int8_t*>(b.x) + token * b.x_stride;
  I32 sum[kRows][kTokens];
  SSMPRESS_UNROLL
  for (int r = 0; r < kRows; ++r) {
    SSMPRESS_UNROLL
    for (int t = 0; t < kTokens; ++t) sum[r][t] = ZeroI32();
  }
  size_t j = 0;
  for (; j + 64 <= m.columns; j += 64) AddWord<true>(reader, x + j, b.x_stride, sum);
  if (j < m.columns) AddWord<false>(reader, x + j, b.x_stride, sum);
  SSMPRESS_UNROLL
  for (int t = 0; t < kTokens; ++t) {
    float* y = b.y + (token + t) * m.rows + row;
    SSMPRESS_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const float total = static_cast<float>(HorizontalSum(sum[r][t]));
      y[r] = total * (b.x_scale[token + t] * m.scale[row + r]);
    }
  }
}

template <class Reader, bool kInt8, int kRows, int kTokens>
void DotRows(const LinearBlock& b, size_t token) {
  size_t row = b.row_begin;
  for (; row + kRows <= b.row_end; row += kRows) {
    if constexpr (kInt8) {
      DotInt8<Reader, kRows, kTokens>(b, row, token);
    } else {
      DotFloat<Reader, kRows, kTokens>(b, row, token);
    }
  }
  for (; row < b.row_end; ++row) {
    if constexpr (kInt8) {
      DotInt8<Reader, 1, kTokens>(b, row, token);
    } else {
      DotFloat<Reader, 1, kTokens>(b, row, token);
    }
  }
}

// kRows: rows that stream side by side for one token. Tiles of more tokens are two rows wide.
template <class Reader, bool kInt8, int kRows>
void LinearFewTokens(const LinearBlock& b) {
  size_t token = b.token_begin;
  for (; token + 3 <= b.token_end; token += 3) DotRows<Reader, kInt8, 2, 3>(b, token);
  if (token + 2 == b.token_end) DotRows<Reader, kInt8, 2, 2>(b, token);
  if (token + 1 == b.token_end) DotRows<Reader, kInt8, kRows, 1>(b, token);
}
