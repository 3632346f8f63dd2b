// SPDX-License-Identifier: Apache-2.0
// ssmrun worker: answers requests, one JSON object per line, with the protocol of
// toolchain/ssmpress/measure/worker.py and more.
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <optional>

#include "runner/commands/commands.h"
#include "runner/failure.h"
#include "runner/format.h"
#include "runner/json/request.h"
#include "runner/processors.h"
#include "runner/system.h"
#include "runner/text/text_stream.h"
#include "runner/text/tokenizer.h"

namespace ssmrun {
namespace {

constexpr size_t kLineLimit = 64 << 20;  // bytes of a request

// Lines of stdin.
class Lines {
 public:
  // False at the end of stdin; a last line without its newline is not one.
  bool next(std::string& line) {
    size_t newline = 0;
    while ((newline = buffer_.find('\n', searched_)) == buffer_.npos) {
      searched_ = buffer_.size();
      if (buffer_.size() > kLineLimit) {
        BadInput("worker: expected a request of at most " + std::to_string(kLineLimit) +
                 " bytes; got more.");
      }
      char block[1 << 16];
      const ssize_t got = read(STDIN_FILENO, block, sizeof block);
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) return false;
      buffer_.append(block, static_cast<size_t>(got));
    }
    line = buffer_.substr(0, newline);
    buffer_.erase(0, newline + 1);
    searched_ = 0;
    return true;
  }

 private:
  std::string buffer_;
  size_t searched_ = 0;
};

class Worker {
 public:
  explicit Worker(const Options& options)
      : bundle_(options.bundle, options.verify_key),
        files_(FindFiles(bundle_, options)),
        runtime_(files_.runtime) {}

  std::string answer(const std::string& line) {
    const Json document(line, "worker: request");
    const Request request(document.root());
    JsonWriter out;
    out.begin_object();
    if (const Own* own = find_own(request.name())) {
      (this->*own->run)(request, out);
    } else if (const TaskKind* kind = FindRequest(request.name())) {
      model().require(*kind);
      model().task().answer(request, model(), *loaded_.state, out);
    } else {
      BadInput("worker: expected " + known_requests() + "; got " + request.name() + ".");
    }
    return out.end_object().text() + "\n";
  }

 private:
  // A request that does not depend on the model's task.
  struct Own {
    const char* name;
    void (Worker::*run)(const Request&, JsonWriter&);
  };
  static const Own kOwnRequests[7];

  static const Own* find_own(const std::string& name) {
    const auto found = std::find_if(std::begin(kOwnRequests), std::end(kOwnRequests),
                                    [&](const Own& one) { return name == one.name; });
    return found == std::end(kOwnRequests) ? nullptr : found;
  }

  static std::string known_requests() {
    std::vector<std::string> names;
    for (const Own& own : kOwnRequests) names.emplace_back(own.name);
    for (const TaskKind* kind : TaskKinds()) {
      names.insert(names.end(), kind->requests.begin(), kind->requests.end());
    }
    return OneOf(names);
  }

  Model& model() const {
    if (loaded_.model == nullptr) {
      throw Failure{kUsage, "worker: expected a load request before the model is used."};
    }
    return *loaded_.model;
  }

  const Tokenizer& tokenizer() {
    if (!tokenizer_) tokenizer_.emplace(bundle_.path(kTokenizerName));
    return *tokenizer_;
  }

  // Libraries stay loaded, so one that was used before is found again.
  const OpLibrary* library(const std::string& path) {
    for (const auto& one : libraries_) {
      if (one->path() == path) return one.get();
    }
    libraries_.push_back(std::make_unique<OpLibrary>(path));
    return libraries_.back().get();
  }

  void load(const Request& request, JsonWriter& out) {
    const std::string path = request.has("model") ? request.text("model") : files_.model;
    library_ = request.is_null("library") ? nullptr
               : request.has("library")   ? library(request.text("library"))
                                          : library(files_.library);
    options_ = {static_cast<int>(request.number("threads", 1, 1024)), {}};
    if (request.has("pin") && !request.is_null("pin")) {
      for (const int64_t pin : request.integers("pin")) {
        if (pin < 0 || pin > 4095) BadInput("worker: load: pin: expected 0 to 4095.");
        options_.pins.push_back(static_cast<int>(pin));
      }
      if (options_.pins.size() != static_cast<size_t>(options_.threads)) {
        BadInput("worker: load: pin: expected one processor per thread.");
      }
      PinTo(options_.pins[0]);
    }
    options_.piece_tokens = request.number("piece_tokens", 1, kCountLimit, kPieceTokens);
    const uint64_t seed = request.number("seed", 0, UINT64_MAX, 0);
    loaded_ = {};
    loaded_ = LoadModel(runtime_, library_, path, options_, request.flag("cold"));
    random_ = SplitMix64(seed);
    WaitUntilQuiet();
    out.field("load_ms", loaded_.load_ms).field("runtime_rss_bytes", loaded_.runtime_rss_bytes);
    out.field("ops_isa", Maybe(isa())).key("config").raw(model().interface().config);
  }

  std::string isa() const { return library_ ? library_->isa() : ""; }

  void round(const Request& request, JsonWriter& out) {
    const uint64_t prompt = request.number("prompt_tokens", 1, kCountLimit);
    const uint64_t decode = request.number("decode_tokens", 0, kCountLimit);
    const Round round = RunRound(model(), *loaded_.state, random_, prompt, decode);
    out.field("prefill_ms", round.prefill_ms).field("decode_ms", round.decode_ms);
  }

  void memory(const Request&, JsonWriter& out) {
    out.field("peak_rss_bytes", MemoryBytes("VmHWM"));
  }

  void environment(const Request&, JsonWriter& out) {
    out.key("environment");
    WriteEnvironment(out, options_.threads, isa(), runtime_.version());
    out.key("now");
    WriteMachineState(out);
  }

  void encode(const Request& request, JsonWriter& out) {
    out.field("tokens", tokenizer().encode(request.text("text"), "worker: encode: text"));
  }

  void decode(const Request& request, JsonWriter& out) {
    out.field("text", tokenizer().decode(request.integers("tokens"), special(request)));
  }

  void stream(const Request& request, JsonWriter& out) {
    TextStream stream(tokenizer(), request.integers("prompt"), special(request));
    std::vector<std::string> pieces;
    for (const int64_t token : request.integers("tokens")) pieces.push_back(stream.add(token));
    pieces.push_back(stream.finish());
    out.field("pieces", pieces);
  }

  static SpecialTokens special(const Request& request) {
    return request.flag("show_special") ? SpecialTokens::kShown : SpecialTokens::kHidden;
  }

  Bundle bundle_;
  Files files_;
  Runtime runtime_;
  std::vector<std::unique_ptr<OpLibrary>> libraries_;
  const OpLibrary* library_ = nullptr;
  ModelOptions options_;
  Loaded loaded_{};
  SplitMix64 random_{0};
  std::optional<Tokenizer> tokenizer_;
};

const Worker::Own Worker::kOwnRequests[] = {
    {"load", &Worker::load},     {"round", &Worker::round},
    {"memory", &Worker::memory}, {"environment", &Worker::environment},
    {"encode", &Worker::encode}, {"decode", &Worker::decode},
    {"stream", &Worker::stream},
};

std::string ErrorReply(int exit_code, const std::string& message) {
  JsonWriter out;
  out.begin_object().field("error", message).field("exit_code", exit_code);
  return out.end_object().text() + "\n";
}

}  // namespace

void RunWorker(const Options& options, const Output& output) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);  // never outlives the process that measures
  signal(SIGINT, SIG_IGN);           // Ctrl-C is the parent's to handle
  Worker worker(options);
  Lines lines;
  std::string line;
  while (lines.next(line)) {
    std::string reply;
    try {
      reply = worker.answer(line);
    } catch (const Failure& failure) {
      reply = ErrorReply(failure.exit_code, failure.message);
    } catch (const std::bad_alloc&) {
      reply = ErrorReply(kDevice, std::string("worker: ") + kNoMemory);
    }
    output.write(reply);
  }
}

}  // namespace ssmrun
