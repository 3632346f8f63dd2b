// SPDX-License-Identifier: Apache-2.0
// The state of one sequence in memory, the twin of toolchain/ssmpress/runtime/state.py.
#ifndef SSMPRESS_RUNNER_STATE_H_
#define SSMPRESS_RUNNER_STATE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "runner/model/session.h"

namespace ssmrun {

// What the layers carry to the next token, for one sequence: two sets of buffers. A run reads one
// and writes the other, then they change places, so that decoding copies no state.
class State {
 public:
  // Throws kBadInput: larger than any memory.
  explicit State(const Model& model);

  struct Free {
    void operator()(void* block) const;
  };
  using Memory = std::unique_ptr<void, Free>;  // aligned to a cache line

  struct Tensor {
    StateTensor kind;
    std::vector<int64_t> shape[2];
    void* data[2] = {};
    OwnedValue value[2];
    Memory own[2];  // of what grows: with room for more tokens
    size_t room[2] = {};
    std::vector<float> values(int side) const;  // as float32, whatever the type
  };
  const std::vector<Tensor>& tensors() const { return tensors_; }
  size_t bytes() const { return bytes_; }  // of one set, before the first token
  uint64_t id() const { return id_; }      // no other state has had it
  int front() const { return front_; }     // the set that holds the state now

  // Sizes what grows in the set that the next run, of so many tokens, writes. Throws kBadInput:
  // larger than any memory.
  void make_room(size_t tokens);
  // The set that was just written becomes the current one, after so many more tokens.
  void advance(size_t tokens);
  void clear();  // the state where every text starts

 private:
  void resize(Tensor& tensor, int side, int64_t tokens);

  const Model& model_;
  uint64_t id_ = 0;
  size_t bytes_ = 0;
  Memory block_;  // both sets of what has one size
  std::vector<Tensor> tensors_;
  int64_t tokens_ = 0;
  int front_ = 0;
};

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_STATE_H_
