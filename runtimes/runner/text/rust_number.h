// SPDX-License-Identifier: Apache-2.0
// Numbers as the tokenizers library reads them.
#ifndef SSMPRESS_RUNNER_RUST_NUMBER_H_
#define SSMPRESS_RUNNER_RUST_NUMBER_H_

#include <string_view>

namespace ssmrun {

// The value of a JSON number as Rust's serde_json reads it without its feature float_roundtrip: the
// digits as an integer, times or by a power of ten, each rounded, which is not always the nearest
// double. Unigram's scores decide between paths that differ in their last bits. Infinite where
// serde_json refuses the number.
double RustNumber(std::string_view json);

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_RUST_NUMBER_H_
