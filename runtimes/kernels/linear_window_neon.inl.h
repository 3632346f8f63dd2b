// SPDX-License-Identifier: Apache-2.0
// A window matrix times one token, in as few instructions as the records allow: 4 records at a
// time, several registers to a load, and a window's load moves its pointer to the next window.
// Included by neon.inl.h after linear_window.inl.h, which multiplies several tokens.

// 16 bytes at p, which then moves on by `step`. C has no words for this load.
SSMPRESS_INLINE int8x16_t LoadAndStep(const int8_t*& p, size_t step) {
  int8x16_t v;
  const auto& bytes = *reinterpret_cast<const int8_t(*)[16]>(p);
  __asm__("ld1 {%0.16b}, [%1], %2" : "=w"(v), "+r"(p) : "r"(step), "m"(bytes));
  return v;
}

// Where a tile's next record lies in its sections.
struct RecordCursor {
  const uint8_t* step;  // of the record after it
  const uint8_t* position;
  const int8_t* value;
};

SSMPRESS_INLINE void AddRecord(const uint8_t* step, uint8x16_t positions, int8x16_t value_low,
                               int8x16_t value_high, WindowCursor& x, I32& sum) {
  const int8x16_t low = LoadAndStep(x.low, step[0]);
  const int8x16_t high = LoadAndStep(x.high, step[1]);
  const uint8x16_t position_low = vandq_u8(positions, vdupq_n_u8(15));
  const uint8x16_t position_high = vshrq_n_u8(positions, 4);
  sum.low = DotAddHalf(sum.low, value_low, vqtbl1q_s8(low, position_low));
  sum.high = DotAddHalf(sum.high, value_high, vqtbl1q_s8(high, position_high));
}

SSMPRESS_INLINE void AddTwoRecords(RecordCursor& at, uint8x16_t first, uint8x16_t second,
                                   WindowCursor& x, I32& sum) {
  const int8x16x4_t value = vld1q_s8_x4(at.value);
  Advance(at.value, 64);
  AddRecord(at.step, first, value.val[0], value.val[1], x, sum);
  AddRecord(at.step + 2, second, value.val[2], value.val[3], x, sum);
  at.step += 4;
}

// Sums of the records begin.. before end, of which none is the matrix's last: the steps of record
// `end` are read.
SSMPRESS_INLINE I32 AddRecords(const PackedMatrix& m, size_t begin, size_t end, const int8_t* x) {
  const uint8_t* step = m.step + 2 * begin;
  WindowCursor windows = {x + step[0], x + step[1]};
  RecordCursor at = {step + 2, m.position + 16 * begin,
                     static_cast<const int8_t*>(m.value) + 32 * begin};
  I32 sum = ZeroI32();
  size_t count = end - begin;
  for (; count >= 4; count -= 4) {
    PrefetchLines<2>(at.value);
    PrefetchLines<1>(at.position);
    const uint8x16x4_t position = vld1q_u8_x4(at.position);
    Advance(at.position, 64);
    AddTwoRecords(at, position.val[0], position.val[1], windows, sum);
    AddTwoRecords(at, position.val[2], position.val[3], windows, sum);
    Advance(at.step, 0);
  }
  if (count & 2) {
    const uint8x16x2_t position = vld1q_u8_x2(at.position);
    at.position += 32;
    AddTwoRecords(at, position.val[0], position.val[1], windows, sum);
  }
  if (count & 1) {
    const int8x16x2_t value = vld1q_s8_x2(at.value);
    AddRecord(at.step, vld1q_u8(at.position), value.val[0], value.val[1], windows, sum);
  }
  return sum;
}

template <int kLane>
SSMPRESS_INLINE void StoreEntry(float* y, const int32_t* order, const float* scale, float x_scale,
                                float32x4_t total) {
  const int32_t row = order[kLane];
  y[row] = vgetq_lane_f32(total, kLane) * (x_scale * scale[row]);
}

SSMPRESS_INLINE void StoreLane(float* y, const int32_t* order, const float* scale, float x_scale,
                               int32x4_t sum) {
  const float32x4_t total = vcvtq_f32_s32(sum);
  StoreEntry<0>(y, order, scale, x_scale, total);
  StoreEntry<1>(y, order, scale, x_scale, total);
  StoreEntry<2>(y, order, scale, x_scale, total);
  StoreEntry<3>(y, order, scale, x_scale, total);
}

void WindowInt8Tokens(const LinearBlock& b) {
  const PackedMatrix& m = *b.matrix;
  const size_t token = b.token_begin;
  // Entries without a row, and steps beyond the section, are what the other kernel is for.
  if (b.token_end - token != 1 || m.rows % kWindowTile != 0) return WindowTokens(b);
  const auto* x = static_cast<const int8_t*>(b.x) + token * b.x_stride;
  const int32_t last = m.start[m.rows / kWindowTile];
  float* y = b.y + token * m.rows;
  const float x_scale = b.x_scale[token];
  const size_t end = b.row_end / kWindowTile;
  for (size_t tile = b.row_begin / kWindowTile; tile < end; ++tile) {
    if (m.start[tile + 1] == last) {
      DotTile<1>(b, tile, token);
      continue;
    }
    const auto begin = static_cast<size_t>(m.start[tile]);
    const I32 sum = AddRecords(m, begin, static_cast<size_t>(m.start[tile + 1]), x);
    const int32_t* order = m.order + tile * kWindowTile;
    StoreLane(y, order, m.scale, x_scale, sum.low);
    StoreLane(y, order + 4, m.scale, x_scale, sum.high);
  }
}
