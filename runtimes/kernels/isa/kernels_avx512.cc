// SPDX-License-Identifier: Apache-2.0
// x86-64 with AVX-512 as in Ice Lake and Zen 4: F, BW, DQ, VL, VBMI2 and VNNI. The kernels, written
// against the vectors of avx512.inl.h.
//
// Everything between the two target regions lies in an unnamed namespace, so that no function
// compiled for AVX-512 can take the place of a baseline one. Headers come before the region.
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 warns of its own header, which leaves registers that an instruction overwrites undefined.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#include <cmath>
#include <cstring>

#include "kernels/isa/isa.h"

#define SSMPRESS_AVX512_TARGET \
  "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi2,avx512vnni,avx2,fma,f16c,popcnt,bmi2"
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target(SSMPRESS_AVX512_TARGET))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi2,avx512vnni")
#pragma GCC target("avx2,fma,f16c,popcnt,bmi2")
#endif

#define SSMPRESS_INLINE inline __attribute__((always_inline))
#define SSMPRESS_UNROLL _Pragma("GCC unroll 16")

namespace ssmpress {
namespace {

// clang-format off: the order matters
#include "kernels/isa/avx512.inl.h"
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
#include "kernels/linear/linear_window_float_avx512.inl.h"
#include "kernels/linear/linear_window_float.inl.h"
#include "kernels/linear/linear_int4_avx512.inl.h"
#include "kernels/linear/linear_window_avx512.inl.h"
// clang-format on

// Windows stay at 32 bytes, one record: four windows of two records are brought together on the
// two ports that 64-byte instructions leave, and the product gains nothing by it.
namespace half {

// clang-format off: the order matters
#include "kernels/isa/avx512_half.inl.h"
#include "kernels/linear/linear_window.inl.h"
// clang-format on

}  // namespace half

#include "kernels/isa/make_isa.inl.h"

constexpr Isa MakeAvx512() {
  Isa isa = MakeIsa("avx512", &kAvx2Isa);
  isa.quantize_int8 = Quantize<int8_t>;
  isa.quantize_panel = QuantizePanel<PanelX>;
  isa.few_tokens.At(Structure::kDense, Values::kInt8) = LinearFewTokens<DenseInt8Reader, true, 4>;
  isa.few_tokens.At(Structure::kWindow, Values::kFp16) = WindowFp16Tokens;
  isa.few_tokens.At(Structure::kWindow, Values::kInt8) = half::WindowTokens;
  isa.many_tokens.At(Structure::kWindow, Values::kInt8) = WindowManyTokens;
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

constexpr Isa kAvx512Isa = MakeAvx512();

}  // namespace ssmpress
