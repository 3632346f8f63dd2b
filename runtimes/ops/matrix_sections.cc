// SPDX-License-Identifier: Apache-2.0
// The sections of a packed matrix, which the linear and the embedding ops share: read and checked.
//
// Sections are read as they lie in the model. When all of them are constants their contents are
// checked once, when the kernel is created; otherwise on every call.
#include <climits>

#include "ops/op.h"

namespace ssmpress {
namespace {

constexpr int64_t kFormatVersion = 1;
constexpr size_t kMaxSections = kMaxInputs - 1;

ort::Status* ReadAttributes(const ort::KernelInfo* info, Kernel* kernel) {
  const ort::Api* api = kernel->api;
  const OpDefinition& op = *kernel->op;
  int64_t version = 0;
  if (ort::Status* s = ort::kGetAttributeInt64(api)(info, "format_version", &version)) return s;
  if (version != kFormatVersion) {
    return Error(api, op,
                 "format_version: expected %lld, got %lld; export the model again with this "
                 "version of ssmpress",
                 static_cast<long long>(kFormatVersion), static_cast<long long>(version));
  }
  if (ort::Status* s = ort::kGetAttributeInt64(api)(info, "columns", &kernel->columns)) return s;
  const int64_t limit = op.values == Values::kInt8   ? int64_t{kMaxInt8Columns}
                        : op.values == Values::kInt4 ? int64_t{kMaxInt4Columns}
                                                     : INT_MAX;
  if (kernel->columns < 0 || kernel->columns > limit) {
    return Error(api, op, "columns: expected 0 to %lld, got %lld", static_cast<long long>(limit),
                 static_cast<long long>(kernel->columns));
  }
  return nullptr;
}

// ReadDense, ReadInt4, ReadBitmask, ReadWindows: the sections of a structure but the scales; their
// shapes are checked and `matrix` is pointed at them. `sections` starts at input 1.
ort::Status* ReadDense(const Kernel& kernel, const Tensor* sections, PackedMatrix* matrix) {
  const int64_t shape[2] = {-1, kernel.columns};
  if (ort::Status* s = CheckShape(kernel.api, *kernel.op, 1, sections[0], 2, shape)) return s;
  matrix->rows = static_cast<size_t>(sections[0].dims[0]);
  matrix->value = sections[0].data;
  matrix->value_count = matrix->rows * matrix->columns;
  return nullptr;
}

// The number of rows comes from the scales: tiles are padded.
ort::Status* ReadInt4(const Kernel& kernel, const Tensor* sections, PackedMatrix* matrix) {
  const ort::Api* api = kernel.api;
  const OpDefinition& op = *kernel.op;
  const int64_t any = -1;
  if (ort::Status* s = CheckShape(api, op, 3, sections[2], 1, &any)) return s;
  const int64_t rows = sections[2].dims[0];
  const int64_t tiles = (rows + kInt4Rows - 1) / kInt4Rows;
  const int64_t groups = (kernel.columns + kInt4Group - 1) / kInt4Group;
  const int64_t weight[3] = {tiles, groups, kInt4Bytes}, ratio[3] = {tiles, groups, kInt4Rows};
  if (ort::Status* s = CheckShape(api, op, 1, sections[0], 3, weight)) return s;
  if (ort::Status* s = CheckShape(api, op, 2, sections[1], 3, ratio)) return s;
  matrix->rows = static_cast<size_t>(rows);
  matrix->value = sections[0].data;
  matrix->value_count = static_cast<size_t>(tiles * groups) * kInt4Bytes;
  matrix->ratio = static_cast<const int8_t*>(sections[1].data);
  return nullptr;
}

ort::Status* ReadBitmask(const Kernel& kernel, const Tensor* sections, PackedMatrix* matrix) {
  const ort::Api* api = kernel.api;
  const OpDefinition& op = *kernel.op;
  const int64_t any = -1, bits[2] = {-1, (kernel.columns + 63) / 64 * 8};
  if (ort::Status* s = CheckShape(api, op, 1, sections[0], 2, bits)) return s;
  const int64_t starts = sections[0].dims[0] + 1;
  if (ort::Status* s = CheckShape(api, op, 2, sections[1], 1, &starts)) return s;
  if (ort::Status* s = CheckShape(api, op, 3, sections[2], 1, &any)) return s;
  matrix->rows = static_cast<size_t>(sections[0].dims[0]);
  matrix->bits = static_cast<const uint8_t*>(sections[0].data);
  matrix->start = static_cast<const int32_t*>(sections[1].data);
  matrix->value = sections[2].data;
  matrix->value_count = static_cast<size_t>(sections[2].dims[0]);
  return nullptr;
}

// `order` of an fp16 matrix ends with the entries without a row; the others are rows.
ort::Status* ReadFp16Windows(const Kernel& kernel, const Tensor* sections, PackedMatrix* matrix) {
  const ort::Api* api = kernel.api;
  const OpDefinition& op = *kernel.op;
  const int64_t any = -1;
  if (ort::Status* s = CheckShape(api, op, 1, sections[0], 1, &any)) return s;
  const int64_t tiles = (sections[0].dims[0] + 7) / 8;
  const int64_t entries = 8 * tiles, starts = tiles + 1;
  if (ort::Status* s = CheckShape(api, op, 1, sections[0], 1, &entries)) return s;
  if (ort::Status* s = CheckShape(api, op, 2, sections[1], 1, &starts)) return s;
  if (ort::Status* s = CheckShape(api, op, 3, sections[2], 1, &any)) return s;
  const int64_t records = sections[2].dims[0];
  const int64_t position[2] = {records, 4}, value[2] = {records, kWindowTile};
  if (ort::Status* s = CheckShape(api, op, 4, sections[3], 2, position)) return s;
  if (ort::Status* s = CheckShape(api, op, 5, sections[4], 2, value)) return s;
  matrix->order = static_cast<const int32_t*>(sections[0].data);
  matrix->rows = static_cast<size_t>(entries);
  for (int i = 0; i < 7 && matrix->rows > 0 && matrix->order[matrix->rows - 1] == -1; ++i) {
    --matrix->rows;
  }
  matrix->start = static_cast<const int32_t*>(sections[1].data);
  matrix->step = static_cast<const uint8_t*>(sections[2].data);
  matrix->position = static_cast<const uint8_t*>(sections[3].data);
  matrix->value = sections[4].data;
  matrix->value_count = static_cast<size_t>(records) * kWindowTile;
  return nullptr;
}

// The number of rows comes from the scales: `order` is padded to whole tiles.
ort::Status* ReadWindows(const Kernel& kernel, const Tensor* sections, PackedMatrix* matrix) {
  const ort::Api* api = kernel.api;
  const OpDefinition& op = *kernel.op;
  const int64_t any = -1;
  if (ort::Status* s = CheckShape(api, op, 6, sections[5], 1, &any)) return s;
  const int64_t rows = sections[5].dims[0], tiles = (rows + 7) / 8;
  const int64_t entries = 8 * tiles, starts = tiles + 1, step[2] = {-1, 2};
  if (ort::Status* s = CheckShape(api, op, 1, sections[0], 1, &entries)) return s;
  if (ort::Status* s = CheckShape(api, op, 2, sections[1], 1, &starts)) return s;
  if (ort::Status* s = CheckShape(api, op, 3, sections[2], 2, step)) return s;
  const int64_t records = sections[2].dims[0];
  const int64_t position[2] = {records, 16}, value[2] = {records, kWindowSlots};
  if (ort::Status* s = CheckShape(api, op, 4, sections[3], 2, position)) return s;
  if (ort::Status* s = CheckShape(api, op, 5, sections[4], 2, value)) return s;
  matrix->rows = static_cast<size_t>(rows);
  matrix->order = static_cast<const int32_t*>(sections[0].data);
  matrix->start = static_cast<const int32_t*>(sections[1].data);
  matrix->step = static_cast<const uint8_t*>(sections[2].data);
  matrix->position = static_cast<const uint8_t*>(sections[3].data);
  matrix->value = sections[4].data;
  matrix->value_count = static_cast<size_t>(records) * kWindowSlots;
  return nullptr;
}

ort::Status* ReadMatrix(const Kernel& kernel, const Tensor* sections, PackedMatrix* matrix) {
  const OpDefinition& op = *kernel.op;
  *matrix = {};
  matrix->structure = op.structure;
  matrix->values = op.values;
  matrix->columns = static_cast<size_t>(kernel.columns);
  const auto read = op.values == Values::kInt4            ? ReadInt4
                    : op.structure == Structure::kDense   ? ReadDense
                    : op.structure == Structure::kBitmask ? ReadBitmask
                    : op.values == Values::kFp16          ? ReadFp16Windows
                                                          : ReadWindows;
  if (ort::Status* s = read(kernel, sections, matrix)) return s;
  if (op.values != Values::kInt8 && op.values != Values::kInt4) return nullptr;
  const size_t scale = op.input_count - 1;
  const int64_t rows = static_cast<int64_t>(matrix->rows);
  if (ort::Status* s = CheckShape(kernel.api, op, scale, sections[scale - 1], 1, &rows)) return s;
  matrix->scale = static_cast<const float*>(sections[scale - 1].data);
  return nullptr;
}

ort::Status* CheckContents(const Kernel& kernel, const PackedMatrix& matrix) {
  char text[256];
  if (CheckMatrix(matrix, text, sizeof text)) return nullptr;
  return Error(kernel.api, *kernel.op, "%s", text);
}

ort::Status* CheckConstants(const ort::KernelInfo* info, Kernel* kernel) {
  const ort::Api* api = kernel->api;
  const OpDefinition& op = *kernel->op;
  Tensor sections[kMaxSections];
  for (size_t i = 1; i < op.input_count; ++i) {
    int constant = 0;
    const ort::Value* value = nullptr;
    if (ort::Status* s = ort::kGetConstantInput(api)(info, i, &constant, &value)) return s;
    if (constant == 0 || value == nullptr) return nullptr;
    if (ort::Status* s = ReadValue(api, op, value, i, &sections[i - 1])) return s;
  }
  if (ort::Status* s = ReadMatrix(*kernel, sections, &kernel->matrix)) return s;
  if (ort::Status* s = CheckContents(*kernel, kernel->matrix)) return s;
  kernel->constant = true;
  return nullptr;
}

}  // namespace

ort::Status* ReadMatrixInputs(const Kernel& kernel, ort::KernelContext* context, Tensor* first,
                              PackedMatrix* matrix) {
  const OpDefinition& op = *kernel.op;
  if (ort::Status* s = ReadInput(kernel.api, op, context, 0, first)) return s;
  if (kernel.constant) {
    *matrix = kernel.matrix;
    return nullptr;
  }
  Tensor sections[kMaxSections];
  for (size_t i = 1; i < op.input_count; ++i) {
    if (ort::Status* s = ReadInput(kernel.api, op, context, i, &sections[i - 1])) return s;
  }
  if (ort::Status* s = ReadMatrix(kernel, sections, matrix)) return s;
  return CheckContents(kernel, *matrix);
}

ort::Status* CreateMatrixKernel(const ort::CustomOp* op, const ort::Api* api,
                                const ort::KernelInfo* info, void** result) {
  Kernel* kernel = nullptr;
  *result = nullptr;
  if (ort::Status* s = CreateKernel(op, api, &kernel)) return s;
  ort::Status* status = ReadAttributes(info, kernel);
  if (status == nullptr) status = CheckConstants(info, kernel);
  if (status != nullptr) {
    DestroyKernel(kernel);
    return status;
  }
  *result = kernel;
  return nullptr;
}

void AddMatrixInputs(OpDefinition* op) {
  const ort::ElementType types[] = {ort::kFloat, ort::kFloat16, ort::kInt8, ort::kUint8};
  auto add = [op](const char* input, ort::ElementType type) {
    op->input_names[op->input_count] = input;
    op->input_types[op->input_count++] = type;
  };
  if (op->structure == Structure::kBitmask) {
    add("bits", ort::kUint8);
    add("start", ort::kInt32);
  }
  if (op->structure == Structure::kWindow) {
    add("order", ort::kInt32);
    add("start", ort::kInt32);
    add("step", ort::kUint8);
    add("position", ort::kUint8);
  }
  const char* values = op->structure == Structure::kDense ? "weight" : "value";
  add(values, types[static_cast<int>(op->values)]);
  if (op->values == Values::kInt4) add("ratio", ort::kInt8);
  if (op->values == Values::kInt8 || op->values == Values::kInt4) add("scale", ort::kFloat);
}

}  // namespace ssmpress
