// SPDX-License-Identifier: Apache-2.0
// Elementary functions over vectors. Included by a kernels_<isa>.cc inside its namespace.

// exp(x). Within 1.5 ULP for -87.33 <= x <= 88.72 (kernels_test sweeps it); 0 below that range,
// where the result would be subnormal; FLT_MAX or a few ULP less above it; NaN for NaN.
//
// x = i·ln 2 + r with |r| <= ln 2 / 2; exp(r) = 1 + r + r²·p(r), p minimax of degree 4 with a
// relative error of 3e-9; i goes into the exponent by integer addition. Adding and subtracting
// 1.5·2^23 rounds to an integer and leaves i in the low bits of the sum.
SSMPRESS_INLINE F32 Exp(F32 x) {
  const F32 round = Set(12582912.0f);
  const F32 clamped = MinKeepNan(x, Set(88.72283f));
  const F32 shifted = Fma(clamped, Set(1.44269504f), round);
  const F32 i = Sub(shifted, round);
  const F32 high = FmaNeg(i, Set(0.693147182f), clamped);  // ln 2 as a float
  const F32 r = FmaNeg(i, Set(-1.90465421e-9f), high);     // and what is missing from it
  F32 p = Set(0.00138145988f);
  p = Fma(p, r, Set(0.00836871658f));
  p = Fma(p, r, Set(0.0416683890f));
  p = Fma(p, r, Set(0.166665211f));
  p = Fma(p, r, Set(0.499999940f));
  p = Fma(p, r, Set(1.0f));
  p = Fma(p, r, Set(1.0f));
  return ZeroWhereLess(x, Set(-87.33f), AddToExponent(p, shifted));
}

#ifndef SSMPRESS_OWN_DECAY
// exp(x) of the scan, x = dt·A <= 0.
SSMPRESS_INLINE F32 Decay(F32 x) { return Exp(x); }
#endif

// log1p(x) for 0 <= x <= 1, within 2.5 ULP; NaN for NaN.
//
// log(1 + x) = 2·atanh(s), s = x / (2 + x) <= 1/3; atanh by a minimax polynomial in s² whose
// relative error is 1e-10.
SSMPRESS_INLINE F32 Log1p(F32 x) {
  const F32 s = Div(x, Add(x, Set(2.0f)));
  const F32 w = Mul(s, s);
  F32 p = Set(0.243016765f);
  p = Fma(p, w, Set(0.214274764f));
  p = Fma(p, w, Set(0.286168993f));
  p = Fma(p, w, Set(0.399988770f));
  p = Fma(p, w, Set(0.666666746f));
  return Fma(Mul(p, w), s, Add(s, s));
}

// softplus(x) = log(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|)), which overflows nowhere.
SSMPRESS_INLINE F32 Softplus(F32 x) {
  return Add(MaxKeepNan(x, Zero()), Log1p(Exp(NegativeAbs(x))));
}

// silu(x) = x / (1 + exp(-x)) = x·(e or 1) / (1 + e) with e = exp(-|x|), which overflows nowhere.
SSMPRESS_INLINE F32 Silu(F32 x) {
  const F32 e = Exp(NegativeAbs(x));
  return Div(Mul(x, SelectNegative(x, e, Set(1.0f))), Add(e, Set(1.0f)));
}
