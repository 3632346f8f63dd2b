// SPDX-License-Identifier: Apache-2.0
// NumPy's .npy files, of any origin: numpy.lib.format describes them.
#ifndef SSMPRESS_RUNNER_NPY_H_
#define SSMPRESS_RUNNER_NPY_H_

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runner/data/array.h"

namespace ssmrun {

// What stands before the numbers. dtype: null for a type that ssmrun does not know, whose name is
// `descr`.
struct NpyHeader {
  const Dtype* dtype;
  std::string descr;
  bool c_order;  // also where the order makes no difference
  std::vector<int64_t> shape;
  size_t begin;  // bytes before the first number
};

// If the file begins as every .npy file does.
bool IsNpy(std::string_view file);

// Nothing where the file is cut short or its header is none.
std::optional<NpyHeader> ReadNpyHeader(std::string_view file);

// The whole file as an array of any type of array.h. Throws kBadInput.
Array ReadNpy(const std::string& path);

// What stands before the numbers of such an array: version 1, in C order, a multiple of 64 bytes.
std::string NpyHeaderOf(const Dtype& dtype, const std::vector<int64_t>& shape);

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_NPY_H_
