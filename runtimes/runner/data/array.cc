// SPDX-License-Identifier: Apache-2.0
#include "runner/data/array.h"

#include <algorithm>
#include <cstring>

#include "runner/data/half.h"
#include "runner/format.h"
#include "runner/model/onnx_runtime_abi.h"

namespace ssmrun {
namespace {

namespace ort = ssmpress::ort;

// Those that no network has need no number of ONNX Runtime's.
constexpr Dtype kDtypes[] = {
    {"float32", "<f4", ort::kFloat, 4, Dtype::kReal},
    {"float16", "<f2", ort::kFloat16, 2, Dtype::kReal},
    {"int64", "<i8", ort::kInt64, 8, Dtype::kSigned},
    {"int32", "<i4", ort::kInt32, 4, Dtype::kSigned},
    {"bool", "|b1", ort::kBool, 1, Dtype::kTruth},
    {"float64", "<f8", 0, 8, Dtype::kReal},
    {"int16", "<i2", 0, 2, Dtype::kSigned},
    {"int8", "|i1", 0, 1, Dtype::kSigned},
    {"uint64", "<u8", 0, 8, Dtype::kUnsigned},
    {"uint32", "<u4", 0, 4, Dtype::kUnsigned},
    {"uint16", "<u2", 0, 2, Dtype::kUnsigned},
    {"uint8", "|u1", 0, 1, Dtype::kUnsigned},
};

bool IsInteger(const Dtype& dtype) {
  return dtype.kind == Dtype::kSigned || dtype.kind == Dtype::kUnsigned;
}

// Calls convert(from, to) with the places of each element.
template <class Convert>
void ConvertEach(Array& array, const Dtype& to, const Convert& convert) {
  const size_t count = array.bytes.size() / array.dtype->size;
  std::vector<char> bytes(count * to.size);
  for (size_t i = 0; i < count; ++i) {
    convert(array.bytes.data() + i * array.dtype->size, bytes.data() + i * to.size);
  }
  array.bytes = std::move(bytes);
  array.dtype = &to;
}

template <class T>
T Load(const char* place) {
  T value;
  std::memcpy(&value, place, sizeof value);
  return value;
}

template <class T>
void Store(T value, char* place) {
  std::memcpy(place, &value, sizeof value);
}

}  // namespace

const Dtype* DtypeNamed(std::string_view name) {
  for (const Dtype& one : kDtypes) {
    if (name == one.name) return &one;
  }
  return nullptr;
}

const Dtype* NetworkDtype(int type) {
  for (const Dtype& one : kDtypes) {
    if (type != 0 && type == one.type) return &one;
  }
  return nullptr;
}

const Dtype* DtypeOfNpy(std::string_view descr) {
  for (const Dtype& one : kDtypes) {
    if (descr == one.descr) return &one;
  }
  return nullptr;
}

std::string NetworkDtypes() {
  std::vector<std::string> names;
  for (const Dtype& one : kDtypes) {
    if (one.type != 0) names.emplace_back(one.name);
  }
  return OneOf(names);
}

int64_t IntegerAt(const char* element, const Dtype& dtype) {
  uint64_t value = 0;
  for (size_t i = dtype.size; i-- > 0;) value = value << 8 | static_cast<uint8_t>(element[i]);
  if (dtype.kind != Dtype::kSigned || dtype.size == 8) return static_cast<int64_t>(value);
  const uint64_t sign = uint64_t{1} << (8 * dtype.size - 1);
  return static_cast<int64_t>(value ^ sign) - static_cast<int64_t>(sign);
}

void NormalizeTruths(Array& array) {
  if (array.dtype->kind != Dtype::kTruth) return;
  for (char& truth : array.bytes) truth = truth != 0;
}

std::optional<uint64_t> BytesOf(const Dtype& dtype, const std::vector<int64_t>& shape) {
  uint64_t bytes = dtype.size;
  if (std::any_of(shape.begin(), shape.end(), [](int64_t size) { return size < 0; })) return {};
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return 0;
  for (const int64_t size : shape) {
    if (static_cast<uint64_t>(size) > kArrayLimit / bytes) return {};
    bytes *= static_cast<uint64_t>(size);
  }
  return bytes;
}

std::string ShownShape(const std::vector<int64_t>& shape) {
  std::string text = "(";
  for (size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + (shape.size() == 1 ? ",)" : ")");
}

bool Widen(Array& array, const Dtype& to) {
  const Dtype& from = *array.dtype;
  if (&from == &to) return true;
  if (from.kind == Dtype::kReal && to.type == ort::kFloat) {
    const bool half = from.type == ort::kFloat16;
    ConvertEach(array, to, [half](const char* element, char* place) {
      Store(half ? Widened(Load<uint16_t>(element)) : static_cast<float>(Load<double>(element)),
            place);
    });
    return true;
  }
  const bool fits = IsInteger(from) && to.kind == Dtype::kSigned && from.size < to.size;
  if (!fits) return false;
  ConvertEach(array, to, [&](const char* element, char* place) {
    const int64_t value = IntegerAt(element, from);  // little-endian: its first bytes
    std::memcpy(place, &value, to.size);
  });
  return true;
}

}  // namespace ssmrun
