// SPDX-License-Identifier: Apache-2.0
// The sums of a tile of an fp16 window matrix with vectors of 16 lanes: two records of 8 entries to
// a vector, each with a window of its own, which is a table in one register. Every token is summed
// in the same order: two vectors of sums take turns, and their four halves are added at the end.
// Included by kernels_avx512.cc before linear_window_float.inl.h.
#define SSMPRESS_OWN_FLOAT_WINDOWS
static_assert(kLanes == 2 * kWindowTile, "a vector holds two records");

constexpr __mmask16 kSecondRecord = 0xff00;

SSMPRESS_INLINE __m512i LoadWord(const uint8_t* p) {
  int32_t word;
  std::memcpy(&word, p, sizeof word);
  return _mm512_set1_epi32(word);
}

// The record and, if kBoth, the next one; alone, it meets weights of 0 in the other lanes.
template <int kTokens, bool kBoth>
SSMPRESS_INLINE void AddRecords(const PackedMatrix& m, size_t record, size_t x_stride,
                                const float*& x, F32 (&sum)[kTokens]) {
  const float* first = x + m.step[record];
  const float* second = kBoth ? first + m.step[record + 1] : first;
  x = second;
  const uint8_t* position = m.position + 4 * record;
  const auto* value =
      reinterpret_cast<const __m128i*>(static_cast<const uint16_t*>(m.value) + 8 * record);
  __m512i index = LoadWord(position);
  __m256i half;
  if constexpr (kBoth) {
    index = _mm512_mask_mov_epi32(index, kSecondRecord, LoadWord(position + 4));
    half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(value));
  } else {
    half = _mm256_zextsi128_si256(_mm_loadu_si128(value));
  }
  index = _mm512_srlv_epi32(
      index, _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28));
  const F32 w = _mm512_cvtph_ps(half);
  SSMPRESS_UNROLL
  for (int t = 0; t < kTokens; ++t) {
    F32 picked = _mm512_permutexvar_ps(index, Load(first + t * x_stride));
    if constexpr (kBoth) {
      picked =
          _mm512_mask_permutexvar_ps(picked, kSecondRecord, index, Load(second + t * x_stride));
    }
    sum[t] = Fma(w, picked, sum[t]);
  }
}

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
  for (; record + 4 <= end; record += 4) {
    PrefetchLines<1>(static_cast<const uint16_t*>(m.value) + kWindowTile * record);
    PrefetchLines<1>(m.position + 4 * record);
    AddRecords<kTokens, true>(m, record, b.x_stride, x, even);
    AddRecords<kTokens, true>(m, record + 2, b.x_stride, x, odd);
  }
  if (record + 2 <= end) {
    AddRecords<kTokens, true>(m, record, b.x_stride, x, even);
    record += 2;
  }
  if (record < end) AddRecords<kTokens, false>(m, record, b.x_stride, x, odd);
  SSMPRESS_UNROLL
  for (int t = 0; t < kTokens; ++t) {
    const F32 both = Add(even[t], odd[t]);
    const __m256 high = _mm512_extractf32x8_ps(both, 1);
    _mm256_storeu_ps(total[t], _mm256_add_ps(_mm512_castps512_ps256(both), high));
  }
}
