// SPDX-License-Identifier: Apache-2.0
// GatedRMSNorm, vectorised over channels. Included by a kernels_<isa>.cc inside its namespace.

// Vectors whose SiLU and squares run side by side.
constexpr size_t kNormVectors = 4;

// One group of one token: what is read twice lies in the L1 cache the second time.
struct NormGroup {
  const GatedRmsNorm* args;
  const float *x, *z, *weight;
  float* y;
};

// The gate where it comes first: y = x·silu(z). Adds the squares of what is normalised.
template <size_t K, class Lanes>
SSMPRESS_INLINE void AddSquares(const NormGroup& g, size_t i, Lanes lanes, F32 (&sum)[K]) {
  F32 v[K], gate[K];
  SSMPRESS_UNROLL
  for (size_t k = 0; k < K; ++k) v[k] = lanes.Load(g.x + i + k * kLanes);
  if (g.args->gate_first) {
    SSMPRESS_UNROLL
    for (size_t k = 0; k < K; ++k) gate[k] = lanes.Load(g.z + i + k * kLanes);
    Silu(gate);
    SSMPRESS_UNROLL
    for (size_t k = 0; k < K; ++k) {
      v[k] = Mul(v[k], gate[k]);
      lanes.Store(g.y + i + k * kLanes, v[k]);
    }
  }
  SSMPRESS_UNROLL
  for (size_t k = 0; k < K; ++k) sum[k] = Fma(v[k], v[k], sum[k]);
}

template <size_t K, class Lanes>
SSMPRESS_INLINE void FinishNorm(const NormGroup& g, size_t i, Lanes lanes, F32 scale) {
  F32 gate[K];
  SSMPRESS_UNROLL
  for (size_t k = 0; k < K; ++k) {
    gate[k] = g.args->gate_first ? Set(1.0f) : lanes.Load(g.z + i + k * kLanes);
  }
  if (!g.args->gate_first) Silu(gate);
  const float* from = g.args->gate_first ? g.y : g.x;
  SSMPRESS_UNROLL
  for (size_t k = 0; k < K; ++k) {
    const F32 normal = Mul(lanes.Load(from + i + k * kLanes), scale);
    const F32 weighted = Mul(normal, lanes.Load(g.weight + i + k * kLanes));
    lanes.Store(g.y + i + k * kLanes, Mul(weighted, gate[k]));
  }
}

SSMPRESS_INLINE void NormOneGroup(const NormGroup& g, size_t size) {
  constexpr size_t kStep = kNormVectors * kLanes;
  F32 sums[kNormVectors];
  for (F32& sum : sums) sum = Zero();
  size_t i = 0;
  for (; i + kStep <= size; i += kStep) AddSquares(g, i, AllLanes(), sums);
  F32 sum[1] = {Add(Add(sums[0], sums[1]), Add(sums[2], sums[3]))};
  for (; i + kLanes <= size; i += kLanes) AddSquares(g, i, AllLanes(), sum);
  if (i < size) AddSquares(g, i, FirstLanes(size - i), sum);
  const float mean = HorizontalSum(sum[0]) / static_cast<float>(size);
  const F32 scale = Set(1.0f / sqrtf(mean + g.args->epsilon));
  i = 0;
  for (; i + kStep <= size; i += kStep) FinishNorm<kNormVectors>(g, i, AllLanes(), scale);
  for (; i + kLanes <= size; i += kLanes) FinishNorm<1>(g, i, AllLanes(), scale);
  if (i < size) FinishNorm<1>(g, i, FirstLanes(size - i), scale);
}

void RunGatedRmsNormBlock(const GatedRmsNormBlock& block) {
  const GatedRmsNorm& a = *block.args;
  const size_t size = a.d / a.groups;
  for (size_t first = block.token_begin * a.d; first < block.token_end * a.d; first += size) {
    NormOneGroup({&a, a.x + first, a.z + first, a.weight + first % a.d, a.y + first}, size);
  }
}
