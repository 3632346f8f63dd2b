// SPDX-License-Identifier: Apache-2.0
// The kernels, over plain pointers. Nothing here knows of ONNX Runtime.
//
// Tensors are row-major float32 unless said otherwise, need only their natural alignment, and must
// not overlap, except that state_out may be state. Results are the same bits for every number of
// threads. This header and what it declares throw nothing and allocate only scratch memory; a
// function that allocates returns false when there is no memory left.
//
// Symbols: b batch, l sequence length, d channels, n d_state, k conv taps, h heads, p channels of a
// head, g groups, t tokens, r rows (output features), c columns (input features).
#ifndef SSMPRESS_KERNELS_KERNELS_H_
#define SSMPRESS_KERNELS_KERNELS_H_

#include <cstddef>
#include <cstdint>

namespace ssmpress {

// Calls task(context, i) once for every i in [0, count), in any order, on any threads, and returns
// when all calls have returned.
struct ParallelFor {
  using Task = void (*)(void* context, size_t i);
  void (*run)(void* self, size_t count, Task task, void* context);
  void* self;
};

// One thread: the caller's.
ParallelFor RunSerially();

// dt = softplus(delta + delta_bias);  h[n] = exp(dt·A[n])·h[n] + dt·u·B[n];
// y = (Σ_n C[n]·h[n] + D·u)·silu(z).
struct SelectiveScan {
  size_t b, l, d, n;
  const float* u;           // (b, l, d)
  const float* delta;       // (b, l, d), before softplus
  const float* delta_bias;  // (d)
  const float* A;           // (n, d), negative
  const float* B;           // (b, l, n)
  const float* C;           // (b, l, n)
  const float* D;           // (d)
  const float* z;           // (b, l, d), the gate before SiLU
  const float* state;       // (b, n, d)
  float* y;                 // (b, l, d)
  float* state_out;         // (b, n, d)
};

// As SelectiveScan with y = Σ_n C[n]·h[n] + D·u and dt = softplus(delta + delta_bias) + offset, or
// delta + delta_bias + offset without softplus; with reverse from the last token to the first,
// `state` being that after the last. dt may be negative as long as dt·A stays below 88.
struct ScanOptions {
  bool softplus, reverse;
  float offset;
};
struct UngatedScan {
  SelectiveScan scan;  // z is nullptr
  ScanOptions options;
};

// y[t] = silu(bias + Σ_j weight[j]·x[t - (k-1) + j]); x before the first token comes from state.
struct CausalConv1d {
  size_t b, l, d, k;
  const float* x;       // (b, l, d)
  const float* weight;  // (k, d); weight[k-1] multiplies the newest token
  const float* bias;    // (d)
  const float* state;   // (b, k-1, d), oldest first
  float* y;             // (b, l, d)
  float* state_out;     // (b, k-1, d)
};

// Mamba-2: dt = min(max(softplus(delta + delta_bias), dt_min), dt_max), one for each head; its
// state S (n, p) becomes exp(dt·A)·S + (dt·B) xᵀ;  y = Cᵀ·S + D·x. B and C of a group are read by h
// / g heads that follow one another. h, p, g and n are at least 1, and g divides h.
struct SsdScan {
  size_t b, l, h, p, g, n;
  const float* x;           // (b, l, h, p)
  const float* delta;       // (b, l, h), before softplus
  const float* delta_bias;  // (h)
  const float* A;           // (h), negative
  const float* B;           // (b, l, g, n)
  const float* C;           // (b, l, g, n)
  const float* D;           // (h, p)
  const float* state;       // (b, h, n, p)
  float dt_min, dt_max;
  float* y;          // (b, l, h, p)
  float* state_out;  // (b, h, n, p)
};

// The RMS norm of each of `groups` equal parts of a token's channels, and a gate:
// y = norm(x·silu(z))·weight with gate_first, norm(x)·weight·silu(z) without;
// norm(v) = v / sqrt(mean(v²) + epsilon). groups divides d.
struct GatedRmsNorm {
  size_t tokens, d, groups;
  bool gate_first;
  float epsilon;
  const float* x;       // (t, d)
  const float* z;       // (t, d), the gate before SiLU
  const float* weight;  // (d)
  float* y;             // (t, d)
};

enum class Values { kFp32, kFp16, kInt8, kInt4 };
enum class Structure { kDense, kBitmask, kWindow };

// A packed matrix as docs/sparse_format.md lays it out. Dense: `value` is the section `weight` and
// holds r·c elements; dense int4: e tiles of g groups of 128 bytes, and `ratio`. Bitmask: `bits`,
// `start` and the padded section `value`. Window, int8 or fp16: `order`, `start`, `step`,
// `position` and `value`, with e tiles and n records. int8 and int4: also `scale`.
struct PackedMatrix {
  Structure structure;
  Values values;
  size_t rows, columns;
  const void* value;
  size_t value_count;       // elements in `value`, padding included
  const uint8_t* bits;      // (r, 8·ceil(c / 64))
  const int32_t* start;     // bitmask (r + 1), window (e + 1)
  const float* scale;       // (r)
  const int32_t* order;     // (8·e)
  const uint8_t* step;      // (n, 2), fp16 (n)
  const uint8_t* position;  // (n, 16), fp16 (n, 4)
  const int8_t* ratio;      // int4 (e, g, 16)
};

// y = x·Wᵀ: x (t, c), y (t, r).
struct Linear {
  const PackedMatrix* matrix;
  size_t tokens;
  const float* x;
  float* y;
};

// Columns of an int8 matrix beyond which the 32-bit accumulator could overflow: 127²·c < 2^31.
constexpr size_t kMaxInt8Columns = 133143;

// As kMaxInt8Columns for int4: 127·8·127·c < 2^31.
constexpr size_t kMaxInt4Columns = 16643;

// Rows of an int4 tile, columns of a group, and bytes of the one in the other.
constexpr size_t kInt4Rows = 16;
constexpr size_t kInt4Group = 16;
constexpr size_t kInt4Bytes = kInt4Rows * kInt4Group / 2;

// Entries of a window matrix's tile, and slots of a record; fp16 records have one slot an entry.
constexpr size_t kWindowTile = 8;
constexpr size_t kWindowSlots = 32;

// fp16 bits (-0) in a slot of an fp16 window record that is not in use.
constexpr uint16_t kNothing = 0x8000;

// Bytes that a bitmask `value` section holds beyond its last element.
constexpr size_t kValuePadding = 64;

// Checks the contents of a matrix whose section shapes are already known to be right. Returns false
// and a sentence in `error` when a limit of docs/sparse_format.md is broken; the kernels may run
// out of bounds on such a matrix. Needs a byte of memory for every row of a window matrix.
bool CheckMatrix(const PackedMatrix& matrix, char* error, size_t error_size);

struct Isa;  // One instruction set's kernels: isa.h.

// The kernels to use: the best that this CPU has, or the one that the environment variable
// SSMPRESS_ISA names. nullptr when that is not possible; `error` then says why.
const Isa* SelectIsa(char* error, size_t error_size);
// As SelectIsa with SSMPRESS_ISA=name; nullptr means the best.
const Isa* SelectIsaByName(const char* name, char* error, size_t error_size);
const char* IsaName(const Isa& isa);

bool RunSelectiveScan(const Isa& isa, const SelectiveScan& args, const ParallelFor& parallel);
bool RunUngatedScan(const Isa& isa, const UngatedScan& args, const ParallelFor& parallel);
bool RunCausalConv1d(const Isa& isa, const CausalConv1d& args, const ParallelFor& parallel);
bool RunSsdScan(const Isa& isa, const SsdScan& args, const ParallelFor& parallel);
void RunGatedRmsNorm(const Isa& isa, const GatedRmsNorm& args, const ParallelFor& parallel);
bool RunLinear(const Isa& isa, const Linear& args, const ParallelFor& parallel);

// Row `row` of a dense int8 or int4 matrix, as float32 (c).
void ReadRow(const PackedMatrix& matrix, size_t row, float* y);

}  // namespace ssmpress

#endif  // SSMPRESS_KERNELS_KERNELS_H_
