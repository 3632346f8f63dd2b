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
};

// One token of the channels in `lanes`, which start at channel d; `rows` point at that channel.
template <class Lanes>
SSMPRESS_INLINE void ScanToken(const SelectiveScan& s, size_t token, size_t d, Lanes lanes,
                               const ScanRows& rows) {
  const float* B = s.B + token * s.n;
  const float* C = s.C + token * s.n;
  const size_t at = token * s.d + d;
  const F32 u = lanes.Load(s.u + at);
  const F32 dt = Softplus(Add(lanes.Load(s.delta + at), lanes.Load(s.delta_bias + d)));
  const F32 dt_u = Mul(dt, u);
  F32 y = Mul(lanes.Load(s.D + d), u);
  for (size_t n = 0; n < s.n; ++n) {
    const F32 decay = Decay(Mul(dt, lanes.Load(rows.A + n * rows.A_stride)));
    const F32 old_h = lanes.Load(rows.h_in + n * rows.h_in_stride);
    const F32 h = Fma(decay, old_h, Mul(dt_u, Set(B[n])));
    lanes.Store(rows.h_out + n * rows.h_out_stride, h);
    y = Fma(Set(C[n]), h, y);
  }
  lanes.Store(s.y + at, Mul(y, Silu(lanes.Load(s.z + at))));
}

void ScanTokens(const SelectiveScan& s, size_t token, size_t d, size_t end, const ScanRows& rows) {
  ScanRows at = rows;
  for (; d + kLanes <= end; d += kLanes) {
    ScanToken(s, token, d, AllLanes(), at);
    at.A += kLanes;
    at.h_in += kLanes;
    at.h_out += kLanes;
  }
  if (d < end) ScanToken(s, token, d, FirstLanes(end - d), at);
}

// Channels [begin, end) of a block in scratch memory: h behind A.
struct ScanGroup {
  size_t begin, end;
  float* A;
  float* h;
};

ScanGroup GroupOf(const SelectiveScanBlock& block, size_t i) {
  const size_t n = block.args->n, begin = block.channel_begin + i * kScanChannels;
  const size_t rest = block.channel_end - begin;
  float* A = block.scratch + i * 2 * n * kScanChannels;
  return {begin, begin + (rest < kScanChannels ? rest : kScanChannels), A, A + n * kScanChannels};
}

void RunScanBlock(const SelectiveScanBlock& block) {
  constexpr size_t kRun = 8;  // tokens
  const SelectiveScan& s = *block.args;
  const size_t first = block.batch * s.l;
  const float* state = s.state + block.batch * s.n * s.d;
  float* state_out = s.state_out + block.batch * s.n * s.d;
  if (block.scratch == nullptr) {
    const size_t d = block.channel_begin;
    ScanTokens(s, first, d, block.channel_end, {s.A + d, s.d, state + d, s.d, state_out + d, s.d});
    return;
  }
  const size_t groups =
      (block.channel_end - block.channel_begin + kScanChannels - 1) / kScanChannels;
  for (size_t i = 0; i < groups; ++i) {
    const ScanGroup g = GroupOf(block, i);
    for (size_t n = 0; n < s.n; ++n) {
      const size_t bytes = (g.end - g.begin) * sizeof(float);
      std::memcpy(g.A + n * kScanChannels, s.A + n * s.d + g.begin, bytes);
      std::memcpy(g.h + n * kScanChannels, state + n * s.d + g.begin, bytes);
    }
  }
  for (size_t run = 0; run < s.l; run += kRun) {
    const size_t end = run + kRun < s.l ? run + kRun : s.l;
    for (size_t i = 0; i < groups; ++i) {
      const ScanGroup g = GroupOf(block, i);
      const ScanRows rows = {g.A, kScanChannels, g.h, kScanChannels, g.h, kScanChannels};
      for (size_t t = run; t < end; ++t) ScanTokens(s, first + t, g.begin, g.end, rows);
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
