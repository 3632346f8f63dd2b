// SPDX-License-Identifier: Apache-2.0
#include "runner/model/state_tensor.h"

#include <set>

#include "runner/failure.h"
#include "runner/model/fields.h"
#include "runner/model/onnx_runtime_abi.h"

namespace ssmrun {
namespace {

namespace ort = ssmpress::ort;

constexpr size_t kCountLimit = 1 << 16;  // states
constexpr size_t kRankLimit = 7;
constexpr int64_t kElementsLimit = int64_t{1} << 38;  // of one sequence: a terabyte as float32

std::vector<int64_t> ReadShape(const Fields& fields, int grows) {
  std::vector<int64_t> shape;
  const auto found = fields.find("shape");
  bool fits =
      found && found->is(JsonValue::kArray) && found->size() >= 1 && found->size() <= kRankLimit;
  int64_t elements = 1;
  if (fits) {
    for (const JsonValue item : *found) {
      const int64_t most = static_cast<int>(shape.size()) == grows ? 0 : kSizeLimit;
      const int64_t size = item.integer().value_or(-1);
      fits = fits && size >= 0 && size <= most;
      if (fits && size > 0) elements = size <= kElementsLimit / elements ? elements * size : 0;
      fits = fits && elements > 0;
      shape.push_back(size);
    }
  }
  if (!fits) {
    fields.fail("shape", "1 to " + std::to_string(kRankLimit) + " sizes of at most " +
                             std::to_string(kSizeLimit) + ", 0 where it grows");
  }
  return shape;
}

StateTensor ReadState(JsonValue value, const std::string& where) {
  const Fields fields(value, where);
  StateTensor state;
  const auto text = [&](const char* key) {
    const auto found = fields.find(key);
    return found && found->is(JsonValue::kString) ? found->text() : std::string_view();
  };
  const std::string_view dtype = text("dtype");
  state.name = text("name");
  if (state.name.empty()) fields.fail("name", "a name");
  if (dtype != "float32" && dtype != "float16") fields.fail("dtype", "float32 or float16");
  state.type = dtype == "float16" ? ort::kFloat16 : ort::kFloat;
  const auto grows = fields.find("grows"), shape = fields.find("shape");
  if (grows && !grows->is(JsonValue::kNull)) {
    const int64_t axis = grows->integer().value_or(-1);
    const bool array = shape && shape->is(JsonValue::kArray);
    if (axis < 0 || axis >= static_cast<int64_t>(array ? shape->size() : 0)) {
      fields.fail("grows", "an axis of the shape, or null");
    }
    state.grows = static_cast<int>(axis);
  }
  state.shape = ReadShape(fields, state.grows);
  return state;
}

// Channels of each layer; none means `most` everywhere.
std::vector<int64_t> ReadChannels(const Fields& fields, int64_t layers, int64_t most) {
  const auto found = fields.find("channels");
  if (!found) return std::vector<int64_t>(static_cast<size_t>(layers), most);
  std::vector<int64_t> channels;
  bool fits = found->is(JsonValue::kArray);
  if (fits) {
    for (const JsonValue item : *found) {
      channels.push_back(item.integer().value_or(0));
      fits = fits && channels.back() >= 1 && channels.back() <= most;
    }
  }
  if (!fits || static_cast<int64_t>(channels.size()) != layers) {
    fields.fail("channels", std::to_string(layers) + " integers from 1 to " + std::to_string(most));
  }
  return channels;
}

}  // namespace

std::vector<int64_t> StateTensor::shape_at(int64_t batch, int64_t tokens) const {
  std::vector<int64_t> whole = {batch};
  whole.insert(whole.end(), shape.begin(), shape.end());
  if (grows >= 0) whole[static_cast<size_t>(grows) + 1] = tokens;
  return whole;
}

size_t StateTensor::bytes_of(const std::vector<int64_t>& whole_shape) const {
  size_t bytes = type == ort::kFloat16 ? 2 : 4;
  for (const int64_t size : whole_shape) bytes *= static_cast<size_t>(size);
  return bytes;
}

std::vector<StateTensor> ReadStates(std::string text, const std::string& where) {
  const Json document(std::move(text), where);
  const JsonValue root = document.root();
  if (!root.is(JsonValue::kArray) || root.size() > kCountLimit) {
    BadInput(where + ": expected a list of states; got " + root.shown() + ".");
  }
  std::vector<StateTensor> states;
  std::set<std::string> names;
  for (const JsonValue item : root) {
    states.push_back(ReadState(item, where + ": state " + std::to_string(states.size()) + ": "));
    names.insert(states.back().name);
  }
  if (names.size() != states.size()) {
    BadInput(where + ": expected each state once; got a name twice.");
  }
  return states;
}

std::vector<StateTensor> OldStates(JsonValue config, size_t inputs, const std::string& where) {
  const Fields fields(config, where);
  const int64_t layers = fields.integer("n_layer", kSizeLimit);
  const int64_t taps = fields.integer("d_conv", kSizeLimit);
  const int64_t rows = fields.integer("d_state", kSizeLimit);
  const int64_t most = fields.integer("d_inner", kSizeLimit);
  if (static_cast<uint64_t>(layers) > inputs) {
    BadInput(where + "n_layer " + std::to_string(layers) +
             ": expected two states of every layer; " + "the graph has " + std::to_string(inputs) +
             " inputs. The metadata and the graph disagree.");
  }
  std::vector<StateTensor> states;
  int64_t layer = 0;
  for (const int64_t channels : ReadChannels(fields, layers, most)) {
    const std::string number = std::to_string(layer++);
    states.push_back({"conv_state." + number, {taps - 1, channels}, ort::kFloat});
    states.push_back({"scan_state." + number, {rows, channels}, ort::kFloat});
  }
  return states;
}

}  // namespace ssmrun
