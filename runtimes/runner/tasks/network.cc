// SPDX-License-Identifier: Apache-2.0
#include "runner/tasks/network.h"

#include <algorithm>
#include <memory>

#include "runner/failure.h"
#include "runner/files.h"
#include "runner/format.h"
#include "runner/json/request.h"
#include "runner/model/fields.h"
#include "runner/system.h"

namespace ssmrun {
namespace {

OwnedValue ValueOf(const Runtime& runtime, Array& array) {
  return runtime.tensor(array.bytes.data(), array.bytes.size(), array.shape, array.dtype->type);
}

// An array of a request: {"shape": [1, 2], "type": "float32", "data": base64}.
Array ReadArray(const Fields& fields) {
  Array array;
  const auto shape = fields.find("shape"), type = fields.find("type"), data = fields.find("data");
  bool good = shape && shape->is(JsonValue::kArray) && shape->size() <= kRankLimit;
  if (good) {
    for (const JsonValue size : *shape) array.shape.push_back(size.integer().value_or(-1));
    good =
        std::all_of(array.shape.begin(), array.shape.end(), [](int64_t size) { return size >= 0; });
  }
  if (!good) fields.fail("shape", "at most " + std::to_string(kRankLimit) + " sizes");
  const bool text = type && type->is(JsonValue::kString);
  array.dtype = text ? DtypeNamed(type->text()) : nullptr;
  if (array.dtype == nullptr) fields.fail("type", NetworkDtypes());
  const auto bytes = BytesOf(*array.dtype, array.shape);
  const auto numbers =
      data && data->is(JsonValue::kString) ? DecodeBase64(data->text()) : std::nullopt;
  if (!bytes || !numbers || numbers->size() != *bytes) {
    fields.fail("data", (bytes ? std::to_string(*bytes) : "at most 4 GiB of") +
                            std::string(" bytes in base64 for ") + ShownShape(array.shape) +
                            " of " + array.dtype->name);
  }
  array.bytes.assign(numbers->begin(), numbers->end());
  NormalizeTruths(array);
  return array;
}

void WriteValue(JsonWriter& out, const ValueView& view) {
  out.begin_object().field("shape", view.shape).field("type", view.dtype->name);
  out.field("data", Base64(view.bytes.data(), view.bytes.size())).end_object();
}

}  // namespace

Network::Network(const Fields& block)
    : inputs_(ReadPorts(block, "inputs", true)),
      outputs_(ReadPorts(block, "outputs", false)),
      carried_(ReadCarried(block, inputs_, outputs_)) {
  states_ = inputs_.size() - static_cast<size_t>(std::count(carried_.begin(), carried_.end(), -1));
}

const Network& Network::of(const Model& model) {
  model.require(kNetwork);
  return static_cast<const Network&>(model.task());
}

bool Network::gives_state(size_t output) const {
  return std::find(carried_.begin(), carried_.end(), static_cast<int>(output)) != carried_.end();
}

NetworkValue Network::value(const Model& model, size_t input, Array array, const std::string& where,
                            NamedSizes& named) const {
  const int64_t least = is_state(input) ? 0 : 1;
  NetworkValue made{inputs_[input].fit(std::move(array), least, where, named), nullptr};
  made.value = ValueOf(model.runtime(), made.array);
  return made;
}

void Network::start(const Model& model, std::vector<NetworkValue>& call,
                    const NamedSizes& named) const {
  for (size_t i = 0; i < inputs_.size(); ++i) {
    if (call[i].value != nullptr) continue;
    call[i].array = inputs_[i].zeros(inputs_[i].sizes(named));
    call[i].value = ValueOf(model.runtime(), call[i].array);
  }
}

std::vector<OwnedValue> Network::run(Model& model, const std::vector<NetworkValue>& call) const {
  std::vector<const char*> from, to;
  std::vector<const ort::Value*> values;
  for (const NetworkPort& input : inputs_) from.push_back(input.name.c_str());
  for (const NetworkPort& output : outputs_) to.push_back(output.name.c_str());
  for (const NetworkValue& one : call) values.push_back(one.value.get());
  return model.run_named(from, values, to);
}

void Network::carry(std::vector<OwnedValue>& outputs, std::vector<NetworkValue>& next) const {
  for (size_t i = 0; i < inputs_.size(); ++i) {
    if (is_state(i)) next[i].value = std::move(outputs[static_cast<size_t>(carried_[i])]);
  }
}

std::string Network::details() const {
  std::string text;
  for (size_t i = 0; i < inputs_.size(); ++i) {
    text +=
        "input " + inputs_[i].name + ": " + inputs_[i].shown() +
        (is_state(i) ? ", carried from output " + outputs_[static_cast<size_t>(carried_[i])].name
                     : "") +
        "\n";
  }
  for (const NetworkPort& output : outputs_) {
    text += "output " + output.name + ": " + output.shown() + "\n";
  }
  return text;
}

Ports Network::ports(int64_t) const {
  Ports ports;
  for (const NetworkPort& input : inputs_) ports.inputs.push_back(input.port());
  for (const NetworkPort& output : outputs_) ports.outputs.push_back(output.port());
  return ports;
}

void Network::first_prediction(Model& model, State&) const {
  run(model, made_of(model, [](const NetworkPort& port) { return port.lowest(); }));
}

bool Network::batched() const {
  return std::all_of(inputs_.begin(), inputs_.end(),
                     [](const NetworkPort& one) { return one.batched(); });
}

std::vector<NetworkValue> Network::made_of(
    const Model& model, const std::function<Array(const NetworkPort&)>& make) const {
  std::vector<NetworkValue> call(inputs_.size());
  for (size_t i = 0; i < inputs_.size(); ++i) {
    call[i].array = make(inputs_[i]);
    call[i].value = ValueOf(model.runtime(), call[i].array);
  }
  return call;
}

// Only the call is timed: its inputs are made before it, its outputs freed after it.
Round Network::timed_round(Model& model, State&, SplitMix64& random, uint64_t,
                           uint64_t singles) const {
  struct Call {
    std::vector<NetworkValue> inputs;
    std::vector<OwnedValue> outputs;
  };
  const auto predictor = [&](size_t batch) {
    NamedSizes named;
    if (batched()) named["batch"] = {static_cast<int64_t>(batch), ""};
    const auto draw = [&](const NetworkPort& port) {
      return port.random(port.sizes(named), random);
    };
    const auto call = std::make_shared<Call>(Call{made_of(model, draw), {}});
    return [&, call] { call->outputs = run(model, call->inputs); };
  };
  return TimeBatches(singles, predictor, batched() ? kTimedBatch : 1);
}

Metric Network::evaluate(Model& model, const Samples&) const {
  BadInput(model.path() + ": expected a model whose metric ssmrun has; got a network, whose " +
           "metric is its own Python code: compress and ssmpress-gate measure it. " +
           "`ssmrun run` gives its outputs.");
}

void Network::answer(const Request& request, Model& model, State&, JsonWriter& out) const {
  const JsonValue given = request.object("inputs");
  std::vector<NetworkValue> call(inputs_.size());
  NamedSizes named;
  for (auto one = given.begin(); one != given.end(); ++one) {
    const std::string where = "worker: run: input " + std::string(one.key());
    const size_t input = FindPort(inputs_, one.key());
    if (input == inputs_.size()) BadInput(where + ": expected " + NamesOf(inputs_) + ".");
    call[input] = value(model, input, ReadArray(Fields(one.value(), where + ": ")), where, named);
  }
  for (size_t i = 0; i < inputs_.size(); ++i) {
    if (call[i].value != nullptr || is_state(i)) continue;
    BadInput("worker: run: inputs: expected " + inputs_[i].name + "; it is missing.");
  }
  start(model, call, named);
  const double begin = NowMs();
  const std::vector<OwnedValue> outputs = run(model, call);
  out.field("run_ms", NowMs() - begin).key("outputs").begin_object();
  for (size_t i = 0; i < outputs_.size(); ++i) {
    out.key(outputs_[i].name);
    WriteValue(out, View(model.runtime(), outputs[i], outputs_[i]));
  }
  out.end_object();
}

ValueView View(const Runtime& runtime, const OwnedValue& value, const NetworkPort& port) {
  const auto check = [&](ort::Status* status) {
    runtime.check(status, kInternal, "output " + port.name);
  };
  const ort::Api* api = runtime.api();
  ort::TensorInfo* info = nullptr;
  check(ort::kGetTensorTypeAndShape(api)(value.get(), &info));
  const Owned<ort::TensorInfo, ort::kReleaseTensorInfo> owner(info, {api});
  int type = 0;
  size_t rank = 0;
  check(ort::kGetTensorElementType(api)(info, &type));
  check(ort::kGetDimensionsCount(api)(info, &rank));
  ValueView view{port.dtype, std::vector<int64_t>(rank), {}};
  check(ort::kGetDimensions(api)(info, view.shape.data(), rank));
  const auto bytes = BytesOf(*port.dtype, view.shape);
  if (type != port.dtype->type || !bytes) {
    BadInput("output " + port.name + ": expected " + port.shown() + " of at most 4 GiB; got " +
             ShownShape(view.shape) + ". The metadata and the graph disagree.");
  }
  void* data = nullptr;
  check(ort::kGetTensorMutableData(api)(value.get(), &data));
  if (*bytes > 0) view.bytes = {static_cast<const char*>(data), *bytes};
  return view;
}

const TaskKind kNetwork = {
    "network",
    [](const Fields& block) -> std::unique_ptr<const Task> {
      return std::make_unique<Network>(block);
    },
    {"run"},
};

}  // namespace ssmrun
