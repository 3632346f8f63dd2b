// SPDX-License-Identifier: Apache-2.0
// An fp16 window matrix times any number of tokens: the records stream through, once for up to 4
// tokens. A lane is an entry; the 16 activations of the window lie in two vectors, from which each
// lane picks its own. Every token is summed in the same order: two accumulators for alternate
// records, added at the end. Included by a kernels_<isa>.cc.

constexpr int kWindowFloatTokens = 4;

#ifndef SSMPRESS_OWN_FLOAT_WINDOWS
static_assert(kWindowTile == kLanes, "a lane is an entry");

template <int kTokens>
SSMPRESS_INLINE void AddRecord(const PackedMatrix& m, size_t record, size_t x_stride,
                               const float*& x, F32 (&sum)[kTokens]) {
  x += m.step[record];
  I32 index;
  F32 beyond;
  LoadPositions(m.position + 4 * record, index, beyond);
  const F32 w = LoadHalf(static_cast<const uint16_t*>(m.value) + kWindowTile * record);
  SSMPRESS_UNROLL
  for (int t = 0; t < kTokens; ++t) {
    const float* window = x + t * x_stride;
    const F32 low = Lookup(Load(window), index), high = Lookup(Load(window + 8), index);
    sum[t] = Fma(w, SelectNegative(beyond, high, low), sum[t]);
  }
}

// The products of a tile's entries with the tokens from `token` on.
template <int kTokens>
SSMPRESS_INLINE void SumFloatTile(const LinearBlock& b, size_t tile, size_t token,
                                  float (&total)[kTokens][kWindowTile]) {
  const PackedMatrix& m = *b.matrix;
  const float* x = static_cast<const float*>(b.x) + token * b.x_stride;
  F32 even[kTokens], odd[kTokens];
  SSMPRESS_UNROLL
  for (int t = 0; t < kTokens; ++t) even[t] = odd[t] = Zero();
  size_t record = static_cast<size_t>(m.start[tile]);
  const size_t end = static_cast<size_t>(m.start[tile + 1]);
  for (; record + 2 <= end; record += 2) {
    PrefetchLines<1>(static_cast<const uint16_t*>(m.value) + kWindowTile * record);
    PrefetchLines<1>(m.position + 4 * record);
    AddRecord<kTokens>(m, record, b.x_stride, x, even);
    AddRecord<kTokens>(m, record + 1, b.x_stride, x, odd);
  }
  if (record < end) AddRecord<kTokens>(m, record, b.x_stride, x, even);
  SSMPRESS_UNROLL
  for (int t = 0; t < kTokens; ++t) Store(total[t], Add(even[t], odd[t]));
}
#endif

template <int kTokens>
SSMPRESS_INLINE void DotFloatTile(const LinearBlock& b, size_t tile, size_t token) {
  const PackedMatrix& m = *b.matrix;
  float total[kTokens][kWindowTile];
  SumFloatTile<kTokens>(b, tile, token, total);
  for (size_t i = 0; i < kWindowTile; ++i) {
    const int32_t row = m.order[tile * kWindowTile + i];
    if (row < 0) continue;
    for (int t = 0; t < kTokens; ++t) {
      b.y[(token + static_cast<size_t>(t)) * m.rows + static_cast<size_t>(row)] = total[t][i];
    }
  }
}

template <int kTokens>
void DotFloatTiles(const LinearBlock& b, size_t token) {
  for (size_t tile = b.row_begin / kWindowTile; tile * kWindowTile < b.row_end; ++tile) {
    DotFloatTile<kTokens>(b, tile, token);
  }
}

void WindowFp16Tokens(const LinearBlock& b) {
  size_t token = b.token_begin;
  for (; token + kWindowFloatTokens <= b.token_end; token += kWindowFloatTokens) {
    DotFloatTiles<kWindowFloatTokens>(b, token);
  }
  if (token + 3 == b.token_end) DotFloatTiles<3>(b, token);
  if (token + 2 == b.token_end) DotFloatTiles<2>(b, token);
  if (token + 1 == b.token_end) DotFloatTiles<1>(b, token);
}
