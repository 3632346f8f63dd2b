// SPDX-License-Identifier: Apache-2.0
// How the runner fails: one sentence for the person who started it, and an exit code. Thrown inside
// the runner, caught once in main and once per request of the worker.
#ifndef SSMPRESS_RUNNER_FAILURE_H_
#define SSMPRESS_RUNNER_FAILURE_H_

#include <string>
#include <utility>

namespace ssmrun {

enum ExitCode : int {
  kPass = 0,
  kInternal = 1,
  kUsage = 2,
  kBadInput = 6,
  kDevice = 7,
  kInterrupted = 130,
};

struct Failure {
  ExitCode exit_code;
  std::string message;
};

[[noreturn]] inline void BadInput(std::string message) {
  throw Failure{kBadInput, std::move(message)};
}
[[noreturn]] inline void BadUsage(std::string message) {
  throw Failure{kUsage, std::move(message)};
}
[[noreturn]] inline void BadDevice(std::string message) {
  throw Failure{kDevice, std::move(message)};
}

// The end of every sentence about memory.
constexpr const char* kNoMemory =
    "not enough memory on this device. Free some, give a shorter text, or a smaller model.";

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_FAILURE_H_
