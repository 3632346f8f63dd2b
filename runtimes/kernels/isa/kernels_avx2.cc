// SPDX-License-Identifier: Apache-2.0
// x86-64 with AVX2, FMA, F16C and POPCNT: the kernels, written against the vectors of avx2.inl.h.
//
// Everything between the two target regions lies in an unnamed namespace, so that no function
// compiled for AVX2 can take the place of a baseline one. Headers come before the region.
#include <immintrin.h>

#include <cmath>
#include <cstring>

#include "kernels/isa/isa.h"
#include "kernels/linear/expand_tables.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,popcnt"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,popcnt")
#endif

#define SSMPRESS_INLINE inline __attribute__((always_inline))
#define SSMPRESS_UNROLL _Pragma("GCC unroll 8")

namespace ssmpress {
namespace {

// clang-format off: the order matters
#include "kernels/isa/avx2.inl.h"
#include "kernels/scan/exp_table.inl.h"
#include "kernels/isa/math.inl.h"
#include "kernels/scan/selective_scan.inl.h"
#include "kernels/scan/causal_conv1d.inl.h"
#include "kernels/ssd/ssd_products.inl.h"
#include "kernels/ssd/ssd_scan.inl.h"
#include "kernels/ssd/gated_rms_norm.inl.h"
#include "kernels/linear/quantize.inl.h"
#include "kernels/linear/linear_dense.inl.h"
#include "kernels/linear/linear_bitmask.inl.h"
#include "kernels/linear/linear_few_tokens.inl.h"
#include "kernels/linear/linear_many_tokens.inl.h"
#include "kernels/linear/linear_window.inl.h"
#include "kernels/linear/linear_window_float.inl.h"
#include "kernels/linear/linear_int4.inl.h"
#include "kernels/isa/make_isa.inl.h"
// clang-format on

constexpr Isa MakeAvx2() {
  Isa isa = MakeIsa("avx2", &kScalarIsa);
  isa.quantize_int8 = Quantize<int8_t>;
  isa.quantize_panel = QuantizePanel<PanelX>;
  isa.few_tokens.At(Structure::kDense, Values::kInt8) = LinearFewTokens<DenseInt8Reader, true, 4>;
  isa.few_tokens.At(Structure::kWindow, Values::kFp16) = WindowFp16Tokens;
  isa.few_tokens.At(Structure::kWindow, Values::kInt8) = WindowTokens;
  return isa;
}

}  // namespace
}  // namespace ssmpress

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace ssmpress {

constexpr Isa kAvx2Isa = MakeAvx2();

}  // namespace ssmpress
