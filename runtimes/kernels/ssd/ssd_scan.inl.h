// SPDX-License-Identifier: Apache-2.0
// SsdScan, vectorised over the channels of a head. One token streams the state; several are taken
// in chunks, as products of small matrices, so that the state is read twice and written once a
// chunk. Included by a kernels_<isa>.cc inside its namespace.
//
// With L_t the sum of dt·A over the chunk's tokens up to t, and S the state before the chunk:
//
//     y_t = exp(L_t) C_tᵀS + Σ_{s<=t} (C_t·B_s) exp(L_t - L_s) dt_s x_s + D x_t
//     S   becomes exp(L_q) S + Σ_s B_s (exp(L_q - L_s) dt_s x_s)ᵀ
//
// Source: arXiv 2405.21060, section 6.

// A decay below exp(-200) is 0 in float32. Bounded, the sum of a chunk stays small enough for two
// floats to hold its differences to 24 bits of what matters.
constexpr double kLongestDecay = -200.0;

// Memory of a block, in rows of q = kSsdChunk tokens.
struct SsdWork {
  size_t n_row;
  float *B, *C;      // (q, n_row), zero from n on
  float* B_columns;  // (n_row, q)
  float* shared;     // (q, q): C_t·B_s
  float* weights;    // (q, q): what y_t takes of x_s
  float *x, *added;  // (q, p); added: what the state at the chunk's end takes, without B
  // (heads, q): dt, L in two floats, exp(L), exp(L_q - L)·dt
  float *dt, *high, *low, *decay, *left;
};

SsdWork SsdWorkOf(const SsdScanBlock& block) {
  const size_t n_row = SsdRow(block.args->n), p = block.args->p;
  float* at = block.scratch;
  auto take = [&at](size_t floats) {
    float* taken = at;
    at += floats;
    return taken;
  };
  constexpr size_t q = kSsdChunk;
  SsdWork w;
  w.n_row = n_row;
  w.B = take(q * n_row), w.C = take(q * n_row), w.B_columns = take(q * n_row);
  w.shared = take(q * q), w.weights = take(q * q);
  w.dt = take(kSsdHeads * q), w.high = take(kSsdHeads * q), w.low = take(kSsdHeads * q);
  w.decay = take(kSsdHeads * q), w.left = take(kSsdHeads * q);
  w.x = take(q * p), w.added = take(q * p);
  return w;
}

// dt of `count` numbers that hold delta + delta_bias, in place; count is a multiple of kLanes.
SSMPRESS_INLINE void StepSizes(const SsdScan& s, float* dt, size_t count) {
  size_t i = 0;
  for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
    F32 v[] = {Load(dt + i), Load(dt + i + kLanes)};
    Softplus(v);
    Store(dt + i, v[0]);
    Store(dt + i + kLanes, v[1]);
  }
  if (i < count) {
    F32 v[] = {Load(dt + i)};
    Softplus(v);
    Store(dt + i, v[0]);
  }
  for (size_t t = 0; t < count; ++t) {  // keeps NaN
    const float raised = dt[t] < s.dt_min ? s.dt_min : dt[t];
    dt[t] = raised > s.dt_max ? s.dt_max : raised;
  }
}

// C_t·B_s of R tokens and V vectors of tokens.
struct SharedTile {
  const SsdWork* w;
  template <size_t R, size_t V, class Lanes>
  SSMPRESS_INLINE void Run(size_t t, size_t column, Lanes lanes) const {
    if (column > t + R - 1) return;  // later tokens only
    F32 sums[R][V];
    SSMPRESS_UNROLL
    for (size_t r = 0; r < R; ++r) {
      SSMPRESS_UNROLL
      for (size_t v = 0; v < V; ++v) sums[r][v] = Zero();
    }
    AddProduct<R, V>({w->C + t * w->n_row, w->n_row, 1}, {w->B_columns + column, kSsdChunk},
                     w->n_row, lanes, sums);
    SSMPRESS_UNROLL
    for (size_t r = 0; r < R; ++r) {
      SSMPRESS_UNROLL
      for (size_t v = 0; v < V; ++v) {
        lanes.Store(w->shared + (t + r) * kSsdChunk + column + v * kLanes, sums[r][v]);
      }
    }
  }
};

// Copies the B and C of a chunk of `tokens`, and computes what all heads of the group share.
void LoadShared(const SsdScan& s, const SsdWork& w, size_t token, size_t tokens, size_t group) {
  const size_t rows = (tokens + kLanes - 1) / kLanes * kLanes;
  for (size_t t = 0; t < rows; ++t) {
    float *B = w.B + t * w.n_row, *C = w.C + t * w.n_row;
    const size_t copied = t < tokens ? s.n : 0;
    if (copied != 0) {
      const size_t from = ((token + t) * s.g + group) * s.n;
      std::memcpy(B, s.B + from, s.n * sizeof(float));
      std::memcpy(C, s.C + from, s.n * sizeof(float));
    }
    std::memset(B + copied, 0, (w.n_row - copied) * sizeof(float));
    std::memset(C + copied, 0, (w.n_row - copied) * sizeof(float));
  }
  for (size_t t = 0; t < rows; t += kLanes) {
    for (size_t i = 0; i < w.n_row; i += kLanes) {
      F32 tile[kLanes];
      for (size_t r = 0; r < kLanes; ++r) tile[r] = Load(w.B + (t + r) * w.n_row + i);
      Transpose(tile);
      for (size_t r = 0; r < kLanes; ++r) Store(w.B_columns + (i + r) * kSsdChunk + t, tile[r]);
    }
  }
  EachTile(SharedTile{&w}, tokens, rows);
}

// dt, L and the decays of every head of a block, in whole vectors: tokens beyond the last repeat
// it.
void LoadSteps(const SsdScan& s, const SsdWork& w, const SsdScanBlock& block, size_t token,
               size_t tokens) {
  const size_t rows = (tokens + kLanes - 1) / kLanes * kLanes;
  for (size_t head = block.head_begin; head < block.head_end; ++head) {
    const size_t row = (head - block.head_begin) * kSsdChunk;
    float *dt = w.dt + row, *high = w.high + row, *low = w.low + row;
    for (size_t t = 0; t < rows; ++t) {
      const size_t at = token + (t < tokens ? t : tokens - 1);
      dt[t] = s.delta[at * s.h + head] + s.delta_bias[head];
    }
    StepSizes(s, dt, rows);
    double sum = 0.0;
    for (size_t t = 0; t < tokens; ++t) {
      const double step = static_cast<double>(dt[t]) * static_cast<double>(s.A[head]);
      sum += step < kLongestDecay ? kLongestDecay : step;
      high[t] = static_cast<float>(sum);
      low[t] = static_cast<float>(sum - static_cast<double>(high[t]));
    }
    for (size_t t = tokens; t < rows; ++t) high[t] = high[tokens - 1], low[t] = low[tokens - 1];
    const F32 last_high = Set(high[tokens - 1]), last_low = Set(low[tokens - 1]);
    for (size_t t = 0; t < rows; t += kLanes) {
      const F32 h = Load(high + t), l = Load(low + t);
      F32 decays[] = {Add(h, l), Add(Sub(last_high, h), Sub(last_low, l))};
      Exp(decays);
      Store(w.decay + row + t, decays[0]);
      Store(w.left + row + t, Mul(decays[1], Load(dt + t)));
    }
  }
}

// A head of a block at work on a chunk.
struct SsdHead {
  const SsdScan* args;
  const SsdWork* w;
  size_t tokens;
  size_t next;  // floats to the next head of the block; 0 for the last
  const float *dt, *high, *low, *decay, *left;
  const float *x, *D, *state;  // of the head: x (q, h, p)
  float *y, *state_out;        // of the head: y (q, h, p)
};

SsdHead SsdHeadOf(const SsdScanBlock& block, size_t head, size_t token) {
  const SsdScan& s = *block.args;
  const size_t state = (block.batch * s.h + head) * s.n * s.p, x = (token * s.h + head) * s.p;
  const bool first = token == block.batch * s.l;
  SsdHead made = {};
  made.args = &s;
  made.x = s.x + x, made.y = s.y + x, made.D = s.D + head * s.p;
  made.state = (first ? s.state : s.state_out) + state, made.state_out = s.state_out + state;
  return made;
}

// x, side by side, and its share in the state. The next head's rows of x and y are pages apart, and
// called for here: 512 tokens take a twentieth less.
SSMPRESS_INLINE void LoadX(const SsdHead& head) {
  const SsdScan& s = *head.args;
  for (size_t t = 0; t < head.tokens; ++t) {
    const float* from = head.x + t * s.h * s.p;
    float *x = head.w->x + t * s.p, *added = head.w->added + t * s.p;
    const float* y = head.y + t * s.h * s.p;
    const float left = head.left[t];
    for (size_t j = 0; j < s.p; j += 16) {
      __builtin_prefetch(from + head.next + j);
      __builtin_prefetch(y + head.next + j, 1);
    }
    for (size_t j = 0; j < s.p; ++j) {
      x[j] = from[j];
      added[j] = left * from[j];
    }
  }
}

// Rows t.. of the weights, up to the vector that holds the last of them.
template <size_t K>
SSMPRESS_INLINE void WeightRows(const SsdHead& head, size_t t) {
  for (size_t s = 0; s < t + K; s += kLanes) {
    const F32 high = Load(head.high + s), low = Load(head.low + s), dt = Load(head.dt + s);
    F32 decay[K];
    SSMPRESS_UNROLL
    for (size_t k = 0; k < K; ++k) {
      decay[k] = Add(Sub(Set(head.high[t + k]), high), Sub(Set(head.low[t + k]), low));
    }
    Exp(decay);
    SSMPRESS_UNROLL
    for (size_t k = 0; k < K; ++k) {
      const size_t at = (t + k) * kSsdChunk + s;
      Store(head.w->weights + at, Mul(Mul(decay[k], dt), Load(head.w->shared + at)));
    }
  }
}

// y of R tokens and V vectors of channels.
struct OutputTile {
  const SsdHead* head;
  template <size_t R, size_t V, class Lanes>
  SSMPRESS_INLINE void Run(size_t t, size_t column, Lanes lanes) const {
    const SsdScan& s = *head->args;
    const SsdWork& w = *head->w;
    F32 sums[R][V];
    SSMPRESS_UNROLL
    for (size_t r = 0; r < R; ++r) {
      SSMPRESS_UNROLL
      for (size_t v = 0; v < V; ++v) sums[r][v] = Zero();
    }
    AddProduct<R, V>({w.C + t * w.n_row, w.n_row, 1}, {head->state + column, s.p}, s.n, lanes,
                     sums);
    SSMPRESS_UNROLL
    for (size_t r = 0; r < R; ++r) {
      const F32 decay = Set(head->decay[t + r]);
      SSMPRESS_UNROLL
      for (size_t v = 0; v < V; ++v) sums[r][v] = Mul(sums[r][v], decay);
    }
    const float *weights = w.weights + t * kSsdChunk, *x = w.x + column;
    AddProduct<R, V>({weights, kSsdChunk, 1}, {x, s.p}, t, lanes, sums);
    AddTriangle<R, V>({weights + t, kSsdChunk, 1}, {x + t * s.p, s.p}, lanes, sums);
    SSMPRESS_UNROLL
    for (size_t r = 0; r < R; ++r) {
      SSMPRESS_UNROLL
      for (size_t v = 0; v < V; ++v) {
        const F32 skip = lanes.Load(head->D + column + v * kLanes);
        const F32 own = lanes.Load(x + (t + r) * s.p + v * kLanes);
        lanes.Store(head->y + (t + r) * s.h * s.p + column + v * kLanes,
                    Fma(skip, own, sums[r][v]));
      }
    }
  }
};

// R rows of the state and V vectors of channels.
struct StateTile {
  const SsdHead* head;
  template <size_t R, size_t V, class Lanes>
  SSMPRESS_INLINE void Run(size_t i, size_t column, Lanes lanes) const {
    const SsdScan& s = *head->args;
    const SsdWork& w = *head->w;
    const F32 decay = Set(head->decay[head->tokens - 1]);
    F32 sums[R][V];
    SSMPRESS_UNROLL
    for (size_t r = 0; r < R; ++r) {
      SSMPRESS_UNROLL
      for (size_t v = 0; v < V; ++v) {
        sums[r][v] = Mul(decay, lanes.Load(head->state + (i + r) * s.p + column + v * kLanes));
      }
    }
    AddProduct<R, V>({w.B + i, 1, w.n_row}, {w.added + column, s.p}, head->tokens, lanes, sums);
    SSMPRESS_UNROLL
    for (size_t r = 0; r < R; ++r) {
      SSMPRESS_UNROLL
      for (size_t v = 0; v < V; ++v) {
        lanes.Store(head->state_out + (i + r) * s.p + column + v * kLanes, sums[r][v]);
      }
    }
  }
};

void RunSsdHead(SsdHead head, const SsdWork& w, size_t index, size_t tokens) {
  const size_t row = index * kSsdChunk;
  head.w = &w, head.tokens = tokens, head.dt = w.dt + row, head.high = w.high + row;
  head.low = w.low + row, head.decay = w.decay + row, head.left = w.left + row;
  LoadX(head);
  size_t t = 0;
  for (; t + 4 <= head.tokens; t += 4) WeightRows<4>(head, t);
  for (; t < head.tokens; ++t) WeightRows<1>(head, t);
  EachTile(OutputTile{&head}, head.tokens, head.args->p);
  EachTile(StateTile{&head}, head.args->n, head.args->p);
}

// Vectors that a head's state is streamed in: whole rows of 64, so that memory is read in order.
constexpr size_t kStreamed = 64 / kLanes;

// One token of V vectors of a head's channels: every row of the state is read and written once.
template <size_t V, class Lanes>
SSMPRESS_INLINE void StreamState(const SsdHead& head, const float* B, const float* C, float step,
                                 float decay, size_t column, Lanes lanes) {
  const SsdScan& s = *head.args;
  const F32 decays = Set(decay);
  F32 x[V], y[V];
  SSMPRESS_UNROLL
  for (size_t v = 0; v < V; ++v) {
    const F32 own = lanes.Load(head.x + column + v * kLanes);
    x[v] = Mul(Set(step), own);
    y[v] = Mul(lanes.Load(head.D + column + v * kLanes), own);
  }
  const float* from = head.state + column;
  float* to = head.state_out + column;
  for (size_t i = 0; i < s.n; ++i, from += s.p, to += s.p) {
    const F32 b = Set(B[i]), c = Set(C[i]);
    SSMPRESS_UNROLL
    for (size_t v = 0; v < V; ++v) {
      const F32 S = Fma(decays, lanes.Load(from + v * kLanes), Mul(b, x[v]));
      lanes.Store(to + v * kLanes, S);
      y[v] = Fma(c, S, y[v]);
    }
  }
  SSMPRESS_UNROLL
  for (size_t v = 0; v < V; ++v) lanes.Store(head.y + column + v * kLanes, y[v]);
}

void RunSsdToken(const SsdScanBlock& block, size_t token) {
  static_assert(kSsdHeads <= kLanes, "the heads of a block are one vector");
  const SsdScan& s = *block.args;
  const size_t heads = block.head_end - block.head_begin;
  const size_t group = block.head_begin / (s.h / s.g);
  const float *B = s.B + (token * s.g + group) * s.n, *C = s.C + (token * s.g + group) * s.n;
  float dt[kLanes] = {}, decay[kLanes];
  for (size_t i = 0; i < heads; ++i) {
    dt[i] = s.delta[token * s.h + block.head_begin + i] + s.delta_bias[block.head_begin + i];
  }
  StepSizes(s, dt, kLanes);
  const FirstLanes lanes(heads);
  F32 decays[] = {Mul(Load(dt), lanes.Load(s.A + block.head_begin))};
  Exp(decays);
  Store(decay, decays[0]);
  for (size_t i = 0; i < heads; ++i) {
    const SsdHead head = SsdHeadOf(block, block.head_begin + i, token);
    size_t c = 0;
    for (; c + kStreamed * kLanes <= s.p; c += kStreamed * kLanes) {
      StreamState<kStreamed>(head, B, C, dt[i], decay[i], c, AllLanes());
    }
    for (; c + kLanes <= s.p; c += kLanes) {
      StreamState<1>(head, B, C, dt[i], decay[i], c, AllLanes());
    }
    if (c < s.p) StreamState<1>(head, B, C, dt[i], decay[i], c, FirstLanes(s.p - c));
  }
}

void RunSsdBlock(const SsdScanBlock& block) {
  const SsdScan& s = *block.args;
  const SsdWork w = block.scratch == nullptr ? SsdWork() : SsdWorkOf(block);
  const size_t group = block.head_begin / (s.h / s.g);
  for (size_t done = 0; done < s.l; done += kSsdChunk) {
    const size_t tokens = s.l - done < kSsdChunk ? s.l - done : kSsdChunk;
    const size_t token = block.batch * s.l + done;
    if (tokens <= kSsdFewTokens) {
      for (size_t t = 0; t < tokens; ++t) RunSsdToken(block, token + t);
      break;
    }
    LoadShared(s, w, token, tokens, group);
    LoadSteps(s, w, block, token, tokens);
    for (size_t head = block.head_begin; head < block.head_end; ++head) {
      SsdHead at = SsdHeadOf(block, head, token);
      at.next = head + 1 < block.head_end ? s.p : 0;
      RunSsdHead(at, w, head - block.head_begin, tokens);
    }
  }
}
