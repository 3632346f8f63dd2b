// SPDX-License-Identifier: Apache-2.0
// The subcommands, and what they share.
#ifndef SSMPRESS_RUNNER_COMMANDS_H_
#define SSMPRESS_RUNNER_COMMANDS_H_

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runner/commands/options.h"
#include "runner/json/json.h"
#include "runner/model/manifest.h"
#include "runner/model/session.h"
#include "runner/model/state.h"

namespace ssmrun {

// stdout. What libraries print goes to stderr instead, so that it never gets among the replies.
class Output {
 public:
  Output();
  // Lines or JSON, made visible: names in a file are not to be trusted. Throws kDevice.
  void write(std::string_view text) const;
  // What a model says: as it is, but for a terminal.
  void write_generated(std::string_view text) const;

 private:
  void write_bytes(std::string_view bytes) const;
  int file_;
};

// Paths of what a bundle runs with. The bundle is checked first.
struct Files {
  std::string runtime, library, model;  // library: empty is stock ONNX Runtime
};
Files FindFiles(const Bundle& bundle, const Options& options);

// A model that is loaded, and how long that took.
struct Loaded {
  std::unique_ptr<Model> model;
  std::unique_ptr<State> state;
  double load_ms;              // to the first token's logits
  uint64_t runtime_rss_bytes;  // resident before
};
Loaded LoadModel(const Runtime& runtime, const OpLibrary* library, const std::string& path,
                 const ModelOptions& options, bool cold);

// A round of the model's task, and then quiet.
Round RunRound(Model& model, State& state, SplitMix64& random, uint64_t prompt_tokens,
               uint64_t decode_tokens);

// p50, p90 and p99 of samples in milliseconds, linear between neighbours; tokens per sample.
void WritePercentiles(JsonWriter& out, std::vector<double> samples_ms, double tokens);

// The bundle opened as the options say, for the subcommands that run its model once.
class Opened {
 public:
  explicit Opened(const Options& options)
      : Opened(options, Bundle(options.bundle, options.verify_key)) {}
  Opened(const Options& options, Bundle bundle);
  const Bundle& bundle() const { return bundle_; }
  const Files& files() const { return files_; }
  const Runtime& runtime() const { return *runtime_; }
  const OpLibrary* library() const { return library_.get(); }
  std::string isa() const { return library_ ? library_->isa() : ""; }
  const ModelOptions& model_options() const { return model_options_; }
  Loaded load(bool cold) const;

 private:
  Bundle bundle_;
  Files files_;
  ModelOptions model_options_;
  std::unique_ptr<Runtime> runtime_;
  std::unique_ptr<OpLibrary> library_;
};

void RunInfo(const Options& options, const Output& output);
void RunVerify(const Options& options, const Output& output);
void RunGenerate(const Options& options, const Output& output);
void RunNetwork(const Options& options, const Output& output);
void RunBench(const Options& options, const Output& output);
void RunEval(const Options& options, const Output& output);
void RunWorker(const Options& options, const Output& output);

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_COMMANDS_H_
