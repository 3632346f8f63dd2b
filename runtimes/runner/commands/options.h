// SPDX-License-Identifier: Apache-2.0
// The command line: docs/ssmrun.md.
#ifndef SSMPRESS_RUNNER_OPTIONS_H_
#define SSMPRESS_RUNNER_OPTIONS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "runner/model/generate.h"

namespace ssmrun {

enum Command : unsigned {
  kInfo = 1,
  kVerify = 2,
  kGenerate = 4,
  kBench = 8,
  kEval = 16,
  kWorker = 32,
  kRun = 64,
};

struct Options {
  Command command = kInfo;
  bool has_command = false;  // not where --help or --version stands alone
  std::string bundle, samples_file;
  std::string runtime, model;  // empty: the bundle's
  std::string verify_key;      // empty: no signature is asked for
  bool json = false, stock = false, no_cold = false, help = false, version = false;
  int threads = 0;  // 0 was not given
  std::vector<int> pins;
  std::string prompt, prompt_file;
  bool has_prompt = false;
  Generation generation;
  bool show_special = false;
  std::vector<std::string> inputs, outputs;  // each NAME=FILE, or FILE
  uint64_t prompt_tokens = 512, decode_tokens = 128, rounds = 10;
  uint64_t window = 1024, limit = 0;
  std::string dtype = "int32";

  // The given number of threads, or what the processors suggest.
  int thread_count() const;
};

// Throws kUsage.
Options ParseOptions(const std::vector<std::string>& arguments);

// `0,2-3` -> 0, 2, 3. Throws kUsage.
std::vector<int> ParsePins(const std::string& list);

// Of the command, or of the program where there is none.
std::string HelpText(const Options& options);

std::string VersionText();

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_OPTIONS_H_
