// SPDX-License-Identifier: Apache-2.0
// How fast this machine reads memory: the rate at which plain additions over a buffer run.
//
//   read_bandwidth THREADS MEGABYTES...
//
// Allocates a buffer of each size (10^6 bytes) and fills it. Then every line on standard input is
// answered with one line of JSON, {"gb_per_s": [...]}, the rate of each buffer in 10^9 bytes/s; it
// ends with the input. A benchmark asks between its own rounds: both meet the same machine. A
// thread reads its part as one stream and as four, and the faster of the two counts, because a
// packed matrix is several arrays. It writes nothing, and does not choose where memory lies.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#define SSMPRESS_WIDEST __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define SSMPRESS_WIDEST
#endif

namespace {

using Buffer = std::vector<uint64_t>;
constexpr size_t kLanes = 32;  // numbers added side by side in one stream: 256 bytes

// The sum of `streams` parts of the words, read side by side.
SSMPRESS_WIDEST uint64_t Sum(const uint64_t* words, size_t count, size_t streams) {
  uint64_t sums[kLanes] = {};
  const size_t part = count / streams / kLanes * kLanes;
  for (size_t at = 0; at < part; at += kLanes) {
    for (size_t s = 0; s < streams; ++s) {
      const uint64_t* from = words + s * part + at;
      for (size_t j = 0; j < kLanes; ++j) sums[j] += from[j];
    }
  }
  uint64_t sum = 0;
  for (uint64_t lane : sums) sum += lane;
  return sum;
}

// 10^9 bytes/s of one pass over the buffer by all threads.
double Rate(const Buffer& buffer, size_t threads, size_t streams) {
  std::atomic<size_t> ready{0};
  std::atomic<bool> go{false};
  std::atomic<uint64_t> total{0};
  const size_t part = buffer.size() / threads;
  const auto read = [&](size_t i) {
    ++ready;
    while (!go) {
    }
    total += Sum(buffer.data() + i * part, part, streams);
  };
  std::vector<std::thread> others;
  for (size_t i = 1; i < threads; ++i) others.emplace_back(read, i);
  while (ready != threads - 1) {
  }
  const auto before = std::chrono::steady_clock::now();
  go = true;
  read(0);
  for (std::thread& thread : others) thread.join();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - before;
  volatile uint64_t keep = total;  // the sum is wanted
  (void)keep;
  return static_cast<double>(buffer.size() * sizeof(uint64_t)) * 1e-9 / seconds.count();
}

}  // namespace

int main(int argc, char** argv) {
  const size_t threads = argc > 2 ? std::strtoul(argv[1], nullptr, 10) : 0;
  std::vector<Buffer> buffers;
  for (int i = 2; i < argc && threads > 0; ++i) {
    const size_t megabytes = std::strtoul(argv[i], nullptr, 10);
    if (megabytes > 0) buffers.emplace_back(megabytes * 1000000 / sizeof(uint64_t), i);
  }
  if (threads < 1 || threads > 1024 || buffers.size() != static_cast<size_t>(argc - 2)) {
    std::fprintf(stderr, "usage: read_bandwidth THREADS MEGABYTES... (1 to 1024; above 0)\n");
    return 2;
  }
  for (int c; (c = std::getchar()) != EOF;) {
    if (c != '\n') continue;
    std::printf("{\"gb_per_s\": [");
    for (size_t i = 0; i < buffers.size(); ++i) {
      double best = 0;
      for (size_t streams : {1, 4}) best = std::max(best, Rate(buffers[i], threads, streams));
      std::printf("%s%.3f", i == 0 ? "" : ", ", best);
    }
    std::printf("]}\n");
    std::fflush(stdout);
  }
  return 0;
}
