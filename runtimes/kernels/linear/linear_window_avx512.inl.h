// SPDX-License-Identifier: Apache-2.0
// A window matrix times many tokens: the records of a panel of entries are written out as dense
// rows once, and multiplied as linear_many_tokens.inl.h multiplies those. y is left in the order of
// the entries; linear.cc puts it right. Included by kernels_avx512.cc.

// Where a lane (4 entries) goes on: its next record, and the first column of that one's window.
struct LaneCursor {
  size_t record, first;
};

constexpr size_t kWindow = 16;  // columns
constexpr size_t kLaneRows = kWindowTile / 2;
constexpr size_t kDenseStep = 768;                // columns that are written out at a time
constexpr size_t kDenseStride = kDenseStep + 64;  // the last windows reach beyond them

// From byte s on: the indices that shift 16 bytes down by s, zeros following.
alignas(32) constexpr uint8_t kShiftDown[32] = {
    0,   1,   2,   3,   4,   5,   6,   7,   8,   9,   10,  11,  12,  13,  14,  15,
    128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128};

SSMPRESS_INLINE __m128i LoadWindow(const void* p) {
  return _mm_loadu_si128(static_cast<const __m128i*>(p));
}

// The 4 windows of a lane's record, side by side, zeros included.
SSMPRESS_INLINE __m512i ExpandRecord(const PackedMatrix& m, size_t record, size_t side) {
  const __m128i value = LoadWindow(static_cast<const int8_t*>(m.value) + 32 * record + 16 * side);
  const __m128i nibbles = _mm_srl_epi16(LoadWindow(m.position + 16 * record),
                                        _mm_cvtsi32_si128(static_cast<int>(4 * side)));
  const __m128i position = _mm_and_si128(nibbles, _mm_set1_epi8(15));
  // Slots that hold 0 are dropped, in use or not: then values and positions are as many.
  const __mmask16 used = _mm_test_epi8_mask(value, value);
  __m256i bits =
      _mm256_maskz_sllv_epi16(used, _mm256_set1_epi16(1), _mm256_cvtepu8_epi16(position));
  bits = _mm256_or_si256(bits, _mm256_srli_epi64(bits, 32));
  bits = _mm256_or_si256(bits, _mm256_srli_epi64(bits, 16));  // an entry's in its low 16
  const auto mask = static_cast<uint64_t>(_mm_cvtsi128_si64(_mm256_cvtepi64_epi16(bits)));
  const __m128i packed = _mm_maskz_compress_epi8(used, value);
  return _mm512_maskz_expand_epi8(mask, _mm512_castsi128_si512(packed));
}

// Writes the records whose windows begin before `end` to `rows`, 4 dense rows of the columns from
// `begin` on, which hold what earlier windows had in them.
SSMPRESS_INLINE void ExpandLane(const PackedMatrix& m, size_t side, size_t record_end, size_t begin,
                                size_t end, LaneCursor& at, int8_t* rows) {
  if (at.record == record_end || at.first >= end) return;
  int8_t* out = rows + (at.first - begin);
  __m512i window = _mm512_castsi128_si512(LoadWindow(out));
  window = _mm512_inserti32x4(window, LoadWindow(out + kDenseStride), 1);
  window = _mm512_inserti32x4(window, LoadWindow(out + 2 * kDenseStride), 2);
  window = _mm512_inserti32x4(window, LoadWindow(out + 3 * kDenseStride), 3);
  for (;;) {
    window = _mm512_or_si512(window, ExpandRecord(m, at.record, side));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_castsi512_si128(window));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + kDenseStride),
                     _mm512_extracti32x4_epi32(window, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 2 * kDenseStride),
                     _mm512_extracti32x4_epi32(window, 2));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 3 * kDenseStride),
                     _mm512_extracti32x4_epi32(window, 3));
    if (++at.record == record_end) return;
    const size_t step = m.step[2 * at.record + side];
    at.first += step;
    if (at.first >= end) return;
    out += step;
    const __m128i shift = LoadWindow(kShiftDown + (step < kWindow ? step : kWindow));
    window = _mm512_shuffle_epi8(window, _mm512_broadcast_i32x4(shift));
  }
}

struct DensePanel {
  LaneCursor at[kPanel / kLaneRows];
  float scale[kPanel];
  int8_t rows[kPanel * kDenseStride];
};

void StartPanel(const PackedMatrix& m, size_t row, size_t count, DensePanel& dense) {
  for (size_t i = 0; i < count; ++i) dense.scale[i] = m.scale[m.order[row + i]];
  for (size_t i = 0; i < count / kLaneRows; ++i) {
    const int32_t* start = m.start + row / kWindowTile + i / 2;
    const size_t record = static_cast<size_t>(start[0]);
    dense.at[i] = {record, start[0] < start[1] ? m.step[2 * record + i % 2] : size_t{0}};
  }
  std::memset(dense.rows, 0, sizeof dense.rows);
}

// Writes out columns [column, column + kDenseStep) of `count` entries from `row` on.
void ExpandPanel(const PackedMatrix& m, size_t row, size_t count, size_t column,
                 DensePanel& dense) {
  for (size_t i = 0; column > 0 && i < count; ++i) {
    int8_t* out = dense.rows + i * kDenseStride;
    std::memcpy(out, out + kDenseStep, kWindow);
    std::memset(out + kWindow, 0, kDenseStride - kWindow);
  }
  for (size_t i = 0; i < count / kLaneRows; ++i) {
    const size_t end = static_cast<size_t>(m.start[row / kWindowTile + i / 2 + 1]);
    ExpandLane(m, i % 2, end, column, column + kDenseStep, dense.at[i],
               dense.rows + i * kLaneRows * kDenseStride);
  }
}

void WindowManyTokens(const LinearBlock& b) {
  const PackedMatrix& m = *b.matrix;
  DensePanel dense;
  PackedMatrix rows = {};  // the panel, as a matrix
  rows.columns = kDenseStride;
  rows.value = dense.rows;
  alignas(64) float panel[kDenseStep / kPanelColumns * kPanel];
  size_t stored[kPanel] = {};
  for (size_t row = b.row_begin; row < b.row_end; row += kPanel) {
    const size_t rest = b.row_end - row, count = rest < kPanel ? rest : kPanel;
    const size_t low = count < kLanes ? count : kLanes;
    StartPanel(m, row, count, dense);
    size_t column = 0;
    do {  // once for a matrix without columns: its y is 0
      const size_t left = m.columns - column;
      const size_t words = ((left < kDenseStep ? left : kDenseStep) + 63) / 64;
      ExpandPanel(m, row, count, column, dense);
      UnpackHalf<Int8Panel, DenseInt8Reader>(rows, 0, low, 0, words, stored, panel);
      UnpackHalf<Int8Panel, DenseInt8Reader>(rows, low, count - low, 0, words, stored,
                                             panel + kLanes);
      MultiplyTokens<Int8Panel>(b, {panel, words * 64 / kPanelColumns, row, count, column,
                                    column == 0, left <= kDenseStep, dense.scale});
      column += kDenseStep;
    } while (column < m.columns);
  }
}
