// SPDX-License-Identifier: Apache-2.0
// The sections of a packed matrix, which the linear and the embedding ops share: read and checked.
//
// Sections are read as they lie in the model. When all of them are constants their contents are
// checked once, when the kernel is created; otherwise on every call.
#include <climits>
#include <type_traits>

#include "ops/op.h"

namespace ssmpress {
namespace {

constexpr int64_t kFormatVersion = 1;
constexpr size_t kMaxSections = 6;
constexpr size_t kMaxSectionRank = 3;

// What an axis counts, of a matrix of r rows and c columns.
enum Unit : int {
  kOne,
  kRow,
  kColumn,
  kWord,      // 64 columns
  kGroup,     // kInt4Group columns
  kInt4Tile,  // kInt4Rows rows
  kTile,      // kWindowTile rows
  kRecord,    // of windows
  kElement,   // stored, and padding
  kUnits
};

// The length of an axis: times · (units in the matrix) + plus.
struct Axis {
  Unit unit;
  int times = 1, plus = 0;
};

struct Section {
  const char* name;
  ort::ElementType type;
  int rank;
  Axis axes[kMaxSectionRank];
  void (*point)(PackedMatrix* matrix, const void* data);  // sets the member that stands for it
};

// A format's sections, in the order of the op's inputs. `measured` is the one whose shape says how
// many rows there are.
struct Layout {
  Structure structure;
  Values values;
  int max_columns;
  int measured;
  Section sections[kMaxSections];
};

template <auto kMember>
void Point(PackedMatrix* matrix, const void* data) {
  matrix->*kMember = static_cast<std::remove_reference_t<decltype(matrix->*kMember)>>(data);
}
constexpr auto kPointValue = Point<&PackedMatrix::value>;

constexpr Section Weight(ort::ElementType type) {
  return {"weight", type, 2, {{kRow}, {kColumn}}, kPointValue};
}
constexpr Section Value(ort::ElementType type) {
  return {"value", type, 1, {{kElement}}, kPointValue};
}
constexpr Section kScale = {"scale", ort::kFloat, 1, {{kRow}}, Point<&PackedMatrix::scale>};
constexpr Section kNibbles = {
    "weight", ort::kUint8, 3, {{kInt4Tile}, {kGroup}, {kOne, int{kInt4Bytes}}}, kPointValue};
constexpr Section kRatio = {"ratio",
                            ort::kInt8,
                            3,
                            {{kInt4Tile}, {kGroup}, {kOne, int{kInt4Rows}}},
                            Point<&PackedMatrix::ratio>};
constexpr Section kBits = {
    "bits", ort::kUint8, 2, {{kRow}, {kWord, 8}}, Point<&PackedMatrix::bits>};
constexpr Section kRowStart = {
    "start", ort::kInt32, 1, {{kRow, 1, 1}}, Point<&PackedMatrix::start>};
constexpr Section kOrder = {
    "order", ort::kInt32, 1, {{kTile, int{kWindowTile}}}, Point<&PackedMatrix::order>};
constexpr Section kTileStart = {
    "start", ort::kInt32, 1, {{kTile, 1, 1}}, Point<&PackedMatrix::start>};
constexpr Section kStep = {"step", ort::kUint8, 1, {{kRecord}}, Point<&PackedMatrix::step>};
constexpr Section kSteps = {
    "step", ort::kUint8, 2, {{kRecord}, {kOne, 2}}, Point<&PackedMatrix::step>};
constexpr Section Position(int bytes) {
  return {"position", ort::kUint8, 2, {{kRecord}, {kOne, bytes}}, Point<&PackedMatrix::position>};
}
constexpr Section Slots(ort::ElementType type, int slots) {
  return {"value", type, 2, {{kRecord}, {kOne, slots}}, kPointValue};
}

constexpr Structure kDense = Structure::kDense, kBitmask = Structure::kBitmask,
                    kWindow = Structure::kWindow;

constexpr Layout kLayouts[] = {
    {kDense, Values::kFp32, INT_MAX, 0, {Weight(ort::kFloat)}},
    {kDense, Values::kFp16, INT_MAX, 0, {Weight(ort::kFloat16)}},
    {kDense, Values::kInt8, int{kMaxInt8Columns}, 0, {Weight(ort::kInt8), kScale}},
    // Tiles are padded, so that the scales say how many rows there are; of int8 windows too.
    {kDense, Values::kInt4, int{kMaxInt4Columns}, 2, {kNibbles, kRatio, kScale}},
    {kBitmask, Values::kFp32, INT_MAX, 0, {kBits, kRowStart, Value(ort::kFloat)}},
    {kBitmask, Values::kFp16, INT_MAX, 0, {kBits, kRowStart, Value(ort::kFloat16)}},
    {kBitmask,
     Values::kInt8,
     int{kMaxInt8Columns},
     0,
     {kBits, kRowStart, Value(ort::kInt8), kScale}},
    // `order` says how many tiles there are, and its contents how many rows (CountRows).
    {kWindow,
     Values::kFp16,
     INT_MAX,
     0,
     {kOrder, kTileStart, kStep, Position(4), Slots(ort::kFloat16, int{kWindowTile})}},
    {kWindow,
     Values::kInt8,
     int{kMaxInt8Columns},
     5,
     {kOrder, kTileStart, kSteps, Position(16), Slots(ort::kInt8, int{kWindowSlots}), kScale}},
};

const Layout& LayoutOf(const OpDefinition& op) {
  const Layout* layout = kLayouts;
  while (layout->structure != op.structure || layout->values != op.values) ++layout;
  return *layout;
}

// How many units the matrix has, -1 where that is not known yet.
struct Sizes {
  int64_t of[kUnits];
};

int64_t Ceil(int64_t n, int64_t divisor) { return (n + divisor - 1) / divisor; }

Sizes SizesOf(int64_t columns) {
  Sizes sizes;
  for (int64_t& size : sizes.of) size = -1;
  sizes.of[kOne] = 1;
  sizes.of[kColumn] = columns;
  sizes.of[kWord] = Ceil(columns, 64);
  sizes.of[kGroup] = Ceil(columns, kInt4Group);
  return sizes;
}

void Learn(Sizes* sizes, Unit unit, int64_t count) {
  sizes->of[unit] = count;
  if (unit != kRow) return;
  sizes->of[kInt4Tile] = Ceil(count, kInt4Rows);
  sizes->of[kTile] = Ceil(count, kWindowTile);
}

ort::Status* CheckSection(const Kernel& kernel, size_t input, const Section& section,
                          const Tensor& tensor, const Sizes& sizes) {
  int64_t expected[kMaxSectionRank];
  for (int i = 0; i < section.rank; ++i) {
    const Axis& axis = section.axes[i];
    const int64_t size = sizes.of[axis.unit];
    expected[i] = size < 0 ? -1 : axis.times * size + axis.plus;
  }
  return CheckShape(kernel.api, *kernel.op, input, tensor, static_cast<size_t>(section.rank),
                    expected);
}

// Checks a section's shape, learns from it what is not known yet, and points `matrix` at it.
ort::Status* ReadSection(const Kernel& kernel, size_t i, const Section& section,
                         const Tensor& tensor, Sizes* sizes, PackedMatrix* matrix) {
  if (ort::Status* s = CheckSection(kernel, i + 1, section, tensor, *sizes)) return s;
  int64_t elements = 1;
  for (int k = 0; k < section.rank; ++k) {
    const Axis& axis = section.axes[k];
    elements *= tensor.dims[k];
    if (sizes->of[axis.unit] < 0) {
      Learn(sizes, axis.unit, Ceil(tensor.dims[k] - axis.plus, axis.times));
    }
  }
  // Again, since an axis that was learnt from may be no multiple of what it counts.
  if (ort::Status* s = CheckSection(kernel, i + 1, section, tensor, *sizes)) return s;
  section.point(matrix, tensor.data);
  if (section.point == kPointValue) matrix->value_count = static_cast<size_t>(elements);
  return nullptr;
}

// `order` of a matrix without scales ends with the entries without a row; the others are rows.
int64_t CountRows(const PackedMatrix& matrix, int64_t tiles) {
  int64_t rows = tiles * static_cast<int64_t>(kWindowTile);
  for (size_t i = 1; i < kWindowTile && rows > 0 && matrix.order[rows - 1] == -1; ++i) --rows;
  return rows;
}

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
  const int limit = LayoutOf(op).max_columns;
  if (kernel->columns < 0 || kernel->columns > limit) {
    return Error(api, op, "columns: expected 0 to %d, got %lld", limit,
                 static_cast<long long>(kernel->columns));
  }
  return nullptr;
}

// `sections` starts at input 1.
ort::Status* ReadMatrix(const Kernel& kernel, const Tensor* sections, PackedMatrix* matrix) {
  const OpDefinition& op = *kernel.op;
  const Layout& layout = LayoutOf(op);
  Sizes sizes = SizesOf(kernel.columns);
  *matrix = {};
  matrix->structure = op.structure;
  matrix->values = op.values;
  matrix->columns = static_cast<size_t>(kernel.columns);
  auto read = [&](size_t i) {
    return ReadSection(kernel, i, layout.sections[i], sections[i], &sizes, matrix);
  };
  if (ort::Status* s = read(static_cast<size_t>(layout.measured))) return s;
  for (size_t i = 0; i + 1 < op.input_count; ++i) {
    if (ort::Status* s = read(i)) return s;
  }
  const int64_t rows = sizes.of[kRow];
  matrix->rows = static_cast<size_t>(rows >= 0 ? rows : CountRows(*matrix, sizes.of[kTile]));
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

ort::Status* ReadMatrixKernel(const ort::KernelInfo* info, Kernel* kernel) {
  if (ort::Status* s = ReadAttributes(info, kernel)) return s;
  return CheckConstants(info, kernel);
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

OpDefinition DefineMatrixOp(const char* name, const char* first, ort::ElementType first_type,
                            Structure structure, Values values, ComputeFunction compute) {
  OpDefinition op = {};
  op.base = CommonCustomOp();
  op.base.create_kernel_v2 = CreateKernelWith<Kernel, ReadMatrixKernel>;
  op.base.compute_v2 = compute;
  op.name = name;
  op.output_count = 1;
  op.structure = structure;
  op.values = values;
  op.input_names[0] = first;
  op.input_types[0] = first_type;
  op.input_count = 1;
  for (const Section& section : LayoutOf(op).sections) {
    if (section.name == nullptr) break;
    op.input_names[op.input_count] = section.name;
    op.input_types[op.input_count++] = section.type;
  }
  return op;
}

}  // namespace ssmpress
