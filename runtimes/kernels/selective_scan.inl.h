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

void ScanTokens(const SelectiveScanBlock& block, size_t token, const ScanRows& rows) {
  size_t d = block.channel_begin;
  ScanRows at = rows;
  for (; d + kLanes <= block.channel_end; d += kLanes) {
    ScanToken(*block.args, token, d, AllLanes(), at);
    at.A += kLanes;
    at.h_in += kLanes;
    at.h_out += kLanes;
  }
  if (d < block.channel_end) {
    ScanToken(*block.args, token, d, FirstLanes(block.channel_end - d), at);
  }
}

void RunScanBlock(const SelectiveScanBlock& block) {
  const SelectiveScan& s = *block.args;
  const size_t first = block.batch * s.l;
  const size_t d = block.channel_begin;
  const float* state = s.state + block.batch * s.n * s.d + d;
  float* state_out = s.state_out + block.batch * s.n * s.d + d;
  if (block.scratch == nullptr) {
    ScanTokens(block, first, {s.A + d, s.d, state, s.d, state_out, s.d});
    return;
  }
  const size_t bytes = (block.channel_end - d) * sizeof(float);
  float* A = block.scratch;
  float* h = block.scratch + s.n * kScanChannels;
  for (size_t n = 0; n < s.n; ++n) {
    std::memcpy(A + n * kScanChannels, s.A + n * s.d + d, bytes);
    std::memcpy(h + n * kScanChannels, state + n * s.d, bytes);
  }
  for (size_t t = 0; t < s.l; ++t) {
    ScanTokens(block, first + t, {A, kScanChannels, h, kScanChannels, h, kScanChannels});
  }
  for (size_t n = 0; n < s.n; ++n) std::memcpy(state_out + n * s.d, h + n * kScanChannels, bytes);
}
