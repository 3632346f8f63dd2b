// SPDX-License-Identifier: Apache-2.0
// A network of anybody's: named arrays in, named arrays out, states carried from call to call.
#ifndef SSMPRESS_RUNNER_NETWORK_H_
#define SSMPRESS_RUNNER_NETWORK_H_

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "runner/model/session.h"
#include "runner/tasks/network_port.h"
#include "runner/tasks/task.h"

namespace ssmrun {

// An array and ONNX Runtime's view of it, or a value of its own.
struct NetworkValue {
  Array array;
  OwnedValue value;
};

class Network final : public Task {
 public:
  explicit Network(const Fields& block);

  // The one that a model has. Throws kBadInput: it has another task.
  static const Network& of(const Model& model);

  const std::vector<NetworkPort>& inputs() const { return inputs_; }
  const std::vector<NetworkPort>& outputs() const { return outputs_; }
  bool carries_states() const { return states_ > 0; }
  bool is_state(size_t input) const { return carried_[input] >= 0; }
  bool gives_state(size_t output) const;

  // What an input of one call is made of: the array, as fit() makes it. where: of a message.
  NetworkValue value(const Model& model, size_t input, Array array, const std::string& where,
                     NamedSizes& named) const;
  // Gives the states that have no value their zeros, of the sizes that the others name.
  void start(const Model& model, std::vector<NetworkValue>& call, const NamedSizes& named) const;
  // One call: its outputs, whose memory ONNX Runtime made.
  std::vector<OwnedValue> run(Model& model, const std::vector<NetworkValue>& call) const;
  // Makes the states that a call gave the inputs of the next one.
  void carry(std::vector<OwnedValue>& outputs, std::vector<NetworkValue>& next) const;

  const TaskKind& kind() const override { return kNetwork; }
  bool reads_tokens() const override { return false; }
  uint64_t timed_steps(uint64_t) const override { return batched() ? kTimedBatch : 1; }
  std::string details() const override;
  Ports ports(int64_t) const override;
  void first_prediction(Model& model, State& state) const override;
  Round timed_round(Model& model, State& state, SplitMix64& random, uint64_t steps,
                    uint64_t singles) const override;
  Metric evaluate(Model& model, const Samples& samples) const override;
  void answer(const Request& request, Model& model, State& state, JsonWriter& out) const override;

 private:
  bool batched() const;  // several samples may go in at once
  std::vector<NetworkValue> made_of(const Model& model,
                                    const std::function<Array(const NetworkPort&)>& make) const;

  std::vector<NetworkPort> inputs_, outputs_;
  std::vector<int> carried_;  // for each input the output that is its next value, or -1
  size_t states_ = 0;
};

// The elements of one of ONNX Runtime's values, and what they are.
struct ValueView {
  const Dtype* dtype;
  std::vector<int64_t> shape;
  std::string_view bytes;
};
// Throws kBadInput: it is another type than the port's.
ValueView View(const Runtime& runtime, const OwnedValue& value, const NetworkPort& port);

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_NETWORK_H_
