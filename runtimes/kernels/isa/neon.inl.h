// SPDX-License-Identifier: Apache-2.0
// The vectors of the aarch64 instruction sets: 8 lanes in two registers of four. Included by a
// kernels_<isa>.cc inside its namespace, after its DotAddHalf(sum, w, x): sum + w·x over groups of
// 4 of 16 bytes; and DotAddLane<k>(sum, w, x): the same with group k of x for every group of w.

constexpr size_t kLanes = 8;
struct F32 {
  float32x4_t low, high;
};
struct I32 {
  int32x4_t low, high;
};
using I8x16 = int8x16_t;
struct I8x32 {
  int8x16_t low, high;
};
using Bytes = I8x32;

SSMPRESS_INLINE F32 Load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
SSMPRESS_INLINE void Store(float* p, F32 v) {
  vst1q_f32(p, v.low);
  vst1q_f32(p + 4, v.high);
}
// Touch the first `count` floats only, count <= 8; the other lanes load as 0.
SSMPRESS_INLINE F32 LoadPartial(const float* p, size_t count) {
  if (count == kLanes) return Load(p);
  float lanes[kLanes] = {};
  std::memcpy(lanes, p, count * sizeof(float));
  return Load(lanes);
}
SSMPRESS_INLINE void StorePartial(float* p, F32 v, size_t count) {
  if (count == kLanes) return Store(p, v);
  float lanes[kLanes];
  Store(lanes, v);
  std::memcpy(p, lanes, count * sizeof(float));
}

struct AllLanes {
  SSMPRESS_INLINE F32 Load(const float* p) const { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
  SSMPRESS_INLINE void Store(float* p, F32 v) const {
    vst1q_f32(p, v.low);
    vst1q_f32(p + 4, v.high);
  }
};
struct FirstLanes {
  size_t count;
  SSMPRESS_INLINE explicit FirstLanes(size_t n) : count(n) {}
  SSMPRESS_INLINE F32 Load(const float* p) const { return LoadPartial(p, count); }
  SSMPRESS_INLINE void Store(float* p, F32 v) const { StorePartial(p, v, count); }
};

SSMPRESS_INLINE F32 Set(float v) { return {vdupq_n_f32(v), vdupq_n_f32(v)}; }
SSMPRESS_INLINE F32 Zero() { return Set(0.0f); }
SSMPRESS_INLINE F32 Add(F32 a, F32 b) {
  return {vaddq_f32(a.low, b.low), vaddq_f32(a.high, b.high)};
}
SSMPRESS_INLINE F32 Sub(F32 a, F32 b) {
  return {vsubq_f32(a.low, b.low), vsubq_f32(a.high, b.high)};
}
SSMPRESS_INLINE F32 Mul(F32 a, F32 b) {
  return {vmulq_f32(a.low, b.low), vmulq_f32(a.high, b.high)};
}
SSMPRESS_INLINE F32 Div(F32 a, F32 b) {
  return {vdivq_f32(a.low, b.low), vdivq_f32(a.high, b.high)};
}
SSMPRESS_INLINE F32 Fma(F32 a, F32 b, F32 c) {
  return {vfmaq_f32(c.low, a.low, b.low), vfmaq_f32(c.high, a.high, b.high)};
}
SSMPRESS_INLINE F32 FmaNeg(F32 a, F32 b, F32 c) {
  return {vfmsq_f32(c.low, a.low, b.low), vfmsq_f32(c.high, a.high, b.high)};
}
// FMIN and FMAX return NaN when either operand is one.
SSMPRESS_INLINE F32 MaxKeepNan(F32 x, F32 limit) {
  return {vmaxq_f32(x.low, limit.low), vmaxq_f32(x.high, limit.high)};
}
SSMPRESS_INLINE F32 NegativeAbs(F32 x) {
  return {vnegq_f32(vabsq_f32(x.low)), vnegq_f32(vabsq_f32(x.high))};
}
SSMPRESS_INLINE float32x4_t SelectNegative(float32x4_t sign, float32x4_t negative,
                                           float32x4_t positive) {
  return vbslq_f32(vcltzq_s32(vreinterpretq_s32_f32(sign)), negative, positive);
}
SSMPRESS_INLINE F32 SelectNegative(F32 sign, F32 negative, F32 positive) {
  return {SelectNegative(sign.low, negative.low, positive.low),
          SelectNegative(sign.high, negative.high, positive.high)};
}
// 0 where x < limit, else v; also v where x is NaN.
SSMPRESS_INLINE float32x4_t ZeroWhereLess(float32x4_t x, float32x4_t limit, float32x4_t v) {
  return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(v), vcltq_f32(x, limit)));
}
SSMPRESS_INLINE F32 ZeroWhereLess(F32 x, F32 limit, F32 v) {
  return {ZeroWhereLess(x.low, limit.low, v.low), ZeroWhereLess(x.high, limit.high, v.high)};
}
// v·2^i for the integer i in the low bits of `shifted`.
SSMPRESS_INLINE float32x4_t AddToExponent(float32x4_t v, float32x4_t shifted) {
  const int32x4_t exponent = vshlq_n_s32(vreinterpretq_s32_f32(shifted), 23);
  return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(v), exponent));
}
SSMPRESS_INLINE F32 AddToExponent(F32 v, F32 shifted) {
  return {AddToExponent(v.low, shifted.low), AddToExponent(v.high, shifted.high)};
}

// exp(x) for x <= 88.72, within 1.5 ULP; about 1.2e-38 below -87.33; NaN for NaN.
//
// As Exp, of which it leaves 3 instructions in 4 (FMLA overwrites what it adds to, so that every
// step of Horner's rule takes two): 1 + r + r²·p(r) with p by pairs of terms.
SSMPRESS_INLINE float32x4_t Decay(float32x4_t x) {
  const float32x4_t round = vdupq_n_f32(12582912.0f);
  const float32x4_t clamped = vmaxq_f32(x, vdupq_n_f32(-87.33f));
  const float32x4_t shifted = vfmaq_f32(round, clamped, vdupq_n_f32(1.44269504f));
  const float32x4_t i = vsubq_f32(shifted, round);
  const float32x4_t high = vfmsq_f32(clamped, i, vdupq_n_f32(0.693147182f));
  const float32x4_t r = vfmsq_f32(high, i, vdupq_n_f32(-1.90465421e-9f));
  const float32x4_t square = vmulq_f32(r, r);
  float32x4_t p = vfmaq_f32(vdupq_n_f32(0.0416683890f), r, vdupq_n_f32(0.00836871658f));
  p = vfmaq_f32(p, square, vdupq_n_f32(0.00138145988f));
  p = vfmaq_f32(vfmaq_f32(vdupq_n_f32(0.499999940f), r, vdupq_n_f32(0.166665211f)), square, p);
  return AddToExponent(vfmaq_f32(vaddq_f32(r, vdupq_n_f32(1.0f)), square, p), shifted);
}
using Step = F32;
SSMPRESS_INLINE Step StepOf(F32 dt) { return dt; }
// exp(dt·A); kBounded makes no difference.
template <bool kBounded, size_t K>
SSMPRESS_INLINE void Decay(Step dt, const F32 (&A)[K], F32 (&decay)[K]) {
  SSMPRESS_UNROLL
  for (size_t k = 0; k < K; ++k) {
    const F32 x = Mul(dt, A[k]);
    decay[k] = {Decay(x.low), Decay(x.high)};
  }
}
constexpr size_t kScanStates = 4;
constexpr size_t kStepAhead = 0;  // more instructions, which no board has judged yet
constexpr float kScanBound = 0.0f;

SSMPRESS_INLINE I32 ZeroI32() { return {vdupq_n_s32(0), vdupq_n_s32(0)}; }
SSMPRESS_INLINE I32 BitsOf(F32 v) {
  return {vreinterpretq_s32_f32(v.low), vreinterpretq_s32_f32(v.high)};
}
SSMPRESS_INLINE F32 FromBits(I32 v) {
  return {vreinterpretq_f32_s32(v.low), vreinterpretq_f32_s32(v.high)};
}
SSMPRESS_INLINE F32 ToFloat(I32 v) { return {vcvtq_f32_s32(v.low), vcvtq_f32_s32(v.high)}; }
SSMPRESS_INLINE I32 AddI32(I32 a, I32 b) {
  return {vaddq_s32(a.low, b.low), vaddq_s32(a.high, b.high)};
}
SSMPRESS_INLINE I32 Max(I32 a, I32 b) {
  return {vmaxq_s32(a.low, b.low), vmaxq_s32(a.high, b.high)};
}
SSMPRESS_INLINE I32 AbsBits(F32 v) {
  return {vreinterpretq_s32_f32(vabsq_f32(v.low)), vreinterpretq_s32_f32(vabsq_f32(v.high))};
}
SSMPRESS_INLINE I32 RoundToEven(F32 v) { return {vcvtnq_s32_f32(v.low), vcvtnq_s32_f32(v.high)}; }
SSMPRESS_INLINE void StoreNarrow(int8_t* p, I32 v) {
  vst1_s8(p, vmovn_s16(vcombine_s16(vmovn_s32(v.low), vmovn_s32(v.high))));
}

SSMPRESS_INLINE float HorizontalSum(F32 v) { return vaddvq_f32(vaddq_f32(v.low, v.high)); }
SSMPRESS_INLINE int32_t HorizontalSum(I32 v) { return vaddvq_s32(vaddq_s32(v.low, v.high)); }
SSMPRESS_INLINE int32_t HorizontalMax(I32 v) { return vmaxvq_s32(vmaxq_s32(v.low, v.high)); }

SSMPRESS_INLINE float32x4_t LowPairs(float32x4_t a, float32x4_t b) {
  return vreinterpretq_f32_f64(vtrn1q_f64(vreinterpretq_f64_f32(a), vreinterpretq_f64_f32(b)));
}
SSMPRESS_INLINE float32x4_t HighPairs(float32x4_t a, float32x4_t b) {
  return vreinterpretq_f32_f64(vtrn2q_f64(vreinterpretq_f64_f32(a), vreinterpretq_f64_f32(b)));
}
SSMPRESS_INLINE void Transpose(float32x4_t& a, float32x4_t& b, float32x4_t& c, float32x4_t& d) {
  const float32x4_t even_ab = vtrn1q_f32(a, b), odd_ab = vtrn2q_f32(a, b);
  const float32x4_t even_cd = vtrn1q_f32(c, d), odd_cd = vtrn2q_f32(c, d);
  a = LowPairs(even_ab, even_cd);
  b = LowPairs(odd_ab, odd_cd);
  c = HighPairs(even_ab, even_cd);
  d = HighPairs(odd_ab, odd_cd);
}
SSMPRESS_INLINE void Transpose(F32 (&v)[8]) {
  Transpose(v[0].low, v[1].low, v[2].low, v[3].low);
  Transpose(v[4].high, v[5].high, v[6].high, v[7].high);
  Transpose(v[0].high, v[1].high, v[2].high, v[3].high);
  Transpose(v[4].low, v[5].low, v[6].low, v[7].low);
  for (int i = 0; i < 4; ++i) {
    const float32x4_t swapped = v[i].high;
    v[i].high = v[i + 4].low;
    v[i + 4].low = swapped;
  }
}

SSMPRESS_INLINE F32 LoadHalf(const uint16_t* p) {
  const float16x8_t half = vreinterpretq_f16_u16(vld1q_u16(p));
  return {vcvt_f32_f16(vget_low_f16(half)), vcvt_high_f32_f16(half)};
}
// The values of the set bits of `byte`, in their places.
SSMPRESS_INLINE F32 Expand(const float* value, unsigned byte) {
  const uint8_t* bytes = reinterpret_cast<const uint8_t*>(value);
  const uint8x16x2_t stored = {{vld1q_u8(bytes), vld1q_u8(bytes + 16)}};
  const uint8_t* index = kExpandBytes.byte32[byte];
  return {vreinterpretq_f32_u8(vqtbl2q_u8(stored, vld1q_u8(index))),
          vreinterpretq_f32_u8(vqtbl2q_u8(stored, vld1q_u8(index + 16)))};
}
SSMPRESS_INLINE F32 Expand(const uint16_t* value, unsigned byte) {
  const uint8x16_t stored = vreinterpretq_u8_u16(vld1q_u16(value));
  const float16x8_t half =
      vreinterpretq_f16_u8(vqtbl1q_u8(stored, vld1q_u8(kExpandTables.byte16[byte])));
  return {vcvt_f32_f16(vget_low_f16(half)), vcvt_high_f32_f16(half)};
}
SSMPRESS_INLINE I8x16 Expand16(const int8_t* value, uint64_t bits) {
  const unsigned low = bits & 255, high = bits >> 8 & 255;
  const uint8x16_t index =
      vcombine_u8(vld1_u8(kExpandTables.byte8[low]), vld1_u8(kExpandTables.byte8[high]));
  return vqtbl1q_s8(vld1q_s8(value), vaddq_u8(index, vld1q_u8(kExpandTables.second8[low])));
}
// From a table: the instruction counts in vector registers, and moving there and back costs more.
template <size_t kBits>
SSMPRESS_INLINE size_t CountBits(uint64_t word) {
  size_t count = 0;
  for (size_t i = 0; i < kBits; i += 8) count += kExpandTables.second8[word >> i & 255][8];
  return count;
}

template <class Vector>
SSMPRESS_INLINE Vector ExpandBytes(const int8_t* value, uint64_t bits) {
  static_assert(sizeof(Vector) == 32);
  return {Expand16(value, bits), Expand16(value + CountBits<16>(bits), bits >> 16)};
}

// Moves a pointer so that the compiler sees only where it went: clang otherwise keeps a pointer of
// its own for each of its uses in a loop.
template <class T>
SSMPRESS_INLINE void Advance(const T*& p, size_t elements) {
  p += elements;
  __asm__("" : "+r"(p));
}
// The same, when `sum` is computed.
template <class T>
SSMPRESS_INLINE void AdvanceAfter(int32x4_t& sum, const T*& p, size_t elements) {
  p += elements;
  __asm__("" : "+r"(p), "+w"(sum));
}

SSMPRESS_INLINE I8x16 LoadI8x16(const int8_t* p) { return vld1q_s8(p); }
SSMPRESS_INLINE I8x32 LoadI8x32(const int8_t* p) { return {vld1q_s8(p), vld1q_s8(p + 16)}; }
template <class Vector>
SSMPRESS_INLINE Vector LoadBytes(const int8_t* p) {
  static_assert(sizeof(Vector) == 32);
  return LoadI8x32(p);
}
// Bytes of `v` by index, separately in each half.
SSMPRESS_INLINE I8x32 ShuffleHalves(I8x32 v, I8x32 index) {
  return {vqtbl1q_s8(v.low, vreinterpretq_u8_s8(index.low)),
          vqtbl1q_s8(v.high, vreinterpretq_u8_s8(index.high))};
}
// The low four bits of 16 bytes, then their high four bits.
SSMPRESS_INLINE I8x32 LoadNibbles(const uint8_t* p) {
  const uint8x16_t bytes = vld1q_u8(p);
  return {vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(15))),
          vreinterpretq_s8_u8(vshrq_n_u8(bytes, 4))};
}
SSMPRESS_INLINE I8x32 Join(I8x16 low, I8x16 high) { return {low, high}; }
SSMPRESS_INLINE I32 DotAdd(I32 sum, I8x32 w, I8x32 x) {
  return {DotAddHalf(sum.low, w.low, x.low), DotAddHalf(sum.high, w.high, x.high)};
}

// Int8 panels: an element is 4 columns, activations are int8.
using PanelX = int8_t;
constexpr size_t kPanelColumns = 4;
constexpr int kInt8PanelTokens = 6, kFloatPanelTokens = 6;  // 24 registers of sums, 4 of weights
template <class Reader>
SSMPRESS_INLINE I32 NextPanelElements(Reader& reader) {
  const I8x32 w = reader.template NextBytes<I8x32, false>();
  return {vreinterpretq_s32_s8(w.low), vreinterpretq_s32_s8(w.high)};
}
SSMPRESS_INLINE I32 PanelDotAdd(I32 sum, I32 w, const PanelX* x) {
  int32_t four;
  std::memcpy(&four, x, sizeof four);
  const int8x16_t all = vreinterpretq_s8_s32(vdupq_n_s32(four));
  return {DotAddHalf(sum.low, vreinterpretq_s8_s32(w.low), all),
          DotAddHalf(sum.high, vreinterpretq_s8_s32(w.high), all)};
}

SSMPRESS_INLINE size_t RowStart(const PackedMatrix& m, size_t row) {
  return m.structure == Structure::kBitmask ? static_cast<size_t>(m.start[row]) : 0;
}
