// SPDX-License-Identifier: Apache-2.0
// A dense int4 matrix times any number of tokens: a tile of 16 rows is four vectors of 4 rows x 4
// columns, and the 4 activations of a run of columns are the same for all rows. A group's sums are
// exact in 32 bits before its ratios multiply them. Included by kernels_neon.inl.h.

constexpr int kInt4Tokens = 2;  // 8 sums of a group, 8 totals

struct Int4Sums {
  int32x4_t of_rows[4];
};

// 8 columns of a group: 64 bytes.
template <int kTokens>
SSMPRESS_INLINE void AddInt4(const uint8_t* bytes, const int8_t* x, size_t x_stride,
                             Int4Sums (&sum)[kTokens]) {
  SSMPRESS_UNROLL
  for (int v = 0; v < 4; ++v) {
    const uint8x16_t pair = vld1q_u8(bytes + 16 * v);
    const int8x16_t eight = vdupq_n_s8(8);
    const int8x16_t low = vsubq_s8(vreinterpretq_s8_u8(vandq_u8(pair, vdupq_n_u8(15))), eight);
    const int8x16_t high = vsubq_s8(vreinterpretq_s8_u8(vshrq_n_u8(pair, 4)), eight);
    SSMPRESS_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      int32_t columns[2];
      std::memcpy(columns, x + t * x_stride, sizeof columns);
      int32x4_t& rows = sum[t].of_rows[v];
      rows = DotAddHalf(rows, low, vreinterpretq_s8_s32(vdupq_n_s32(columns[0])));
      rows = DotAddHalf(rows, high, vreinterpretq_s8_s32(vdupq_n_s32(columns[1])));
    }
  }
}

SSMPRESS_INLINE void StoreInt4(const LinearBlock& b, size_t row, size_t token,
                               const Int4Sums& total) {
  const PackedMatrix& m = *b.matrix;
  SSMPRESS_UNROLL
  for (size_t i = 0; i < kInt4Rows; i += kLanes) {
    if (row + i >= b.row_end) break;
    const size_t count = b.row_end - row - i < kLanes ? b.row_end - row - i : kLanes;
    const I32 sums = {total.of_rows[i / 4], total.of_rows[i / 4 + 1]};
    const F32 scale = Mul(Set(b.x_scale[token]), LoadPartial(m.scale + row + i, count));
    StorePartial(b.y + token * m.rows + row + i, Mul(ToFloat(sums), scale), count);
  }
}

template <int kTokens>
SSMPRESS_INLINE void DotInt4(const LinearBlock& b, size_t row, size_t token) {
  const PackedMatrix& m = *b.matrix;
  const size_t groups = (m.columns + kInt4Group - 1) / kInt4Group;
  const size_t tile = row / kInt4Rows;
  const auto* bytes = static_cast<const uint8_t*>(m.value) + tile * groups * kInt4Bytes;
  const int8_t* ratio = m.ratio + tile * groups * kInt4Rows;
  const int8_t* x = static_cast<const int8_t*>(b.x) + token * b.x_stride;
  Int4Sums total[kTokens] = {};
  for (size_t g = 0; g < groups; ++g) {
    PrefetchLines<2>(bytes);
    Int4Sums sum[kTokens] = {};
    AddInt4<kTokens>(bytes, x + kInt4Group * g, b.x_stride, sum);
    AddInt4<kTokens>(bytes + 64, x + kInt4Group * g + 8, b.x_stride, sum);
    const int8x16_t ratios = vld1q_s8(ratio);
    const int16x8_t halves[2] = {vmovl_s8(vget_low_s8(ratios)), vmovl_high_s8(ratios)};
    SSMPRESS_UNROLL
    for (int v = 0; v < 4; ++v) {
      const int16x8_t half = halves[v / 2];
      const int32x4_t of_rows = v % 2 == 0 ? vmovl_s16(vget_low_s16(half)) : vmovl_high_s16(half);
      SSMPRESS_UNROLL
      for (int t = 0; t < kTokens; ++t) {
        total[t].of_rows[v] = vmlaq_s32(total[t].of_rows[v], sum[t].of_rows[v], of_rows);
      }
    }
    bytes += kInt4Bytes;
    ratio += kInt4Rows;
  }
  for (int t = 0; t < kTokens; ++t) StoreInt4(b, row, token + static_cast<size_t>(t), total[t]);
}

// 8 columns, whose activations are groups kGroup and kGroup + 1 of x.
template <int kGroup>
SSMPRESS_INLINE void AddInt4Columns(const uint8_t* bytes, int8x16_t x, int32x4_t (&sum)[4]) {
  const uint8x16x4_t pairs = vld1q_u8_x4(bytes);
  SSMPRESS_UNROLL
  for (int v = 0; v < 4; ++v) {
    const uint8x16_t low = vandq_u8(pairs.val[v], vdupq_n_u8(15));
    const uint8x16_t high = vshrq_n_u8(pairs.val[v], 4);
    sum[v] = DotAddLane<kGroup>(sum[v], vreinterpretq_s8_u8(low), x);
    sum[v] = DotAddLane<kGroup + 1>(sum[v], vreinterpretq_s8_u8(high), x);
  }
}

// One token. Nibbles are multiplied as the unsigned numbers that they are; the sums start at the
// group's -8·Σx, so that at the end of the group 16 bits hold them: 16·8·127 at most.
SSMPRESS_INLINE void AddInt4Group(const uint8_t*& bytes, int8x16_t x, int32x4_t offset,
                                  const int8_t*& ratio, Int4Sums& total) {
  int32x4_t sum[4] = {offset, offset, offset, offset};
  AddInt4Columns<0>(bytes, x, sum);
  AdvanceAfter(sum[3], bytes, 64);
  AddInt4Columns<2>(bytes, x, sum);
  AdvanceAfter(sum[3], bytes, 64);
  AdvanceAfter(sum[3], ratio, 0);
  const int8x16_t rows_ratio = vld1q_s8(ratio);
  Advance(ratio, kInt4Rows);
  const int16x8_t ratios[2] = {vmovl_s8(vget_low_s8(rows_ratio)), vmovl_high_s8(rows_ratio)};
  SSMPRESS_UNROLL
  for (int v = 0; v < 2; ++v) {
    const int16x8_t rows =
        vuzp1q_s16(vreinterpretq_s16_s32(sum[2 * v]), vreinterpretq_s16_s32(sum[2 * v + 1]));
    int32x4_t* of_rows = total.of_rows + 2 * v;
    of_rows[0] = vmlal_s16(of_rows[0], vget_low_s16(rows), vget_low_s16(ratios[v]));
    of_rows[1] = vmlal_high_s16(of_rows[1], rows, ratios[v]);
  }
}

SSMPRESS_INLINE void DotInt4Token(const LinearBlock& b, size_t row, size_t token) {
  const PackedMatrix& m = *b.matrix;
  const size_t groups = (m.columns + kInt4Group - 1) / kInt4Group;
  const size_t tile = row / kInt4Rows;
  const auto* bytes = static_cast<const uint8_t*>(m.value) + tile * groups * kInt4Bytes;
  const int8_t* ratio = m.ratio + tile * groups * kInt4Rows;
  const int8_t* x = static_cast<const int8_t*>(b.x) + token * b.x_stride;
  const int8_t* offset = x + Int4Offsets(m.columns);
  Int4Sums total = {};
  for (const int8_t* end = x + kInt4Group * groups; x != end; Advance(x, kInt4Group)) {
    const int8x16_t activations = vld1q_s8(x);
    const int32x4_t pair = vld1q_dup_s32(reinterpret_cast<const int32_t*>(offset));
    Advance(offset, sizeof(int32_t));
    PrefetchLines<2>(bytes);
    AddInt4Group(bytes, activations, vpaddlq_s16(vreinterpretq_s16_s32(pair)), ratio, total);
  }
  StoreInt4(b, row, token, total);
}

void Int4Tokens(const LinearBlock& b) {
  if (b.token_end - b.token_begin == 1) {
    for (size_t row = b.row_begin; row < b.row_end; row += kInt4Rows) {
      DotInt4Token(b, row, b.token_begin);
    }
    return;
  }
  for (size_t row = b.row_begin; row < b.row_end; row += kInt4Rows) {
    size_t token = b.token_begin;
    for (; token + kInt4Tokens <= b.token_end; token += kInt4Tokens) {
      DotInt4<kInt4Tokens>(b, row, token);
    }
    if (token < b.token_end) DotInt4<1>(b, row, token);
  }
}
