// SPDX-License-Identifier: Apache-2.0
// The scan's exp, by a table of kLanes powers of two in one register. Included by a
// kernels_<isa>.cc inside its namespace, after its ScaledPower and kGrowth; arm64, which has no
// such lookup, has its own. softplus and SiLU keep Exp, which is closer by a quarter of a ULP with
// AVX-512.

// 1.5·2^23 / kLanes: adding and subtracting it rounds to a multiple of 1 / kLanes and leaves the
// fraction in the low bits of the sum.
constexpr float kRound = 12582912.0f / kLanes;

// A factor times log2 e, in two floats: the second is what the first lacks.
struct Step {
  F32 high, low;
};
SSMPRESS_INLINE Step StepOf(F32 dt) {
  const F32 log2e = Set(1.44269502f), high = Mul(dt, log2e);
  return {high, Fma(dt, Set(1.92596303e-8f), FmaSub(dt, log2e, high))};
}

// exp(dt·A), within 1.5 ULP for -87.33 <= dt·A <= 88.72; 0 below that range, where the result would
// be subnormal; NaN for NaN. kBounded: the caller knows that |dt·A| <= 69, which spares AVX2 three
// instructions and gives the same bits.
//
// dt·A·log2 e = i + r with i a multiple of 1 / kLanes and |r| <= 1 / (2·kLanes); the power of two
// is that of i, whose fraction selects it from the table, times 2^r = 1 + r·q(r), q minimax of
// degree 2. Fused products round neither dt·A nor i·ln 2 on the way to r. Every loop is one step of
// all K: in their own order the chains would fill the CPU's scheduler with what waits.
template <bool kBounded, size_t K>
SSMPRESS_INLINE void Decay(Step dt, const F32 (&A)[K], F32 (&decay)[K]) {
  F32 shifted[K], i[K], r[K], q[K];
  SSMPRESS_UNROLL
  for (size_t k = 0; k < K; ++k) shifted[k] = Fma(dt.high, A[k], Set(kRound));
  SSMPRESS_UNROLL
  for (size_t k = 0; k < K; ++k) i[k] = Sub(shifted[k], Set(kRound));
  SSMPRESS_UNROLL
  for (size_t k = 0; k < K; ++k) r[k] = FmaSub(dt.high, A[k], i[k]);
  SSMPRESS_UNROLL
  for (size_t k = 0; k < K; ++k) r[k] = Fma(dt.low, A[k], r[k]);
  SSMPRESS_UNROLL
  for (size_t k = 0; k < K; ++k) q[k] = Fma(Set(kGrowth[2]), r[k], Set(kGrowth[1]));
  SSMPRESS_UNROLL
  for (size_t k = 0; k < K; ++k) q[k] = Fma(q[k], r[k], Set(kGrowth[0]));
  SSMPRESS_UNROLL
  for (size_t k = 0; k < K; ++k) decay[k] = ScaledPower<kBounded>(shifted[k], i[k], r[k], q[k]);
}
