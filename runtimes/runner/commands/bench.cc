// SPDX-License-Identifier: Apache-2.0
// ssmrun bench: load, prefill and decode times of one model.
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "runner/commands/commands.h"
#include "runner/failure.h"
#include "runner/processors.h"
#include "runner/system.h"

namespace ssmrun {

Loaded LoadModel(const Runtime& runtime, const OpLibrary* library, const std::string& path,
                 const ModelOptions& options, bool cold) {
  if (cold) DropFromPageCache(path);
  Loaded loaded{nullptr, nullptr, 0, MemoryBytes("VmRSS")};
  const double begin = NowMs();
  loaded.model = std::make_unique<Model>(runtime, library, path, options);
  loaded.state = std::make_unique<State>(*loaded.model);
  loaded.model->task().first_prediction(*loaded.model, *loaded.state);
  loaded.load_ms = NowMs() - begin;
  return loaded;
}

Round RunRound(Model& model, State& state, SplitMix64& random, uint64_t prompt_tokens,
               uint64_t decode_tokens) {
  Round round = model.task().timed_round(model, state, random, prompt_tokens, decode_tokens);
  WaitUntilQuiet();
  return round;
}

namespace {

// Runs in the child: what the parent reads from the pipe is the time, or the failure's code and
// sentence.
[[noreturn]] void LoadInChild(const Options& options, const Bundle& bundle, int pipe) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  std::string reply;
  try {
    const Files files = FindFiles(bundle, options);
    if (!options.pins.empty()) PinTo(options.pins[0]);
    const Runtime runtime(files.runtime);
    std::optional<OpLibrary> library;
    if (!files.library.empty()) library.emplace(files.library);
    const Loaded loaded = LoadModel(runtime, library ? &*library : nullptr, files.model,
                                    {options.thread_count(), options.pins}, true);
    reply = "0 " + JsonWriter().value(loaded.load_ms).text();
  } catch (const Failure& failure) {
    reply = std::to_string(failure.exit_code) + " " + failure.message;
  } catch (const std::bad_alloc&) {
    reply = std::to_string(kDevice) + " " + kNoMemory;
  }
  const ssize_t wrote = write(pipe, reply.data(), reply.size());
  _exit(wrote == static_cast<ssize_t>(reply.size()) ? 0 : 1);
}

// Milliseconds, in a process that ends after it. Called before this one has any threads.
double ColdLoad(const Options& options, const Bundle& bundle) {
  int ends[2];
  if (pipe(ends) != 0) BadDevice(std::string("pipe: ") + std::strerror(errno) + ".");
  const pid_t child = fork();
  if (child < 0) BadDevice(std::string("fork: ") + std::strerror(errno) + ".");
  if (child == 0) LoadInChild(options, bundle, ends[1]);
  close(ends[1]);
  std::string reply;
  char block[4096];
  ssize_t got = 0;
  while ((got = read(ends[0], block, sizeof block)) > 0 || (got < 0 && errno == EINTR)) {
    if (got > 0) reply.append(block, static_cast<size_t>(got));
  }
  close(ends[0]);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (reply.size() < 3) {
    BadDevice("cold load: its process ended" +
              (WIFSIGNALED(status) ? " by signal " + std::to_string(WTERMSIG(status)) : "") +
              " without an answer. Signal 9 is the kernel's when memory runs out.");
  }
  const std::string text = reply.substr(2);
  if (reply[0] != '0') throw Failure{static_cast<ExitCode>(reply[0] - '0'), text};
  return std::strtod(text.c_str(), nullptr);
}

std::string Machine(void (*write)(JsonWriter&)) {
  JsonWriter out;
  write(out);
  return out.text();
}

struct Result {
  double prefill_steps;  // of one prefill
  const char* unit;      // what a step is
  std::optional<double> cold_ms;
  double warm_ms;
  uint64_t runtime_rss, peak_rss;
  std::vector<Round> rounds;  // the first one warms up
  std::string before, after;
};

std::vector<double> Samples(const Result& result, bool prefill) {
  std::vector<double> samples;
  for (size_t i = 1; i < result.rounds.size(); ++i) {
    const Round& round = result.rounds[i];
    if (prefill) {
      samples.push_back(round.prefill_ms);
    } else {
      samples.insert(samples.end(), round.decode_ms.begin(), round.decode_ms.end());
    }
  }
  return samples;
}

std::string ToJson(const Options& options, const Opened& opened, const Result& result) {
  JsonWriter out;
  out.begin_object().field("bundle", options.bundle).field("model", opened.files().model);
  out.field("stock", options.stock).field("prompt_tokens", options.prompt_tokens);
  out.field("decode_tokens", options.decode_tokens);
  out.field("threads", opened.model_options().threads).key("pinned");
  if (options.pins.empty()) {
    out.null();
  } else {
    out.value(options.pins);
  }
  out.field("load_cold_ms", result.cold_ms).field("load_warm_ms", result.warm_ms);
  out.key("rounds").begin_array();
  for (size_t i = 0; i < result.rounds.size(); ++i) {
    out.begin_object().field("prefill_ms", result.rounds[i].prefill_ms);
    out.field("decode_ms", result.rounds[i].decode_ms).field("warmup", i == 0).end_object();
  }
  out.end_array().key("prefill");
  WritePercentiles(out, Samples(result, true), result.prefill_steps);
  out.key("decode");
  WritePercentiles(out, Samples(result, false), 1);
  out.field("runtime_rss_bytes", result.runtime_rss).field("peak_rss_bytes", result.peak_rss);
  out.key("environment");
  WriteEnvironment(out, opened.model_options().threads, opened.isa(), opened.runtime().version());
  out.key("before").raw(result.before).key("after").raw(result.after);
  return out.end_object().text() + "\n";
}

std::string ToText(const Options& options, const Opened& opened, const Result& result) {
  const auto median = [&](bool prefill) {
    JsonWriter out;
    WritePercentiles(out, Samples(result, prefill), prefill ? result.prefill_steps : 1);
    const Json percentiles(out.text(), "percentiles");
    const auto get = [&](const char* key) { return *percentiles.root().find(key)->number(); };
    char line[200];
    std::snprintf(line, sizeof line, "p50 %.3f ms, p90 %.3f ms, p99 %.3f ms, %.1f %s/s\n",
                  get("p50_ms"), get("p90_ms"), get("p99_ms"), get("tokens_per_s"), result.unit);
    return std::string(line);
  };
  char load[200], end[200];
  std::snprintf(load, sizeof load, "load    %.1f ms warm", result.warm_ms);
  std::string text = load;
  if (result.cold_ms) {
    std::snprintf(load, sizeof load, ", %.1f ms cold", *result.cold_ms);
    text += load;
  }
  std::snprintf(end, sizeof end, "memory  %.1f MB at most, %.1f MB before the model\n",
                1e-6 * static_cast<double>(result.peak_rss),
                1e-6 * static_cast<double>(result.runtime_rss));
  return text + "\nprefill " + median(true) + "decode  " + median(false) + end + "ops     " +
         (options.stock ? "none" : opened.isa()) + ", " +
         std::to_string(opened.model_options().threads) + " threads\n";
}

}  // namespace

void RunBench(const Options& options, const Output& output) {
  Result result{};
  Bundle bundle(options.bundle, options.verify_key);
  if (!options.no_cold) result.cold_ms = ColdLoad(options, bundle);
  const Opened opened(options, std::move(bundle));
  const Loaded loaded = opened.load(false);
  const Task& task = loaded.model->task();
  result.prefill_steps = static_cast<double>(task.timed_steps(options.prompt_tokens));
  result.unit = &task.kind() == &kNetwork ? "samples" : "tokens";
  result.warm_ms = loaded.load_ms;
  result.runtime_rss = loaded.runtime_rss_bytes;
  WaitUntilQuiet();
  SplitMix64 random(options.generation.sampling.seed);
  result.before = Machine(WriteMachineState);
  for (uint64_t i = 0; i <= options.rounds; ++i) {
    result.rounds.push_back(RunRound(*loaded.model, *loaded.state, random, options.prompt_tokens,
                                     options.decode_tokens));
  }
  result.after = Machine(WriteMachineState);
  result.peak_rss = MemoryBytes("VmHWM");
  output.write(options.json ? ToJson(options, opened, result) : ToText(options, opened, result));
}

}  // namespace ssmrun
