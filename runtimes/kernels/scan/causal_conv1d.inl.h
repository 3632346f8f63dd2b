// SPDX-License-Identifier: Apache-2.0
// CausalConv1d, vectorised over channels. Included by a kernels_<isa>.cc inside its namespace.

// Channels d.. of token t; row t + j of concat(state, x) meets tap j.
template <class Lanes>
SSMPRESS_INLINE void ConvToken(const CausalConv1d& a, const float* x, const float* state, size_t t,
                               size_t d, Lanes lanes, float* y) {
  const size_t kept = a.k - 1;
  F32 sum = lanes.Load(a.bias + d);
  for (size_t j = 0; j < a.k; ++j) {
    const float* row = t + j < kept ? state + (t + j) * a.d : x + (t + j - kept) * a.d;
    sum = Fma(lanes.Load(a.weight + j * a.d + d), lanes.Load(row + d), sum);
  }
  F32 result[] = {sum};
  Silu(result);
  lanes.Store(y + d, result[0]);
}

void RunConvBlock(const CausalConv1dBlock& block) {
  const CausalConv1d& a = *block.args;
  const float* x = a.x + block.batch * a.l * a.d;
  const float* state = a.state + block.batch * (a.k - 1) * a.d;
  for (size_t t = block.token_begin; t < block.token_end; ++t) {
    float* y = a.y + (block.batch * a.l + t) * a.d;
    size_t d = 0;
    for (; d + kLanes <= a.d; d += kLanes) ConvToken(a, x, state, t, d, AllLanes(), y);
    if (d < a.d) ConvToken(a, x, state, t, d, FirstLanes(a.d - d), y);
  }
}
