// SPDX-License-Identifier: Apache-2.0
// Every kernel, format and instruction set against its definition in float64, on random shapes.
//
//   kernels_test [--cases N] [--seed S] [--isa NAME]
//
// --isa tests one instruction set, which this CPU must have; without it all are tested, and those
// that this CPU has not are said to be skipped.
//
// Buffers have exactly the promised size and alignment, so that a sanitizer build finds every load
// out of bounds. Prints a line per group; the exit status is 1 when a check failed.
#include "kernels/kernels.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

namespace {

using namespace ssmpress;

constexpr double kEps = 0x1p-24;  // half a unit in the last place of a float in [1, 2)

int passed = 0, failed = 0;

__attribute__((format(printf, 2, 3))) void Check(bool ok, const char* format, ...) {
  if (ok) {
    ++passed;
    return;
  }
  if (++failed > 20) return;  // the first ones tell the story
  va_list arguments;
  va_start(arguments, format);
  std::printf("FAILED: ");
  std::vprintf(format, arguments);
  std::printf("\n");
  va_end(arguments);
}

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Bits() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
  }
  size_t Below(size_t n) { return Bits() % n; }
  float Uniform(float low, float high) {
    return low + (high - low) * static_cast<float>(Bits() >> 40) * 0x1p-24f;
  }
  size_t Pick(const std::vector<size_t>& from) { return from[Below(from.size())]; }
  // Mostly 0 to 2·lanes + 1, sometimes larger.
  size_t Size(size_t small, const std::vector<size_t>& large) {
    return Below(4) == 0 ? Pick(large) : Below(small + 1);
  }

 private:
  uint64_t state_;
};

// n elements at an address that is a multiple of the element size and of little else.
template <class T>
class Buffer {
 public:
  explicit Buffer(size_t n, size_t offset = 1) : data_(n + offset), offset_(offset) {}
  T* get() { return data_.data() + offset_; }
  T& operator[](size_t i) { return data_[offset_ + i]; }
  size_t size() const { return data_.size() - offset_; }

 private:
  std::vector<T> data_;
  size_t offset_;
};
using Floats = Buffer<float>;

Floats Draw(Random& random, size_t n, float low, float high) {
  Floats values(n);
  for (size_t i = 0; i < n; ++i) values[i] = random.Uniform(low, high);
  return values;
}

bool SameBits(Floats& a, Floats& b, size_t n) {
  return n == 0 || std::memcmp(a.get(), b.get(), n * sizeof(float)) == 0;
}

struct Threads {
  size_t count;
};

void RunOnThreads(void* self, size_t count, ParallelFor::Task task, void* context) {
  std::atomic<size_t> next{0};
  auto work = [&] {
    for (size_t i; (i = next.fetch_add(1)) < count;) task(context, i);
  };
  std::vector<std::thread> threads;
  for (size_t i = 1; i < static_cast<Threads*>(self)->count; ++i) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
}

double Softplus(double x) { return x > 20 ? x : std::log1p(std::exp(x)); }
double Silu(double x) { return x / (1 + std::exp(-x)); }

double UlpError(float got, double expected) {
  const float rounded = static_cast<float>(expected);
  const double ulp = std::nextafter(std::fabs(rounded), INFINITY) - std::fabs(rounded);
  return std::fabs(got - expected) / ulp;
}

// ---- SelectiveScan ----

// SelectiveScan, or an UngatedScan with its attributes.
struct ScanKind {
  bool gate, softplus, reverse;
  float offset;
  const char* Name() const {
    if (gate) return "gated";
    return softplus ? reverse ? "softplus, reverse" : "softplus" : reverse ? "reverse" : "plain";
  }
};
constexpr ScanKind kGatedScan = {true, true, false, 0};

struct ScanCase {
  size_t b, l, d, n;
  Floats u, delta, bias, A, B, C, D, z, state, y, out;
  ScanCase(Random& r, size_t b_, size_t l_, size_t d_, size_t n_)
      : b(b_),
        l(l_),
        d(d_),
        n(n_),
        u(Draw(r, b * l * d, -2, 2)),
        delta(Draw(r, b * l * d, -8, 4)),
        bias(Draw(r, d, -1, 1)),
        A(Draw(r, n * d, -16, -0.01f)),
        B(Draw(r, b * l * n, -1, 1)),
        C(Draw(r, b * l * n, -1, 1)),
        D(Draw(r, d, -1, 1)),
        z(Draw(r, b * l * d, -9, 9)),
        state(Draw(r, b * n * d, -1, 1)),
        y(b * l * d),
        out(b * n * d) {}
  SelectiveScan Args() {
    return {b,       l,       d,       n,       u.get(),     delta.get(), bias.get(), A.get(),
            B.get(), C.get(), D.get(), z.get(), state.get(), y.get(),     out.get()};
  }
  // Step sizes instead of what softplus makes them of; some of them below 0.
  void MakeSteps(Random& r) {
    delta = Draw(r, b * l * d, -0.05f, 3);
    bias = Draw(r, d, -0.05f, 1);
  }
};

bool RunScan(const Isa& isa, const ScanKind& kind, const SelectiveScan& args,
             const ParallelFor& parallel) {
  if (kind.gate) return RunSelectiveScan(isa, args, parallel);
  UngatedScan ungated = {args, {kind.softplus, kind.reverse, kind.offset}};
  ungated.scan.z = nullptr;
  return RunUngatedScan(isa, ungated, parallel);
}

// Rounding errors: dt 4 ULP, exp 2 ULP, a product and a sum per token; exp(x) turns a relative
// error e of x <= 0 into |x|·e·exp(x) <= 0.37·e. So about 8 eps of what a token adds and 2 eps of
// what it keeps, over l tokens; y adds one rounding per state. `scale` sums absolute values.
void CheckScan(const Isa& isa, ScanCase& c, const ScanKind& kind = kGatedScan) {
  for (size_t i = 0; i < c.b; ++i) {
    for (size_t d = 0; d < c.d; ++d) {
      std::vector<double> h(c.n), scale(c.n);
      for (size_t n = 0; n < c.n; ++n) {
        h[n] = c.state[(i * c.n + n) * c.d + d];
        scale[n] = std::fabs(h[n]);
      }
      for (size_t t = 0; t < c.l; ++t) {
        const size_t token = i * c.l + (kind.reverse ? c.l - 1 - t : t), at = token * c.d + d;
        // As the kernels, in float32: near 0 the sum has lost what this could not bring back.
        const double step = c.delta[at] + c.bias[d];
        const double steps =
            kind.softplus ? Softplus(static_cast<double>(c.delta[at]) + c.bias[d]) : step;
        const double dt = steps + kind.offset;
        double y = c.D[d] * static_cast<double>(c.u[at]), bound = std::fabs(y);
        for (size_t n = 0; n < c.n; ++n) {
          const double decay = std::exp(dt * c.A[n * c.d + d]);
          const double added = dt * c.u[at] * c.B[token * c.n + n];
          h[n] = decay * h[n] + added;
          scale[n] = decay * scale[n] + std::fabs(added);
          y += c.C[token * c.n + n] * h[n];
          bound += std::fabs(c.C[token * c.n + n]) * scale[n];
        }
        const double gate = kind.gate ? Silu(c.z[at]) : 1.0;
        const double factor = 12.0 + 2.0 * c.l + c.n;
        Check(std::fabs(c.y[at] - y * gate) <= factor * kEps * bound * std::fabs(gate),
              "%s scan %s b%zu l%zu d%zu n%zu: y[%zu] = %g, expected %g", kind.Name(), IsaName(isa),
              c.b, c.l, c.d, c.n, at, c.y[at], y * gate);
      }
      for (size_t n = 0; n < c.n; ++n) {
        const size_t at = (i * c.n + n) * c.d + d;
        Check(std::fabs(c.out[at] - h[n]) <= (12.0 + 2.0 * c.l) * kEps * scale[n],
              "%s scan %s: state_out[%zu] = %g, expected %g", kind.Name(), IsaName(isa), at,
              c.out[at], h[n]);
      }
    }
  }
}

// The same bits from 2 and 4 threads, in place, and token by token.
void CheckScanInvariance(const Isa& isa, ScanCase& c, const ScanKind& kind = kGatedScan) {
  Floats y(c.y.size()), state = c.state;
  for (size_t count : {2, 4}) {
    Threads threads{count};
    Floats out(c.out.size());
    SelectiveScan args = c.Args();
    args.y = y.get();
    args.state_out = out.get();
    Check(RunScan(isa, kind, args, {RunOnThreads, &threads}), "scan: out of memory");
    Check(SameBits(y, c.y, y.size()) && SameBits(out, c.out, out.size()),
          "%s scan %s: %zu threads change the result", kind.Name(), IsaName(isa), count);
  }
  if (c.b != 1) return;
  for (size_t step = 0; step < c.l; ++step) {
    const size_t t = kind.reverse ? c.l - 1 - step : step;
    SelectiveScan args = c.Args();
    args.l = 1;
    args.u += t * c.d;
    args.delta += t * c.d;
    args.z += t * c.d;
    args.B += t * c.n;
    args.C += t * c.n;
    args.y = y.get() + t * c.d;
    args.state = args.state_out = state.get();
    RunScan(isa, kind, args, RunSerially());
  }
  Check(SameBits(y, c.y, y.size()) && SameBits(state, c.out, c.out.size()),
        "%s scan %s d%zu l%zu: decode differs from prefill", kind.Name(), IsaName(isa), c.d, c.l);
}

void TestScan(const Isa& isa, Random& random, int cases) {
  for (int i = 0; i < cases; ++i) {
    ScanCase c(random, random.Below(3), random.Size(5, {17, 40}),
               random.Size(17, {63, 65, 150, 330}), random.Size(17, {33}));
    Check(RunSelectiveScan(isa, c.Args(), RunSerially()), "scan: out of memory");
    CheckScan(isa, c);
    CheckScanInvariance(isa, c);
  }
  ScanCase large(random, 2, 20, 150, 16);  // enough work for threads
  RunSelectiveScan(isa, large.Args(), RunSerially());
  CheckScanInvariance(isa, large);
  ScanCase wide(random, 1, 20, 600, 16);  // blocks of several groups of channels
  RunSelectiveScan(isa, wide.Args(), RunSerially());
  CheckScan(isa, wide);
  CheckScanInvariance(isa, wide);
  ScanCase nan(random, 1, 3, 11, 4);
  nan.u[1 * 11 + 5] = NAN;  // token 1, channel 5
  RunSelectiveScan(isa, nan.Args(), RunSerially());
  for (size_t at = 0; at < 33; ++at) {
    Check(std::isnan(nan.y[at]) == (at == 16 || at == 27), "scan %s: NaN at %zu", IsaName(isa), at);
  }
}

void TestUngatedScan(const Isa& isa, Random& random, int cases) {
  const ScanKind kinds[] = {{false, true, false, 0},
                            {false, true, true, 1e-4f},
                            {false, false, false, 0.01f},
                            {false, false, true, 0}};
  auto check = [&](ScanCase& c, const ScanKind& kind) {
    if (!kind.softplus) c.MakeSteps(random);
    Check(RunScan(isa, kind, c.Args(), RunSerially()), "scan: out of memory");
    CheckScan(isa, c, kind);
    CheckScanInvariance(isa, c, kind);
  };
  for (int i = 0; i < cases; ++i) {
    ScanCase c(random, random.Below(3), random.Size(5, {17, 40}),
               random.Size(17, {63, 65, 150, 330}), random.Size(17, {33, 64}));
    check(c, kinds[i % 4]);
  }
  for (const ScanKind& kind : kinds) {
    ScanCase large(random, 2, 20, 150, 16);  // enough work for threads
    check(large, kind);
    ScanCase wide(random, 1, 20, 600, 16);  // blocks of several groups of channels
    check(wide, kind);
  }
}

// ---- exp, softplus and SiLU, reached through the kernels ----

// dt = softplus(32) = 32 exactly, so that h = exp(32·A)·1 + 0 shows exp at any float.
void ExpThroughScan(const Isa& isa, std::vector<float>& x, std::vector<float>& result) {
  const size_t d = x.size();
  std::vector<float> zero(d, 0.0f), delta(d, 32.0f), one(d, 1.0f), y(d);
  for (float& v : x) v /= 32;
  const float b = 0;
  result.resize(d);
  RunSelectiveScan(isa,
                   {1, 1, d, 1, zero.data(), delta.data(), zero.data(), x.data(), &b, &b,
                    zero.data(), zero.data(), one.data(), y.data(), result.data()},
                   RunSerially());
  for (float& v : x) v *= 32;
}

// A = 0, h = 0, u = B = 1: h becomes dt = softplus(delta).
void SoftplusThroughScan(const Isa& isa, std::vector<float>& x, std::vector<float>& result) {
  const size_t d = x.size();
  std::vector<float> zero(d, 0.0f), one(d, 1.0f), y(d);
  const float b = 1;
  result.resize(d);
  RunSelectiveScan(isa,
                   {1, 1, d, 1, one.data(), x.data(), zero.data(), zero.data(), &b, &b, zero.data(),
                    zero.data(), zero.data(), y.data(), result.data()},
                   RunSerially());
}

void SiluThroughConv(const Isa& isa, std::vector<float>& x, std::vector<float>& result) {
  const size_t d = x.size();
  std::vector<float> zero(d, 0.0f), one(d, 1.0f);
  result.resize(d);
  RunCausalConv1d(isa,
                  {1, 1, d, 1, x.data(), one.data(), zero.data(), nullptr, result.data(), nullptr},
                  RunSerially());
}

// Every step-th float between 0 and limit in both signs.
std::vector<float> Sweep(float negative_limit, float positive_limit, uint32_t step) {
  std::vector<float> x;
  for (float sign : {-1.0f, 1.0f}) {
    const float limit = sign < 0 ? negative_limit : positive_limit;
    for (uint32_t bits = 0;; bits += step) {
      float value;
      std::memcpy(&value, &bits, sizeof value);
      if (!(value <= limit)) break;
      x.push_back(sign * value);
    }
  }
  return x;
}

void TestElementary(const Isa& isa, uint32_t step) {
  std::vector<float> y, x = Sweep(87.33f, 88.72f, step);
  double worst[3] = {};
  ExpThroughScan(isa, x, y);
  for (size_t i = 0; i < x.size(); ++i) {
    worst[0] = std::max(worst[0], UlpError(y[i], std::exp(static_cast<double>(x[i]))));
  }
  x = Sweep(87.0f, 1e30f, step);
  SoftplusThroughScan(isa, x, y);
  for (size_t i = 0; i < x.size(); ++i) {
    worst[1] = std::max(worst[1], UlpError(y[i], Softplus(x[i])));
  }
  x = Sweep(80.0f, 1e30f, step);
  SiluThroughConv(isa, x, y);
  for (size_t i = 0; i < x.size(); ++i) {
    if (x[i] == 0 || std::fabs(x[i]) < 1e-37f) continue;
    worst[2] = std::max(worst[2], UlpError(y[i], Silu(x[i])));
  }
  std::printf("  %s: worst error in ULP: exp %.2f, softplus %.2f, silu %.2f\n", IsaName(isa),
              worst[0], worst[1], worst[2]);
  Check(worst[0] <= 1.5, "exp %s: %.2f ULP", IsaName(isa), worst[0]);
  Check(worst[1] <= 3, "softplus %s: %.2f ULP", IsaName(isa), worst[1]);
  Check(worst[2] <= 4, "silu %s: %.2f ULP", IsaName(isa), worst[2]);
  x = {-88.0f, -104.0f, -1e4f, -1e30f, -INFINITY, NAN, 0.0f};
  ExpThroughScan(isa, x, y);
  for (size_t i = 0; i < 5; ++i) Check(y[i] >= 0 && y[i] < 1.2e-38f, "exp(%g) = %g", x[i], y[i]);
  Check(std::isnan(y[5]) && y[6] == 1, "exp(nan) = %g, exp(0) = %g", y[5], y[6]);
  x = {-1e30f, NAN, 1e30f, -200.0f};
  SoftplusThroughScan(isa, x, y);
  Check(y[0] == 0 && std::isnan(y[1]) && y[2] == 1e30f && y[3] < 1e-37f, "softplus limits");
  SiluThroughConv(isa, x, y);
  Check(y[0] == 0 && std::isnan(y[1]) && y[2] == 1e30f && std::fabs(y[3]) < 1e-35f, "silu limits");
}

// ---- CausalConv1d ----

void TestConvCase(const Isa& isa, Random& random, size_t b, size_t l, size_t d, size_t k) {
  Floats x = Draw(random, b * l * d, -2, 2), weight = Draw(random, k * d, -1, 1),
         bias = Draw(random, d, -1, 1), state = Draw(random, b * (k - 1) * d, -2, 2);
  Floats y(x.size()), out(state.size());
  CausalConv1d args = {b,          l,           d,       k,        x.get(), weight.get(),
                       bias.get(), state.get(), y.get(), out.get()};
  RunCausalConv1d(isa, args, RunSerially());
  auto row = [&](size_t i, size_t t) {  // of concat(state, x)
    return t < k - 1 ? &state[(i * (k - 1) + t) * d] : &x[(i * l + t - (k - 1)) * d];
  };
  for (size_t at = 0; at < b * l * d; ++at) {
    const size_t i = at / d / l, t = at / d % l, channel = at % d;
    double sum = bias[channel], scale = std::fabs(sum);
    for (size_t j = 0; j < k; ++j) {
      const double product = static_cast<double>(weight[j * d + channel]) * row(i, t + j)[channel];
      sum += product;
      scale += std::fabs(product);
    }
    // The slope of SiLU is at most 1.1: the sum's k + 1 roundings pass through, plus its own error.
    Check(std::fabs(y[at] - Silu(sum)) <= (1.1 * (k + 1) + 4) * kEps * scale,
          "conv %s b%zu l%zu d%zu k%zu: y[%zu] = %g, expected %g", IsaName(isa), b, l, d, k, at,
          y[at], Silu(sum));
  }
  for (size_t at = 0; at < out.size(); ++at) {
    const size_t i = at / d / (k - 1), t = at / d % (k - 1);
    Check(out[at] == row(i, l + t)[at % d], "conv %s: state_out[%zu]", IsaName(isa), at);
  }
  Floats y2(y.size()), out2(out.size());
  args.y = y2.get();
  args.state_out = out2.get();
  Threads threads{4};
  RunCausalConv1d(isa, args, {RunOnThreads, &threads});
  Check(SameBits(y, y2, y.size()) && SameBits(out, out2, out.size()), "conv %s: threads",
        IsaName(isa));
}

void TestConv(const Isa& isa, Random& random, int cases) {
  for (int i = 0; i < cases; ++i) {
    TestConvCase(isa, random, random.Below(3), random.Size(5, {17, 33}), random.Size(17, {31, 100}),
                 1 + random.Below(6));
  }
  TestConvCase(isa, random, 2, 70, 150, 4);  // enough work for threads
}

#include "kernels_test_linear.inl.h"
#include "kernels_test_ssd.inl.h"

void TestIsaChoice() {
  char error[256] = "";
  auto choose = [&](const char* name) {
    setenv("SSMPRESS_ISA", name, 1);
    const Isa* isa = SelectIsa(error, sizeof error);
    return std::string(isa != nullptr ? IsaName(*isa) : error);
  };
  Check(choose("scalar") == "scalar", "SSMPRESS_ISA=scalar");
  Check(choose("").find("ISA") == std::string::npos, "an empty SSMPRESS_ISA means the best");
  const std::string foo = choose("foo");
  Check(foo.find("SSMPRESS_ISA=foo: expected one of scalar") == 0, "unknown name: %s", foo.c_str());
  Check(foo.find("unset it or pick one of those") != std::string::npos, "%s", foo.c_str());
  Check(choose(std::string(1000, 'x').c_str()).size() < 256, "a long name");
  unsetenv("SSMPRESS_ISA");
  const Isa* best = SelectIsa(error, sizeof error);
  Check(best != nullptr, "%s", error);
  if (best != nullptr) std::printf("  without it: %s\n", IsaName(*best));
}

template <class F>
void Group(const char* name, F run) {
  const int before = passed, failed_before = failed;
  run();
  std::printf("%-28s %9d passed, %d failed\n", name, passed - before, failed - failed_before);
  std::fflush(stdout);
}

void TestIsa(const Isa& isa, uint64_t seed, int cases) {
  Random random(seed);
  const std::string prefix = std::string(IsaName(isa)) + ": ";
  const uint32_t step = cases >= 1000 ? 257 : 4093;
  Group((prefix + "exp, softplus, silu").c_str(), [&] { TestElementary(isa, step); });
  Group((prefix + "selective scan").c_str(), [&] { TestScan(isa, random, cases); });
  Group((prefix + "ungated scan").c_str(), [&] { TestUngatedScan(isa, random, cases); });
  Group((prefix + "causal conv1d").c_str(), [&] { TestConv(isa, random, cases); });
  Group((prefix + "ssd scan").c_str(), [&] { TestSsd(isa, random, cases); });
  Group((prefix + "gated rms norm").c_str(), [&] { TestGatedNorm(isa, random, cases); });
  for (int format = 0; format < kFormats; ++format) {
    Group((prefix + FormatName(format)).c_str(), [&] { TestLinear(isa, random, format, cases); });
  }
}

}  // namespace

int main(int argc, char** argv) {
  int cases = 200;
  uint64_t seed = 1;
  const char* only = nullptr;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::strcmp(argv[i], "--cases") == 0) cases = std::atoi(argv[i + 1]);
    if (std::strcmp(argv[i], "--seed") == 0) seed = std::strtoull(argv[i + 1], nullptr, 10);
    if (std::strcmp(argv[i], "--isa") == 0) only = argv[i + 1];
  }
  Group("SSMPRESS_ISA", TestIsaChoice);
  Group("hostile matrices", TestHostileMatrices);
  for (const char* name : {"scalar", "avx2", "avx512", "neon", "dotprod"}) {
    if (only != nullptr && std::strcmp(name, only) != 0) continue;
    char error[256];
    const Isa* isa = SelectIsaByName(name, error, sizeof error);
    if (isa != nullptr) {
      TestIsa(*isa, seed, cases);
    } else if (only == nullptr) {
      std::printf("SKIPPED %s: %s\n", name, error);
    } else {
      Check(false, "%s", error);
    }
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 ? 0 : 1;
}
