// SPDX-License-Identifier: Apache-2.0
// Many tokens: a panel of 2·kLanes rows x kDepth elements is unpacked and transposed once (16 KiB,
// L1), then multiplied with every token of the block. An element is a float, or as many integers of
// neighbouring columns as one lane multiplies and adds. Sums run over ascending columns and are
// kept in y between panels, so that a product is the same bits however the work is split. Included
// by a kernels_<isa>.cc.

constexpr size_t kPanel = 2 * kLanes;  // rows
static_assert(kPanelRowMultiple % kPanel == 0, "a panel is two vectors of rows");
constexpr size_t kDepth = 4096 / kPanel;

struct PanelTile {
  const float* panel;
  size_t depth;   // elements
  size_t row;     // of the panel's first row
  size_t count;   // rows of the panel that exist
  size_t column;  // of the panel's first element
  bool first, last;
  const float* scale;  // of the panel's first row; int8 only
};

// Where activations are stored as x + 128: 128 times the sum of a panel's rows.
struct ExcessOfRows {
#ifdef SSMPRESS_PANEL_EXCESS
  I32 low, high;
  explicit ExcessOfRows(const PanelTile& tile) : low(ZeroI32()), high(ZeroI32()) {
    for (size_t k = 0; k < tile.depth; ++k) {
      low = AddExcess(low, BitsOf(Load(tile.panel + k * kPanel)));
      high = AddExcess(high, BitsOf(Load(tile.panel + k * kPanel + kLanes)));
    }
  }
  SSMPRESS_INLINE void Remove(I32& a, I32& b) const { a = Subtract(a, low), b = Subtract(b, high); }
#else
  explicit ExcessOfRows(const PanelTile&) {}
  SSMPRESS_INLINE void Remove(I32&, I32&) const {}
#endif
};
struct NoExcess {
  explicit NoExcess(const PanelTile&) {}
  SSMPRESS_INLINE void Remove(F32&, F32&) const {}
};

struct FloatPanel {
  using X = float;
  using Sum = F32;
  using Excess = NoExcess;
  static constexpr size_t kColumns = 1;  // per element
  static constexpr int kTokenTile = kFloatPanelTokens;
  static SSMPRESS_INLINE Sum ZeroSum() { return Zero(); }
  static SSMPRESS_INLINE Sum MultiplyAdd(Sum sum, F32 w, const X* x) {
    return Fma(w, Set(*x), sum);
  }
  static SSMPRESS_INLINE Sum FromY(F32 y) { return y; }
  static SSMPRESS_INLINE F32 ToY(Sum sum) { return sum; }
  template <class Reader>
  static SSMPRESS_INLINE F32 Next(Reader& reader) {
    return reader.template Next<false>();
  }
};

// Between panels the bits of the int32 sums lie in y.
struct Int8Panel {
  using X = PanelX;
  using Sum = I32;
  using Excess = ExcessOfRows;
  static constexpr size_t kColumns = kPanelColumns;
  static constexpr int kTokenTile = kInt8PanelTokens;
  static SSMPRESS_INLINE Sum ZeroSum() { return ZeroI32(); }
  static SSMPRESS_INLINE Sum MultiplyAdd(Sum sum, F32 w, const X* x) {
    return PanelDotAdd(sum, BitsOf(w), x);
  }
  static SSMPRESS_INLINE Sum FromY(F32 y) { return BitsOf(y); }
  static SSMPRESS_INLINE F32 ToY(Sum sum) { return FromBits(sum); }
  template <class Reader>
  static SSMPRESS_INLINE F32 Next(Reader& reader) {
    return FromBits(NextPanelElements(reader));
  }
};

// Unpacks `words` words of 64 columns of rows [row, row + count), count <= kLanes, into one half of
// a panel. `stored` holds each row's position in `value` and is moved on.
template <class Panel, class Reader>
void UnpackHalf(const PackedMatrix& m, size_t row, size_t count, size_t column, size_t words,
                size_t* stored, float* half) {
  constexpr size_t kVectors = 64 / Panel::kColumns / kLanes;  // per word
  Reader reader[kLanes];
  for (size_t r = 0; r < count; ++r) reader[r].Seek(m, row + r, column, stored[r]);
  for (size_t word = 0; word < words; ++word) {
    for (size_t r = 0; r < count; ++r) reader[r].BeginWord();
    for (size_t i = 0; i < kVectors; ++i) {
      F32 tile[kLanes];
      for (size_t r = 0; r < kLanes; ++r) tile[r] = r < count ? Panel::Next(reader[r]) : Zero();
      Transpose(tile);
      for (size_t k = 0; k < kLanes; ++k) Store(half + k * kPanel, tile[k]);
      half += kLanes * kPanel;
    }
  }
  for (size_t r = 0; r < count; ++r) stored[r] = reader[r].stored(m);
}

template <class Panel>
SSMPRESS_INLINE F32 Finish(const LinearBlock& b, size_t token, typename Panel::Sum sum, F32 scale) {
  if constexpr (Panel::kColumns == 1) {
    return sum;
  } else {
    return Mul(ToFloat(sum), Mul(Set(b.x_scale[token]), scale));
  }
}

// The loop that takes the time. Sums live in registers: the two arrays are copied in and out.
template <class Panel, int kTokens>
SSMPRESS_INLINE void MultiplyDepth(const float* w, size_t depth, const typename Panel::X* x,
                                   size_t x_stride, typename Panel::Sum (&low)[kTokens],
                                   typename Panel::Sum (&high)[kTokens]) {
  typename Panel::Sum a[kTokens], b[kTokens];
  SSMPRESS_UNROLL
  for (int t = 0; t < kTokens; ++t) a[t] = low[t], b[t] = high[t];
  for (size_t k = 0; k < depth; ++k, w += kPanel, x += Panel::kColumns) {
    const F32 w0 = Load(w), w1 = Load(w + kLanes);
    SSMPRESS_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      a[t] = Panel::MultiplyAdd(a[t], w0, x + t * x_stride);
      b[t] = Panel::MultiplyAdd(b[t], w1, x + t * x_stride);
    }
  }
  SSMPRESS_UNROLL
  for (int t = 0; t < kTokens; ++t) low[t] = a[t], high[t] = b[t];
}

template <class Panel, int kTokens>
void MultiplyPanel(const LinearBlock& b, const PanelTile& tile,
                   const typename Panel::Excess& excess, size_t token) {
  const size_t rows = b.matrix->rows;
  const size_t low_count = tile.count < kLanes ? tile.count : kLanes;
  const size_t high_count = tile.count - low_count;
  const auto* x = static_cast<const typename Panel::X*>(b.x) + token * b.x_stride + tile.column;
  float* y = b.y + token * rows + tile.row;
  typename Panel::Sum low[kTokens], high[kTokens];
  for (int t = 0; t < kTokens; ++t) {
    low[t] = high[t] = Panel::ZeroSum();
    if (!tile.first) {
      low[t] = Panel::FromY(LoadPartial(y + t * rows, low_count));
      high[t] = Panel::FromY(LoadPartial(y + t * rows + kLanes, high_count));
    }
    excess.Remove(low[t], high[t]);
  }
  MultiplyDepth<Panel, kTokens>(tile.panel, tile.depth, x, b.x_stride, low, high);
  F32 low_scale = Zero(), high_scale = Zero();
  if (Panel::kColumns != 1 && tile.last) {
    low_scale = LoadPartial(tile.scale, low_count);
    high_scale = LoadPartial(tile.scale + kLanes, high_count);
  }
  for (int t = 0; t < kTokens; ++t) {
    const size_t at = token + static_cast<size_t>(t);
    const F32 y_low = tile.last ? Finish<Panel>(b, at, low[t], low_scale) : Panel::ToY(low[t]);
    const F32 y_high = tile.last ? Finish<Panel>(b, at, high[t], high_scale) : Panel::ToY(high[t]);
    StorePartial(y + t * rows, y_low, low_count);
    StorePartial(y + t * rows + kLanes, y_high, high_count);
  }
}

template <class Panel>
void MultiplyTokens(const LinearBlock& b, const PanelTile& tile) {
  const typename Panel::Excess excess(tile);
  size_t token = b.token_begin;
  for (; token + Panel::kTokenTile <= b.token_end; token += Panel::kTokenTile) {
    MultiplyPanel<Panel, Panel::kTokenTile>(b, tile, excess, token);
  }
  for (; token + 3 <= b.token_end; token += 3) MultiplyPanel<Panel, 3>(b, tile, excess, token);
  if (token + 2 <= b.token_end) {
    MultiplyPanel<Panel, 2>(b, tile, excess, token);
    token += 2;
  }
  if (token < b.token_end) MultiplyPanel<Panel, 1>(b, tile, excess, token);
}

template <class Panel, class Reader>
void LinearManyTokens(const LinearBlock& b) {
  constexpr size_t kStep = kDepth * Panel::kColumns;  // columns
  const PackedMatrix& m = *b.matrix;
  alignas(64) float panel[kDepth * kPanel];
  size_t stored[kPanelRows];
  for (size_t row = b.row_begin; row < b.row_end; ++row) {
    stored[row - b.row_begin] = RowStart(m, row);
  }
  size_t column = 0;
  do {  // once for a matrix without columns: its y is 0
    const size_t left = m.columns - column;
    const size_t words = ((left < kStep ? left : kStep) + 63) / 64;
    for (size_t row = b.row_begin; row < b.row_end; row += kPanel) {
      const size_t rest = b.row_end - row, count = rest < kPanel ? rest : kPanel;
      const size_t low = count < kLanes ? count : kLanes;
      size_t* at = stored + (row - b.row_begin);
      UnpackHalf<Panel, Reader>(m, row, low, column, words, at, panel);
      UnpackHalf<Panel, Reader>(m, row + low, count - low, column, words, at + low, panel + kLanes);
      MultiplyTokens<Panel>(b, {panel, words * 64 / Panel::kColumns, row, count, column,
                                column == 0, left <= kStep, m.scale + row});
    }
    column += kStep;
  } while (column < m.columns);
}
