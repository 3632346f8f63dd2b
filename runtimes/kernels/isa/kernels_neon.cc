// SPDX-License-Identifier: Apache-2.0
// aarch64, every CPU: the baseline needs no target region.
#include <arm_neon.h>

#include <cmath>
#include <cstring>

#include "kernels/isa/isa.h"
#include "kernels/linear/expand_tables.h"

#define SSMPRESS_INLINE inline __attribute__((always_inline))
#define SSMPRESS_UNROLL _Pragma("GCC unroll 8")

namespace ssmpress {
namespace {

// Two products in [-127², 127²] fit in 16 bits.
SSMPRESS_INLINE int32x4_t DotAddHalf(int32x4_t sum, int8x16_t w, int8x16_t x) {
  const int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(x));
  return vpadalq_s16(sum, vpaddq_s16(low, vmull_high_s8(w, x)));
}
template <int kGroup>
SSMPRESS_INLINE int32x4_t DotAddLane(int32x4_t sum, int8x16_t w, int8x16_t x) {
  return DotAddHalf(sum, w, vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(x), kGroup)));
}

#include "kernels/isa/kernels_neon.inl.h"

}  // namespace

constexpr Isa kNeonIsa = MakeNeon("neon");

}  // namespace ssmpress
