// SPDX-License-Identifier: Apache-2.0
// A window matrix times any number of tokens: the records stream through, once for up to 6 tokens.
// A vector holds the 32 slots of a record: a byte shuffle brings the activations of both windows to
// their weights, and the 4 slots of an entry are summed into one of 8 32-bit lanes. Integer sums
// are the same in any order. Included by a kernels_<isa>.cc.

// Where the two windows of a tile's current record begin, for the first token.
struct WindowCursor {
  const int8_t* low;
  const int8_t* high;
};

// Tokens of a tile: 6 sums, the record's weights and positions, and what a product takes.
constexpr int kWindowTokens = 6;

template <int kTokens>
SSMPRESS_INLINE void AddRecord(const PackedMatrix& m, size_t record, size_t x_stride,
                               WindowCursor& x, I32* sum) {
  x.low += m.step[2 * record];
  x.high += m.step[2 * record + 1];
  const I8x32 position = LoadNibbles(m.position + 16 * record);
  const I8x32 w = LoadI8x32(static_cast<const int8_t*>(m.value) + 32 * record);
  SSMPRESS_UNROLL
  for (int t = 0; t < kTokens; ++t) {
    const I8x32 windows = Join(LoadI8x16(x.low + t * x_stride), LoadI8x16(x.high + t * x_stride));
    sum[t] = DotAdd(sum[t], w, ShuffleHalves(windows, position));
  }
}

template <int kTokens>
SSMPRESS_INLINE void DotTile(const LinearBlock& b, size_t tile, size_t token) {
  constexpr int kOdd = kTokens < 3 ? kTokens : 0;  // a second set of sums hides their latency
  const PackedMatrix& m = *b.matrix;
  const int8_t* begin = static_cast<const int8_t*>(b.x) + token * b.x_stride;
  WindowCursor x = {begin, begin};
  I32 sum[kTokens + kOdd];
  SSMPRESS_UNROLL
  for (int t = 0; t < kTokens + kOdd; ++t) sum[t] = ZeroI32();
  size_t record = static_cast<size_t>(m.start[tile]);
  const size_t end = static_cast<size_t>(m.start[tile + 1]);
  for (; record + 2 <= end; record += 2) {
    PrefetchLines<1>(static_cast<const int8_t*>(m.value) + 32 * record);
    PrefetchLines<1>(m.position + 16 * record);
    AddRecord<kTokens>(m, record, b.x_stride, x, sum);
    AddRecord<kTokens>(m, record + 1, b.x_stride, x, sum + kOdd);
  }
  if (record < end) AddRecord<kTokens>(m, record, b.x_stride, x, sum);
  float total[kTokens][kWindowTile];
  SSMPRESS_UNROLL
  for (int t = 0; t < kTokens; ++t) {
    Store(total[t], ToFloat(kOdd > 0 ? AddI32(sum[t], sum[kOdd + t]) : sum[t]));
  }
  for (size_t i = 0; i < kWindowTile; ++i) {
    const int32_t row = m.order[tile * kWindowTile + i];
    if (row < 0) continue;
    for (int t = 0; t < kTokens; ++t) {
      const size_t at = token + static_cast<size_t>(t);
      b.y[at * m.rows + static_cast<size_t>(row)] = total[t][i] * (b.x_scale[at] * m.scale[row]);
    }
  }
}

template <int kTokens>
void DotTiles(const LinearBlock& b, size_t token) {
  for (size_t tile = b.row_begin / kWindowTile; tile * kWindowTile < b.row_end; ++tile) {
    DotTile<kTokens>(b, tile, token);
  }
}

void WindowTokens(const LinearBlock& b) {
  size_t token = b.token_begin;
  for (; token + kWindowTokens <= b.token_end; token += kWindowTokens) {
    DotTiles<kWindowTokens>(b, token);
  }
  for (; token + 3 <= b.token_end; token += 3) DotTiles<3>(b, token);
  if (token + 2 == b.token_end) DotTiles<2>(b, token);
  if (token + 1 == b.token_end) DotTiles<1>(b, token);
}
