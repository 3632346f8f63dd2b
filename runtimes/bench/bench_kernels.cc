// SPDX-License-Identifier: Apache-2.0
// Micro-benchmark of the kernels over the shapes of a Mamba-130M body (in_proj 3072 x 768 and
// out_proj 768 x 1536, 24 layers). Formats run one after the other within a round, so that a slow
// moment of the machine meets all of them; figures are medians over the rounds. Prints JSON.
//
//   bench_kernels [--isa NAME] [--tokens T] [--threads N] [--rounds R] [--copies C] [--density F]
//       [--raw FILE] [--kernel linear|scan]
//
// --copies packs every matrix that many times: together the formats must be far larger than the
// last cache, so that a pass over the others drives a format out of it. "read_gb_per_s" is the rate
// at which plain additions over the dense fp32 bytes run, in the same rounds.
//
// Without --raw, masks are random in clusters: the density of every 8 x 32 tile is drawn, then its
// weights, because masks of pruned models are clustered too. --raw takes real weights, whose zeros
// are the mask: int32 count, then for each matrix int32 rows, int32 columns, float32 data.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "bench/packed_matrix.h"
#include "kernels/kernels.h"

namespace {

using namespace ssmpress;
using namespace ssmpress::bench;

struct Options {
  const char* isa = nullptr;
  const char* raw = nullptr;
  std::string kernel;  // empty: all
  size_t tokens = 1, threads = 1, rounds = 9, copies = 1;
  float density = 0.3f;
};

uint64_t random_state = 42;
float Uniform() {
  random_state = random_state * 6364136223846793005u + 1442695040888963407u;
  return static_cast<float>(random_state >> 40) * 0x1p-24f;
}

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Before every object of the list of results.
void BeginResult() {
  static bool first = true;
  std::printf(first ? "  " : ",\n  ");
  first = false;
}

double Median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

Weights Clustered(size_t rows, size_t columns, float density) {
  Weights w = {rows, columns, std::vector<float>(rows * columns)};
  for (size_t i = 0; i < rows; i += 8) {
    for (size_t j = 0; j < columns; j += 32) {
      const float tile = std::min(1.0f, density * 2 * Uniform());
      for (size_t at = 0; at < 8 * 32; ++at) {
        const size_t row = i + at / 32, column = j + at % 32;
        if (row >= rows || column >= columns) continue;
        if (Uniform() < tile) w.data[row * columns + column] = Uniform() - 0.4999f;
      }
    }
  }
  return w;
}

std::vector<Weights> ReadRaw(const char* path) {
  std::vector<Weights> all;
  std::FILE* file = std::fopen(path, "rb");
  int32_t count = 0, shape[2];
  bool ok = file != nullptr && std::fread(&count, 4, 1, file) == 1;
  for (int32_t i = 0; ok && i < count; ++i) {
    ok = std::fread(shape, 4, 2, file) == 2 && shape[0] > 0 && shape[1] > 0;
    if (!ok) break;
    Weights w = {static_cast<size_t>(shape[0]), static_cast<size_t>(shape[1]), {}};
    w.data.resize(w.rows * w.columns);
    ok = std::fread(w.data.data(), 4, w.data.size(), file) == w.data.size();
    all.push_back(std::move(w));
  }
  if (file != nullptr) std::fclose(file);
  if (!ok || all.empty()) {
    std::fprintf(stderr, "%s: expected an int32 count, then rows, columns and data\n", path);
    std::exit(2);
  }
  return all;
}

// Threads that spin between tasks, as ONNX Runtime's do by default within a run.
class Pool {
 public:
  explicit Pool(size_t threads) {
    for (size_t i = 1; i < threads; ++i) threads_.emplace_back([this] { Serve(); });
  }
  ~Pool() {
    stop_ = true;
    for (std::thread& thread : threads_) thread.join();
  }
  static void Run(void* self, size_t count, ParallelFor::Task task, void* context) {
    Pool& pool = *static_cast<Pool*>(self);
    pool.task_ = task;
    pool.context_ = context;
    pool.count_ = count;
    pool.next_ = 0;
    pool.done_ = 0;
    pool.round_.fetch_add(1);
    pool.Work();
    while (pool.done_.load() != pool.threads_.size()) std::this_thread::yield();
  }

 private:
  void Work() {
    for (size_t i; (i = next_.fetch_add(1)) < count_;) task_(context_, i);
  }
  void Serve() {
    size_t seen = 0;
    while (!stop_) {
      if (round_.load() == seen) continue;
      ++seen;
      Work();
      done_.fetch_add(1);
    }
  }
  std::vector<std::thread> threads_;
  std::atomic<bool> stop_{false};
  std::atomic<size_t> round_{0}, next_{0}, done_{0};
  size_t count_ = 0;
  ParallelFor::Task task_ = nullptr;
  void* context_ = nullptr;
};

std::string CpuName() {
  std::string name = "unknown";
  if (std::FILE* file = std::fopen("/proc/cpuinfo", "r")) {
    char line[256];
    while (std::fgets(line, sizeof line, file) != nullptr) {
      if (std::strncmp(line, "model name", 10) != 0) continue;
      name = std::strchr(line, ':') + 2;
      name.pop_back();
      break;
    }
    std::fclose(file);
  }
  return name;
}

struct Reading {
  const std::vector<Packed>* matrices;
  std::vector<uint64_t> sums;
};

// GB/s of reading the dense fp32 bytes and doing next to nothing with them.
double ReadBandwidth(const std::vector<Packed>& matrices, const ParallelFor& parallel) {
  Reading reading = {&matrices, std::vector<uint64_t>(matrices.size())};
  double bytes = 0;
  for (const Packed& p : matrices) bytes += static_cast<double>(p.value.size());
  const auto read = [](void* context, size_t i) {
    Reading& r = *static_cast<Reading*>(context);
    const Packed& p = (*r.matrices)[i];
    const auto* words = reinterpret_cast<const uint64_t*>(p.value.data());
    uint64_t sums[8] = {};
    for (size_t k = 0; k + 8 <= p.value.size() / 8; k += 8) {
      for (size_t j = 0; j < 8; ++j) sums[j] += words[k + j];
    }
    for (uint64_t sum : sums) r.sums[i] ^= sum;
  };
  const double before = Seconds();
  parallel.run(parallel.self, matrices.size(), read, &reading);
  const double seconds = Seconds() - before;
  volatile uint64_t keep = 0;  // the sums are wanted
  for (uint64_t sum : reading.sums) keep = keep ^ sum;
  return bytes / seconds * 1e-9;
}

void BenchLinear(const Isa& isa, const Options& options, const std::vector<Weights>& weights,
                 const ParallelFor& parallel) {
  std::vector<std::vector<Packed>> packed(kFormats);
  double elements = 0, stored = 0;
  size_t largest = 0;
  for (const Weights& w : weights) {
    for (int format = 0; format < kFormats; ++format) packed[format].emplace_back(w, format);
    elements += static_cast<double>(w.data.size());
    stored += static_cast<double>(packed[3].back().start.back());
    largest = std::max({largest, w.rows, w.columns});
  }
  std::vector<float> x(options.tokens * largest), y(options.tokens * largest);
  for (float& v : x) v = Uniform() - 0.5f;
  std::vector<double> times[kFormats], reads;
  for (size_t round = 0; round <= options.rounds; ++round) {
    for (int format = 0; format < kFormats; ++format) {
      const double before = Seconds();
      for (const Packed& p : packed[format]) {
        RunLinear(isa, {&p.m, options.tokens, x.data(), y.data()}, parallel);
      }
      if (round > 0) times[format].push_back(Seconds() - before);  // the first one warms up
    }
    const double rate = ReadBandwidth(packed[0], parallel);
    if (round > 0) reads.push_back(rate);
  }
  BeginResult();
  std::printf("{\"read_gb_per_s\": %.2f}", Median(reads));
  const double dense = Median(times[0]);
  for (int format = 0; format < kFormats; ++format) {
    const double time = Median(times[format]);
    double bytes = 0;
    for (const Packed& p : packed[format]) bytes += static_cast<double>(p.bytes);
    BeginResult();
    std::printf(
        "{\"format\": \"%s\", \"matrices\": %zu, \"sparsity\": %.4f, \"ms\": %.4f, "
        "\"ms_min\": %.4f, \"megabytes\": %.1f, \"gb_per_s\": %.2f, "
        "\"gweights_per_s\": %.2f, \"speedup_over_dense_fp32\": %.2f}",
        kFormatNames[format], weights.size(), 1 - stored / elements, time * 1e3,
        *std::min_element(times[format].begin(), times[format].end()) * 1e3, bytes * 1e-6,
        bytes / time * 1e-9, elements * static_cast<double>(options.tokens) / time * 1e-9,
        dense / time);
  }
}

// The scan as it is usually written: one channel after the other, expf. The yardstick.
void NaiveScan(const SelectiveScan& s) {
  for (size_t d = 0; d < s.d; ++d) {
    for (size_t n = 0; n < s.n; ++n) s.state_out[n * s.d + d] = s.state[n * s.d + d];
  }
  for (size_t t = 0; t < s.l; ++t) {
    for (size_t d = 0; d < s.d; ++d) {
      const float u = s.u[t * s.d + d], in = s.delta[t * s.d + d] + s.delta_bias[d];
      const float dt = in > 20 ? in : log1pf(expf(in)), z = s.z[t * s.d + d];
      float y = s.D[d] * u;
      for (size_t n = 0; n < s.n; ++n) {
        float& h = s.state_out[n * s.d + d];
        h = expf(dt * s.A[n * s.d + d]) * h + dt * u * s.B[t * s.n + n];
        y += s.C[t * s.n + n] * h;
      }
      s.y[t * s.d + d] = y * z / (1 + expf(-z));
    }
  }
}

void BenchScan(const Isa& isa, const Options& options, const ParallelFor& parallel, size_t l) {
  const size_t d = 1536, n = 16;
  std::vector<float> sequence(l * d), channel(d, 0.1f), A(n * d), B(l * n), state(n * d), y(l * d),
      out(n * d);
  for (float& v : sequence) v = Uniform() * 4 - 2;
  for (float& v : A) v = -1 - 15 * Uniform();
  for (float& v : B) v = Uniform() - 0.5f;
  const float* s = sequence.data();
  const SelectiveScan args = {1,
                              l,
                              d,
                              n,
                              s,
                              s,
                              channel.data(),
                              A.data(),
                              B.data(),
                              B.data(),
                              channel.data(),
                              s,
                              state.data(),
                              y.data(),
                              out.data()};
  const size_t repeats = l == 1 ? 200 : 2;
  std::vector<double> naive, ours;
  for (size_t round = 0; round <= options.rounds; ++round) {
    const double start = Seconds();
    for (size_t i = 0; i < repeats; ++i) NaiveScan(args);
    const double middle = Seconds();
    for (size_t i = 0; i < repeats; ++i) RunSelectiveScan(isa, args, parallel);
    const double end = Seconds();
    if (round == 0) continue;
    naive.push_back((middle - start) / static_cast<double>(repeats));
    ours.push_back((end - middle) / static_cast<double>(repeats));
  }
  BeginResult();
  std::printf(
      "{\"kernel\": \"selective_scan\", \"d\": %zu, \"n\": %zu, \"l\": %zu, "
      "\"ms\": %.4f, \"naive_ms\": %.4f, \"speedup\": %.2f}",
      d, n, l, Median(ours) * 1e3, Median(naive) * 1e3, Median(naive) / Median(ours));
}

// Decoding with the A and the states of many layers, 75 MB, in turns: each comes from memory, as in
// a model, whose weights pass through the caches between two steps of a layer. Milliseconds of one
// layer; bytes are those of A, state and state_out.
void BenchScanFromMemory(const Isa& isa, const Options& options, const ParallelFor& parallel) {
  const size_t d = 1536, n = 16, layers = 256;
  std::vector<float> A(layers * n * d), states(2 * layers * n * d), row(d), B(n), y(d);
  for (float& v : A) v = -1 - 15 * Uniform();
  for (float& v : states) v = Uniform() - 0.5f;
  for (float& v : row) v = Uniform() * 4 - 2;
  for (float& v : B) v = Uniform() - 0.5f;
  const float* r = row.data();
  std::vector<double> times;
  for (size_t round = 0; round <= options.rounds; ++round) {
    for (size_t i = 0; i < layers; ++i) {
      const float* state = states.data() + (2 * i + round % 2) * n * d;
      float* state_out = states.data() + (2 * i + 1 - round % 2) * n * d;
      const SelectiveScan args = {
          1,        1,        d, n, r,     r,        r,        A.data() + i * n * d,
          B.data(), B.data(), r, r, state, y.data(), state_out};
      const double start = Seconds();
      RunSelectiveScan(isa, args, parallel);
      if (round > 0) times.push_back(Seconds() - start);
    }
  }
  std::sort(times.begin(), times.end());
  const double median = Median(times), tenth = times[times.size() / 10];
  BeginResult();
  std::printf(
      "{\"kernel\": \"selective_scan\", \"d\": %zu, \"n\": %zu, \"l\": 1, \"layers\": %zu, "
      "\"ms\": %.4f, \"ms_fastest_tenth\": %.4f, \"gb_per_s\": %.2f}",
      d, n, layers, median * 1e3, tenth * 1e3,
      static_cast<double>(3 * n * d * sizeof(float)) / median * 1e-9);
}

// Fills `options`; false at a flag that is unknown or has no value.
bool Parse(int argc, char** argv, Options* options) {
  for (int i = 1; i < argc; i += 2) {
    const std::string name = argv[i];
    const char* value = argv[i + 1];  // argv ends with a null pointer
    if (value == nullptr) return false;
    if (name == "--isa") {
      options->isa = value;
    } else if (name == "--raw") {
      options->raw = value;
    } else if (name == "--kernel") {
      options->kernel = value;
      if (options->kernel != "linear" && options->kernel != "scan") return false;
    } else if (name == "--density") {
      options->density = std::strtof(value, nullptr);
    } else if (name == "--tokens") {
      options->tokens = std::strtoul(value, nullptr, 10);
    } else if (name == "--threads") {
      options->threads = std::strtoul(value, nullptr, 10);
    } else if (name == "--copies") {
      options->copies = std::strtoul(value, nullptr, 10);
    } else if (name == "--rounds") {
      options->rounds = std::strtoul(value, nullptr, 10);
    } else {
      return false;
    }
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (!Parse(argc, argv, &options)) {
    std::fprintf(stderr,
                 "usage: bench_kernels [--isa NAME] [--raw FILE] [--density 0..1] [--tokens N] "
                 "[--threads N] [--rounds N] [--copies N] [--kernel linear|scan]\n");
    return 2;
  }
  char error[256];
  const Isa* isa = options.isa != nullptr ? SelectIsaByName(options.isa, error, sizeof error)
                                          : SelectIsa(error, sizeof error);
  if (isa == nullptr || options.rounds == 0 || options.threads == 0 || options.copies == 0) {
    std::fprintf(stderr, "%s\n",
                 isa == nullptr ? error : "rounds, threads and copies must be above 0");
    return 2;
  }
  const bool linear = options.kernel != "scan", scan = options.kernel != "linear";
  std::vector<Weights> weights;
  if (linear && options.raw != nullptr) weights = ReadRaw(options.raw);
  for (int i = 0; linear && options.raw == nullptr && i < 24; ++i) {  // 340 MB as dense fp32
    weights.push_back(Clustered(3072, 768, options.density));
    weights.push_back(Clustered(768, 1536, options.density));
  }
  const size_t distinct = weights.size();
  for (size_t i = 0; i < (options.copies - 1) * distinct; ++i) weights.push_back(weights[i]);
  Pool pool(options.threads);
  const ParallelFor parallel = options.threads == 1 ? RunSerially() : ParallelFor{Pool::Run, &pool};
  std::printf(
      "{\"cpu\": \"%s\", \"isa\": \"%s\", \"threads\": %zu, \"tokens\": %zu, "
      "\"rounds\": %zu, \"masks\": \"%s\", \"results\": [\n",
      CpuName().c_str(), IsaName(*isa), options.threads, options.tokens, options.rounds,
      options.raw != nullptr ? options.raw : "clustered");
  if (linear) BenchLinear(*isa, options, weights, parallel);
  if (scan) {
    BenchScan(*isa, options, parallel, 128);
    BenchScan(*isa, options, parallel, 1);
    BenchScanFromMemory(*isa, options, parallel);
  }
  std::printf("\n]}\n");
  return 0;
}
