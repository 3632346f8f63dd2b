// SPDX-License-Identifier: Apache-2.0
// ONNX Runtime, the op library and one opened model: prefill, decode, state in and out. The twin of
// toolchain/ssmpress/runtime/session.py and interface.py.
#ifndef SSMPRESS_RUNNER_SESSION_H_
#define SSMPRESS_RUNNER_SESSION_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runner/failure.h"
#include "runner/json/json.h"
#include "runner/model/onnx_runtime_abi.h"
#include "runner/model/state_tensor.h"

namespace ssmrun {

namespace ort = ssmpress::ort;

// A thing that ONNX Runtime owns and its Release... function frees.
template <class T, const auto& kRelease>
struct Releaser {
  const ort::Api* api = nullptr;
  void operator()(T* thing) const { kRelease(api)(thing); }
};
template <class T, const auto& kRelease>
using Owned = std::unique_ptr<T, Releaser<T, kRelease>>;
using OwnedValue = Owned<ort::Value, ort::kReleaseValue>;
using OwnedBinding = Owned<ort::IoBinding, ort::kReleaseIoBinding>;

// libonnxruntime.so. It stays loaded until the process ends: its threads may still be ending.
class Runtime {
 public:
  // Throws kDevice: for another machine, not loadable, or older than API version 17.
  explicit Runtime(const std::string& path);

  const ort::Api* api() const { return api_; }
  const ort::ApiBase* base() const { return base_; }
  ort::Env* env() const { return env_.get(); }
  const ort::MemoryInfo* memory() const { return memory_.get(); }
  std::string version() const { return base_->get_version_string(); }
  // Throws `code` with `where` and the first line of ONNX Runtime's message.
  void check(ort::Status* status, ExitCode code, const std::string& where) const;
  // A tensor that is the caller's buffer.
  OwnedValue tensor(void* data, size_t bytes, const std::vector<int64_t>& shape, int type) const;

 private:
  const ort::ApiBase* base_ = nullptr;
  const ort::Api* api_ = nullptr;
  Owned<ort::Env, ort::kReleaseEnv> env_;
  Owned<ort::MemoryInfo, ort::kReleaseMemoryInfo> memory_;
};

class OpLibrary {
 public:
  // Throws kDevice: for another machine, not loadable, or SSMPRESS_ISA names a set it cannot use.
  explicit OpLibrary(const std::string& path);
  const std::string& path() const { return path_; }
  const std::string& isa() const { return isa_; }
  ort::Status* add_to(ort::SessionOptions* options, const Runtime& runtime) const {
    return register_(options, runtime.base());
  }

 private:
  std::string path_, isa_;
  ort::Status* (*register_)(ort::SessionOptions*, const ort::ApiBase*) = nullptr;
};

// What a model is for: the `task` of its config. Without one it is a language model.
struct Task {
  enum Kind { kLanguageModel, kClassification, kForecast };
  Kind kind = kLanguageModel;
  std::vector<std::string> classes;   // by the order of the logits
  int64_t max_length = 0;             // tokens that a classifier reads of a text
  int64_t lookback = 0, horizon = 0;  // time steps that a forecaster reads and predicts
  std::vector<std::string> variates;
  std::vector<double> mean, std;  // of each variate: inputs and forecasts are (x - mean) / std
  const char* name() const;
};

// What a model's metadata says, checked. Inputs and outputs are as in docs/ops.md; only language
// models carry states, and a forecaster has no vocabulary.
struct Interface {
  std::string config;  // JSON
  Task task;
  int64_t vocab_size = 0;
  std::vector<StateTensor> states;
};

// The entries of a model's metadata. states: none in a bundle from before it listed them.
struct Metadata {
  std::string config;
  std::optional<std::string> states;
};

// inputs: of the graph. Throws kBadInput; the message begins with `path`.
Interface ReadInterface(const Metadata& metadata, size_t inputs, const std::string& path);

// A prompt runs in pieces of this many tokens, the state carried along: activations need 12 to 16
// kB a token, so that a long prompt in one call would need more memory than any model.
constexpr size_t kPieceTokens = 4096;

struct ModelOptions {
  int threads = 1;
  std::vector<int> pins;  // processor of every thread, or empty
  size_t piece_tokens = kPieceTokens;
};

class State;

class Model {
 public:
  // library: nullptr runs the ops' fallbacks. Throws kBadInput: the model is missing, damaged, or
  // lacks the inputs and outputs expected.
  Model(const Runtime& runtime, const OpLibrary* library, const std::string& path,
        const ModelOptions& options);
  ~Model();

  const Runtime& runtime() const { return runtime_; }
  const Interface& interface() const { return interface_; }
  const std::string& path() const { return path_; }

  // Runs tokens from the state and advances it, in pieces; the state, and the logits of all
  // positions or of the last one, are those of one call to the last bit. positions: whose logits
  // are wanted, ascending. logits: (positions, vocab). Throws kBadInput: no token, or one out of
  // range; kDevice: no memory, and then the state is no more good.
  void prefill(const std::vector<int64_t>& tokens, const std::vector<int64_t>& positions,
               float* logits, State& state);
  // Runs one token; its logits (vocab) stay until the next step.
  const float* step(int64_t token, State& state);

  // A classifier's logits (batch, classes) of texts of one length, (batch, l).
  std::vector<float> classify(const std::vector<int64_t>& tokens, size_t batch = 1);
  // A forecaster's (batch, horizon, variates) from (batch, lookback, variates), both z-scored.
  std::vector<float> forecast(const std::vector<float>& series);

  // Throws kBadInput unless the model is of this kind.
  void require(Task::Kind kind) const;

  // The sentence that a token is out of range begins with `what`.
  void check_tokens(const std::vector<int64_t>& tokens, const std::string& what) const;

 private:
  class Decoder;
  OwnedBinding bind(const OwnedValue& ids, const OwnedValue& positions, const OwnedValue& logits,
                    const State& state, int side) const;
  void run(const OwnedBinding& binding);
  void run_whole(const char* input, const OwnedValue& from, const char* output,
                 const OwnedValue& to);
  Metadata read_metadata() const;
  void prefill_piece(const std::vector<int64_t>& tokens, const std::vector<int64_t>& positions,
                     float* logits, State& state);

  const Runtime& runtime_;
  std::string path_;
  size_t piece_tokens_;
  Owned<ort::Session, ort::kReleaseSession> session_;
  Interface interface_;
  std::unique_ptr<Decoder> decoder_;
};

// Checks the inputs and outputs of a session against its metadata; throws kBadInput.
void CheckInterface(const Runtime& runtime, const ort::Session* session, const Interface& expected,
                    const std::string& path);

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_SESSION_H_
