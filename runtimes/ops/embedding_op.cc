// SPDX-License-Identifier: Apache-2.0
// The embedding ops: rows of a dense int8 or int4 matrix, which a tied head multiplies by too.
#include "ops/op.h"

namespace ssmpress {
namespace {

ort::Status* Compute(void* self, ort::KernelContext* context) {
  const Kernel& kernel = *static_cast<const Kernel*>(self);
  const ort::Api* api = kernel.api;
  const OpDefinition& op = *kernel.op;
  Tensor ids;
  PackedMatrix matrix;
  if (ort::Status* s = ReadMatrixInputs(kernel, context, &ids, &matrix)) return s;
  if (ids.rank == kMaxRank) {
    return Error(api, op, "ids: expected at most %zu dimensions, got %zu", kMaxRank - 1, ids.rank);
  }
  int64_t y_dims[kMaxRank];
  size_t tokens = 1;
  for (size_t i = 0; i < ids.rank; ++i) {
    y_dims[i] = ids.dims[i];
    tokens *= static_cast<size_t>(ids.dims[i]);
  }
  y_dims[ids.rank] = kernel.columns;
  float* y = nullptr;
  if (ort::Status* s = MakeOutput(api, context, 0, y_dims, ids.rank + 1, &y)) return s;
  for (size_t t = 0; t < tokens; ++t) {
    const int64_t id = static_cast<const int64_t*>(ids.data)[t];
    if (id < 0 || static_cast<uint64_t>(id) >= matrix.rows) {
      return Error(api, op, "ids: expected rows 0 to %lld, got %lld",
                   static_cast<long long>(matrix.rows) - 1, static_cast<long long>(id));
    }
    ReadRow(matrix, static_cast<size_t>(id), y + t * matrix.columns);
  }
  return nullptr;
}

OpDefinition Define(const char* name, Values values) {
  return DefineMatrixOp(name, "ids", ort::kInt64, Structure::kDense, values, Compute);
}

const OpDefinition kOps[] = {
    Define("DenseEmbeddingInt8", Values::kInt8),
    Define("DenseEmbeddingInt4", Values::kInt4),
};

}  // namespace

OpList EmbeddingOps() { return ListOf(kOps); }

}  // namespace ssmpress
