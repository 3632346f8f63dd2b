// SPDX-License-Identifier: Apache-2.0
// The kernels of the aarch64 instruction sets, which differ in one product (see neon.inl.h).
// Included by a kernels_<isa>.cc inside its namespace.

// clang-format off: the order matters
#include "kernels/isa/neon.inl.h"
#include "kernels/isa/math.inl.h"
#include "kernels/scan/selective_scan.inl.h"
#include "kernels/scan/causal_conv1d.inl.h"
#include "kernels/ssd/ssd_products.inl.h"
#include "kernels/ssd/ssd_scan.inl.h"
#include "kernels/ssd/gated_rms_norm.inl.h"
#include "kernels/linear/quantize.inl.h"
#include "kernels/linear/quantize_neon.inl.h"
#include "kernels/linear/linear_dense.inl.h"
#include "kernels/linear/linear_bitmask.inl.h"
#include "kernels/linear/linear_few_tokens.inl.h"
#include "kernels/linear/linear_many_tokens.inl.h"
#include "kernels/linear/linear_window.inl.h"
#include "kernels/linear/linear_dense_neon.inl.h"
#include "kernels/linear/linear_window_neon.inl.h"
#include "kernels/linear/linear_int4_neon.inl.h"
#include "kernels/isa/make_isa.inl.h"
// clang-format on

constexpr Isa MakeNeon(const char* name) {
  Isa isa = MakeIsa(name, &kScalarIsa);
  isa.quantize_int8 = QuantizeInt8;
  isa.few_tokens.At(Structure::kDense, Values::kInt8) = DenseInt8Tokens;
  isa.few_tokens.At(Structure::kWindow, Values::kInt8) = WindowInt8Tokens;
  return isa;
}
