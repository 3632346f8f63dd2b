// SPDX-License-Identifier: Apache-2.0
#include "runner/commands/options.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <limits>

#include "runner/failure.h"
#include "runner/processors.h"

namespace ssmrun {
namespace {

constexpr unsigned kAll = kInfo | kVerify | kGenerate | kRun | kBench | kEval | kWorker;
constexpr unsigned kRuns = kInfo | kGenerate | kRun | kBench | kEval;
constexpr uint64_t kMost = std::numeric_limits<uint64_t>::max();
constexpr int kProcessorLimit = 4096;

struct CommandName {
  const char* name;
  Command command;
  const char* arguments;
  const char* help;
};
constexpr CommandName kCommands[] = {
    {"info", kInfo, "BUNDLE", "What it is, and that it opens here."},
    {"verify", kVerify, "BUNDLE", "Checksums, versions, machine and instruction set."},
    {"generate", kGenerate, "BUNDLE", "Text that continues a prompt, as it is made."},
    {"run", kRun, "BUNDLE", "A network on .npy files: its outputs as such files."},
    {"bench", kBench, "BUNDLE", "Times of load, prefill and decode, and memory."},
    {"eval", kEval, "BUNDLE FILE",
     "The metric of the model's task: perplexity of tokens (.npy, or raw),\n"
     "accuracy of labelled texts (.jsonl), or error of a series (.csv)."},
    {"worker", kWorker, "BUNDLE",
     "Answers one JSON request per line of stdin: docs/ssmrun.md lists them."},
};

uint64_t ParseNumber(const std::string& name, const std::string& text, uint64_t low,
                     uint64_t high) {
  uint64_t value = 0;
  bool good = !text.empty();
  for (const char c : text) {
    const auto digit = static_cast<uint64_t>(c - '0');
    if (c < '0' || c > '9' || value > (kMost - digit) / 10) {
      good = false;
      break;
    }
    value = 10 * value + digit;
  }
  if (!good || value < low || value > high) {
    BadUsage(name + ": expected an integer from " + std::to_string(low) + " to " +
             std::to_string(high) + "; got " + (text.empty() ? "nothing" : text) + ".");
  }
  return value;
}

double ParseReal(const std::string& name, const std::string& text) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0' || !std::isfinite(value)) {
    BadUsage(name + ": expected a number; got " + (text.empty() ? "nothing" : text) + ".");
  }
  return value;
}

// One option: the commands that have it, and what its value does. A flag has no value.
struct Option {
  const char* name;
  const char* value;  // how the help names it; null for a flag
  unsigned commands;
  std::string help;
  std::function<void(Options&, const std::string&)> apply;
};

Option Text(const char* name, const char* value, unsigned commands, std::string Options::* field,
            const char* help) {
  return {name, value, commands, help, [=](Options& o, const std::string& v) {
            if (v.empty()) BadUsage(std::string(name) + ": expected a value; got nothing.");
            o.*field = v;
          }};
}

Option Files(const char* name, std::vector<std::string> Options::* field, const char* help) {
  return {name, "NAME=FILE", kRun, help, [=](Options& o, const std::string& v) {
            if (v.empty()) BadUsage(std::string(name) + ": expected NAME=FILE; got nothing.");
            (o.*field).push_back(v);
          }};
}

Option Number(const char* name, unsigned commands, uint64_t Options::* field, uint64_t low,
              uint64_t high, const char* help) {
  const uint64_t absent = Options().*field;
  return {name, "N", commands,
          help + (absent < low ? "" : " (default " + std::to_string(absent) + ")"),
          [=](Options& o, const std::string& v) { o.*field = ParseNumber(name, v, low, high); }};
}

Option Flag(const char* name, unsigned commands, bool Options::* field, const char* help) {
  return {name, nullptr, commands, help, [=](Options& o, const std::string&) { o.*field = true; }};
}

std::vector<Option> AllOptions() {
  constexpr uint64_t kTokens = 1 << 24;
  return {
      {"--prompt", "TEXT", kGenerate, "what the text begins with",
       [](Options& o, const std::string& v) { o.prompt = v, o.has_prompt = true; }},
      Text("--prompt-file", "FILE", kGenerate, &Options::prompt_file,
           "a file of it in place of --prompt; - is stdin"),
      {"--max-tokens", "N", kGenerate, "tokens to make at most (default 100)",
       [](Options& o, const std::string& v) {
         o.generation.max_tokens = ParseNumber("--max-tokens", v, 0, kTokens);
       }},
      {"--ignore-eos", nullptr, kGenerate, "go on after an end token of the model",
       [](Options& o, const std::string&) { o.generation.ignore_eos = true; }},
      Flag("--show-special", kGenerate, &Options::show_special, "write special tokens too"),
      {"--temperature", "T", kGenerate,
       "0 takes the likeliest token, 1e-6 to 1e6 draws one (default 0)",
       [](Options& o, const std::string& v) {
         o.generation.sampling.temperature = ParseReal("--temperature", v);
         CheckTemperature(o.generation.sampling.temperature);
       }},
      {"--top-k", "N", kGenerate, "draw among the N likeliest tokens; 0 is all (default 0)",
       [](Options& o, const std::string& v) {
         o.generation.sampling.top_k = ParseNumber("--top-k", v, 0, kTokens);
       }},
      Files("--input", &Options::inputs,
            "a .npy file of this input; without NAME= where there is one.\n"
            "Again for the next call of a network that carries states"),
      Files("--output", &Options::outputs,
            "where this output is written; of several calls, y.npy\n"
            "becomes y.0.npy, y.1.npy and so on"),
      Number("--prompt", kBench, &Options::prompt_tokens, 1, kTokens,
             "random tokens of a prefill, or of a classifier's text"),
      Number("--tokens", kBench, &Options::decode_tokens, 1, kTokens,
             "single tokens, or samples, after it"),
      Number("--rounds", kBench, &Options::rounds, 1, 100'000,
             "rounds that count, after one that warms up"),
      Flag("--no-cold", kBench, &Options::no_cold, "leave out the load from a cold page cache"),
      {"--seed", "N", kGenerate | kBench, "of everything random (default 0)",
       [](Options& o, const std::string& v) {
         o.generation.sampling.seed = ParseNumber("--seed", v, 0, kMost);
       }},
      Number("--window", kEval, &Options::window, 2, kTokens,
             "tokens of a window that starts from the zero state"),
      Number("--limit", kEval, &Options::limit, 1, uint64_t{1} << 32,
             "the first N tokens, texts or windows only"),
      {"--dtype", "TYPE", kEval, "of raw tokens: int32 or uint16 (default int32)",
       [](Options& o, const std::string& v) {
         if (v != "uint16" && v != "int32")
           BadUsage("--dtype: expected uint16 or int32; got " + v + ".");
         o.dtype = v;
       }},
      {"--threads", "N", kRuns, "1 to 1024 (default: as many as can run at once)",
       [](Options& o, const std::string& v) {
         o.threads = static_cast<int>(ParseNumber("--threads", v, 1, 1024));
       }},
      {"--pin", "LIST", kRuns, "run thread k on the k-th of these processors, such as 0,2-3",
       [](Options& o, const std::string& v) { o.pins = ParsePins(v); }},
      Text("--model", "FILE", kRuns, &Options::model, "another model than the bundle's"),
      Flag("--stock", kRuns, &Options::stock, "without the op library"),
      Text("--runtime", "FILE", kAll, &Options::runtime,
           "another libonnxruntime.so than the bundle's"),
      Text("--verify-key", "PEM", kAll, &Options::verify_key,
           "the public key that must have signed the bundle"),
      Flag("--json", kAll & ~kWorker, &Options::json, "one JSON object on stdout"),
      Flag("--help", kAll, &Options::help, "this text"),
  };
}

const CommandName& FindCommand(const std::string& name) {
  for (const CommandName& one : kCommands) {
    if (name == one.name) return one;
  }
  std::string known;
  for (const CommandName& one : kCommands)
    known += std::string(known.empty() ? "" : ", ") + one.name;
  BadUsage("expected a subcommand: " + known + "; got " + name + ".");
}

void CheckTogether(const Options& options, const CommandName& command, size_t positional) {
  const size_t wanted = options.command == kEval ? 2 : 1;
  if (positional != wanted) {
    BadUsage(std::string(command.name) + ": expected " + command.arguments + "; got " +
             std::to_string(positional) + (positional == 1 ? " argument." : " arguments."));
  }
  if (options.command == kGenerate && options.has_prompt == !options.prompt_file.empty()) {
    BadUsage("generate: expected --prompt TEXT or --prompt-file FILE, one of them.");
  }
  if (options.command == kRun && (options.inputs.empty() || options.outputs.empty())) {
    BadUsage("run: expected --input NAME=FILE and --output NAME=FILE, at least one of each.");
  }
  const size_t pins = options.pins.size();
  if (pins > 0 && options.threads > 0 && pins != static_cast<size_t>(options.threads)) {
    BadUsage("--pin: expected one processor per thread, " + std::to_string(options.threads) +
             "; got " + std::to_string(pins) + ".");
  }
}

}  // namespace

int Options::thread_count() const {
  if (threads > 0) return threads;
  const int count = pins.empty() ? ProcessorsAtStart().usable() : static_cast<int>(pins.size());
  return std::min(count, 1024);
}

std::vector<int> ParsePins(const std::string& list) {
  std::vector<int> pins;
  size_t begin = 0;
  while (begin <= list.size()) {
    const size_t end = std::min(list.find(',', begin), list.size());
    const std::string part = list.substr(begin, end - begin);
    const size_t dash = part.find('-');
    const auto number = [&](const std::string& text) {
      return static_cast<int>(ParseNumber("--pin", text, 0, kProcessorLimit - 1));
    };
    const int first = number(part.substr(0, dash));
    const int last = dash == part.npos ? first : number(part.substr(dash + 1));
    if (last < first || last - first >= 1024) {
      BadUsage("--pin: expected a list like 0,2-3; got " + list + ".");
    }
    for (int i = first; i <= last; ++i) pins.push_back(i);
    if (pins.size() > 1024) BadUsage("--pin: expected at most 1024 processors; got more.");
    begin = end + 1;
  }
  return pins;
}

Options ParseOptions(const std::vector<std::string>& arguments) {
  Options options;
  if (arguments.empty()) BadUsage("expected a subcommand; see ssmrun --help.");
  if (arguments[0] == "--help" || arguments[0] == "-h" || arguments[0] == "--version") {
    (arguments[0] == "--version" ? options.version : options.help) = true;
    return options;
  }
  const CommandName& command = FindCommand(arguments[0]);
  options.command = command.command;
  options.has_command = true;
  const std::vector<Option> known = AllOptions();
  std::vector<std::string> positional;
  for (size_t i = 1; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (argument.size() < 2 || argument[0] != '-') {
      positional.push_back(argument);
      continue;
    }
    const size_t equals = argument.find('=');
    const std::string name = argument.substr(0, equals);
    const auto is_it = [&](const Option& o) {
      return name == o.name && (o.commands & options.command) != 0;
    };
    const auto option = std::find_if(known.begin(), known.end(), is_it);
    if (option == known.end()) {
      BadUsage(std::string(command.name) + ": unknown option " + name + "; see ssmrun --help.");
    }
    if (option->value == nullptr) {
      if (equals != argument.npos) BadUsage(name + ": expected no value; got one.");
      option->apply(options, "");
    } else if (equals != argument.npos) {
      option->apply(options, argument.substr(equals + 1));
    } else if (++i < arguments.size()) {
      option->apply(options, arguments[i]);
    } else {
      BadUsage(name + ": expected a value after it; got nothing.");
    }
  }
  if (options.help) return options;
  CheckTogether(options, command, positional.size());
  options.bundle = positional[0];
  if (positional.size() > 1) options.samples_file = positional[1];
  return options;
}

namespace {

constexpr const char* kEnd = R"(
Exit codes: 0 pass, 1 internal error, 2 usage, 6 bad input, 7 device, 130 interrupted.
SSMPRESS_ISA forces an instruction set. All of it: docs/ssmrun.md.
)";

std::string Padded(std::string text, size_t width) {
  text.resize(std::max(width, text.size()), ' ');
  return text;
}

// The lines after the first one begin that far from the left.
std::string Indented(std::string text, size_t width) {
  for (size_t at = 0; (at = text.find('\n', at)) != text.npos; at += 1) {
    text.replace(at, 1, "\n" + std::string(width, ' '));
  }
  return text;
}

std::string CommandHelp(const CommandName& command) {
  std::string text = std::string("ssmrun ") + command.name + " " + command.arguments +
                     " [options]\n" + command.help + "\n\n";
  for (const Option& option : AllOptions()) {
    if ((option.commands & command.command) == 0) continue;
    const std::string value = option.value == nullptr ? "" : std::string(" ") + option.value;
    text += "  " + Padded(option.name + value, 20) + " " + Indented(option.help, 23) + "\n";
  }
  return text + kEnd;
}

}  // namespace

std::string HelpText(const Options& options) {
  for (const CommandName& one : kCommands) {
    if (options.has_command && one.command == options.command) return CommandHelp(one);
  }
  std::string text = "ssmrun " SSMPRESS_VERSION ": runs an ssmpress bundle without Python.\n\n";
  for (const CommandName& one : kCommands) {
    text += Padded(std::string("  ssmrun ") + one.name + " " + one.arguments, 30) + " " +
            Indented(one.help, 31) + "\n";
  }
  return text +
         "\n  ssmrun COMMAND --help        its options\n"
         "  ssmrun --version             versions of ssmrun and of the ops\n" +
         kEnd;
}

std::string VersionText() {
  return "ssmrun " SSMPRESS_VERSION ", ops version " SSMPRESS_OPS_VERSION "\n";
}

}  // namespace ssmrun
