// SPDX-License-Identifier: Apache-2.0
// The linear ops, one per packed format: tokens in, kernels/linear/linear.cc does the work.
#include "ops/op.h"

namespace ssmpress {
namespace {

// Shape (..., c) of x -> shape (..., r) of y and the number of tokens.
ort::Status* ReadTokens(const Kernel& kernel, const Tensor& x, size_t rows, int64_t* y_dims,
                        size_t* tokens) {
  if (x.rank == 0 || x.dims[x.rank - 1] != kernel.columns) {
    const long long got = x.rank == 0 ? 0 : static_cast<long long>(x.dims[x.rank - 1]);
    return Error(kernel.api, *kernel.op,
                 "x: expected a last dimension of %lld (columns), got %lld in %zu dimensions",
                 static_cast<long long>(kernel.columns), got, x.rank);
  }
  *tokens = 1;
  for (size_t i = 0; i + 1 < x.rank; ++i) {
    y_dims[i] = x.dims[i];
    *tokens *= static_cast<size_t>(x.dims[i]);
  }
  y_dims[x.rank - 1] = static_cast<int64_t>(rows);
  return nullptr;
}

ort::Status* Compute(void* self, ort::KernelContext* context) {
  const Kernel& kernel = *static_cast<const Kernel*>(self);
  const ort::Api* api = kernel.api;
  const OpDefinition& op = *kernel.op;
  Tensor x;
  PackedMatrix matrix;
  if (ort::Status* s = ReadMatrixInputs(kernel, context, &x, &matrix)) return s;
  int64_t y_dims[kMaxRank];
  size_t tokens = 0;
  if (ort::Status* s = ReadTokens(kernel, x, matrix.rows, y_dims, &tokens)) return s;
  float* y = nullptr;
  if (ort::Status* s = MakeOutput(api, context, 0, y_dims, x.rank, &y)) return s;
  SessionThreads threads = {api, context, nullptr};
  const Linear args = {&matrix, tokens, static_cast<const float*>(x.data), y};
  if (!RunLinear(*kernel.isa, args, UseThreads(&threads))) return Error(api, op, "out of memory");
  return threads.status;
}

OpDefinition Define(const char* name, Structure structure, Values values) {
  return DefineMatrixOp(name, "x", ort::kFloat, structure, values, Compute);
}

const OpDefinition kOps[] = {
    Define("DenseLinearFp32", Structure::kDense, Values::kFp32),
    Define("DenseLinearFp16", Structure::kDense, Values::kFp16),
    Define("DenseLinearInt8", Structure::kDense, Values::kInt8),
    Define("BitmaskLinearFp32", Structure::kBitmask, Values::kFp32),
    Define("BitmaskLinearFp16", Structure::kBitmask, Values::kFp16),
    Define("BitmaskLinearInt8", Structure::kBitmask, Values::kInt8),
    Define("DenseLinearInt4", Structure::kDense, Values::kInt4),
    Define("WindowLinearFp16", Structure::kWindow, Values::kFp16),
    Define("WindowLinearInt8", Structure::kWindow, Values::kInt8),
};

}  // namespace

OpList LinearOps() { return ListOf(kOps); }

}  // namespace ssmpress
