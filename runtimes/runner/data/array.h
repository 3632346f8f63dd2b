// SPDX-License-Identifier: Apache-2.0
// Arrays of numbers in memory, and the types that files, requests and models have of them.
#ifndef SSMPRESS_RUNNER_ARRAY_H_
#define SSMPRESS_RUNNER_ARRAY_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace ssmrun {

constexpr uint64_t kArrayLimit = uint64_t{4} << 30;  // bytes of one array
constexpr size_t kRankLimit = 8;

// A type of element, little-endian.
struct Dtype {
  enum Kind : char { kReal, kSigned, kUnsigned, kTruth };
  const char* name;   // as in a network's metadata and in requests
  const char* descr;  // as in a .npy file
  int type;           // ONNX Runtime's number; 0: no input or output of a network has it
  size_t size;        // bytes
  Kind kind;
};

// Null where there is none.
const Dtype* DtypeNamed(std::string_view name);
const Dtype* NetworkDtype(int type);  // ONNX Runtime's number
const Dtype* DtypeOfNpy(std::string_view descr);

// `float32, float16, int64, int32 or bool`.
std::string NetworkDtypes();

// One element of a type of integers; of 64 bits without a sign, modulo 2^64.
int64_t IntegerAt(const char* element, const Dtype& dtype);

// In C order.
struct Array {
  const Dtype* dtype = nullptr;
  std::vector<int64_t> shape;
  std::vector<char> bytes;
};

// Any byte but 0 is true; but it would be no value of C++'s bool. Of other types nothing.
void NormalizeTruths(Array& array);

// The bytes of such an array; none beyond kArrayLimit, or where a size is negative.
std::optional<uint64_t> BytesOf(const Dtype& dtype, const std::vector<int64_t>& shape);

// `(3, 4)`, `(3,)`, `()`.
std::string ShownShape(const std::vector<int64_t>& shape);

// The array with elements of `to`: an integer type becomes a wider one that holds all its values,
// float16 becomes float32, float64 the nearest float32. False, and the array as it was: it would
// lose more.
bool Widen(Array& array, const Dtype& to);

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_ARRAY_H_
