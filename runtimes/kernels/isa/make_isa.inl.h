// SPDX-License-Identifier: Apache-2.0
// The functions that every vector instruction set has under the same names. Included by a
// kernels_<isa>.cc inside its namespace, after the kernels; it adds what it has beyond them.
//
// constexpr, and the tables are constexpr too, so that none of an instruction set's code runs
// before dispatch.cc has asked the CPU.

constexpr Isa MakeIsa(const char* name, const Isa* next) {
  Isa isa = {};
  isa.name = name;
  isa.next = next;
  isa.panel_x_bytes = sizeof(PanelX);
  isa.selective_scan = RunScanBlock<GatedScan>;
  isa.ungated_scan = RunScanBlock<PlainScan>;
  isa.causal_conv1d = RunConvBlock;
  isa.ssd_scan = RunSsdBlock;
  isa.gated_rms_norm = RunGatedRmsNormBlock;

  LinearFunctions& few = isa.few_tokens;
  few.At(Structure::kDense, Values::kFp32) = LinearFewTokens<DenseFp32Reader, false, 4>;
  few.At(Structure::kDense, Values::kFp16) = LinearFewTokens<DenseFp16Reader, false, 4>;
  few.At(Structure::kDense, Values::kInt4) = Int4Tokens;
  few.At(Structure::kBitmask, Values::kFp32) = LinearFewTokens<BitmaskFp32Reader, false, 2>;
  few.At(Structure::kBitmask, Values::kFp16) = LinearFewTokens<BitmaskFp16Reader, false, 2>;
  few.At(Structure::kBitmask, Values::kInt8) = LinearFewTokens<BitmaskInt8Reader, true, 2>;

  LinearFunctions& many = isa.many_tokens;
  many.At(Structure::kDense, Values::kFp32) = LinearManyTokens<FloatPanel, DenseFp32Reader>;
  many.At(Structure::kDense, Values::kFp16) = LinearManyTokens<FloatPanel, DenseFp16Reader>;
  many.At(Structure::kDense, Values::kInt8) = LinearManyTokens<Int8Panel, DenseInt8Reader>;
  many.At(Structure::kBitmask, Values::kFp32) = LinearManyTokens<FloatPanel, BitmaskFp32Reader>;
  many.At(Structure::kBitmask, Values::kFp16) = LinearManyTokens<FloatPanel, BitmaskFp16Reader>;
  many.At(Structure::kBitmask, Values::kInt8) = LinearManyTokens<Int8Panel, BitmaskInt8Reader>;
  return isa;
}
