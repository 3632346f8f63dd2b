// SPDX-License-Identifier: Apache-2.0
// The vectors of AVX-512: 16 lanes in one register. Included by kernels_avx512.cc inside its
// namespace and target region.

constexpr size_t kLanes = 16;
using F32 = __m512;
using I32 = __m512i;
using Bytes = __m512i;

SSMPRESS_INLINE __mmask16 FirstLanesMask(size_t count) {
  return static_cast<__mmask16>((1u << count) - 1);
}

SSMPRESS_INLINE F32 Load(const float* p) { return _mm512_loadu_ps(p); }
SSMPRESS_INLINE void Store(float* p, F32 v) { _mm512_storeu_ps(p, v); }
// Touch the first `count` floats only, count <= 16; the other lanes load as 0.
SSMPRESS_INLINE F32 LoadPartial(const float* p, size_t count) {
  return _mm512_maskz_loadu_ps(FirstLanesMask(count), p);
}
SSMPRESS_INLINE void StorePartial(float* p, F32 v, size_t count) {
  _mm512_mask_storeu_ps(p, FirstLanesMask(count), v);
}

struct AllLanes {
  SSMPRESS_INLINE F32 Load(const float* p) const { return _mm512_loadu_ps(p); }
  SSMPRESS_INLINE void Store(float* p, F32 v) const { _mm512_storeu_ps(p, v); }
};
struct FirstLanes {
  size_t count;
  SSMPRESS_INLINE explicit FirstLanes(size_t n) : count(n) {}
  SSMPRESS_INLINE F32 Load(const float* p) const { return LoadPartial(p, count); }
  SSMPRESS_INLINE void Store(float* p, F32 v) const { StorePartial(p, v, count); }
};

SSMPRESS_INLINE F32 Zero() { return _mm512_setzero_ps(); }
SSMPRESS_INLINE F32 Set(float v) { return _mm512_set1_ps(v); }
SSMPRESS_INLINE F32 Add(F32 a, F32 b) { return _mm512_add_ps(a, b); }
SSMPRESS_INLINE F32 Sub(F32 a, F32 b) { return _mm512_sub_ps(a, b); }
SSMPRESS_INLINE F32 Mul(F32 a, F32 b) { return _mm512_mul_ps(a, b); }
SSMPRESS_INLINE F32 Div(F32 a, F32 b) { return _mm512_div_ps(a, b); }
SSMPRESS_INLINE F32 Fma(F32 a, F32 b, F32 c) { return _mm512_fmadd_ps(a, b, c); }
SSMPRESS_INLINE F32 FmaSub(F32 a, F32 b, F32 c) { return _mm512_fmsub_ps(a, b, c); }
SSMPRESS_INLINE F32 FmaNeg(F32 a, F32 b, F32 c) { return _mm512_fnmadd_ps(a, b, c); }
// x86 returns the second operand when either is NaN.
SSMPRESS_INLINE F32 MaxKeepNan(F32 x, F32 limit) { return _mm512_max_ps(limit, x); }
SSMPRESS_INLINE F32 NegativeAbs(F32 x) { return _mm512_or_ps(x, Set(-0.0f)); }
SSMPRESS_INLINE F32 SelectNegative(F32 sign, F32 negative, F32 positive) {
  return _mm512_mask_blend_ps(_mm512_movepi32_mask(_mm512_castps_si512(sign)), positive, negative);
}
// 0 where x < limit, else v; also v where x is NaN.
SSMPRESS_INLINE F32 ZeroWhereLess(F32 x, F32 limit, F32 v) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ), v);
}
// v·2^i for the integer i in the low bits of `shifted`.
SSMPRESS_INLINE F32 AddToExponent(F32 v, F32 shifted) {
  const __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
  return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(v), exponent));
}

// For exp_table.inl.h: 2^r = 1 + r·(kGrowth[0] + ..), |r| <= 1/32, with a relative error of 1.6e-9.
constexpr float kGrowth[] = {0.693147182f, 0.240234286f, 0.0555021353f};
// 2^i·(1 + r·q), i in sixteenths; 0 where i < -126 unless kBounded. `shifted` holds i's fraction in
// its low 4 bits.
template <bool kBounded>
SSMPRESS_INLINE F32 ScaledPower(F32 shifted, F32 i, F32 r, F32 q) {
  const F32 powers =
      _mm512_setr_ps(1.0f, 1.04427373f, 1.09050775f, 1.13878858f, 1.18920708f, 1.24185777f,
                     1.29683959f, 1.35425556f, 1.41421354f, 1.47682619f, 1.54221082f, 1.61049032f,
                     1.68179286f, 1.75625217f, 1.8340081f, 1.91520655f);
  const F32 power = _mm512_permutexvar_ps(_mm512_castps_si512(shifted), powers);
  const F32 grown = Fma(Mul(power, r), q, power);
  if constexpr (kBounded) return _mm512_scalef_ps(grown, i);
  const __mmask16 kept = _mm512_cmp_ps_mask(shifted, Set(786432.0f - 126.0f), _CMP_NLT_UQ);
  return _mm512_maskz_scalef_ps(kept, grown, i);
}
constexpr size_t kScanStates = 4;
constexpr size_t kStepAhead = 32;   // channels that a decode step of the scan fetches ahead
constexpr float kScanBound = 0.0f;  // vscalefps makes a bound worth nothing

SSMPRESS_INLINE I32 ZeroI32() { return _mm512_setzero_si512(); }
SSMPRESS_INLINE I32 BitsOf(F32 v) { return _mm512_castps_si512(v); }
SSMPRESS_INLINE F32 FromBits(I32 v) { return _mm512_castsi512_ps(v); }
SSMPRESS_INLINE F32 ToFloat(I32 v) { return _mm512_cvtepi32_ps(v); }
SSMPRESS_INLINE I32 Max(I32 a, I32 b) { return _mm512_max_epi32(a, b); }
SSMPRESS_INLINE I32 AbsBits(F32 v) {
  return _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7fffffff));
}
SSMPRESS_INLINE I32 RoundToEven(F32 v) {
  return _mm512_cvt_roundps_epi32(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
SSMPRESS_INLINE void StoreNarrow(int8_t* p, I32 v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(v));
}
SSMPRESS_INLINE void StoreNarrow(uint8_t* p, I32 v) {
  const __m128i bytes = _mm512_cvtepi32_epi8(v);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_xor_si128(bytes, _mm_set1_epi8(-128)));
}

SSMPRESS_INLINE float HorizontalSum(F32 v) { return _mm512_reduce_add_ps(v); }
SSMPRESS_INLINE int32_t HorizontalSum(I32 v) { return _mm512_reduce_add_epi32(v); }
SSMPRESS_INLINE int32_t HorizontalMax(I32 v) { return _mm512_reduce_max_epi32(v); }

SSMPRESS_INLINE F32 LowPairs(F32 a, F32 b) {
  return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}
SSMPRESS_INLINE F32 HighPairs(F32 a, F32 b) {
  return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}
// 4 x 4 within groups of four vectors, then the groups of lanes.
SSMPRESS_INLINE void Transpose(F32 (&v)[16]) {
  F32 a[16];
  SSMPRESS_UNROLL
  for (int i = 0; i < 16; i += 4) {
    const F32 low0 = _mm512_unpacklo_ps(v[i], v[i + 1]), high0 = _mm512_unpackhi_ps(v[i], v[i + 1]);
    const F32 low2 = _mm512_unpacklo_ps(v[i + 2], v[i + 3]);
    const F32 high2 = _mm512_unpackhi_ps(v[i + 2], v[i + 3]);
    a[i] = LowPairs(low0, low2);
    a[i + 1] = HighPairs(low0, low2);
    a[i + 2] = LowPairs(high0, high2);
    a[i + 3] = HighPairs(high0, high2);
  }
  SSMPRESS_UNROLL
  for (int i = 0; i < 4; ++i) {
    const F32 even0 = _mm512_shuffle_f32x4(a[i], a[i + 4], 0x88);
    const F32 odd0 = _mm512_shuffle_f32x4(a[i], a[i + 4], 0xdd);
    const F32 even1 = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0x88);
    const F32 odd1 = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0xdd);
    v[i] = _mm512_shuffle_f32x4(even0, even1, 0x88);
    v[i + 4] = _mm512_shuffle_f32x4(odd0, odd1, 0x88);
    v[i + 8] = _mm512_shuffle_f32x4(even0, even1, 0xdd);
    v[i + 12] = _mm512_shuffle_f32x4(odd0, odd1, 0xdd);
  }
}

SSMPRESS_INLINE F32 LoadHalf(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

template <size_t kBits>
SSMPRESS_INLINE size_t CountBits(uint64_t word) {
  constexpr uint64_t kMask = kBits == 64 ? ~uint64_t{0} : (uint64_t{1} << kBits % 64) - 1;
  return static_cast<size_t>(__builtin_popcountll(word & kMask));
}
// The values of the set bits, in their places.
SSMPRESS_INLINE F32 Expand(const float* value, unsigned bits) {
  return _mm512_maskz_expand_ps(static_cast<__mmask16>(bits), _mm512_loadu_ps(value));
}
SSMPRESS_INLINE F32 Expand(const uint16_t* value, unsigned bits) {
  const __m256i stored = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(value));
  return _mm512_cvtph_ps(_mm256_maskz_expand_epi16(static_cast<__mmask16>(bits), stored));
}
template <class Vector>
SSMPRESS_INLINE Vector LoadBytes(const int8_t* p) {
  Vector v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class Vector>
SSMPRESS_INLINE Vector ExpandBytes(const int8_t* value, uint64_t bits) {
  if constexpr (sizeof(Vector) == 32) {
    return _mm256_maskz_expand_epi8(static_cast<__mmask32>(bits), LoadBytes<Vector>(value));
  } else {
    return _mm512_maskz_expand_epi8(bits, LoadBytes<Vector>(value));
  }
}

// sum + w·x over groups of 4 bytes. |w| is unsigned as the instruction wants it, x takes its sign.
SSMPRESS_INLINE I32 DotAdd(I32 sum, Bytes w, Bytes x) {
  const Bytes signed_x = _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(w), ZeroI32(), x);
  return _mm512_dpbusd_epi32(sum, _mm512_abs_epi8(w), signed_x);
}

// Int8 panels: an element is 4 columns; the product wants one side unsigned, so that activations
// are stored as x + 128 and 128 times the row's sum is subtracted.
using PanelX = uint8_t;
constexpr size_t kPanelColumns = 4;
constexpr int kInt8PanelTokens = 12, kFloatPanelTokens = 12;  // 24 sums, 2 vectors of weights
template <class Reader>
SSMPRESS_INLINE I32 NextPanelElements(Reader& reader) {
  return reader.template NextBytes<Bytes, false>();
}
SSMPRESS_INLINE I32 PanelDotAdd(I32 sum, I32 w, const PanelX* x) {
  int32_t four;
  std::memcpy(&four, x, sizeof four);
  return _mm512_dpbusd_epi32(sum, _mm512_set1_epi32(four), w);
}
#define SSMPRESS_PANEL_EXCESS
SSMPRESS_INLINE I32 AddExcess(I32 sum, I32 w) {
  return _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(-128), w);  // 128, unsigned
}
SSMPRESS_INLINE I32 Subtract(I32 a, I32 b) { return _mm512_sub_epi32(a, b); }

SSMPRESS_INLINE size_t RowStart(const PackedMatrix& m, size_t row) {
  return m.structure == Structure::kBitmask ? static_cast<size_t>(m.start[row]) : 0;
}
