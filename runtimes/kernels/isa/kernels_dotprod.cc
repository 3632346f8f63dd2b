// SPDX-License-Identifier: Apache-2.0
// aarch64 with the dot product instructions (Armv8.2 with FEAT_DotProd).
//
// Everything between the two target regions lies in an unnamed namespace, so that no function
// compiled for them can take the place of a baseline one. Headers come before the region.
#include <arm_neon.h>

#include <cmath>
#include <cstring>

#include "kernels/isa/isa.h"
#include "kernels/linear/expand_tables.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif

#define SSMPRESS_INLINE inline __attribute__((always_inline))
#define SSMPRESS_UNROLL _Pragma("GCC unroll 8")

namespace ssmpress {
namespace {

SSMPRESS_INLINE int32x4_t DotAddHalf(int32x4_t sum, int8x16_t w, int8x16_t x) {
  return vdotq_s32(sum, w, x);
}
template <int kGroup>
SSMPRESS_INLINE int32x4_t DotAddLane(int32x4_t sum, int8x16_t w, int8x16_t x) {
  return vdotq_laneq_s32(sum, w, x, kGroup);
}

#include "kernels/isa/kernels_neon.inl.h"

}  // namespace
}  // namespace ssmpress

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace ssmpress {

constexpr Isa kDotprodIsa = MakeNeon("dotprod");

}  // namespace ssmpress
