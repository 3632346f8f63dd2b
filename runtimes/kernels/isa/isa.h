// SPDX-License-Identifier: Apache-2.0
// What an instruction set provides: one table of functions, each working on a block of outputs that
// no other block touches. Splitting into blocks (scan/, ssd/ and linear/, the files .cc) is the
// same for every instruction set, and no result depends on it.
#ifndef SSMPRESS_KERNELS_ISA_H_
#define SSMPRESS_KERNELS_ISA_H_

#include "kernels/kernels.h"

namespace ssmpress {

// Where a block that begins at `begin` ends: `size` further, but no further than all do.
constexpr size_t BlockEnd(size_t begin, size_t size, size_t end) {
  return end - begin < size ? end : begin + size;
}

// Channels that SelectiveScan takes along a run of tokens at a time: 64 channels x 16 states of h
// and of A are 8 KiB and stay in the L1 cache. A block is any number of these groups.
constexpr size_t kScanChannels = 64;

// Floats of scratch memory for a group: A, h, and a number for every channel.
constexpr size_t ScanGroupFloats(size_t n) { return (2 * n + 1) * kScanChannels; }

struct SelectiveScanBlock {
  const SelectiveScan* args;
  size_t batch;
  size_t channel_begin, channel_end;
  float* scratch;  // ScanGroupFloats(n) for every group; nullptr when l is 1
  ScanOptions options;
};

struct CausalConv1dBlock {
  const CausalConv1d* args;
  size_t batch;
  size_t token_begin, token_end;
};

// Tokens of a chunk of SsdScan, and heads of a block. What the tokens of a chunk give each other
// grows with it: 128 tokens of 24 heads of 64 take 1.17 ms with 32 (AVX-512), 1.35 with 64 or 128.
constexpr size_t kSsdChunk = 32;
constexpr size_t kSsdHeads = 6;

// Tokens that are taken one by one: with 4, chunks take 1.3 times as long (AVX2), with 6 1.1 times.
constexpr size_t kSsdFewTokens = 6;

struct SsdScanBlock {
  const SsdScan* args;
  size_t batch;
  size_t head_begin, head_end;  // of one group, kSsdHeads at most
  float* scratch;               // SsdScratchFloats(n, p); nullptr when l is at most kSsdFewTokens
};

// Rows of scratch memory hold a multiple of the lanes of every instruction set.
constexpr size_t SsdRow(size_t count) { return (count + 15) / 16 * 16; }
// B, C and B transposed; C·B and what a head makes of it; x twice; dt, two floats for the sum of
// dt·A, and two decays for every head and token.
constexpr size_t SsdScratchFloats(size_t n, size_t p) {
  return kSsdChunk * (3 * SsdRow(n) + 2 * kSsdChunk + 2 * p + 5 * kSsdHeads);
}

struct GatedRmsNormBlock {
  const GatedRmsNorm* args;
  size_t token_begin, token_end;
};

// Rows of x are zero from `columns` to `x_stride`, a multiple of kColumnMultiple; for a window
// matrix that is at least `columns` + 15.
constexpr size_t kColumnMultiple = 64;

struct LinearBlock {
  const PackedMatrix* matrix;
  // float; for int8 matrices int8_t. For int4 matrices
  // int8_t, and from x + Int4Offsets(columns) on an int16_t pair for every group: -8 times the sum
  // of the activations at columns 0 and 1, and at columns 2 and 3, of its four runs of 4 columns.
  // For many tokens what quantize_panel writes.
  const void* x;
  const float* x_scale;  // (t), int8 and int4 matrices only; NaN for a token that is not finite
  size_t x_stride;       // elements
  float* y;              // (t, r)
  size_t row_begin, row_end;  // window matrices: entries, from and to a multiple of kWindowTile
  size_t token_begin, token_end;
};

// Bytes of a token's activations before the sums of its groups.
constexpr size_t Int4Offsets(size_t columns) {
  return (columns + kColumnMultiple - 1) / kColumnMultiple * kColumnMultiple;
}

using LinearFunction = void (*)(const LinearBlock&);

// A function for every format; nullptr where there is none.
struct LinearFunctions {
  LinearFunction cells[3][4];

  constexpr LinearFunction& At(Structure structure, Values values) {
    return cells[static_cast<int>(structure)][static_cast<int>(values)];
  }
  constexpr LinearFunction Of(const PackedMatrix& matrix) const {
    return cells[static_cast<int>(matrix.structure)][static_cast<int>(matrix.values)];
  }
};

// Rows of a many-token block start on a multiple of this and number at most kPanelRows.
constexpr size_t kPanelRowMultiple = 32;
constexpr size_t kPanelRows = 64;

struct Isa {
  const char* name;
  void (*selective_scan)(const SelectiveScanBlock&);
  void (*ungated_scan)(const SelectiveScanBlock&);
  void (*causal_conv1d)(const CausalConv1dBlock&);
  void (*ssd_scan)(const SsdScanBlock&);
  void (*gated_rms_norm)(const GatedRmsNormBlock&);
  // Quantises x (columns) to `q` as docs/sparse_format.md says and zeroes q up to `stride`; returns
  // x_scale, or NaN (and zeros in q) for a token with a NaN or an infinity.
  float (*quantize_int8)(const float* x, size_t columns, size_t stride, int8_t* q);
  // As quantize_int8, into what many_tokens multiplies: panel_x_bytes a value. nullptr: int8_t.
  float (*quantize_panel)(const float* x, size_t columns, size_t stride, void* q);
  // Streams the packed bytes once. Where an instruction set has none, that of `next` runs.
  LinearFunctions few_tokens;
  // Unpacks a panel, uses it many times. Where there is none, few_tokens runs for any number of
  // tokens. That of windows writes y in the order of the entries.
  LinearFunctions many_tokens;
  const Isa* next;
  size_t panel_x_bytes = 1;
};

extern const Isa kScalarIsa;
#if defined(__x86_64__)
extern const Isa kAvx2Isa, kAvx512Isa;
#elif defined(__aarch64__)
extern const Isa kNeonIsa, kDotprodIsa;
#endif

}  // namespace ssmpress

#endif  // SSMPRESS_KERNELS_ISA_H_
