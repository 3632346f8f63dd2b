// SPDX-License-Identifier: Apache-2.0
// Drawing a token from logits, as docs/ssmrun.md specifies it to the last bit; the same is in
// toolchain/ssmpress/sampling.py.
#ifndef SSMPRESS_RUNNER_SAMPLING_H_
#define SSMPRESS_RUNNER_SAMPLING_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace ssmrun {

// Source: Steele, Lea, Flood, Fast splittable pseudorandom number generators (2014).
class SplitMix64 {
 public:
  explicit SplitMix64(uint64_t seed) : state_(seed) {}
  uint64_t next();
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }  // [0, 1)

 private:
  uint64_t state_;
};

// e^x for x <= 0 by 13 terms of its series, 0 below -708; every operation rounded to double.
double SampleExp(double x);

struct Sampling {
  double temperature = 0;  // 0 takes the largest logit
  uint64_t top_k = 0;      // 0 is all
  uint64_t seed = 0;
};

// Throws kUsage unless it is 0 or 1e-6 to 1e6, so that no quotient overflows.
void CheckTemperature(double temperature);

class Sampler {
 public:
  explicit Sampler(const Sampling& settings) : settings_(settings), random_(settings.seed) {}
  // Throws kBadInput if a logit is not finite.
  int64_t draw(const float* logits, size_t count);

 private:
  Sampling settings_;
  SplitMix64 random_;
  std::vector<double> x_, sorted_;
};

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_SAMPLING_H_
