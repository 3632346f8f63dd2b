// SPDX-License-Identifier: Apache-2.0
// ssmrun eval: the metric of the model's task.
#include <optional>

#include "runner/commands/commands.h"
#include "runner/format.h"
#include "runner/system.h"
#include "runner/text/tokenizer.h"

namespace ssmrun {
void RunEval(const Options& options, const Output& output) {
  const Opened opened(options);
  const Loaded loaded = opened.load(false);
  Model& model = *loaded.model;
  std::optional<Tokenizer> tokenizer;
  const Samples samples{options.samples_file, options.dtype, options.window, options.limit,
                        [&](std::string_view text, const std::string& what) {
                          if (!tokenizer) tokenizer.emplace(opened.bundle().path(kTokenizerName));
                          return tokenizer->encode(text, what);
                        }};
  const double begin = NowMs();
  const Metric metric = model.task().evaluate(model, samples);
  const double seconds = (NowMs() - begin) / 1000;
  if (!options.json) {
    output.write(metric.text + Format("; %.1f s\n", seconds));
    return;
  }
  JsonWriter out;
  out.begin_object().field("task", model.task().kind().name).raw(metric.fields.text());
  out.field("seconds", seconds).field("threads", options.thread_count());
  out.field("ops_isa", Maybe(opened.isa()));
  output.write(out.field("peak_rss_bytes", MemoryBytes("VmHWM")).end_object().text() + "\n");
}

}  // namespace ssmrun
