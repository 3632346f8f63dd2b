// SPDX-License-Identifier: Apache-2.0
// SelectiveScan, vectorised over channels: every lane is a channel, so nothing is summed across
// lanes and a partial vector gives the same bits. Included by a kernels_<isa>.cc.

// Where a block's A and h lie: in the tensors for one token, in scratch for many. With d_inner 1536
// the rows of the tensors are 6 KiB apart and evict each other from an 8-way L1 cache; in scratch
// they are neighbours.
struct ScanRows {
  const float* A;
  size_t A_stride;
  const float* h_in;
  size_t h_in_stride;
  float* h_out;
  size_t h_out_stride;
  const float* longest;  // the longest dt for Decay<true>; nullptr: not known
};

// The two kinds of scan: SelectiveScan, all of which is known when compiling, and UngatedScan.
struct GatedScan {
  explicit GatedScan(const SelectiveScanBlock&) {}
  static constexpr bool kGate = true, softplus = true;
  static constexpr ptrdiff_t step = 1;
};
struct PlainScan {
  explicit PlainScan(const SelectiveScanBlock& block)
      : softplus(block.options.softplus),
        offset(block.options.offset),
        step(block.options.reverse ? -1 : 1) {}
  static constexpr bool kGate = false;
  bool softplus;
  float offset;    // of dt
  ptrdiff_t step;  // tokens
};

// Tokens of a vector of channels, and what its states share for each.
constexpr size_t kScanRun = 8;
template <size_t kMost, class KindOfScan>
struct ScanRun {
  using Kind = KindOfScan;
  explicit ScanRun(Kind k) : kind(k) {}
  Kind kind;
  size_t token, tokens;
  Step dt[kMost];
  F32 dt_u[kMost], y[kMost];
  F32 longest;  // dt

  // Tokens whose softplus and SiLU run side by side.
  static constexpr size_t kTogether = kMost < 4 ? kMost : 4;

  // Known when compiling where there is one token only: decoding takes no loop over tokens, and
  // fetches A and h ahead, which come from memory. Its rows are pages apart, so that no prefetcher
  // follows them. state_out is not fetched: whole lines are written, and need not be read before.
  static constexpr bool kOnce = kMost == 1;
  SSMPRESS_INLINE size_t Tokens() const { return kOnce ? 1 : tokens; }

  // Floats from one token to the next one taken, in rows of `row`.
  SSMPRESS_INLINE ptrdiff_t Stride(size_t row) const {
    return kind.step * static_cast<ptrdiff_t>(row);
  }
  // The t-th token of the run, in rows of `row`.
  SSMPRESS_INLINE ptrdiff_t At(size_t t, size_t row) const {
    return static_cast<ptrdiff_t>(token * row) + static_cast<ptrdiff_t>(t) * Stride(row);
  }
};

// kTokens tokens from the t-th of the run on, of the channels in `lanes`, which start at channel d.
template <size_t kTokens, class Run, class Lanes>
SSMPRESS_INLINE void StartTokens(const SelectiveScan& s, Run& run, size_t t, size_t d,
                                 Lanes lanes) {
  F32 dt[kTokens];
  SSMPRESS_UNROLL
  for (size_t k = 0; k < kTokens; ++k) {
    dt[k] = Add(lanes.Load(s.delta + run.At(t + k, s.d) + d), lanes.Load(s.delta_bias + d));
  }
  if (run.kind.softplus) Softplus(dt);
  if constexpr (!Run::Kind::kGate) {
    SSMPRESS_UNROLL
    for (size_t k = 0; k < kTokens; ++k) dt[k] = Add(dt[k], Set(run.kind.offset));
  }
  SSMPRESS_UNROLL
  for (size_t k = 0; k < kTokens; ++k) {
    const F32 u = lanes.Load(s.u + run.At(t + k, s.d) + d);
    const F32 size = Run::Kind::kGate ? dt[k] : Sub(Zero(), NegativeAbs(dt[k]));
    run.longest = MaxKeepNan(size, run.longest);
    run.dt[t + k] = StepOf(dt[k]);
    run.dt_u[t + k] = Mul(dt[k], u);
    run.y[t + k] = Mul(lanes.Load(s.D + d), u);
  }
}

template <size_t kTokens, class Run, class Lanes>
SSMPRESS_INLINE void FinishTokens(const SelectiveScan& s, const Run& run, size_t t, size_t d,
                                  Lanes lanes) {
  if constexpr (!Run::Kind::kGate) {
    SSMPRESS_UNROLL
    for (size_t k = 0; k < kTokens; ++k) {
      lanes.Store(s.y + run.At(t + k, s.d) + d, run.y[t + k]);
    }
    return;
  }
  F32 gate[kTokens];
  SSMPRESS_UNROLL
  for (size_t k = 0; k < kTokens; ++k) gate[k] = lanes.Load(s.z + run.At(t + k, s.d) + d);
  Silu(gate);
  SSMPRESS_UNROLL
  for (size_t k = 0; k < kTokens; ++k) {
    lanes.Store(s.y + run.At(t + k, s.d) + d, Mul(run.y[t + k], gate[k]));
  }
}

// Begins to fetch what lies kStepAhead channels further, perhaps beyond the tensor.
SSMPRESS_INLINE void FetchAhead(const float* p) {
  const uintptr_t ahead = reinterpret_cast<uintptr_t>(p) + kStepAhead * sizeof(float);
  __builtin_prefetch(reinterpret_cast<const void*>(ahead));
}

// kStates states from n on: h stays in registers for the whole run.
template <bool kBounded, size_t kStates, class Run, class Lanes>
SSMPRESS_INLINE void ScanStates(const SelectiveScan& s, Run& run, size_t n, Lanes lanes,
                                const ScanRows& rows) {
  F32 A[kStates], h[kStates], decay[kStates];
  SSMPRESS_UNROLL
  for (size_t k = 0; k < kStates; ++k) {
    if constexpr (Run::kOnce && kStepAhead > 0) {
      FetchAhead(rows.A + (n + k) * rows.A_stride);
      FetchAhead(rows.h_in + (n + k) * rows.h_in_stride);
    }
    A[k] = lanes.Load(rows.A + (n + k) * rows.A_stride);
    h[k] = lanes.Load(rows.h_in + (n + k) * rows.h_in_stride);
  }
  const float* B = s.B + run.token * s.n + n;
  const float* C = s.C + run.token * s.n + n;
  const ptrdiff_t next = run.Stride(s.n);
  for (size_t t = 0; t < run.Tokens(); ++t, B += next, C += next) {
    Decay<kBounded>(run.dt[t], A, decay);
    F32 y = run.y[t];
    SSMPRESS_UNROLL
    for (size_t k = 0; k < kStates; ++k) {
      h[k] = Fma(decay[k], h[k], Mul(run.dt_u[t], Set(B[k])));
      y = Fma(Set(C[k]), h[k], y);
    }
    run.y[t] = y;
  }
  SSMPRESS_UNROLL
  for (size_t k = 0; k < kStates; ++k) lanes.Store(rows.h_out + (n + k) * rows.h_out_stride, h[k]);
}

template <bool kBounded, class Run, class Lanes>
SSMPRESS_INLINE void ScanAllStates(const SelectiveScan& s, Run& run, Lanes lanes,
                                   const ScanRows& rows) {
  size_t n = 0;
  for (; n + kScanStates <= s.n; n += kScanStates) {
    ScanStates<kBounded, kScanStates>(s, run, n, lanes, rows);
  }
  for (; n < s.n; ++n) ScanStates<kBounded, 1>(s, run, n, lanes, rows);
}

// The tokens of `run`, of the channels in `lanes`, which start at channel d; `rows` point at it.
template <class Run, class Lanes>
SSMPRESS_INLINE void ScanChannels(const SelectiveScan& s, Run& run, size_t d, Lanes lanes,
                                  const ScanRows& rows) {
  constexpr size_t kTokens = Run::kTogether;
  run.longest = Zero();
  size_t t = 0;
  for (; t + kTokens <= run.Tokens(); t += kTokens) StartTokens<kTokens>(s, run, t, d, lanes);
  for (; t < run.Tokens(); ++t) StartTokens<1>(s, run, t, d, lanes);
  bool bounded = false;
  if constexpr (kScanBound > 0) {
    bounded = rows.longest != nullptr && NoneLess(lanes.Load(rows.longest), run.longest);
  }
  if (bounded) {
    ScanAllStates<true>(s, run, lanes, rows);
  } else {
    ScanAllStates<false>(s, run, lanes, rows);
  }
  t = 0;
  for (; t + kTokens <= run.Tokens(); t += kTokens) FinishTokens<kTokens>(s, run, t, d, lanes);
  for (; t < run.Tokens(); ++t) FinishTokens<1>(s, run, t, d, lanes);
}

template <size_t kMost, class Kind>
void ScanTokens(const SelectiveScan& s, Kind kind, size_t token, size_t tokens, size_t d,
                size_t end, const ScanRows& rows) {
  ScanRun<kMost, Kind> run(kind);
  run.token = token;
  run.tokens = tokens;
  ScanRows at = rows;
  for (; d + kLanes <= end; d += kLanes) {
    ScanChannels(s, run, d, AllLanes(), at);
    at.A += kLanes;
    at.h_in += kLanes;
    at.h_out += kLanes;
    if (at.longest != nullptr) at.longest += kLanes;
  }
  if (d < end) ScanChannels(s, run, d, FirstLanes(end - d), at);
}

// Channels [begin, end) of a block in scratch memory: A, h, and the longest dt.
struct ScanGroup {
  size_t begin, end;
  float *A, *h, *longest;
};

ScanGroup GroupOf(const SelectiveScanBlock& block, size_t i) {
  const size_t n = block.args->n, begin = block.channel_begin + i * kScanChannels;
  const size_t rest = block.channel_end - begin;
  float* A = block.scratch + i * ScanGroupFloats(n);
  float* h = A + n * kScanChannels;
  return {begin, begin + (rest < kScanChannels ? rest : kScanChannels), A, h,
          h + n * kScanChannels};
}

// The dt of each channel up to which |dt·A| stays within kScanBound.
SSMPRESS_INLINE void FindLongest(const SelectiveScan& s, const ScanGroup& g) {
  const size_t channels = g.end - g.begin;
  float largest[kScanChannels] = {};
  for (size_t n = 0; n < s.n; ++n) {
    for (size_t c = 0; c < channels; ++c) {
      const float size = std::fabs(g.A[n * kScanChannels + c]);
      largest[c] = size > largest[c] ? size : largest[c];
    }
  }
  for (size_t c = 0; c < channels; ++c) g.longest[c] = kScanBound / largest[c];
}

void LoadGroup(const SelectiveScan& s, const float* state, const ScanGroup& g) {
  const size_t bytes = (g.end - g.begin) * sizeof(float);
  for (size_t n = 0; n < s.n; ++n) {
    std::memcpy(g.A + n * kScanChannels, s.A + n * s.d + g.begin, bytes);
    std::memcpy(g.h + n * kScanChannels, state + n * s.d + g.begin, bytes);
  }
  if constexpr (kScanBound > 0) FindLongest(s, g);
}

template <class Kind>
void RunScanBlock(const SelectiveScanBlock& block) {
  const SelectiveScan& s = *block.args;
  const Kind kind(block);
  const size_t first = block.batch * s.l + (kind.step < 0 && s.l > 0 ? s.l - 1 : 0);
  const float* state = s.state + block.batch * s.n * s.d;
  float* state_out = s.state_out + block.batch * s.n * s.d;
  if (block.scratch == nullptr) {
    const size_t d = block.channel_begin;
    ScanTokens<1>(s, kind, first, 1, d, block.channel_end,
                  {s.A + d, s.d, state + d, s.d, state_out + d, s.d, nullptr});
    return;
  }
  const size_t groups =
      (block.channel_end - block.channel_begin + kScanChannels - 1) / kScanChannels;
  for (size_t i = 0; i < groups; ++i) LoadGroup(s, state, GroupOf(block, i));
  for (size_t run = 0; run < s.l; run += kScanRun) {
    const size_t tokens = s.l - run < kScanRun ? s.l - run : kScanRun;
    for (size_t i = 0; i < groups; ++i) {
      const ScanGroup g = GroupOf(block, i);
      const ScanRows rows = {g.A, kScanChannels, g.h, kScanChannels, g.h, kScanChannels, g.longest};
      const size_t token = kind.step < 0 ? first - run : first + run;
      ScanTokens<kScanRun>(s, kind, token, tokens, g.begin, g.end, rows);
    }
  }
  for (size_t i = 0; i < groups; ++i) {
    const ScanGroup g = GroupOf(block, i);
    for (size_t n = 0; n < s.n; ++n) {
      std::memcpy(state_out + n * s.d + g.begin, g.h + n * kScanChannels,
                  (g.end - g.begin) * sizeof(float));
    }
  }
}
