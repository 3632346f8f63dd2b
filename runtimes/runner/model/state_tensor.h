// SPDX-License-Identifier: Apache-2.0
// What a model carries from one token to the next: the list that a bundle has of its states, as
// toolchain/ssmpress/states.py reads it.
#ifndef SSMPRESS_RUNNER_STATE_TENSOR_H_
#define SSMPRESS_RUNNER_STATE_TENSOR_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "runner/json/json.h"

namespace ssmrun {

constexpr size_t kStateLimit = size_t{1} << 40;  // bytes of a state, and elements of a tensor

struct StateTensor {
  std::string name;  // without past_ or present_
  std::vector<int64_t>
      shape;       // of one sequence; the tensor has the batch as its first axis besides
  int type = 0;    // ONNX Runtime's number of float32 or float16
  int grows = -1;  // axis of `shape` that every token makes longer by one, or -1

  // The tensor's shape after `tokens` tokens, which matter to a state that grows only.
  std::vector<int64_t> shape_at(int64_t batch, int64_t tokens) const;
  size_t bytes_of(const std::vector<int64_t>& whole_shape) const;
};

// The metadata entry `ssmpress.states`. Throws kBadInput; the message begins with `where`.
std::vector<StateTensor> ReadStates(std::string text, const std::string& where);

// The states that the `ssmpress.config` of a language model implies which was written before
// bundles listed them: a stack of Mamba-1 layers. inputs: of the graph; more layers are damage.
std::vector<StateTensor> OldStates(JsonValue config, size_t inputs, const std::string& where);

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_STATE_TENSOR_H_
