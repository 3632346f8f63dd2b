// SPDX-License-Identifier: Apache-2.0
// One opened model: prefill, decode, whole runs. The twin of
// toolchain/ssmpress/runtime/session.py.
#ifndef SSMPRESS_RUNNER_SESSION_H_
#define SSMPRESS_RUNNER_SESSION_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "runner/model/interface.h"
#include "runner/model/runtime.h"

namespace ssmrun {

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
  const Task& task() const { return *interface_.task; }
  const std::string& path() const { return path_; }

  // Runs tokens from the state and advances it, in pieces; the state, and the logits of all
  // positions or of the last one, are those of one call to the last bit. positions: whose logits
  // are wanted, ascending. logits: (positions, vocab). Throws kBadInput: no token, or one out of
  // range; kDevice: no memory, and then the state is no more good.
  void prefill(const std::vector<int64_t>& tokens, const std::vector<int64_t>& positions,
               float* logits, State& state);
  // Runs one token; its logits (vocab) stay until the next step.
  const float* step(int64_t token, State& state);

  // Runs a graph without states, of one input and one output.
  void run_whole(const char* input, const OwnedValue& from, const char* output,
                 const OwnedValue& to);

  // Runs a graph of any inputs and outputs, all of which are named; ONNX Runtime makes the outputs'
  // memory.
  std::vector<OwnedValue> run_named(const std::vector<const char*>& inputs,
                                    const std::vector<const ort::Value*>& from,
                                    const std::vector<const char*>& outputs);

  // Throws kBadInput unless the model is of this kind.
  void require(const TaskKind& kind) const;

  // The sentence that a token is out of range begins with `what`.
  void check_tokens(const std::vector<int64_t>& tokens, const std::string& what) const;

 private:
  class Decoder;
  OwnedBinding bind(const OwnedValue& ids, const OwnedValue& positions, const OwnedValue& logits,
                    const State& state, int side) const;
  void run(const OwnedBinding& binding);
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

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_SESSION_H_
