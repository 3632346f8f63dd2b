// SPDX-License-Identifier: Apache-2.0
// Forecasting: the next time steps of several series at once.
#include <algorithm>
#include <cmath>

#include "runner/data/series.h"
#include "runner/failure.h"
#include "runner/format.h"
#include "runner/json/request.h"
#include "runner/model/fields.h"
#include "runner/model/session.h"
#include "runner/tasks/task.h"

namespace ssmrun {

extern const TaskKind kForecast;

namespace {

constexpr size_t kWindowBatch = 64;  // per call, as toolchain/ssmpress/tasks/forecasting.py

class Forecasting final : public Task {
 public:
  explicit Forecasting(const Fields& block)
      : lookback_(static_cast<size_t>(block.integer("lookback", kTaskLimit))),
        horizon_(static_cast<size_t>(block.integer("horizon", kTaskLimit))) {
    variates_.names = block.names("variates", 1);
    variates_.mean = block.numbers("mean", variates_.names.size());
    variates_.std = block.numbers("std", variates_.names.size());
    for (const double deviation : variates_.std) {
      if (!(deviation > 0)) block.fail("std", "positive numbers");
    }
  }

  const TaskKind& kind() const override { return kForecast; }
  bool reads_tokens() const override { return false; }

  Ports ports(int64_t) const override {
    return {{{"series", ort::kFloat, shape(kFree, lookback_)}},
            {{"forecast", ort::kFloat, shape(kFree, horizon_)}}};
  }

  void first_prediction(Model& model, State&) const override {
    predict(model, std::vector<float>(lookback_ * width()));
  }

  // The length of a window is the model's own.
  Round timed_round(Model& model, State&, SplitMix64& random, uint64_t,
                    uint64_t singles) const override {
    return TimeBatches(singles, [&](size_t batch) {
      std::vector<float> series(batch * lookback_ * width());
      for (float& value : series) value = static_cast<float>(4 * random.uniform() - 2);
      return [&, series] { predict(model, series); };
    });
  }

  // Over every window of the series, time step and variate.
  Metric evaluate(Model& model, const Samples& samples) const override {
    const std::vector<float> series = ReadSeries(samples.path, variates_);
    const size_t steps = series.size() / width();
    if (steps < lookback_ + horizon_) {
      BadInput(samples.path + ": expected at least " + std::to_string(lookback_ + horizon_) +
               " time steps for one window; got " + std::to_string(steps) +
               ". Give a longer series.");
    }
    size_t count = steps - lookback_ - horizon_ + 1;
    if (samples.limit > 0) count = std::min<size_t>(count, samples.limit);
    Errors sums{0, 0};
    for (size_t first = 0; first < count; first += kWindowBatch) {
      add_errors(model, series, first, std::min(kWindowBatch, count - first), sums);
    }
    const uint64_t predictions = count * horizon_ * width();
    const double mse = sums.squared / static_cast<double>(predictions);
    const double mae = sums.absolute / static_cast<double>(predictions);
    Metric metric;
    metric.fields.field("mse", mse).field("mae", mae);
    metric.fields.field("windows", uint64_t{count}).field("predictions", predictions);
    metric.text =
        Format("mean squared error %.5f, absolute %.5f over %zu windows", mse, mae, count);
    return metric;
  }

  void answer(const Request& request, Model& model, State&, JsonWriter& out) const override {
    const std::vector<float> all = predict(model, request.reals("series"));
    WriteArray(out, {all.size() / (horizon_ * width()), horizon_, width()}, "forecast", all);
  }

 private:
  struct Errors {
    double squared, absolute;
  };

  size_t width() const { return variates_.names.size(); }
  std::vector<int64_t> shape(int64_t batch, size_t steps) const {
    return {batch, static_cast<int64_t>(steps), static_cast<int64_t>(width())};
  }

  // (batch, horizon, variates) from (batch, lookback, variates), both z-scored.
  std::vector<float> predict(Model& model, const std::vector<float>& series) const {
    const size_t one = lookback_ * width();
    if (series.empty() || series.size() % one != 0) {
      BadInput("series: expected a multiple of " + std::to_string(one) + " values (" +
               std::to_string(lookback_) + " x " + std::to_string(width()) + "); got " +
               std::to_string(series.size()) + ".");
    }
    const auto batch = static_cast<int64_t>(series.size() / one);
    std::vector<float> forecast(series.size() / one * horizon_ * width());
    const Runtime& runtime = model.runtime();
    const OwnedValue from = runtime.tensor(series, shape(batch, lookback_));
    const OwnedValue to = runtime.tensor(forecast, shape(batch, horizon_));
    model.run_whole("series", from, "forecast", to);
    return forecast;
  }

  // Adds those of `batch` windows from `first` on, window by window.
  void add_errors(Model& model, const std::vector<float>& series, size_t first, size_t batch,
                  Errors& sums) const {
    std::vector<float> inputs;
    for (size_t i = first; i < first + batch; ++i) {
      const auto begin = series.begin() + static_cast<ptrdiff_t>(i * width());
      inputs.insert(inputs.end(), begin, begin + static_cast<ptrdiff_t>(lookback_ * width()));
    }
    const std::vector<float> forecast = predict(model, inputs);
    const size_t size = horizon_ * width();
    for (size_t i = 0; i < batch; ++i) {
      const float* target = series.data() + (first + i + lookback_) * width();
      double squared = 0, absolute = 0;
      for (size_t j = 0; j < size; ++j) {
        const double difference =
            static_cast<double>(forecast[i * size + j]) - static_cast<double>(target[j]);
        squared += difference * difference;
        absolute += std::abs(difference);
      }
      sums.squared += squared;
      sums.absolute += absolute;
    }
  }

  size_t lookback_, horizon_;  // time steps that are read and predicted
  Variates variates_;          // inputs and forecasts are (x - mean) / std
};

}  // namespace

const TaskKind kForecast = {
    "forecast",
    [](const Fields& block) -> std::unique_ptr<const Task> {
      return std::make_unique<Forecasting>(block);
    },
    {"forecast"},
};

}  // namespace ssmrun
