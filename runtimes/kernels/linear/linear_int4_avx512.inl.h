// SPDX-License-Identifier: Apache-2.0
// A dense int4 matrix times any number of tokens: a tile of 16 rows x 4 columns is one vector, and
// the 4 activations of a run of columns are the same for all rows. Nibbles are multiplied as the
// unsigned numbers that they are; the sums start at the group's -8·Σx, which leaves them within 16
// bits: |Σ (nibble - 8)·x| over a group is at most 16·8·127. So their low halves times the ratio
// are exact, in the instruction that adds them up. Integer sums are the same in any order. Included
// by kernels_avx512.cc.

constexpr int kInt4Tokens = 4;
static_assert(kInt4Rows == kLanes, "a tile is a vector of rows");

// 4 bytes, repeated.
SSMPRESS_INLINE I32 Set4(const int8_t* p) {
  int32_t four;
  std::memcpy(&four, p, sizeof four);
  return _mm512_set1_epi32(four);
}

template <int kTokens>
SSMPRESS_INLINE void DotInt4(const LinearBlock& b, size_t row, size_t token) {
  const PackedMatrix& m = *b.matrix;
  const size_t groups = (m.columns + kInt4Group - 1) / kInt4Group;
  const size_t tile = row / kInt4Rows;
  const auto* bytes = static_cast<const int8_t*>(m.value) + tile * groups * kInt4Bytes;
  const int8_t* ratio = m.ratio + tile * groups * kInt4Rows;
  const int8_t* x = static_cast<const int8_t*>(b.x) + token * b.x_stride;
  const int8_t* offsets = x + Int4Offsets(m.columns);
  const I32 low_nibbles = _mm512_set1_epi8(15), ones = _mm512_set1_epi16(1);
  I32 total[kTokens];
  SSMPRESS_UNROLL
  for (int t = 0; t < kTokens; ++t) total[t] = ZeroI32();
  for (size_t g = 0; g < groups; ++g) {
    PrefetchLines<2>(bytes);
    PrefetchLines<1>(ratio);
    I32 sum[kTokens];
    SSMPRESS_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      sum[t] = _mm512_dpwssd_epi32(ZeroI32(), Set4(offsets + t * b.x_stride + 4 * g), ones);
    }
    SSMPRESS_UNROLL
    for (int run = 0; run < 2; ++run) {  // of 8 columns
      const I32 both = LoadBytes<I32>(bytes + 64 * run);
      const I32 low = _mm512_and_si512(both, low_nibbles);
      const I32 high = _mm512_and_si512(_mm512_srli_epi16(both, 4), low_nibbles);
      SSMPRESS_UNROLL
      for (int t = 0; t < kTokens; ++t) {
        const int8_t* columns = x + t * b.x_stride + kInt4Group * g + 8 * run;
        sum[t] = _mm512_dpbusd_epi32(sum[t], low, Set4(columns));
        sum[t] = _mm512_dpbusd_epi32(sum[t], high, Set4(columns + 4));
      }
    }
    // A ratio as int16 in the low half of its lane, 0 in the high half.
    const I32 ratios =
        _mm512_maskz_mov_epi16(0x55555555, _mm512_cvtepi8_epi32(LoadBytes<__m128i>(ratio)));
    SSMPRESS_UNROLL
    for (int t = 0; t < kTokens; ++t) total[t] = _mm512_dpwssd_epi32(total[t], sum[t], ratios);
    bytes += kInt4Bytes;
    ratio += kInt4Rows;
  }
  const size_t count = b.row_end - row < kLanes ? b.row_end - row : kLanes;
  const F32 scale = LoadPartial(m.scale + row, count);
  for (int t = 0; t < kTokens; ++t) {
    const size_t at = token + static_cast<size_t>(t);
    const F32 y = Mul(ToFloat(total[t]), Mul(Set(b.x_scale[at]), scale));
    StorePartial(b.y + at * m.rows + row, y, count);
  }
}

#include "kernels/linear/linear_int4_tokens.inl.h"
