// SPDX-License-Identifier: Apache-2.0
// SsdScan and GatedRMSNorm against their definitions in float64. Included by kernels_test.cc inside
// its namespace.

struct SsdCase {
  size_t b, l, h, p, g, n;
  Floats x, delta, bias, A, B, C, D, state, y, out;
  float dt_min = 0.0f, dt_max = 3.4028235e38f;
  SsdCase(Random& r, size_t b_, size_t l_, size_t g_, size_t each, size_t p_, size_t n_)
      : b(b_),
        l(l_),
        h(g_ * each),
        p(p_),
        g(g_),
        n(n_),
        x(Draw(r, b * l * h * p, -2, 2)),
        delta(Draw(r, b * l * h, -8, 4)),
        bias(Draw(r, h, -1, 1)),
        A(Draw(r, h, -16, -0.01f)),
        B(Draw(r, b * l * g * n, -1, 1)),
        C(Draw(r, b * l * g * n, -1, 1)),
        D(Draw(r, h * p, -1, 1)),
        state(Draw(r, b * h * n * p, -1, 1)),
        y(b * l * h * p),
        out(b * h * n * p) {}
  SsdScan Args() {
    return {b,       l,           h,          p,       g,       n,
            x.get(), delta.get(), bias.get(), A.get(), B.get(), C.get(),
            D.get(), state.get(), dt_min,     dt_max,  y.get(), out.get()};
  }
  double StepSize(size_t token, size_t head) {
    const double dt = Softplus(static_cast<double>(delta[token * h + head]) + bias[head]);
    return std::min(std::max(dt, static_cast<double>(dt_min)), static_cast<double>(dt_max));
  }
};

// Rounding errors, as of the selective scan: 8 eps of what a token adds, 2 eps of what it keeps,
// over l tokens. In chunks C·B sums n products, a row of weights l of those: y has n + l roundings
// more. `scale` sums absolute values.
void CheckSsd(const Isa& isa, SsdCase& c, const char* how, Floats& y, Floats& out) {
  std::vector<double> S(c.n), scale(c.n);
  for (size_t column = 0; column < c.b * c.h * c.p; ++column) {
    const size_t i = column / c.p / c.h, head = column / c.p % c.h, j = column % c.p;
    const size_t group = head / (c.h / c.g), state = (i * c.h + head) * c.n * c.p + j;
    for (size_t n = 0; n < c.n; ++n) {
      S[n] = c.state[state + n * c.p];
      scale[n] = std::fabs(S[n]);
    }
    for (size_t t = i * c.l; t < (i + 1) * c.l; ++t) {
      const size_t at = (t * c.h + head) * c.p + j, row = (t * c.g + group) * c.n;
      const double dt = c.StepSize(t, head), decay = std::exp(dt * c.A[head]);
      double expected = c.D[head * c.p + j] * static_cast<double>(c.x[at]);
      double bound = std::fabs(expected);
      for (size_t n = 0; n < c.n; ++n) {
        const double added = dt * c.x[at] * c.B[row + n];
        S[n] = decay * S[n] + added;
        scale[n] = decay * scale[n] + std::fabs(added);
        expected += c.C[row + n] * S[n];
        bound += std::fabs(c.C[row + n]) * scale[n];
      }
      Check(std::fabs(y[at] - expected) <= (16.0 + 3.0 * c.l + c.n) * kEps * bound,
            "ssd %s %s b%zu l%zu h%zu p%zu g%zu n%zu: y[%zu] = %g, expected %g", IsaName(isa), how,
            c.b, c.l, c.h, c.p, c.g, c.n, at, y[at], expected);
    }
    for (size_t n = 0; n < c.n; ++n) {
      const size_t at = state + n * c.p;
      Check(std::fabs(out[at] - S[n]) <= (16.0 + 3.0 * c.l) * kEps * scale[n],
            "ssd %s %s l%zu n%zu: state_out[%zu] = %g, expected %g", IsaName(isa), how, c.l, c.n,
            at, out[at], S[n]);
    }
  }
}

// The same bits from 2 and 4 threads and in place; in two pieces, and token by token, as exact.
void CheckSsdInvariance(const Isa& isa, SsdCase& c, size_t first) {
  Floats y(c.y.size()), out(c.out.size()), state = c.state;
  for (size_t count : {2, 4}) {
    Threads threads{count};
    SsdScan args = c.Args();
    args.y = y.get();
    args.state_out = out.get();
    Check(RunSsdScan(isa, args, {RunOnThreads, &threads}), "ssd: out of memory");
    Check(SameBits(y, c.y, y.size()) && SameBits(out, c.out, out.size()),
          "ssd %s: %zu threads change the result", IsaName(isa), count);
  }
  SsdScan in_place = c.Args();
  in_place.y = y.get();
  in_place.state = in_place.state_out = state.get();
  RunSsdScan(isa, in_place, RunSerially());
  Check(SameBits(y, c.y, y.size()) && SameBits(state, c.out, out.size()), "ssd %s: in place",
        IsaName(isa));
  if (c.b != 1) return;
  for (size_t step : {first, size_t{1}}) {
    if (step == 0 || step > c.l) continue;
    state = c.state;
    for (size_t t = 0; t < c.l;) {
      SsdScan args = c.Args();
      args.l = step == 1 ? 1 : t == 0 ? step : c.l - t;
      args.x += t * c.h * c.p;
      args.delta += t * c.h;
      args.B += t * c.g * c.n;
      args.C += t * c.g * c.n;
      args.y = y.get() + t * c.h * c.p;
      args.state = args.state_out = state.get();
      RunSsdScan(isa, args, RunSerially());
      t += args.l;
    }
    CheckSsd(isa, c, step == 1 ? "steps" : "pieces", y, state);
  }
}

void TestSsdCase(const Isa& isa, SsdCase& c, size_t first) {
  Check(RunSsdScan(isa, c.Args(), RunSerially()), "ssd: out of memory");
  CheckSsd(isa, c, "whole", c.y, c.out);
  CheckSsdInvariance(isa, c, first);
}

// What is not a number stays in its channel and head, and never goes back in time.
void TestSsdNan(const Isa& isa, Random& random) {
  for (size_t bad : {0, 1, 7, 40, 66}) {
    SsdCase c(random, 1, 70, 1, 3, 5, 4);
    c.x[(bad * 3 + 1) * 5 + 2] = NAN;  // head 1, channel 2
    c.delta[(bad + 1) * 3 + 2] = NAN;  // head 2, one token later
    RunSsdScan(isa, c.Args(), RunSerially());
    for (size_t at = 0; at < c.y.size(); ++at) {
      const size_t t = at / 15, head = at / 5 % 3;
      const bool expected = (head == 1 && at % 5 == 2 && t >= bad) || (head == 2 && t > bad);
      Check(std::isnan(c.y[at]) == expected, "ssd %s: NaN from token %zu on, at %zu", IsaName(isa),
            bad, at);
    }
  }
}

void TestSsd(const Isa& isa, Random& random, int cases) {
  for (int i = 0; i < cases; ++i) {
    const size_t l = random.Size(8, {17, 31, 33, 45, 64, 65, 130});
    SsdCase c(random, random.Below(3), l, 1 + random.Below(3), 1 + random.Below(3),
              1 + random.Size(16, {31, 47, 64}), 1 + random.Size(17, {31, 32}));
    if (i % 2 == 0) c.dt_min = 0.01f, c.dt_max = 0.5f;
    TestSsdCase(isa, c, random.Below(l + 1));
  }
  SsdCase large(random, 2, 20, 1, 24, 32, 16);  // enough work for threads, heads of several blocks
  TestSsdCase(isa, large, 0);
  SsdCase grouped(random, 2, 70, 3, 2, 9, 7);
  TestSsdCase(isa, grouped, 0);
  SsdCase official(random, 1, 150, 1, 2, 64, 128);
  TestSsdCase(isa, official, 77);
  SsdCase forgetful(random, 1, 140, 1, 4, 8, 8);  // decays that are 0, between some that are not
  forgetful.A[0] = -1e30f, forgetful.A[1] = -300.0f, forgetful.A[2] = -0.0f;
  for (size_t t = 0; t < 140; ++t) {
    forgetful.delta[t * 4] = t % 3 == 0 ? 4.0f : -80.0f;
    forgetful.delta[t * 4 + 1] = t % 3 == 0 ? 4.0f : -9.0f;
  }
  TestSsdCase(isa, forgetful, 70);
  TestSsdNan(isa, random);
}

// ---- GatedRMSNorm ----

// v = x·silu(z) is off by 9 eps, the sum of squares by twice that and a rounding for each, the root
// by half of it; and some products.
void TestGatedNormCase(const Isa& isa, Random& random, size_t tokens, size_t groups, size_t size,
                       bool gate_first) {
  const size_t d = groups * size;
  Floats x = Draw(random, tokens * d, -2, 2), z = Draw(random, tokens * d, -9, 9);
  Floats weight = Draw(random, d, -1, 1), y(tokens * d), y2(tokens * d);
  GatedRmsNorm args = {tokens,  d,       groups,       gate_first, 1e-5f,
                       x.get(), z.get(), weight.get(), y.get()};
  RunGatedRmsNorm(isa, args, RunSerially());
  for (size_t first = 0; first < tokens * d; first += size) {
    double sum = 0;
    for (size_t at = first; at < first + size; ++at) {
      const double v = gate_first ? x[at] * Silu(z[at]) : x[at];
      sum += v * v;
    }
    const double root = std::sqrt(sum / size + static_cast<double>(args.epsilon));
    for (size_t at = first; at < first + size; ++at) {
      const double expected = x[at] * Silu(z[at]) / root * weight[at % d];
      Check(std::fabs(y[at] - expected) <= (24 + size / 2.0) * kEps * std::fabs(expected),
            "gated norm %s t%zu groups%zu size%zu first%d: y[%zu] = %g, expected %g", IsaName(isa),
            tokens, groups, size, gate_first, at, y[at], expected);
    }
  }
  args.y = y2.get();
  Threads threads{4};
  RunGatedRmsNorm(isa, args, {RunOnThreads, &threads});
  Check(SameBits(y, y2, y.size()), "gated norm %s: threads", IsaName(isa));
}

void TestGatedNorm(const Isa& isa, Random& random, int cases) {
  for (int i = 0; i < cases; ++i) {
    TestGatedNormCase(isa, random, random.Size(5, {17, 33}), 1 + random.Below(4),
                      1 + random.Size(40, {63, 64, 130}), i % 2 == 0);
  }
  TestGatedNormCase(isa, random, 40, 2, 300, true);  // enough work for threads
  TestGatedNormCase(isa, random, 40, 1, 600, false);
}
