// SPDX-License-Identifier: Apache-2.0
// Vectors of 32 bytes for int8 windows, where AVX-512 has the instructions. Included by
// kernels_avx512.cc inside a namespace of their own.

using I32 = __m256i;
using I8x16 = __m128i;
using I8x32 = __m256i;

SSMPRESS_INLINE I32 ZeroI32() { return _mm256_setzero_si256(); }
SSMPRESS_INLINE I32 AddI32(I32 a, I32 b) { return _mm256_add_epi32(a, b); }
SSMPRESS_INLINE __m256 ToFloat(I32 v) { return _mm256_cvtepi32_ps(v); }
SSMPRESS_INLINE void Store(float* p, __m256 v) { _mm256_storeu_ps(p, v); }
SSMPRESS_INLINE I8x16 LoadI8x16(const int8_t* p) { return LoadBytes<I8x16>(p); }
SSMPRESS_INLINE I8x32 LoadI8x32(const int8_t* p) { return LoadBytes<I8x32>(p); }
SSMPRESS_INLINE I8x32 Join(I8x16 low, I8x16 high) { return _mm256_set_m128i(high, low); }
// Bytes of `v` by index, separately in each half.
SSMPRESS_INLINE I8x32 ShuffleHalves(I8x32 v, I8x32 index) { return _mm256_shuffle_epi8(v, index); }
// The low four bits of 16 bytes, then their high four bits.
SSMPRESS_INLINE I8x32 LoadNibbles(const uint8_t* p) {
  I8x16 bytes;
  std::memcpy(&bytes, p, sizeof bytes);
  return _mm256_and_si256(Join(bytes, _mm_srli_epi16(bytes, 4)), _mm256_set1_epi8(15));
}
SSMPRESS_INLINE I32 DotAdd(I32 sum, I8x32 w, I8x32 x) {
  return _mm256_dpbusd_epi32(sum, _mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
}
