// SPDX-License-Identifier: Apache-2.0
// A window matrix times any number of tokens, two records of a tile at a time: a vector holds their
// 64 slots, four windows of activations meet them, and the two halves of the 16 sums are added at
// the end. linear_window.inl.h is the same with one record. Included by kernels_avx512.cc.

// Where the windows of a tile's current record begin, for the first token.
struct WindowCursor {
  const int8_t* low;
  const int8_t* high;

  SSMPRESS_INLINE void Step(const uint8_t* step) {
    low += step[0];
    high += step[1];
  }
};

// Tokens of a tile: as many sums, the weights, their signs and positions, and the windows.
constexpr int kWindowTokens = 12;

SSMPRESS_INLINE __m128i LoadWindow(const int8_t* p) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}

// Of 32 bytes, the low four bits of the first 16, their high four bits, and so for the others.
SSMPRESS_INLINE Bytes Nibbles(__m256i bytes) {
  const __m512i twice = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 1, 0, 1, 2, 3, 2, 3),
                                                 _mm512_castsi256_si512(bytes));
  const __m512i shifted =
      _mm512_srlv_epi64(twice, _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4));
  return _mm512_and_si512(shifted, _mm512_set1_epi8(15));
}

// The windows of two records, or of one and nothing.
template <bool kPair>
SSMPRESS_INLINE Bytes LoadWindows(const WindowCursor& first, const WindowCursor& second,
                                  size_t offset) {
  __m512i windows = _mm512_castsi128_si512(LoadWindow(first.low + offset));
  windows = _mm512_mask_broadcast_i64x2(windows, 0x0c, LoadWindow(first.high + offset));
  if constexpr (kPair) {
    windows = _mm512_mask_broadcast_i64x2(windows, 0x30, LoadWindow(second.low + offset));
    windows = _mm512_mask_broadcast_i64x2(windows, 0xc0, LoadWindow(second.high + offset));
  }
  return windows;
}

template <bool kPair, int kTokens>
SSMPRESS_INLINE void AddRecords(const PackedMatrix& m, size_t record, size_t x_stride,
                                WindowCursor& x, I32 (&sum)[kTokens]) {
  const uint8_t* step = m.step + 2 * record;
  const uint8_t* position = m.position + 16 * record;
  const int8_t* value = static_cast<const int8_t*>(m.value) + 32 * record;
  x.Step(step);
  const WindowCursor first = x;
  if constexpr (kPair) x.Step(step + 2);
  Bytes index, w;
  if constexpr (kPair) {
    index = Nibbles(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(position)));
    w = LoadBytes<Bytes>(value);
  } else {
    index = Nibbles(_mm256_zextsi128_si256(
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(position))));
    w = _mm512_zextsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(value)));
  }
  SSMPRESS_UNROLL
  for (int t = 0; t < kTokens; ++t) {
    const Bytes windows = LoadWindows<kPair>(first, x, t * x_stride);
    sum[t] = DotAdd(sum[t], w, _mm512_shuffle_epi8(windows, index));
  }
}

template <int kTokens>
SSMPRESS_INLINE void DotTile(const LinearBlock& b, size_t tile, size_t token) {
  const PackedMatrix& m = *b.matrix;
  const int8_t* begin = static_cast<const int8_t*>(b.x) + token * b.x_stride;
  WindowCursor x = {begin, begin};
  I32 sum[kTokens];
  SSMPRESS_UNROLL
  for (int t = 0; t < kTokens; ++t) sum[t] = ZeroI32();
  size_t record = static_cast<size_t>(m.start[tile]);
  const size_t end = static_cast<size_t>(m.start[tile + 1]);
  for (; record + 2 <= end; record += 2) {
    PrefetchLines<1>(static_cast<const int8_t*>(m.value) + 32 * record);
    PrefetchLines<1>(m.position + 16 * record);
    AddRecords<true>(m, record, b.x_stride, x, sum);
  }
  if (record < end) AddRecords<false>(m, record, b.x_stride, x, sum);
  alignas(32) float total[kTokens][kWindowTile];
  SSMPRESS_UNROLL
  for (int t = 0; t < kTokens; ++t) {
    const __m256i both = _mm256_add_epi32(_mm512_castsi512_si256(sum[t]),
                                          _mm512_extracti64x4_epi64(sum[t], 1));
    _mm256_store_ps(total[t], _mm256_cvtepi32_ps(both));
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
  for (; token + 4 <= b.token_end; token += 4) DotTiles<4>(b, token);
  if (token + 3 == b.token_end) DotTiles<3>(b, token);
  if (token + 2 == b.token_end) DotTiles<2>(b, token);
  if (token + 1 == b.token_end) DotTiles<1>(b, token);
}
