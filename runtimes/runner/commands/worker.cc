// SPDX-License-Identifier: Apache-2.0
// ssmrun worker: answers requests, one JSON object per line, with the protocol of
// toolchain/ssmpress/measure/worker.py and more.
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstring>
#include <numeric>
#include <optional>

#include "runner/commands/commands.h"
#include "runner/failure.h"
#include "runner/files.h"
#include "runner/model/evaluate.h"
#include "runner/model/generate.h"
#include "runner/processors.h"
#include "runner/system.h"
#include "runner/text/text_stream.h"
#include "runner/text/tokenizer.h"

namespace ssmrun {
namespace {

constexpr size_t kLineLimit = 64 << 20;    // bytes of a request
constexpr uint64_t kTokenLimit = 1 << 24;  // of a count in a request

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

// The fields of a request; a message names the request and the field.
class Request {
 public:
  explicit Request(JsonValue root) : root_(root) {
    if (!root.is(JsonValue::kObject)) BadInput("worker: expected an object; got " + root.shown());
    name_ = text("do");
  }
  const std::string& name() const { return name_; }
  bool has(const char* key) const { return root_.find(key).has_value(); }
  bool is_null(const char* key) const {
    const auto found = root_.find(key);
    return found && found->is(JsonValue::kNull);
  }

  std::string text(const char* key) const {
    const auto found = root_.find(key);
    if (!found || !found->is(JsonValue::kString)) fail(key, "a string");
    return std::string(found->text());
  }
  uint64_t number(const char* key, uint64_t low, uint64_t high,
                  std::optional<uint64_t> absent = {}) const {
    const auto found = root_.find(key);
    if (!found && absent) return *absent;
    const auto value = found ? found->unsigned_integer() : std::nullopt;
    if (!value || *value < low || *value > high) {
      fail(key, "an integer from " + std::to_string(low) + " to " + std::to_string(high));
    }
    return *value;
  }
  double real(const char* key, double absent) const {
    const auto found = root_.find(key);
    if (!found) return absent;
    if (!found->number()) fail(key, "a number");
    return *found->number();
  }
  bool flag(const char* key) const {
    const auto found = root_.find(key);
    if (found && !found->is(JsonValue::kTrue) && !found->is(JsonValue::kFalse)) {
      fail(key, "true or false");
    }
    return found && found->is(JsonValue::kTrue);
  }
  std::vector<int64_t> integers(const char* key) const {
    const auto found = root_.find(key);
    if (!found) fail(key, "a list of integers");
    return integers_of(*found, key);
  }
  std::vector<float> reals(const char* key) const {
    const auto found = root_.find(key);
    std::vector<float> reals;
    if (!found || !found->is(JsonValue::kArray)) fail(key, "a list of numbers");
    for (const JsonValue item : *found) {
      const auto value = item.number();
      if (!value || !std::isfinite(static_cast<float>(*value))) fail(key, "a list of numbers");
      reals.push_back(static_cast<float>(*value));
    }
    return reals;
  }
  Windows lists(const char* key) const {
    const auto found = root_.find(key);
    if (!found || !found->is(JsonValue::kArray)) fail(key, "a list of lists");
    Windows lists;
    for (const JsonValue item : *found) lists.push_back(integers_of(item, key));
    return lists;
  }

 private:
  [[noreturn]] void fail(const std::string& key, const std::string& expected) const {
    const auto found = root_.find(key);
    BadInput("worker: " + (name_.empty() ? "" : name_ + ": ") + key + ": expected " + expected +
             "; got " + (found ? found->shown() : "nothing") + ".");
  }
  std::vector<int64_t> integers_of(JsonValue list, const char* key) const {
    std::vector<int64_t> integers;
    if (!list.is(JsonValue::kArray)) fail(key, "a list of integers");
    for (const JsonValue item : list) {
      if (!item.integer()) fail(key, "a list of integers");
      integers.push_back(*item.integer());
    }
    return integers;
  }

  JsonValue root_;
  std::string name_;
};

class Worker {
 public:
  explicit Worker(const Options& options)
      : bundle_(options.bundle), files_(FindFiles(bundle_, options)), runtime_(files_.runtime) {}

  std::string answer(const std::string& line) {
    const Json document(line, "worker: request");
    const Request request(document.root());
    JsonWriter out;
    out.begin_object();
    const struct {
      const char* name;
      void (Worker::*run)(const Request&, JsonWriter&);
    } known[] = {{"load", &Worker::load},         {"round", &Worker::round},
                 {"memory", &Worker::memory},     {"environment", &Worker::environment},
                 {"logits", &Worker::logits},     {"nll", &Worker::nll},
                 {"generate", &Worker::generate}, {"encode", &Worker::encode},
                 {"decode", &Worker::decode},     {"stream", &Worker::stream},
                 {"classify", &Worker::classify}, {"forecast", &Worker::forecast}};
    const auto found = std::find_if(std::begin(known), std::end(known),
                                    [&](const auto& one) { return request.name() == one.name; });
    if (found == std::end(known)) {
      BadInput(
          "worker: expected load, round, memory, environment, logits, nll, generate, encode, " +
          std::string("decode, stream, classify or forecast; got ") + request.name() + ".");
    }
    (this->*found->run)(request, out);
    return out.end_object().text() + "\n";
  }

 private:
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
    options_.piece_tokens = request.number("piece_tokens", 1, kTokenLimit, kPieceTokens);
    const uint64_t seed = request.number("seed", 0, UINT64_MAX, 0);
    loaded_ = {};
    loaded_ = LoadModel(runtime_, library_, path, options_, request.flag("cold"));
    random_ = SplitMix64(seed);
    WaitUntilQuiet();
    out.field("load_ms", loaded_.load_ms).field("runtime_rss_bytes", loaded_.runtime_rss_bytes);
    write_isa(out);
    out.key("config").raw(model().interface().config);
  }

  void write_isa(JsonWriter& out) const {
    out.key("ops_isa");
    library_ != nullptr ? out.value(library_->isa()) : out.null();
  }

  void round(const Request& request, JsonWriter& out) {
    const uint64_t prompt = request.number("prompt_tokens", 1, kTokenLimit);
    const uint64_t decode = request.number("decode_tokens", 0, kTokenLimit);
    const Round round = RunRound(model(), *loaded_.state, random_, prompt, decode);
    out.field("prefill_ms", round.prefill_ms).field("decode_ms", round.decode_ms);
  }

  void memory(const Request&, JsonWriter& out) {
    out.field("peak_rss_bytes", MemoryBytes("VmHWM"));
  }

  void environment(const Request&, JsonWriter& out) {
    out.key("environment");
    WriteEnvironment(out, options_.threads, library_ ? library_->isa() : "", runtime_.version());
    out.key("now");
    WriteMachineState(out);
  }

  void logits(const Request& request, JsonWriter& out) {
    const std::vector<int64_t> tokens = request.integers("tokens");
    model().require(Task::kLanguageModel);
    model().check_tokens(tokens, "worker: logits: tokens");
    const uint64_t split = request.number("prefill", 0, tokens.size(), tokens.size());
    const auto vocab = static_cast<size_t>(model().interface().vocab_size);
    std::vector<float> all(tokens.size() * vocab);
    State& state = *loaded_.state;
    state.clear();
    if (split > 0) {
      const std::vector<int64_t> first(tokens.begin(),
                                       tokens.begin() + static_cast<ptrdiff_t>(split));
      std::vector<int64_t> positions(split);
      std::iota(positions.begin(), positions.end(), 0);
      model().prefill(first, positions, all.data(), state);
    }
    for (size_t i = split; i < tokens.size(); ++i) {
      const float* row = model().step(tokens[i], state);
      std::copy(row, row + vocab, all.begin() + static_cast<ptrdiff_t>(i * vocab));
    }
    out.field("shape", std::vector<uint64_t>{tokens.size(), vocab});
    if (request.has("file")) {
      WriteFile(request.text("file"), all.data(), sizeof(float) * all.size());
      out.field("file", request.text("file"));
    } else {
      out.field("logits", Base64(all.data(), sizeof(float) * all.size()));
    }
    if (request.flag("states")) write_states(out);
  }

  void write_states(JsonWriter& out) const {
    out.key("states").begin_object();
    for (const State::Tensor& tensor : loaded_.state->tensors()) {
      const int side = loaded_.state->front();
      const std::vector<float> values = tensor.values(side);
      out.key(tensor.kind.name).begin_object().field("shape", tensor.shape[side]);
      out.field("data", Base64(values.data(), sizeof(float) * values.size())).end_object();
    }
    out.end_object();
  }

  void nll(const Request& request, JsonWriter& out) {
    std::vector<double> sums;
    uint64_t predictions = 0;
    for (const std::vector<int64_t>& window : request.lists("windows")) {
      sums.push_back(WindowNll(model(), window));
      predictions += window.size() - 1;
    }
    out.field("window_nll", sums).field("tokens", predictions);
  }

  void generate(const Request& request, JsonWriter& out) {
    const std::vector<int64_t> prompt = request.integers("tokens");
    model().require(Task::kLanguageModel);
    model().check_tokens(prompt, "worker: generate: tokens");
    const Generation settings{
        {request.real("temperature", 0), request.number("top_k", 0, kTokenLimit, 0),
         request.number("seed", 0, UINT64_MAX, 0)},
        request.number("max_tokens", 0, kTokenLimit),
        request.flag("ignore_eos")};
    CheckTemperature(settings.sampling.temperature);
    out.field("tokens", Generate(model(), *loaded_.state, prompt, settings, [](int64_t) {}).tokens);
  }

  void classify(const Request& request, JsonWriter& out) {
    std::vector<float> all;
    const Windows texts = request.lists("texts");
    for (const std::vector<int64_t>& text : texts) {
      const std::vector<float> logits = model().classify(text);
      all.insert(all.end(), logits.begin(), logits.end());
    }
    const uint64_t classes = model().interface().task.classes.size();
    out.field("shape", std::vector<uint64_t>{texts.size(), classes});
    out.field("logits", Base64(all.data(), sizeof(float) * all.size()));
  }

  void forecast(const Request& request, JsonWriter& out) {
    model().require(Task::kForecast);
    const std::vector<float> all = model().forecast(request.reals("series"));
    const Task& task = model().interface().task;
    const auto horizon = static_cast<uint64_t>(task.horizon);
    const uint64_t variates = task.variates.size();
    out.field("shape", std::vector<uint64_t>{all.size() / (horizon * variates), horizon, variates});
    out.field("forecast", Base64(all.data(), sizeof(float) * all.size()));
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
