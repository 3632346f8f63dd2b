// SPDX-License-Identifier: Apache-2.0
// The vectors of AVX2: 8 lanes in one register. Included by kernels_avx2.cc inside its namespace
// and target region.

constexpr size_t kLanes = 8;
using F32 = __m256;
using I32 = __m256i;
using I8x16 = __m128i;
using I8x32 = __m256i;
using Bytes = I8x32;

// Lanes below `count` have their top bit set.
SSMPRESS_INLINE __m256i FirstLanesMask(size_t count) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), lane);
}

SSMPRESS_INLINE F32 Load(const float* p) { return _mm256_loadu_ps(p); }
SSMPRESS_INLINE void Store(float* p, F32 v) { _mm256_storeu_ps(p, v); }
// Touch the first `count` floats only, count <= 8; the other lanes load as 0.
SSMPRESS_INLINE F32 LoadPartial(const float* p, size_t count) {
  return _mm256_maskload_ps(p, FirstLanesMask(count));
}
SSMPRESS_INLINE void StorePartial(float* p, F32 v, size_t count) {
  _mm256_maskstore_ps(p, FirstLanesMask(count), v);
}

struct AllLanes {
  SSMPRESS_INLINE F32 Load(const float* p) const { return _mm256_loadu_ps(p); }
  SSMPRESS_INLINE void Store(float* p, F32 v) const { _mm256_storeu_ps(p, v); }
};
struct FirstLanes {
  size_t count;
  SSMPRESS_INLINE explicit FirstLanes(size_t n) : count(n) {}
  SSMPRESS_INLINE F32 Load(const float* p) const { return LoadPartial(p, count); }
  SSMPRESS_INLINE void Store(float* p, F32 v) const { StorePartial(p, v, count); }
};

SSMPRESS_INLINE F32 Zero() { return _mm256_setzero_ps(); }
SSMPRESS_INLINE F32 Set(float v) { return _mm256_set1_ps(v); }
SSMPRESS_INLINE F32 Add(F32 a, F32 b) { return _mm256_add_ps(a, b); }
SSMPRESS_INLINE F32 Sub(F32 a, F32 b) { return _mm256_sub_ps(a, b); }
SSMPRESS_INLINE F32 Mul(F32 a, F32 b) { return _mm256_mul_ps(a, b); }
SSMPRESS_INLINE F32 Div(F32 a, F32 b) { return _mm256_div_ps(a, b); }
SSMPRESS_INLINE F32 Fma(F32 a, F32 b, F32 c) { return _mm256_fmadd_ps(a, b, c); }
SSMPRESS_INLINE F32 FmaSub(F32 a, F32 b, F32 c) { return _mm256_fmsub_ps(a, b, c); }
SSMPRESS_INLINE F32 FmaNeg(F32 a, F32 b, F32 c) { return _mm256_fnmadd_ps(a, b, c); }
// x86 returns the second operand when either is NaN.
SSMPRESS_INLINE F32 MaxKeepNan(F32 x, F32 limit) { return _mm256_max_ps(limit, x); }
SSMPRESS_INLINE F32 NegativeAbs(F32 x) { return _mm256_or_ps(x, _mm256_set1_ps(-0.0f)); }
SSMPRESS_INLINE F32 SelectNegative(F32 sign, F32 negative, F32 positive) {
  return _mm256_blendv_ps(positive, negative, sign);
}
// 0 where x < limit, else v; also v where x is NaN.
SSMPRESS_INLINE F32 ZeroWhereLess(F32 x, F32 limit, F32 v) {
  return _mm256_and_ps(_mm256_cmp_ps(x, limit, _CMP_NLT_UQ), v);
}
// v·2^i for the integer i in the low bits of `shifted`.
SSMPRESS_INLINE F32 AddToExponent(F32 v, F32 shifted) {
  const __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(v), exponent));
}
SSMPRESS_INLINE bool NoneLess(F32 x, F32 limit) {
  return _mm256_movemask_ps(_mm256_cmp_ps(x, limit, _CMP_GE_OQ)) == 0xff;
}

// For exp_table.inl.h: 2^r = 1 + r·(kGrowth[0] + ..), |r| <= 1/16, with a relative error of 2.7e-8.
constexpr float kGrowth[] = {0.693147242f, 0.240257636f, 0.0554962195f};
// 2^i·(1 + r·q), i in eighths; 0 where i < -126 unless kBounded. The low bits of `shifted` hold
// i·8. kBounded scales the table's power, one instruction less, which overflows beyond 127.9.
template <bool kBounded>
SSMPRESS_INLINE F32 ScaledPower(F32 shifted, F32, F32 r, F32 q) {
  const __m256i bits = _mm256_castps_si256(shifted);
  const __m256i powers =
      _mm256_castps_si256(_mm256_setr_ps(1.0f, 1.09050775f, 1.18920708f, 1.29683959f, 1.41421354f,
                                         1.54221082f, 1.68179286f, 1.8340081f));
  if constexpr (kBounded) {  // less the fraction, which the shifted bits bring back
    const __m256i fraction =
        _mm256_setr_epi32(0, 1 << 20, 2 << 20, 3 << 20, 4 << 20, 5 << 20, 6 << 20, 7 << 20);
    const __m256i lowered = _mm256_permutevar8x32_epi32(_mm256_sub_epi32(powers, fraction), bits);
    const F32 power = _mm256_castsi256_ps(_mm256_add_epi32(lowered, _mm256_slli_epi32(bits, 20)));
    return Fma(Mul(power, r), q, power);
  }
  const F32 power = _mm256_castsi256_ps(_mm256_permutevar8x32_epi32(powers, bits));
  const __m256i grown = _mm256_castps_si256(Fma(Mul(power, r), q, power));
  const __m256i whole = _mm256_andnot_si256(_mm256_set1_epi32(7), bits);
  const __m256i scaled = _mm256_add_epi32(grown, _mm256_slli_epi32(whole, 20));
  const F32 kept = _mm256_cmp_ps(shifted, Set(1572864.0f - 126.0f), _CMP_NLT_UQ);
  return _mm256_and_ps(kept, _mm256_castsi256_ps(scaled));
}
// With 4 states AVX2's 16 registers spill.
constexpr size_t kScanStates = 2;
constexpr size_t kStepAhead = 32;    // channels that a decode step of the scan fetches ahead
constexpr float kScanBound = 69.0f;  // of |dt·A|: far from where a power is subnormal or infinite

SSMPRESS_INLINE I32 ZeroI32() { return _mm256_setzero_si256(); }
SSMPRESS_INLINE I32 BitsOf(F32 v) { return _mm256_castps_si256(v); }
SSMPRESS_INLINE F32 FromBits(I32 v) { return _mm256_castsi256_ps(v); }
SSMPRESS_INLINE F32 ToFloat(I32 v) { return _mm256_cvtepi32_ps(v); }
SSMPRESS_INLINE I32 AddI32(I32 a, I32 b) { return _mm256_add_epi32(a, b); }
SSMPRESS_INLINE I32 Max(I32 a, I32 b) { return _mm256_max_epi32(a, b); }
SSMPRESS_INLINE I32 AbsBits(F32 v) {
  return _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0x7fffffff));
}
SSMPRESS_INLINE I32 RoundToEven(F32 v) {
  return _mm256_cvtps_epi32(_mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
SSMPRESS_INLINE void StoreNarrow(int16_t* p, I32 v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)));
}
SSMPRESS_INLINE void StoreNarrow(int8_t* p, I32 v) {
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
}

SSMPRESS_INLINE float HorizontalSum(F32 v) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
SSMPRESS_INLINE int32_t HorizontalSum(I32 v) {
  const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}
SSMPRESS_INLINE int32_t HorizontalMax(I32 v) {
  const __m128i four = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  const __m128i two = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}

SSMPRESS_INLINE void Transpose(F32 (&v)[8]) {
  F32 pair[8], quad[8];
  for (int i = 0; i < 4; ++i) {
    pair[2 * i] = _mm256_unpacklo_ps(v[2 * i], v[2 * i + 1]);
    pair[2 * i + 1] = _mm256_unpackhi_ps(v[2 * i], v[2 * i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    quad[i] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0x44);
    quad[i + 1] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0xee);
    quad[i + 2] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0x44);
    quad[i + 3] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    v[i] = _mm256_permute2f128_ps(quad[i], quad[i + 4], 0x20);
    v[i + 4] = _mm256_permute2f128_ps(quad[i], quad[i + 4], 0x31);
  }
}

// Eight 4-bit numbers: their low three bits as indices, and their high bits as signs.
SSMPRESS_INLINE void LoadPositions(const uint8_t* p, I32& index, F32& sign) {
  int32_t word;
  std::memcpy(&word, p, sizeof word);
  const __m256i all = _mm256_set1_epi32(word);
  index = _mm256_srlv_epi32(all, _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
  sign =
      _mm256_castsi256_ps(_mm256_sllv_epi32(all, _mm256_setr_epi32(28, 24, 20, 16, 12, 8, 4, 0)));
}
// Floats of `table` by the low three bits of `index`.
SSMPRESS_INLINE F32 Lookup(F32 table, I32 index) { return _mm256_permutevar8x32_ps(table, index); }

SSMPRESS_INLINE F32 LoadHalf(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
// The values of the set bits of `byte`, in their places.
SSMPRESS_INLINE F32 Expand(const float* value, unsigned byte) {
  const __m256i index =
      _mm256_load_si256(reinterpret_cast<const __m256i*>(kExpandTables.lane32[byte]));
  const F32 spread = _mm256_permutevar8x32_ps(_mm256_loadu_ps(value), index);
  return _mm256_blendv_ps(spread, _mm256_setzero_ps(), _mm256_castsi256_ps(index));
}
SSMPRESS_INLINE F32 Expand(const uint16_t* value, unsigned byte) {
  const __m128i stored = _mm_loadu_si128(reinterpret_cast<const __m128i*>(value));
  const __m128i index =
      _mm_load_si128(reinterpret_cast<const __m128i*>(kExpandTables.byte16[byte]));
  return _mm256_cvtph_ps(_mm_shuffle_epi8(stored, index));
}
SSMPRESS_INLINE I8x16 Expand16(const int8_t* value, uint64_t bits) {
  const unsigned low = bits & 255, high = bits >> 8 & 255;
  __m128i index = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kExpandTables.byte8[low]));
  index = _mm_castps_si128(_mm_loadh_pi(_mm_castsi128_ps(index),
                                        reinterpret_cast<const __m64*>(kExpandTables.byte8[high])));
  index = _mm_add_epi8(
      index, _mm_load_si128(reinterpret_cast<const __m128i*>(kExpandTables.second8[low])));
  return _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(value)), index);
}

template <size_t kBits>
SSMPRESS_INLINE size_t CountBits(uint64_t word) {
  constexpr uint64_t kMask = (uint64_t{1} << kBits) - 1;
  return static_cast<size_t>(__builtin_popcountll(word & kMask));
}

SSMPRESS_INLINE I8x16 LoadI8x16(const int8_t* p) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}
SSMPRESS_INLINE I8x32 LoadI8x32(const int8_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
template <class Vector>
SSMPRESS_INLINE Vector LoadBytes(const int8_t* p) {
  if constexpr (sizeof(Vector) == 16) {
    return LoadI8x16(p);
  } else {
    return LoadI8x32(p);
  }
}
// Bytes of `v` by index, separately in each half.
SSMPRESS_INLINE I8x32 ShuffleHalves(I8x32 v, I8x32 index) { return _mm256_shuffle_epi8(v, index); }
// The low four bits of 16 bytes, then their high four bits.
SSMPRESS_INLINE I8x32 LoadNibbles(const uint8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(bytes, 4), bytes), _mm256_set1_epi8(15));
}
SSMPRESS_INLINE I8x32 Join(I8x16 low, I8x16 high) { return _mm256_set_m128i(high, low); }
template <class Vector>
SSMPRESS_INLINE Vector ExpandBytes(const int8_t* value, uint64_t bits) {
  const I8x16 low = Expand16(value, bits);
  if constexpr (sizeof(Vector) == 16) {
    return low;
  } else {
    return Join(low, Expand16(value + CountBits<16>(bits), bits >> 16));
  }
}
// 32 bytes' low and high four bits, as bytes.
SSMPRESS_INLINE I8x32 LowNibbles(I8x32 v) { return _mm256_and_si256(v, _mm256_set1_epi8(15)); }
SSMPRESS_INLINE I8x32 HighNibbles(I8x32 v) {
  return _mm256_and_si256(_mm256_srli_epi16(v, 4), _mm256_set1_epi8(15));
}
// 4 bytes, repeated.
SSMPRESS_INLINE I8x32 Set4(const void* p) {
  int32_t four;
  std::memcpy(&four, p, sizeof four);
  return _mm256_set1_epi32(four);
}
// 16-bit sums + w·x over pairs of bytes; w is unsigned.
SSMPRESS_INLINE I32 UnsignedDotAdd16(I32 sum, I8x32 w, I8x32 x) {
  return _mm256_add_epi16(sum, _mm256_maddubs_epi16(w, x));
}
// 32-bit sums + w·x over pairs of 16-bit numbers.
SSMPRESS_INLINE I32 PairDotAdd(I32 sum, I32 w, I32 x) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(w, x));
}
// 16 bytes widened to 16 bits, each twice: those of rows 0 to 7, then of rows 8 to 15.
SSMPRESS_INLINE void LoadRatios(const int8_t* p, I32& low, I32& high) {
  const __m256i words = _mm256_permute4x64_epi64(
      _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 0xd8);
  low = _mm256_unpacklo_epi16(words, words);
  high = _mm256_unpackhi_epi16(words, words);
}
// sum + w·x over groups of 4 bytes. |w| is unsigned as maddubs wants it, x takes its sign; with
// both in [-127, 127] a pair is at most 32258 and does not saturate.
SSMPRESS_INLINE I32 DotAdd(I32 sum, I8x32 w, I8x32 x) {
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

// Int8 panels: an element is 2 columns, weights and activations are widened to int16.
using PanelX = int16_t;
constexpr size_t kPanelColumns = 2;
constexpr int kInt8PanelTokens = 5;   // 10 sums and, in addition, a product: 14 registers
constexpr int kFloatPanelTokens = 6;  // 12 sums, 2 vectors of weights, 1 activation: 15 registers
template <class Reader>
SSMPRESS_INLINE I32 NextPanelElements(Reader& reader) {
  return _mm256_cvtepi8_epi16(reader.template NextBytes<I8x16, false>());
}
SSMPRESS_INLINE I32 PanelDotAdd(I32 sum, I32 w, const PanelX* x) {
  int32_t pair;
  std::memcpy(&pair, x, sizeof pair);
  return _mm256_add_epi32(sum, _mm256_madd_epi16(w, _mm256_set1_epi32(pair)));
}

SSMPRESS_INLINE size_t RowStart(const PackedMatrix& m, size_t row) {
  return m.structure == Structure::kBitmask ? static_cast<size_t>(m.start[row]) : 0;
}
