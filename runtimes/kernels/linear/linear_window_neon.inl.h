// SPDX-License-Identifier: Apache-2.0
// A window matrix times one token, in as few instructions as the records allow: 16 records at
// a time, several registers to a load, and a window's load moves its pointer to the next window.
// Included by kernels_neon.inl.h after linear_window.inl.h, which multiplies several tokens.

// 16 bytes at p, which then moves on by `step`. C has no words for this load.
SSMPRESS_INLINE int8x16_t LoadAndStep(const int8_t*& p, size_t step) {
  int8x16_t v;
  const auto& bytes = *reinterpret_cast<const int8_t (*)[16]>(p);
  __asm__("ld1 {%0.16b}, [%1], %2" : "=w"(v), "+r"(p) : "r"(step), "m"(bytes));
  return v;
}

// Where a tile's next record lies in its sections.
struct RecordCursor {
  const uint8_t* step;
  const uint8_t* position;
  const int8_t* value;
};

// step: of the record after it.
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
  AddRecord(at.step + 2, first, value.val[0], value.val[1], x, sum);
  AddRecord(at.step + 4, second, value.val[2], value.val[3], x, sum);
  at.step += 4;
}

SSMPRESS_INLINE void AddFourRecords(RecordCursor& at, WindowCursor& x, I32& sum) {
  PrefetchLines<2>(at.value);  // steps and positions are left to the hardware's own prefetch
  const uint8x16x4_t position = vld1q_u8_x4(at.position);
  Advance(at.position, 64);
  AddTwoRecords(at, position.val[0], position.val[1], x, sum);
  AddTwoRecords(at, position.val[2], position.val[3], x, sum);
}

// Sums of the next `count` records, of which none is the matrix's last: the steps of the one after
// them are read.
SSMPRESS_INLINE I32 AddRecords(RecordCursor& at, uint32_t count, const int8_t* x) {
  WindowCursor windows = {x + at.step[0], x + at.step[1]};
  I32 sum = ZeroI32();
  for (; count >= 16; count -= 16) {
    SSMPRESS_UNROLL
    for (int i = 0; i < 4; ++i) AddFourRecords(at, windows, sum);
    Advance(at.step, 0);
  }
  if (count & 8) {
    AddFourRecords(at, windows, sum);
    AddFourRecords(at, windows, sum);
  }
  if (count & 4) AddFourRecords(at, windows, sum);
  if (count & 2) {
    const uint8x16x2_t position = vld1q_u8_x2(at.position);
    at.position += 32;
    AddTwoRecords(at, position.val[0], position.val[1], windows, sum);
  }
  if (count & 1) {
    const int8x16x2_t value = vld1q_s8_x2(at.value);
    AddRecord(at.step + 2, vld1q_u8(at.position), value.val[0], value.val[1], windows, sum);
    at = {at.step + 2, at.position + 16, at.value + 32};
  }
  return sum;
}

// Entry i of a tile: its row of y.
template <int kLane>
SSMPRESS_INLINE void StoreEntry(float* y, int32_t row, const float* scale, float x_scale,
                                float32x4_t total) {
  y[row] = vgetq_lane_f32(total, kLane) * (x_scale * scale[row]);
}

SSMPRESS_INLINE void StoreTile(float* y, const int32_t* order, const float* scale, float x_scale,
                               I32 sum) {
  int32_t row[kWindowTile];
  SSMPRESS_UNROLL
  for (size_t i = 0; i < kWindowTile; ++i) row[i] = order[i];
  const F32 total = ToFloat(sum);
  StoreEntry<0>(y, row[0], scale, x_scale, total.low);
  StoreEntry<1>(y, row[1], scale, x_scale, total.low);
  StoreEntry<2>(y, row[2], scale, x_scale, total.low);
  StoreEntry<3>(y, row[3], scale, x_scale, total.low);
  StoreEntry<0>(y, row[4], scale, x_scale, total.high);
  StoreEntry<1>(y, row[5], scale, x_scale, total.high);
  StoreEntry<2>(y, row[6], scale, x_scale, total.high);
  StoreEntry<3>(y, row[7], scale, x_scale, total.high);
}

void WindowInt8Tokens(const LinearBlock& b) {
  const PackedMatrix& m = *b.matrix;
  const size_t token = b.token_begin;
  // Entries without a row, and steps beyond the section, are what the other kernel is for.
  if (b.token_end - token != 1 || m.rows % kWindowTile != 0) return WindowTokens(b);
  const auto* x = static_cast<const int8_t*>(b.x) + token * b.x_stride;
  float* y = b.y + token * m.rows;
  const float x_scale = b.x_scale[token];
  const float* scale = m.scale;
  const int32_t* start = m.start + b.row_begin / kWindowTile;
  const int32_t* end = m.start + b.row_end / kWindowTile;
  const int32_t* order = m.order + b.row_begin;
  // Tiles from here on end with the matrix's last record.
  const int32_t* last = end;
  while (last != start && *last == m.start[m.rows / kWindowTile]) --last;
  int32_t from = *start;
  const auto begin = static_cast<size_t>(from);
  RecordCursor at = {m.step + 2 * begin, m.position + 16 * begin,
                     static_cast<const int8_t*>(m.value) + 32 * begin};
  while (start != last) {
    const int32_t to = *++start;
    const I32 sum = AddRecords(at, static_cast<uint32_t>(to - from), x);
    StoreTile(y, order, scale, x_scale, sum);
    order += kWindowTile;
    from = to;
  }
  for (; start != end; ++start) {
    DotTile<1>(b, static_cast<size_t>(start - m.start), token);
  }
}
