// SPDX-License-Identifier: Apache-2.0
// Which files a model's tensors lie in, read before ONNX Runtime opens any of them.
#ifndef SSMPRESS_RUNNER_EXTERNAL_DATA_H_
#define SSMPRESS_RUNNER_EXTERNAL_DATA_H_

#include <string>

namespace ssmrun {

// Throws kBadInput where a tensor of the model lies in another file than model.onnx.data, or NAME
// .data for a model NAME, or where the file is no ONNX model. The same rules as
// toolchain/ssmpress/runtime/external_data.py, which says why.
void CheckExternalData(const std::string& model);

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_EXTERNAL_DATA_H_
