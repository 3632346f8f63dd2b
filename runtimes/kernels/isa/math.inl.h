// SPDX-License-Identifier: Apache-2.0
// softplus and SiLU over K vectors at a time, in place: every loop is a step that all K take, so
// that K chains of dependent instructions run side by side. Included by a kernels_<isa>.cc inside
// its namespace.

// exp(x) for x <= 0, in place. Within 1.5 ULP; 0 below -87.33, where the result would be subnormal;
// NaN for NaN.
//
// x = i·ln 2 + r with |r| <= ln 2 / 2; exp(r) = 1 + r + r²·p(r), p minimax of degree 4 with a
// relative error of 3e-9; i goes into the exponent by integer addition. Adding and subtracting
// 1.5·2^23 rounds to an integer and leaves i in the low bits of the sum.
template <size_t K>
SSMPRESS_INLINE void Exp(F32 (&x)[K]) {
  const float coefficients[] = {0.00836871658f, 0.0416683890f, 0.166665211f,
                                0.499999940f,   1.0f,          1.0f};
  const F32 round = Set(12582912.0f);
  F32 shifted[K], r[K], p[K];
  SSMPRESS_UNROLL
  for (size_t k = 0; k < K; ++k) shifted[k] = Fma(x[k], Set(1.44269504f), round);
  SSMPRESS_UNROLL
  for (size_t k = 0; k < K; ++k) {
    const F32 i = Sub(shifted[k], round);
    const F32 high = FmaNeg(i, Set(0.693147182f), x[k]);  // ln 2 as a float
    r[k] = FmaNeg(i, Set(-1.90465421e-9f), high);         // and what is missing from it
    p[k] = Set(0.00138145988f);
  }
  SSMPRESS_UNROLL
  for (float coefficient : coefficients) {
    SSMPRESS_UNROLL
    for (size_t k = 0; k < K; ++k) p[k] = Fma(p[k], r[k], Set(coefficient));
  }
  SSMPRESS_UNROLL
  for (size_t k = 0; k < K; ++k) {
    x[k] = ZeroWhereLess(x[k], Set(-87.33f), AddToExponent(p[k], shifted[k]));
  }
}

// 2·atanh(s) for 0 <= s <= 1/3, by a minimax polynomial in s² whose relative error is 1e-10.
SSMPRESS_INLINE F32 TwiceAtanh(F32 s) {
  const F32 w = Mul(s, s);
  F32 p = Set(0.243016765f);
  p = Fma(p, w, Set(0.214274764f));
  p = Fma(p, w, Set(0.286168993f));
  p = Fma(p, w, Set(0.399988770f));
  p = Fma(p, w, Set(0.666666746f));
  return Fma(Mul(p, w), s, Add(s, s));
}

// softplus(x) = log(1 + exp(x)) = max(x, 0) + log1p(e) with e = exp(-|x|), which overflows nowhere;
// log1p(e) = 2·atanh(e / (2 + e)), within 2.5 ULP.
template <size_t K>
SSMPRESS_INLINE void Softplus(F32 (&x)[K]) {
  F32 e[K];
  SSMPRESS_UNROLL
  for (size_t k = 0; k < K; ++k) e[k] = NegativeAbs(x[k]);
  Exp(e);
  SSMPRESS_UNROLL
  for (size_t k = 0; k < K; ++k) e[k] = Div(e[k], Add(e[k], Set(2.0f)));
  SSMPRESS_UNROLL
  for (size_t k = 0; k < K; ++k) x[k] = Add(MaxKeepNan(x[k], Zero()), TwiceAtanh(e[k]));
}

// silu(x) = x / (1 + exp(-x)) = x·(e or 1) / (1 + e) with e = exp(-|x|), which overflows nowhere.
template <size_t K>
SSMPRESS_INLINE void Silu(F32 (&x)[K]) {
  F32 e[K];
  SSMPRESS_UNROLL
  for (size_t k = 0; k < K; ++k) e[k] = NegativeAbs(x[k]);
  Exp(e);
  SSMPRESS_UNROLL
  for (size_t k = 0; k < K; ++k) {
    const F32 numerator = Mul(x[k], SelectNegative(x[k], e[k], Set(1.0f)));
    x[k] = Div(numerator, Add(e[k], Set(1.0f)));
  }
}
