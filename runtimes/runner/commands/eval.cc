// SPDX-License-Identifier: Apache-2.0
// ssmrun eval: the metric of the model's task.
#include <cstdio>
#include <optional>

#include "runner/commands/commands.h"
#include "runner/model/evaluate.h"
#include "runner/model/task_data.h"
#include "runner/system.h"
#include "runner/text/tokenizer.h"

namespace ssmrun {
namespace {

template <class... Arguments>
std::string Format(const char* format, Arguments... arguments) {
  char text[256];
  std::snprintf(text, sizeof text, format, arguments...);
  return text;
}

// What a metric adds to the JSON object, and its line of text.
struct Metric {
  JsonWriter fields;
  std::string text;
};

Metric LanguageModel(const Options& options, Model& model) {
  const TokenFile file =
      ReadTokens(options.samples_file, options.dtype, options.limit, model.interface().vocab_size);
  const Windows windows = CutWindows(file, options.window, options.samples_file);
  model.check_tokens(file.tokens, options.samples_file);
  const Perplexity result = EvaluatePerplexity(model, windows);
  Metric metric;
  metric.fields.field("perplexity", result.perplexity).field("nll", result.nll);
  metric.fields.field("tokens", result.tokens);
  metric.fields.field("window", static_cast<uint64_t>(windows[0].size()));
  metric.fields.field("window_nll", result.window_nll);
  metric.text =
      Format("perplexity %.4f over %llu predictions in %zu windows of %zu", result.perplexity,
             static_cast<unsigned long long>(result.tokens), windows.size(), windows[0].size());
  return metric;
}

Metric Classifier(const Options& options, const Bundle& bundle, Model& model) {
  std::optional<Tokenizer> tokenizer;
  const Encode encode = [&](std::string_view text, const std::string& what) {
    if (!tokenizer) tokenizer.emplace(bundle.path(kTokenizerName));
    return tokenizer->encode(text, what);
  };
  const Accuracy result = EvaluateAccuracy(
      model, ReadLabelled(options.samples_file, model.interface().task, encode, options.limit));
  Metric metric;
  metric.fields.field("accuracy", result.accuracy);
  metric.fields.field("samples", static_cast<uint64_t>(result.right.size()));
  metric.fields.key("right").begin_array();
  for (const bool right : result.right) metric.fields.value(right);
  metric.fields.end_array();
  metric.text = Format("accuracy %.4f over %zu texts", result.accuracy, result.right.size());
  return metric;
}

Metric Forecaster(const Options& options, Model& model) {
  const std::vector<float> series = ReadSeries(options.samples_file, model.interface().task);
  const ForecastError result = EvaluateForecast(model, series, options.samples_file, options.limit);
  Metric metric;
  metric.fields.field("mse", result.mse).field("mae", result.mae);
  metric.fields.field("windows", result.windows).field("predictions", result.predictions);
  metric.text = Format("mean squared error %.5f, absolute %.5f over %llu windows", result.mse,
                       result.mae, static_cast<unsigned long long>(result.windows));
  return metric;
}

}  // namespace

void RunEval(const Options& options, const Output& output) {
  const Opened opened(options);
  const Loaded loaded = opened.load(false);
  Model& model = *loaded.model;
  const Task::Kind kind = model.interface().task.kind;
  const double begin = NowMs();
  const Metric metric = kind == Task::kClassification ? Classifier(options, opened.bundle(), model)
                        : kind == Task::kForecast     ? Forecaster(options, model)
                                                      : LanguageModel(options, model);
  const double seconds = (NowMs() - begin) / 1000;
  if (!options.json) {
    output.write(metric.text + Format("; %.1f s\n", seconds));
    return;
  }
  JsonWriter out;
  out.begin_object().field("task", model.interface().task.name()).raw(metric.fields.text());
  out.field("seconds", seconds).field("threads", options.thread_count()).key("ops_isa");
  if (options.stock) {
    out.null();
  } else {
    out.value(opened.isa());
  }
  output.write(out.field("peak_rss_bytes", MemoryBytes("VmHWM")).end_object().text() + "\n");
}

}  // namespace ssmrun
