// SPDX-License-Identifier: Apache-2.0
// What the subcommands share, and the short ones: info, verify.
#include "runner/commands/commands.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "runner/failure.h"
#include "runner/files.h"
#include "runner/format.h"
#include "runner/processors.h"
#include "runner/system.h"
#include "runner/text/tokenizer.h"
#include "runner/text/visible.h"

namespace ssmrun {

Output::Output() : file_(dup(STDOUT_FILENO)) {
  if (file_ >= 0) dup2(STDERR_FILENO, STDOUT_FILENO);
}

void Output::write(std::string_view text) const { write_bytes(Visible(text)); }

void Output::write_generated(std::string_view text) const {
  isatty(file_) ? write(text) : write_bytes(text);
}

void Output::write_bytes(std::string_view bytes) const {
  while (!bytes.empty()) {
    const ssize_t wrote = ::write(file_, bytes.data(), bytes.size());
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0)
      BadDevice(std::string("stdout: cannot be written: ") + std::strerror(errno) + ".");
    bytes.remove_prefix(static_cast<size_t>(wrote));
  }
}

void WritePercentiles(JsonWriter& out, std::vector<double> samples, double tokens) {
  std::sort(samples.begin(), samples.end());
  const auto at = [&](double share) {
    const double place = share * static_cast<double>(samples.size() - 1);
    const auto below = static_cast<size_t>(place);
    const size_t above = std::min(below + 1, samples.size() - 1);
    return samples[below] + (place - std::floor(place)) * (samples[above] - samples[below]);
  };
  if (samples.empty()) {
    out.null();
    return;
  }
  out.begin_object().field("p50_ms", at(0.5)).field("p90_ms", at(0.9)).field("p99_ms", at(0.99));
  out.field("tokens_per_s", 1000 * tokens / at(0.5)).end_object();
}

Files FindFiles(const Bundle& bundle, const Options& options) {
  Files files;
  const std::string& folder = bundle.folder();
  if (options.runtime.empty() && !bundle.has(kRuntimeName)) {
    BadInput(folder + ": expected " + kRuntimeName +
             " among the files of its manifest; it is not. Give --runtime FILE, the " +
             "libonnxruntime.so.VERSION of ONNX Runtime's wheel.");
  }
  files.runtime = options.runtime.empty() ? bundle.path(kRuntimeName) : options.runtime;
  if (!options.stock) files.library = bundle.path(kLibraryName);
  files.model = options.model.empty() ? bundle.path(kModelName) : options.model;
  const std::string data = std::string(kModelName) + ".data";
  if (options.model.empty() && IsFile(Join(folder, data))) bundle.path(data);
  return files;
}

namespace {

// More threads than can run at once wait for one another in every matrix product: 8 on 2
// processors took 11 times as long as 2.
void NoteCrowding(const ModelOptions& options) {
  const Processors& processors = ProcessorsAtStart();
  const bool pinned = !options.pins.empty();
  const int usable = pinned ? processors.usable_pinned(options.pins) : processors.usable();
  if (options.threads <= usable) return;
  std::fprintf(stderr,
               "ssmrun: note: %d threads%s: %d can run at once here; more wait for one "
               "another.\n",
               options.threads, pinned ? " on these processors" : "", usable);
}

}  // namespace

Opened::Opened(const Options& options, Bundle bundle)
    : bundle_(std::move(bundle)),
      files_(FindFiles(bundle_, options)),
      model_options_{options.thread_count(), options.pins} {
  NoteCrowding(model_options_);
  if (!options.pins.empty()) PinTo(options.pins[0]);
  runtime_ = std::make_unique<Runtime>(files_.runtime);
  if (!files_.library.empty()) library_ = std::make_unique<OpLibrary>(files_.library);
}

Loaded Opened::load(bool cold) const {
  return LoadModel(*runtime_, library_.get(), files_.model, model_options_, cold);
}

namespace {

// The bundle's tokenizer, or why ssmrun cannot use it. Neither where the model reads no tokens.
struct TextSide {
  TextSide(const Bundle& bundle, const Interface& interface) {
    if (!interface.task->reads_tokens()) return;
    try {
      tokenizer.emplace(bundle.path(kTokenizerName));
    } catch (const Failure& failure) {
      lacks = failure.message;
    }
  }
  const std::string* text_of(int64_t token) const {
    return tokenizer ? tokenizer->text_of(token) : nullptr;
  }
  // Lines for a reader: where a text ends, and what is missing.
  std::string lines(const Interface& interface) const {
    std::string text;
    if (interface.task->generates()) {
      text = interface.end_tokens.empty() ? "end tokens: none known" : "end tokens:";
      for (const int64_t token : interface.end_tokens) {
        const std::string* written = text_of(token);
        text += " " + std::to_string(token) + (written != nullptr ? " " + *written : "");
      }
      text += "\n";
    }
    if (lacks) text += "texts: not here, in Python only: " + *lacks + "\n";
    return text;
  }

  std::optional<Tokenizer> tokenizer;
  std::optional<std::string> lacks;
};

}  // namespace

void RunInfo(const Options& options, const Output& output) {
  const Opened opened(options);
  const Loaded loaded = opened.load(false);
  const Bundle& bundle = opened.bundle();
  const Interface& interface = loaded.model->interface();
  uint64_t model_bytes = 0, runtime_bytes = 0, all = 0;
  for (const BundleFile& file : bundle.files()) {
    all += file.bytes;
    if (file.name.rfind(kModelName, 0) == 0) model_bytes += file.bytes;
    if (file.name == kRuntimeName) runtime_bytes = file.bytes;
  }
  const uint64_t peak = MemoryBytes("VmHWM");
  const TextSide text(bundle, interface);
  if (!options.json) {
    const std::string sizes =
        interface.task->details().empty()
            ? Format(", vocabulary %lld, %zu states", static_cast<long long>(interface.vocab_size),
                     interface.states.size())
            : "";
    output.write(Format("%s: %s", options.bundle.c_str(), interface.task->kind().name) + sizes +
                 "\n" + interface.task->details() +
                 Format("model %.1f MB, bundle %.1f MB, state %.1f kB, peak memory %.1f MB\n",
                        1e-6 * static_cast<double>(model_bytes), 1e-6 * static_cast<double>(all),
                        1e-3 * static_cast<double>(loaded.state->bytes()),
                        1e-6 * static_cast<double>(peak)) +
                 Format("ops: %s; ONNX Runtime %s; ssmpress %s; loaded in %.0f ms\n",
                        options.stock ? "none" : opened.isa().c_str(),
                        opened.runtime().version().c_str(), bundle.version("ssmpress").c_str(),
                        loaded.load_ms) +
                 text.lines(interface));
    return;
  }
  JsonWriter out;
  out.begin_object().field("bundle", options.bundle).field("model", opened.files().model);
  out.field("model_bytes", model_bytes).field("bundle_bytes", all);
  out.key("config").raw(interface.config).field("task", interface.task->kind().name);
  out.key("end_tokens").begin_array();
  for (const int64_t token : interface.end_tokens) {
    const std::string* written = text.text_of(token);
    out.begin_object().field("id", token).key("text");
    written != nullptr ? out.value(*written) : out.null();
    out.end_object();
  }
  out.end_array().field("ssmrun_lacks", text.lacks);
  const auto versions = bundle.manifest().find("versions");
  out.key("versions").raw(versions ? versions->canonical() : "{}");
  out.field("runtime", opened.runtime().version()).field("runtime_bytes", runtime_bytes);
  out.field("ops_isa", Maybe(opened.isa()));
  out.field("state_bytes", static_cast<uint64_t>(loaded.state->bytes()));
  out.field("load_ms", loaded.load_ms).field("peak_rss_bytes", peak).key("environment");
  WriteEnvironment(out, opened.model_options().threads, opened.isa(), opened.runtime().version());
  output.write(out.end_object().text() + "\n");
}

void RunVerify(const Options& options, const Output& output) {
  const Bundle bundle(options.bundle, options.verify_key);
  std::vector<std::string> notes;
  const std::string made_by = bundle.version("ssmpress");
  if (made_by != SSMPRESS_VERSION) {
    notes.push_back("made by ssmpress " + made_by + "; this ssmrun is " + SSMPRESS_VERSION + ".");
  }
  const OpLibrary library(bundle.path(kLibraryName));
  std::string runtime_version;
  if (options.runtime.empty() && !bundle.has(kRuntimeName)) {
    notes.push_back(std::string("has no ") + kRuntimeName +
                    ": --runtime FILE is needed to run it.");
  } else {
    const bool own = options.runtime.empty();
    const Runtime runtime(own ? bundle.path(kRuntimeName) : options.runtime);
    runtime_version = runtime.version();
    const std::string expected = bundle.version("onnxruntime");
    if (!expected.empty() && expected != runtime_version) {
      const std::string text = "expected ONNX Runtime " + expected +
                               ", which the bundle was proved with; got " + runtime_version + ".";
      if (own) BadInput(bundle.path(kRuntimeName) + ": " + text + " Make the bundle again.");
      notes.push_back(options.runtime + ": " + text);
    }
  }
  if (!options.json) {
    std::string text =
        Format("%s: %zu files as the manifest says, for %s; ops: %s", options.bundle.c_str(),
               bundle.files().size(), ThisMachine().c_str(), library.isa().c_str());
    if (!runtime_version.empty()) text += "; ONNX Runtime " + runtime_version;
    text += "\n";
    for (const std::string& note : notes) text += "note: " + note + "\n";
    output.write(text);
    return;
  }
  JsonWriter out;
  out.begin_object().field("ok", true).field("bundle", options.bundle);
  out.key("files").begin_array();
  for (const BundleFile& file : bundle.files()) {
    out.begin_object().field("name", file.name).field("bytes", file.bytes);
    out.field("sha256", file.sha256).end_object();
  }
  out.end_array();
  out.field("manifest_sha256", bundle.manifest().find("manifest_sha256")->text());
  out.field("machine", ThisMachine()).field("ops_isa", library.isa());
  out.field("runtime", Maybe(runtime_version));
  const auto versions = bundle.manifest().find("versions");
  out.key("versions").raw(versions ? versions->canonical() : "{}");
  output.write(out.field("notes", notes).end_object().text() + "\n");
}

}  // namespace ssmrun
