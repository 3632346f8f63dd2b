// SPDX-License-Identifier: Apache-2.0
// What a model is for: what every task answers, one file a task beside this one. The twin of
// toolchain/ssmpress/tasks/task.py.
#ifndef SSMPRESS_RUNNER_TASK_H_
#define SSMPRESS_RUNNER_TASK_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runner/data/labelled.h"
#include "runner/json/json.h"
#include "runner/model/sampling.h"

namespace ssmrun {

class Fields;
class Model;
class Request;
class State;
class Task;

constexpr int64_t kFree = -1;  // a dimension that the caller chooses

// An input or output of a model's graph.
struct Port {
  std::string name;
  int type;  // ONNX Runtime's number
  std::vector<int64_t> shape;
};
struct Ports {
  std::vector<Port> inputs, outputs;
};

// A file to evaluate, and how it is read: the options of `ssmrun eval`.
struct Samples {
  std::string path;
  std::string dtype;       // of raw tokens
  uint64_t window, limit;  // limit: tokens, texts or windows at most, 0 is all
  Encode encode;           // by the bundle's tokenizer, which is read when it is first used
};

// What a metric adds to the reply of `ssmrun eval`, and its line of text.
struct Metric {
  JsonWriter fields;
  std::string text;
};

// Milliseconds of a prefill, or of a batch, and of each single prediction.
struct Round {
  double prefill_ms = 0;
  std::vector<double> decode_ms;
};

// A task as the block `task` of a model's config names it. requests: what `ssmrun worker` can be
// asked of models with this task only.
struct TaskKind {
  const char* name;
  std::unique_ptr<const Task> (*read)(const Fields& block);  // throws kBadInput
  std::vector<std::string_view> requests;
};

// Its fields are those of the block.
class Task {
 public:
  virtual ~Task() = default;
  virtual const TaskKind& kind() const = 0;

  // The model has a vocabulary; one that has none reads numbers.
  virtual bool reads_tokens() const { return true; }
  // Its graph takes and gives the layers' states; others start from the zero state.
  virtual bool recurrent() const { return false; }
  // It continues a text, which ends at the bundle's end tokens.
  virtual bool generates() const { return false; }
  // Steps that the timed prefill, or batch, counts as: their number a second is its speed.
  virtual uint64_t timed_steps(uint64_t steps) const { return steps; }
  // Lines of `ssmrun info` for a reader.
  virtual std::string details() const { return ""; }
  // Of the graph, without the states, as in docs/ops.md.
  virtual Ports ports(int64_t vocab_size) const = 0;

  // The least that shows that a model is loaded.
  virtual void first_prediction(Model& model, State& state) const = 0;
  // Times random samples of `steps` tokens: a prefill or a batch, then `singles` one by one.
  virtual Round timed_round(Model& model, State& state, SplitMix64& random, uint64_t steps,
                            uint64_t singles) const = 0;

  // Throws kBadInput: the file has no such samples.
  virtual Metric evaluate(Model& model, const Samples& samples) const = 0;

  // Answers one of the kind's requests: adds its fields to `out`.
  virtual void answer(const Request& request, Model& model, State& state,
                      JsonWriter& out) const = 0;
};

// A model without the block has the first, and `ssmrun generate` needs it; `ssmrun run` needs the
// other.
extern const TaskKind kLanguageModel, kNetwork;

// Every task; the table is in tasks.cc.
const std::vector<const TaskKind*>& TaskKinds();

// config: an object. Throws kBadInput; the message begins with `where`.
std::unique_ptr<const Task> ReadTask(JsonValue config, const std::string& where);

// The kind that answers this request, or null.
const TaskKind* FindRequest(std::string_view name);

// ---- what several of them use ----

// The fields of a reply for an array: `shape`, and under `name` its numbers in base64.
void WriteArray(JsonWriter& out, const std::vector<uint64_t>& shape, const char* name,
                const std::vector<float>& values);

// Any of the vocabulary's.
std::vector<int64_t> RandomTokens(SplitMix64& random, uint64_t count, int64_t vocab_size);

constexpr size_t kTimedBatch = 8;  // samples

// The timed round of a task without states: a batch of samples, then single ones. predictor: draws
// so many samples, and gives what predicts them.
Round TimeBatches(uint64_t singles,
                  const std::function<std::function<void()>(size_t batch)>& predictor,
                  size_t batch = kTimedBatch);

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_TASK_H_
