// SPDX-License-Identifier: Apache-2.0
// What a model's metadata says of it, and whether its graph agrees: the twin of
// toolchain/ssmpress/runtime/interface.py.
#ifndef SSMPRESS_RUNNER_INTERFACE_H_
#define SSMPRESS_RUNNER_INTERFACE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runner/model/runtime.h"
#include "runner/model/state_tensor.h"
#include "runner/tasks/task.h"

namespace ssmrun {

// What a model's metadata says, checked. vocab_size: 0 where the task reads no tokens.
struct Interface {
  std::string config;  // JSON
  std::unique_ptr<const Task> task;
  int64_t vocab_size = 0;
  std::vector<StateTensor> states;
  std::vector<int64_t> end_tokens;  // where a text ends; none in a bundle that does not list them
  bool is_end(int64_t token) const;
};

// The entries of a model's metadata. states: none in a bundle from before it listed them.
struct Metadata {
  std::string config;
  std::optional<std::string> states;
};

// inputs: of the graph. Throws kBadInput; the message begins with `path`.
Interface ReadInterface(const Metadata& metadata, size_t inputs, const std::string& path);

// Checks the inputs and outputs of a session against its metadata; throws kBadInput.
void CheckInterface(const Runtime& runtime, const ort::Session* session, const Interface& expected,
                    const std::string& path);

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_INTERFACE_H_
