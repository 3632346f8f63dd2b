// SPDX-License-Identifier: Apache-2.0
// A dense int8 matrix times one token: 8 rows at a time share the loads of the activations. Integer
// sums are the same in any order. Included by kernels_neon.inl.h.

constexpr size_t kDenseRows = 8;

// The columns from j on, fewer than 64.
SSMPRESS_INLINE void AddRest(const int8_t* weight, const int8_t* x, size_t j, size_t columns,
                             int32x4_t (&sum)[kDenseRows]) {
  for (; j + 16 <= columns; j += 16) {
    const int8x16_t activations = vld1q_s8(x + j);
    const int8_t* at = weight + j;
    SSMPRESS_UNROLL
    for (size_t r = 0; r < kDenseRows; ++r) {
      sum[r] = DotAddHalf(sum[r], vld1q_s8(at), activations);
      Advance(at, columns);
    }
  }
  if (j == columns) return;
  SSMPRESS_UNROLL
  for (size_t r = 0; r < kDenseRows; ++r) {
    int8_t tail[16] = {};
    std::memcpy(tail, weight + r * columns + j, columns - j);
    sum[r] = DotAddHalf(sum[r], vld1q_s8(tail), vld1q_s8(x + j));
  }
}

SSMPRESS_INLINE void DotDenseRows(const LinearBlock& b, size_t row, size_t token) {
  const PackedMatrix& m = *b.matrix;
  const int8_t* x = static_cast<const int8_t*>(b.x) + token * b.x_stride;
  const int8_t* weight = static_cast<const int8_t*>(m.value) + row * m.columns;
  const size_t columns = m.columns, whole = columns / 64 * 64;
  int32x4_t sum[kDenseRows];
  SSMPRESS_UNROLL
  for (size_t r = 0; r < kDenseRows; ++r) sum[r] = vdupq_n_s32(0);
  for (size_t j = 0; j < whole; j += 64) {
    const int8x16x4_t activations = vld1q_s8_x4(x + j);
    const int8_t* at = weight + j;
    SSMPRESS_UNROLL
    for (size_t r = 0; r < kDenseRows; ++r) {
      PrefetchLines<1>(at);
      const int8x16x4_t w = vld1q_s8_x4(at);
      // The row after the next is loaded when this one is added: clang would load all of them, and
      // registers would run out.
      AdvanceAfter(sum[(r + kDenseRows - 1) % kDenseRows], at, columns);
      SSMPRESS_UNROLL
      for (int i = 0; i < 4; ++i) sum[r] = DotAddHalf(sum[r], w.val[i], activations.val[i]);
    }
  }
  if (whole < columns) AddRest(weight, x, whole, columns, sum);
  const int32x4_t low = vpaddq_s32(vpaddq_s32(sum[0], sum[1]), vpaddq_s32(sum[2], sum[3]));
  const int32x4_t high = vpaddq_s32(vpaddq_s32(sum[4], sum[5]), vpaddq_s32(sum[6], sum[7]));
  const F32 scale = Mul(Set(b.x_scale[token]), Load(m.scale + row));
  Store(b.y + token * m.rows + row, Mul(ToFloat(I32{low, high}), scale));
}

void DenseInt8Tokens(const LinearBlock& b) {
  if (b.token_end - b.token_begin != 1) return LinearFewTokens<DenseInt8Reader, true, 4>(b);
  size_t row = b.row_begin;
  for (; row + kDenseRows <= b.row_end; row += kDenseRows) DotDenseRows(b, row, b.token_begin);
  for (; row < b.row_end; ++row) DotInt8<DenseInt8Reader, 1, 1>(b, row, b.token_begin);
}
