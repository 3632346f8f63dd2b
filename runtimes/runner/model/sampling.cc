// SPDX-License-Identifier: Apache-2.0
// Compiled without contraction into fused multiply-adds, which would round differently.
#include "runner/model/sampling.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>

#include "runner/failure.h"

namespace ssmrun {

uint64_t SplitMix64::next() {
  state_ += 0x9E3779B97F4A7C15;
  uint64_t z = state_;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
  z = (z ^ z >> 27) * 0x94D049BB133111EB;
  return z ^ z >> 31;
}

double SampleExp(double x) {
  if (x < -708) return 0;
  const double k = std::nearbyint(x * 1.4426950408889634);
  const double r = (x - k * 6.93147180369123816490e-01) - k * 1.90821492927058770002e-10;
  double p = 1;
  for (int n = 13; n >= 1; --n) p = 1 + (r / n) * p;
  return std::ldexp(p, static_cast<int>(k));
}

int64_t Sampler::draw(const float* logits, size_t count) {
  size_t largest = 0;
  for (size_t i = 0; i < count; ++i) {
    if (!std::isfinite(logits[i])) {
      BadInput("logits: expected finite numbers; token " + std::to_string(i) +
               "'s is not. The model is damaged.");
    }
    if (logits[i] > logits[largest]) largest = i;
  }
  if (settings_.temperature <= 0) return static_cast<int64_t>(largest);
  x_.resize(count);
  for (size_t i = 0; i < count; ++i) x_[i] = static_cast<double>(logits[i]) / settings_.temperature;
  double least = x_[largest] - 1000;  // nothing that far below has any weight
  if (settings_.top_k > 0 && settings_.top_k < count) {
    sorted_ = x_;
    const auto kth = sorted_.begin() + static_cast<ptrdiff_t>(settings_.top_k - 1);
    std::nth_element(sorted_.begin(), kth, sorted_.end(), std::greater<>());
    least = *kth;
  }
  const double top = x_[largest];
  double total = 0;
  for (double& x : x_) {
    if (!(x < least)) total += SampleExp(x - top);
    x = total;
  }
  const double limit = random_.uniform() * total;
  return std::upper_bound(x_.begin(), x_.end(), limit) - x_.begin();
}

void CheckTemperature(double temperature) {
  if (temperature != 0 && !(temperature >= 1e-6 && temperature <= 1e6)) {
    BadUsage("temperature: expected 0, or 1e-6 to 1e6; got " + std::to_string(temperature) + ".");
  }
}

}  // namespace ssmrun
