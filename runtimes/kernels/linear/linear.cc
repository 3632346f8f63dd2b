// SPDX-License-Identifier: Apache-2.0
// y = x·Wᵀ split into blocks of rows and tokens, and the preparation of x: zero padding for floats,
// quantisation for int8 matrices.
#include <cstring>

#include "kernels/isa/isa.h"
#include "kernels/scratch.h"

namespace ssmpress {
namespace {

// From about this many tokens on, unpacking a panel once pays for itself (AVX2: 8 for int8, 10 for
// the others).
constexpr size_t kManyTokens = 8;

// Rows of a few-token block: 16 rows of 768 fp32 columns are 48 KiB, about 4 us of DRAM bandwidth,
// and those of smaller formats stay in the L1 cache for all tokens. One token takes more at a time:
// a multiple that leaves kOneTokenBlocks blocks at most to share out.
constexpr size_t kFewTokenRows = 16;
constexpr size_t kOneTokenBlocks = 32;

// Tokens of a many-token block: 256 tokens x 256 columns of x are 256 KiB and stay in the L2 cache.
constexpr size_t kManyTokenBlock = 256;

// As kManyTokenBlock for window and int4 matrices, whose records are multiplied as they lie for any
// number of tokens (30 % kept, AVX2: 1.8 times as fast as int8 panels at 24 tokens, 1.5 times at
// 120). 120 tokens of 1024 columns are 120 KiB of activations.
constexpr size_t kWindowTokenBlock = 120;

// From about this many tokens on, writing windows out as panels pays for itself (AVX-512).
constexpr size_t kManyWindowTokens = 64;

// As kManyTokenBlock for windows, whose panels take longer to write out.
constexpr size_t kManyWindowBlock = 512;

// Tokens whose rows one task puts in order.
constexpr size_t kReorderTokens = 16;

// Multiply-adds (t·r·c) below which one thread is faster: waking ONNX Runtime's threads costs about
// 5 us, in which one core streams some 20,000 to 50,000 weights.
constexpr size_t kMinParallelMultiplies = 65536;

size_t RoundUp(size_t n, size_t multiple) { return (n + multiple - 1) / multiple * multiple; }
size_t Min(size_t a, size_t b) { return a < b ? a : b; }

// What differs between formats in how x is prepared and a product is split. The defaults are those
// of dense and bitmask matrices of floats.
struct Traits {
  bool quantized = false;   // x is int8, with a scale for every token
  bool offsets = false;     // the sums of AddOffsets follow a token's activations
  size_t reach = 0;         // columns beyond the last that a record reads, where x is zero
  size_t row_multiple = 1;  // rows are padded to entries of whole tiles
  size_t token_block = kManyTokenBlock;  // tokens of a block where no panel is unpacked
  // From how many tokens on panels are unpacked where the instruction set has them, of matrices
  // with rows of which multiple, and tokens of such a block.
  size_t panel_tokens = kManyTokens;
  size_t panel_row_multiple = 1;
  size_t panel_token_block = kManyTokenBlock;
  bool panels_by_entry = false;  // they leave y in the order of the entries
};

constexpr Traits kFloats = {};

constexpr Traits kInt8 = [] {
  Traits traits;
  traits.quantized = true;
  return traits;
}();

constexpr Traits kInt4 = [] {
  Traits traits = kInt8;
  traits.offsets = true;
  traits.token_block = kWindowTokenBlock;
  return traits;
}();

constexpr Traits kWindows = [] {
  Traits traits;
  traits.reach = 15;
  traits.row_multiple = kWindowTile;
  traits.token_block = kWindowTokenBlock;
  traits.panel_tokens = kManyWindowTokens;
  traits.panel_row_multiple = kWindowTile;
  traits.panel_token_block = kManyWindowBlock;
  traits.panels_by_entry = true;
  return traits;
}();

constexpr Traits kInt8Windows = [] {
  Traits traits = kWindows;
  traits.quantized = true;
  return traits;
}();

const Traits& TraitsOf(const PackedMatrix& m) {
  const bool int8 = m.values == Values::kInt8;
  if (m.structure == Structure::kWindow) return int8 ? kInt8Windows : kWindows;
  if (m.values == Values::kInt4) return kInt4;
  return int8 ? kInt8 : kFloats;
}

struct Work {
  const Isa* isa;
  const Linear* args;
  const Traits* traits;
  bool many;
  size_t x_bytes;     // of a quantised activation
  LinearBlock block;  // of the whole product
  size_t row_count;   // rows, or entries of a window matrix
  size_t rows_per_block, row_blocks;
  size_t tokens_per_block;
  void* quantized;
  float* x_scale;
};

// The pairs of sums behind the activations of an int4 product: isa.h.
void AddOffsets(size_t columns, int8_t* q) {
  const size_t reach = Int4Offsets(columns);
  auto* sums = reinterpret_cast<int16_t*>(q + reach);
  for (size_t j = 0; j < reach; j += kInt4Group) {
    int sum[2] = {0, 0};
    for (size_t k = 0; k < kInt4Group; ++k) sum[k / 2 % 2] += q[j + k];
    *sums++ = static_cast<int16_t>(-8 * sum[0]);
    *sums++ = static_cast<int16_t>(-8 * sum[1]);
  }
}

void QuantizeToken(void* context, size_t i) {
  Work& work = *static_cast<Work*>(context);
  const size_t columns = work.args->matrix->columns;
  const size_t stride = work.block.x_stride;
  const float* x = work.args->x + i * columns;
  int8_t* q = static_cast<int8_t*>(work.quantized) + i * stride * work.x_bytes;
  if (work.many && work.isa->quantize_panel != nullptr) {
    work.x_scale[i] = work.isa->quantize_panel(x, columns, stride, q);
  } else {
    work.x_scale[i] = work.isa->quantize_int8(x, columns, stride, q);
    if (work.traits->offsets) AddOffsets(columns, q);
  }
}

void PadTokens(const Linear& args, size_t stride, float* padded) {
  const size_t columns = args.matrix->columns;
  for (size_t i = 0; i < args.tokens; ++i) {
    std::memcpy(padded + i * stride, args.x + i * columns, columns * sizeof(float));
    std::memset(padded + i * stride + columns, 0, (stride - columns) * sizeof(float));
  }
}

void RunBlock(void* context, size_t i) {
  const Work& work = *static_cast<const Work*>(context);
  const size_t tokens = work.args->tokens;
  const PackedMatrix& matrix = *work.args->matrix;
  LinearBlock block = work.block;
  block.row_begin = i % work.row_blocks * work.rows_per_block;
  block.row_end = BlockEnd(block.row_begin, work.rows_per_block, work.row_count);
  block.token_begin = i / work.row_blocks * work.tokens_per_block;
  block.token_end = BlockEnd(block.token_begin, work.tokens_per_block, tokens);
  LinearFunction run = (work.many ? work.isa->many_tokens : work.isa->few_tokens).Of(matrix);
  for (const Isa* isa = work.isa->next; run == nullptr; isa = isa->next) {
    run = isa->few_tokens.Of(matrix);
  }
  run(block);
}

// Sets block.x, x_scale and x_stride.
bool PrepareActivations(Work& work, Scratch& scratch, const ParallelFor& run) {
  const Linear& args = *work.args;
  const size_t columns = args.matrix->columns;
  size_t stride = RoundUp(columns + work.traits->reach, kColumnMultiple);
  if (work.traits->offsets) stride += stride / 4;  // a pair of int16 for every 16 columns
  work.block.x_stride = stride;
  if (work.traits->quantized) {
    work.x_bytes = work.many ? work.isa->panel_x_bytes : 1;
    const size_t token_bytes = stride * work.x_bytes;
    if (!scratch.Allocate(args.tokens, token_bytes + sizeof(float))) return false;
    work.quantized = scratch.as<char>();
    work.x_scale = reinterpret_cast<float*>(scratch.as<char>() + args.tokens * token_bytes);
    run.run(run.self, args.tokens, QuantizeToken, &work);
    work.block.x = work.quantized;
    work.block.x_scale = work.x_scale;
  } else if (stride != columns) {
    if (!scratch.Allocate(args.tokens, stride * sizeof(float))) return false;
    PadTokens(args, stride, scratch.as<float>());
    work.block.x = scratch.as<float>();
  } else {
    work.block.x = args.x;
  }
  return true;
}

bool UsesPanels(const Isa& isa, const PackedMatrix& m, const Traits& traits, size_t tokens) {
  return isa.many_tokens.Of(m) != nullptr && tokens >= traits.panel_tokens &&
         m.rows % traits.panel_row_multiple == 0;
}

struct Reordering {
  const Linear* args;
  float* rows;  // (blocks, r)
};

void ReorderTokens(void* context, size_t i) {
  const Reordering& work = *static_cast<const Reordering*>(context);
  const size_t rows = work.args->matrix->rows;
  const int32_t* order = work.args->matrix->order;
  float* entries = work.rows + i * rows;
  const size_t begin = i * kReorderTokens;
  const size_t end = BlockEnd(begin, kReorderTokens, work.args->tokens);
  for (size_t token = begin; token < end; ++token) {
    float* y = work.args->y + token * rows;
    std::memcpy(entries, y, rows * sizeof(float));
    for (size_t entry = 0; entry < rows; ++entry) y[order[entry]] = entries[entry];
  }
}

// y from the order of the entries to that of the rows.
bool ReorderRows(const Linear& args, const ParallelFor& run) {
  const size_t blocks = (args.tokens + kReorderTokens - 1) / kReorderTokens;
  Scratch scratch;
  if (!scratch.Allocate(blocks * args.matrix->rows, sizeof(float))) return false;
  Reordering work = {&args, scratch.as<float>()};
  run.run(run.self, blocks, ReorderTokens, &work);
  return true;
}

}  // namespace

bool RunLinear(const Isa& isa, const Linear& args, const ParallelFor& parallel) {
  const PackedMatrix& matrix = *args.matrix;
  if (args.tokens == 0 || matrix.rows == 0) return true;
  Work work = {};
  work.isa = &isa;
  work.args = &args;
  const Traits& traits = TraitsOf(matrix);
  work.traits = &traits;
  work.many = UsesPanels(isa, matrix, traits, args.tokens);
  work.row_count = RoundUp(matrix.rows, traits.row_multiple);
  work.block.matrix = &matrix;
  work.block.y = args.y;
  const bool small = args.tokens * matrix.rows * matrix.columns < kMinParallelMultiplies;
  const ParallelFor run = small ? RunSerially() : parallel;
  Scratch scratch;
  if (!PrepareActivations(work, scratch, args.tokens >= kManyTokens ? run : RunSerially()))
    return false;
  work.rows_per_block = kFewTokenRows;
  if (args.tokens == 1) {
    const size_t share = (work.row_count + kOneTokenBlocks - 1) / kOneTokenBlocks;
    work.rows_per_block = small ? work.row_count : RoundUp(share, kFewTokenRows);
  }
  work.tokens_per_block = work.many ? traits.panel_token_block : traits.token_block;
  if (work.many) {
    // 64 rows, but fewer when that would leave less than 16 blocks to share out.
    work.rows_per_block = Min(kPanelRows, RoundUp(matrix.rows / 16 + 1, kPanelRowMultiple));
  }
  work.row_blocks = (work.row_count + work.rows_per_block - 1) / work.rows_per_block;
  const size_t token_blocks = (args.tokens + work.tokens_per_block - 1) / work.tokens_per_block;
  run.run(run.self, work.row_blocks * token_blocks, RunBlock, &work);
  return !work.many || !traits.panels_by_entry || ReorderRows(args, run);
}

}  // namespace ssmpress
