// SPDX-License-Identifier: Apache-2.0
// A dense int4 matrix times any number of tokens: the bytes stream through, once for up to 4
// tokens. A tile of 16 rows is two vectors of 8 rows x 4 columns; the 4 activations of a run of
// columns are the same for all rows. Nibbles are multiplied as the unsigned numbers that they are;
// the sums start at the group's -8·Σx, so that 16 bits hold them: |Σ (nibble - 8)·x| over 8 columns
// of a group is at most 8·8·127. Multiplying by the ratios widens them. Integer sums are the same
// in any order. Included by a kernels_<isa>.cc.

constexpr int kInt4Tokens = 4;
static_assert(kInt4Rows == 2 * kLanes, "a tile is two vectors of rows");

// 8 columns of a group: 64 bytes.
template <int kTokens>
SSMPRESS_INLINE void AddInt4(const uint8_t* bytes, const int8_t* x, size_t x_stride,
                             I32 (&low)[kTokens], I32 (&high)[kTokens]) {
  const I8x32 first = LoadI8x32(reinterpret_cast<const int8_t*>(bytes));
  const I8x32 second = LoadI8x32(reinterpret_cast<const int8_t*>(bytes) + 32);
  SSMPRESS_UNROLL
  for (int t = 0; t < kTokens; ++t) {
    const I8x32 x_low = Set4(x + t * x_stride), x_high = Set4(x + t * x_stride + 4);
    low[t] = UnsignedDotAdd16(low[t], LowNibbles(first), x_low);
    low[t] = UnsignedDotAdd16(low[t], HighNibbles(first), x_high);
    high[t] = UnsignedDotAdd16(high[t], LowNibbles(second), x_low);
    high[t] = UnsignedDotAdd16(high[t], HighNibbles(second), x_high);
  }
}

template <int kTokens>
SSMPRESS_INLINE void StoreInt4(const LinearBlock& b, size_t row, size_t token,
                               const I32 (&sum)[kTokens]) {
  const PackedMatrix& m = *b.matrix;
  if (row >= b.row_end) return;
  const size_t count = b.row_end - row < kLanes ? b.row_end - row : kLanes;
  const F32 scale = LoadPartial(m.scale + row, count);
  for (int t = 0; t < kTokens; ++t) {
    const size_t at = token + static_cast<size_t>(t);
    const F32 y = Mul(ToFloat(sum[t]), Mul(Set(b.x_scale[at]), scale));
    StorePartial(b.y + at * m.rows + row, y, count);
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
  const int8_t* offsets = x + Int4Offsets(m.columns);
  I32 total_low[kTokens], total_high[kTokens];
  SSMPRESS_UNROLL
  for (int t = 0; t < kTokens; ++t) total_low[t] = total_high[t] = ZeroI32();
  for (size_t g = 0; g < groups; ++g) {
    PrefetchLines<2>(bytes);
    PrefetchLines<1>(ratio);
    I32 low[kTokens], high[kTokens];
    SSMPRESS_UNROLL
    for (int t = 0; t < kTokens; ++t) low[t] = high[t] = Set4(offsets + t * b.x_stride + 4 * g);
    AddInt4<kTokens>(bytes, x + kInt4Group * g, b.x_stride, low, high);
    AddInt4<kTokens>(bytes + 64, x + kInt4Group * g + 8, b.x_stride, low, high);
    I32 ratio_low, ratio_high;
    LoadRatios(ratio, ratio_low, ratio_high);
    SSMPRESS_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      total_low[t] = PairDotAdd(total_low[t], low[t], ratio_low);
      total_high[t] = PairDotAdd(total_high[t], high[t], ratio_high);
    }
    bytes += kInt4Bytes;
    ratio += kInt4Rows;
  }
  StoreInt4<kTokens>(b, row, token, total_low);
  StoreInt4<kTokens>(b, row + kLanes, token, total_high);
}

#include "kernels/linear/linear_int4_tokens.inl.h"
