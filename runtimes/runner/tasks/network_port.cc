// SPDX-License-Identifier: Apache-2.0
#include "runner/tasks/network_port.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "runner/data/half.h"
#include "runner/failure.h"
#include "runner/format.h"
#include "runner/model/fields.h"
#include "runner/model/onnx_runtime_abi.h"

namespace ssmrun {
namespace {

namespace ort = ssmpress::ort;

constexpr size_t kPortLimit = 1024;               // inputs, or outputs
constexpr int64_t kAxisLimit = int64_t{1} << 31;  // as toolchain/ssmpress/tasks/network_ports.py

bool IsName(const std::optional<JsonValue>& value) {
  return value && value->is(JsonValue::kString) && !value->text().empty();
}

std::vector<AxisSize> ReadShape(const Fields& port) {
  const auto list = port.find("shape");
  std::vector<AxisSize> shape;
  bool good = list && list->is(JsonValue::kArray) && list->size() <= kRankLimit;
  if (good) {
    for (const JsonValue item : *list) {
      const bool named = IsName(item);
      const int64_t number = item.integer().value_or(-1);
      good = good && (named || (number >= 0 && number <= kAxisLimit));
      shape.push_back({named ? kFree : number, std::string(named ? item.text() : "")});
    }
  }
  if (!good) {
    port.fail("shape", "at most " + std::to_string(kRankLimit) + " sizes, each 0 to " +
                           std::to_string(kAxisLimit) + " or a name");
  }
  return shape;
}

// Sizes like those of the shape; every array of them has at most kArrayLimit bytes.
std::vector<int64_t> ReadExample(const Fields& fields, const NetworkPort& port) {
  const auto list = fields.find("example");
  std::vector<int64_t> sizes;
  bool good = list && list->is(JsonValue::kArray) && list->size() == port.shape.size();
  if (good) {
    for (const JsonValue item : *list) {
      const AxisSize& axis = port.shape[sizes.size()];
      const int64_t size = item.integer().value_or(-1);
      good =
          good && size >= 0 && size <= kAxisLimit && (axis.number == kFree || axis.number == size);
      sizes.push_back(size);
    }
  }
  if (!good || !BytesOf(*port.dtype, sizes)) {
    fields.fail("example", "a size for each of the shape's, 4 GiB in all at most");
  }
  return sizes;
}

void ReadRange(const Fields& fields, NetworkPort& port) {
  if (port.dtype->kind != Dtype::kSigned) return;
  const auto number = [&](const char* name, int64_t absent) {
    const auto found = fields.find(name);
    if (found && !found->integer()) fields.fail(name, "an integer");
    return found ? *found->integer() : absent;
  };
  port.low = number("low", 0);
  port.high = number("high", 2);
  const bool narrow = port.dtype->size == 4;
  const int64_t least = narrow ? INT32_MIN : INT64_MIN, most = narrow ? INT32_MAX : INT64_MAX;
  if (port.low >= port.high || port.low < least || port.high - 1 > most) {
    fields.fail("high", std::string("an integer above low, both of ") + port.dtype->name);
  }
}

NetworkPort ReadPort(const Fields& fields, bool input) {
  NetworkPort port;
  const auto name = fields.find("name"), type = fields.find("type");
  if (!IsName(name)) fields.fail("name", "a name");
  port.name = name->text();
  port.dtype = IsName(type) ? DtypeNamed(type->text()) : nullptr;
  if (port.dtype == nullptr || port.dtype->type == 0) fields.fail("type", NetworkDtypes());
  port.shape = ReadShape(fields);
  if (!input) return port;
  port.example = ReadExample(fields, port);
  ReadRange(fields, port);
  return port;
}

// The values of one can be those of the other in the next call.
bool Carries(const NetworkPort& to, const NetworkPort& from) {
  const auto fits = [](const AxisSize& a, const AxisSize& b) {
    return a.number == kFree || b.number == kFree || a.number == b.number;
  };
  return to.dtype == from.dtype &&
         std::equal(to.shape.begin(), to.shape.end(), from.shape.begin(), from.shape.end(), fits);
}

template <class Draw>
void Fill(Array& array, const Draw& draw) {
  for (size_t at = 0; at < array.bytes.size(); at += array.dtype->size) {
    draw(array.bytes.data() + at);
  }
}

}  // namespace

Port NetworkPort::port() const {
  Port result{name, dtype->type, {}};
  for (const AxisSize& axis : shape) result.shape.push_back(axis.number);
  return result;
}

std::string NetworkPort::shown() const {
  std::string text = std::string(dtype->name) + " (";
  for (size_t i = 0; i < shape.size(); ++i) {
    const AxisSize& axis = shape[i];
    text += (i > 0 ? ", " : "") + (axis.number == kFree ? axis.name : std::to_string(axis.number));
  }
  return text + (shape.size() == 1 ? ",)" : ")");
}

std::vector<int64_t> NetworkPort::sizes(const NamedSizes& named) const {
  std::vector<int64_t> sizes = example;
  for (size_t i = 0; i < shape.size(); ++i) {
    const auto found = named.find(shape[i].name);
    if (shape[i].number == kFree && found != named.end()) sizes[i] = found->second.number;
  }
  return sizes;
}

Array NetworkPort::fit(Array array, int64_t least, const std::string& where,
                       NamedSizes& named) const {
  const auto fail = [&](const std::string& cure) {
    BadInput(where + ": expected " + shown() + "; got " + array.dtype->name + " " +
             ShownShape(array.shape) + ". " + cure);
  };
  bool fits = array.shape.size() == shape.size();
  for (size_t i = 0; fits && i < shape.size(); ++i) {
    const int64_t size = array.shape[i];
    fits = shape[i].number == kFree ? size >= least : size == shape[i].number;
  }
  if (!fits) {
    fail("Sizes with a name may be any from " + std::to_string(least) +
         " on; the others, and their number, are the network's.");
  }
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i].number != kFree) continue;
    const auto [other, added] = named.try_emplace(shape[i].name, NamedSize{array.shape[i], name});
    if (added || other->second.number == array.shape[i]) continue;
    fail(shape[i].name + " is " + std::to_string(other->second.number) + " in input " +
         other->second.input + ": one name is one size.");
  }
  if (!Widen(array, *dtype)) {
    fail(std::string("Convert it with .astype(\"") + dtype->name +
         "\"): ssmrun only widens, but for float64 to float32.");
  }
  return array;
}

Array NetworkPort::zeros(const std::vector<int64_t>& sizes) const {
  Array array{dtype, sizes, {}};
  const auto bytes = BytesOf(*dtype, sizes);
  if (!bytes)
    BadInput("input " + name + ": expected at most 4 GiB; got " + ShownShape(sizes) + ".");
  array.bytes.resize(*bytes);
  return array;
}

Array NetworkPort::lowest() const {
  Array array = zeros(example);
  if (dtype->kind == Dtype::kSigned) {
    Fill(array, [&](char* place) { std::memcpy(place, &low, dtype->size); });
  }
  return array;
}

Array NetworkPort::random(const std::vector<int64_t>& sizes, SplitMix64& random) const {
  Array array = zeros(sizes);
  if (dtype->kind == Dtype::kReal) {
    Fill(array, [&](char* place) {
      const auto value = static_cast<float>(4 * random.uniform() - 2);
      const uint16_t half = Narrowed(value);
      dtype->size == 2 ? std::memcpy(place, &half, 2) : std::memcpy(place, &value, 4);
    });
  } else if (dtype->kind == Dtype::kTruth) {
    Fill(array, [&](char* place) { *place = static_cast<char>(random.next() % 2); });
  } else {
    // Without a sign, so that no difference overflows.
    const uint64_t first = static_cast<uint64_t>(low), count = static_cast<uint64_t>(high) - first;
    Fill(array, [&](char* place) {
      const uint64_t value = first + random.next() % count;  // little-endian: its first bytes
      std::memcpy(place, &value, dtype->size);
    });
  }
  return array;
}

std::vector<NetworkPort> ReadPorts(const Fields& block, const char* key, bool inputs) {
  const auto list = block.find(key);
  if (!list || !list->is(JsonValue::kArray) || list->size() < 1 || list->size() > kPortLimit) {
    block.fail(key, "1 to " + std::to_string(kPortLimit) + " of them");
  }
  std::vector<NetworkPort> ports;
  std::set<std::string> names;
  uint64_t bytes = 0;
  for (const JsonValue item : *list) {
    const std::string place = std::string(key) + " " + std::to_string(ports.size()) + ": ";
    ports.push_back(ReadPort(block.at(item, place), inputs));
    names.insert(ports.back().name);
    if (inputs) bytes += *BytesOf(*ports.back().dtype, ports.back().example);
  }
  if (names.size() != ports.size()) block.fail(key, "each name once");
  if (bytes > kArrayLimit) block.fail(key, "examples of 4 GiB in all at most");
  return ports;
}

size_t FindPort(const std::vector<NetworkPort>& ports, std::string_view name) {
  const auto found = std::find_if(ports.begin(), ports.end(),
                                  [&](const NetworkPort& one) { return one.name == name; });
  return static_cast<size_t>(found - ports.begin());
}

std::string NamesOf(const std::vector<NetworkPort>& ports) {
  std::vector<std::string> names;
  for (const NetworkPort& one : ports) names.push_back(one.name);
  return OneOf(names);
}

std::vector<int> ReadCarried(const Fields& block, const std::vector<NetworkPort>& inputs,
                             const std::vector<NetworkPort>& outputs) {
  std::vector<int> carried(inputs.size(), -1);
  const auto states = block.find("states");
  if (!states) return carried;
  const bool object = states->is(JsonValue::kObject);
  if (!object) block.fail("states", "an object of inputs and outputs");
  for (auto state = states->begin(); state != states->end(); ++state) {
    const size_t input = FindPort(inputs, state.key());
    const JsonValue value = state.value();
    const size_t output = IsName(value) ? FindPort(outputs, value.text()) : outputs.size();
    const auto number = static_cast<int>(output);
    if (input == inputs.size() || output == outputs.size() ||
        !Carries(inputs[input], outputs[output]) ||
        std::find(carried.begin(), carried.end(), number) != carried.end()) {
      block.fail("states", "names of inputs, each with an output like it, each output once");
    }
    carried[input] = number;
  }
  if (std::count(carried.begin(), carried.end(), -1) == 0) {
    block.fail("states", "at least one input that is no state");
  }
  return carried;
}

}  // namespace ssmrun
