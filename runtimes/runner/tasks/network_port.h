// SPDX-License-Identifier: Apache-2.0
// The inputs and outputs of a network as its metadata lists them: docs/ssmrun.md.
#ifndef SSMPRESS_RUNNER_NETWORK_PORT_H_
#define SSMPRESS_RUNNER_NETWORK_PORT_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "runner/data/array.h"
#include "runner/model/sampling.h"
#include "runner/tasks/task.h"

namespace ssmrun {

// One axis: a number, or a size that varies, under its name.
struct AxisSize {
  int64_t number;  // kFree where it varies
  std::string name;
};

// Numbers for the sizes that vary, each with the input that says so.
struct NamedSize {
  int64_t number;
  std::string input;
};
using NamedSizes = std::map<std::string, NamedSize>;

struct NetworkPort {
  std::string name;
  const Dtype* dtype;
  std::vector<AxisSize> shape;
  std::vector<int64_t> example;  // sizes that are timed; of an input only
  int64_t low = 0, high = 2;     // random integers are low to high - 1

  Port port() const;          // as the graph has it
  std::string shown() const;  // `float32 (1, length, 32)`
  // Its axis 0 is the batch.
  bool batched() const { return !shape.empty() && shape[0].name == "batch"; }
  // The sizes that vary by their names; those that nobody named are the example's.
  std::vector<int64_t> sizes(const NamedSizes& named) const;
  // The array with this port's type; adds what it says of the sizes that vary to `named`.
  // least: of a size that varies. Throws kBadInput; the message begins with `where`.
  Array fit(Array array, int64_t least, const std::string& where, NamedSizes& named) const;
  Array zeros(const std::vector<int64_t>& sizes) const;
  Array lowest() const;  // the example's sizes; zeros, or the lowest integer
  // Random numbers by docs/ssmrun.md, in the order of the elements.
  Array random(const std::vector<int64_t>& sizes, SplitMix64& random) const;
};

// The list `key` of a network's block, each name once. Throws kBadInput.
std::vector<NetworkPort> ReadPorts(const Fields& block, const char* key, bool inputs);

// Its number, or how many there are.
size_t FindPort(const std::vector<NetworkPort>& ports, std::string_view name);
std::string NamesOf(const std::vector<NetworkPort>& ports);  // `a, b or c`

// For each input the output whose value it has in the next call, or -1: the object `states` of the
// block, which may be missing. Throws kBadInput.
std::vector<int> ReadCarried(const Fields& block, const std::vector<NetworkPort>& inputs,
                             const std::vector<NetworkPort>& outputs);

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_NETWORK_PORT_H_
