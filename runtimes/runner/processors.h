// SPDX-License-Identifier: Apache-2.0
// The processors that this process may use. The same as ssmpress/processors.py.
#ifndef SSMPRESS_RUNNER_PROCESSORS_H_
#define SSMPRESS_RUNNER_PROCESSORS_H_

#include <optional>
#include <vector>

namespace ssmrun {

struct Processors {
  std::vector<int> affinity;    // that it may run on, ascending; at least one
  std::optional<double> quota;  // of how many its control group grants it the time; none: no limit

  // Threads that can run at once, at least 1. A part of a processor is no processor: two threads
  // with 1.5 of them stand still together for a quarter of every period.
  int usable() const;
  // The same for threads that are bound to `pins`, one or more times to the same processor.
  int usable_pinned(const std::vector<int>& pins) const;
};

// As they were when this was first called: before any thread was bound.
const Processors& ProcessorsAtStart();

// Binds the calling thread to a processor; throws kDevice.
void PinTo(int processor);

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_PROCESSORS_H_
