// SPDX-License-Identifier: Apache-2.0
// What the machine shows of itself, and what a process may ask of it. Linux.
#ifndef SSMPRESS_RUNNER_SYSTEM_H_
#define SSMPRESS_RUNNER_SYSTEM_H_

#include <cstdint>
#include <string>
#include <vector>

#include "runner/json/json.h"

namespace ssmrun {

// Milliseconds of a clock that only goes forward.
double NowMs();

// A line of /proc/self/status in bytes: VmRSS is resident now, VmHWM the most so far.
// Throws kDevice where the kernel does not count memory.
uint64_t MemoryBytes(const std::string& key);

// Asks the kernel to forget a model's file and `FILE.data`, so that the next read comes from the
// disk. Best effort: pages that are dirty or mapped by another process stay.
void DropFromPageCache(const std::string& model);

// Sleeps until no other thread of this process runs or waits for a processor, at most 3 s: ONNX
// Runtime's threads spin after a run, and that time would be taken from the next variant's turn.
void WaitUntilQuiet();

// The keys of the report's environment; `ops_isa` and `runtime` may be empty.
void WriteEnvironment(JsonWriter& out, int threads, const std::string& ops_isa,
                      const std::string& runtime);

// Temperatures, frequencies and governors now.
void WriteMachineState(JsonWriter& out);

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_SYSTEM_H_
