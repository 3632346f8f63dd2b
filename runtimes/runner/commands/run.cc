// SPDX-License-Identifier: Apache-2.0
// ssmrun run: a network on .npy files.
#include <algorithm>
#include <set>

#include "runner/commands/commands.h"
#include "runner/data/npy.h"
#include "runner/failure.h"
#include "runner/files.h"
#include "runner/format.h"
#include "runner/system.h"
#include "runner/tasks/network.h"

namespace ssmrun {
namespace {

// The ports of one side that a file may be given for without a name: there is one, states aside.
template <class IsState>
std::vector<size_t> Plain(const std::vector<NetworkPort>& ports, const IsState& is_state) {
  std::vector<size_t> plain;
  for (size_t i = 0; i < ports.size(); ++i) {
    if (!is_state(i)) plain.push_back(i);
  }
  return plain;
}

struct PortFile {
  size_t port;
  std::string file;
};

// `NAME=FILE`, or a `FILE` without an equals sign where there is one plain port.
PortFile ReadPortFile(const std::string& option, const std::string& text,
                      const std::vector<NetworkPort>& ports, const std::vector<size_t>& plain) {
  PortFile found{ports.size(), ""};
  for (size_t i = 0; i < ports.size(); ++i) {
    const std::string start = ports[i].name + "=";
    if (text.compare(0, start.size(), start) == 0) found = {i, text.substr(start.size())};
  }
  const bool bare = text.find('=') == text.npos;
  if (found.port == ports.size() && bare && plain.size() == 1) found = {plain[0], text};
  if (found.port == ports.size() || found.file.empty()) {
    BadUsage(option + " " + text +
             ": expected NAME=FILE, NAME one of the network's: " + NamesOf(ports) + ".");
  }
  return found;
}

// What the command line says, by the network's inputs and outputs.
struct Plan {
  std::vector<std::vector<std::string>> inputs;  // of each call; one file is every call's
  std::vector<std::string> outputs;              // empty: not wanted
  size_t calls = 1;
};

Plan MakePlan(const Options& options, const Network& network) {
  Plan plan{std::vector<std::vector<std::string>>(network.inputs().size()),
            std::vector<std::string>(network.outputs().size())};
  const auto inputs = Plain(network.inputs(), [&](size_t i) { return network.is_state(i); });
  const auto outputs = Plain(network.outputs(), [&](size_t i) { return network.gives_state(i); });
  for (const std::string& text : options.inputs) {
    const PortFile one = ReadPortFile("--input", text, network.inputs(), inputs);
    plan.inputs[one.port].push_back(one.file);
    plan.calls = std::max(plan.calls, plan.inputs[one.port].size());
  }
  std::set<std::string> written;
  for (const std::string& text : options.outputs) {
    const PortFile one = ReadPortFile("--output", text, network.outputs(), outputs);
    if (!plan.outputs[one.port].empty() || !written.insert(one.file).second) {
      BadUsage("--output " + text + ": expected each output and each file once.");
    }
    plan.outputs[one.port] = one.file;
  }
  for (size_t i = 0; i < plan.inputs.size(); ++i) {
    const std::string& name = network.inputs()[i].name;
    const size_t count = plan.inputs[i].size();
    if (network.is_state(i) && count > 1) {
      BadUsage("--input " + name + ": expected at most one file, the state before the first call.");
    }
    if (count == 0 && !network.is_state(i)) {
      BadUsage("run: expected --input " + name + "=FILE; it is missing.");
    }
    if (count > 1 && !network.carries_states()) {
      BadUsage("--input " + name + ": expected one file: the network carries no states, so that " +
               "several calls are several runs.");
    }
    if (count > 1 && count != plan.calls) {
      BadUsage("--input " + name + ": expected one file, or " + std::to_string(plan.calls) +
               ", one a call; got " + std::to_string(count) + ".");
    }
  }
  return plan;
}

// Everything, before the first call.
std::vector<std::vector<NetworkValue>> ReadInputs(const Plan& plan, const Network& network,
                                                  const Model& model) {
  std::vector<std::vector<NetworkValue>> calls;
  for (size_t call = 0; call < plan.calls; ++call) {
    std::vector<NetworkValue> values(plan.inputs.size());
    NamedSizes named;
    for (size_t i = 0; i < plan.inputs.size(); ++i) {
      const std::vector<std::string>& files = plan.inputs[i];
      if (files.empty() || (call > 0 && network.is_state(i))) continue;
      const std::string& file = files[files.size() == 1 ? 0 : call];
      const std::string where = file + ": input " + network.inputs()[i].name;
      values[i] = network.value(model, i, ReadNpy(file), where, named);
    }
    if (call == 0) network.start(model, values, named);
    calls.push_back(std::move(values));
  }
  return calls;
}

struct Result {
  std::vector<std::vector<OwnedValue>> outputs;  // of each call
  std::vector<double> run_ms;
};

// The states go from call to call; of the last call they stay among its outputs. The calls must
// outlive the outputs: ONNX Runtime gives an input that is an output as the same memory.
Result RunCalls(std::vector<std::vector<NetworkValue>>& calls, const Plan& plan,
                const Network& network, Model& model) {
  Result result;
  for (size_t call = 0; call < calls.size(); ++call) {
    if (call > 0) network.carry(result.outputs.back(), calls[call]);
    const double begin = NowMs();
    result.outputs.push_back(network.run(model, calls[call]));
    result.run_ms.push_back(NowMs() - begin);
    for (size_t i = 0; i < plan.outputs.size(); ++i) {
      if (plan.outputs[i].empty() && !network.gives_state(i)) result.outputs.back()[i].reset();
    }
  }
  return result;
}

// `y.npy` and 3 -> `y.3.npy`.
std::string Numbered(const std::string& file, size_t number) {
  constexpr std::string_view kEnd = ".npy";
  const bool ends =
      file.size() > kEnd.size() && file.compare(file.size() - kEnd.size(), kEnd.size(), kEnd) == 0;
  return file.substr(0, file.size() - (ends ? kEnd.size() : 0)) + "." + std::to_string(number) +
         (ends ? kEnd.data() : "");
}

struct Written {
  std::string name, file, dtype;
  std::vector<int64_t> shape;
};

std::vector<Written> WriteOutputs(const Plan& plan, const Network& network, const Model& model,
                                  const Result& result) {
  std::vector<Written> all;
  for (size_t i = 0; i < plan.outputs.size(); ++i) {
    if (plan.outputs[i].empty()) continue;
    const bool last = network.gives_state(i);
    for (size_t call = last ? plan.calls - 1 : 0; call < plan.calls; ++call) {
      const NetworkPort& port = network.outputs()[i];
      const ValueView view = View(model.runtime(), result.outputs[call][i], port);
      const std::string file =
          last || plan.calls == 1 ? plan.outputs[i] : Numbered(plan.outputs[i], call);
      WriteFile(file, {NpyHeaderOf(*view.dtype, view.shape), view.bytes});
      all.push_back({port.name, file, view.dtype->name, view.shape});
    }
  }
  return all;
}

std::string ToJson(const Options& options, const Opened& opened, const std::vector<Written>& all,
                   const Result& result) {
  JsonWriter out;
  out.begin_object().key("outputs").begin_array();
  for (const Written& one : all) {
    out.begin_object().field("name", one.name).field("file", one.file);
    out.field("shape", one.shape).field("type", one.dtype).end_object();
  }
  out.end_array().field("run_ms", result.run_ms).field("threads", options.thread_count());
  out.field("ops_isa", Maybe(opened.isa()));
  return out.field("peak_rss_bytes", MemoryBytes("VmHWM")).end_object().text() + "\n";
}

std::string ToText(const std::vector<Written>& all, const Result& result) {
  std::string text;
  for (const Written& one : all) {
    text += one.file + ": " + one.name + ", " + one.dtype + " " + ShownShape(one.shape) + "\n";
  }
  double sum = 0;
  for (const double ms : result.run_ms) sum += ms;
  const size_t calls = result.run_ms.size();
  return text + Format("%zu call%s, %.3f ms\n", calls, calls == 1 ? "" : "s", sum);
}

}  // namespace

void RunNetwork(const Options& options, const Output& output) {
  const Opened opened(options);
  const Loaded loaded = opened.load(false);
  Model& model = *loaded.model;
  const Network& network = Network::of(model);
  const Plan plan = MakePlan(options, network);
  std::vector<std::vector<NetworkValue>> calls = ReadInputs(plan, network, model);
  const Result result = RunCalls(calls, plan, network, model);
  const std::vector<Written> all = WriteOutputs(plan, network, model, result);
  output.write(options.json ? ToJson(options, opened, all, result) : ToText(all, result));
}

}  // namespace ssmrun
