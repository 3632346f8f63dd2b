// SPDX-License-Identifier: Apache-2.0
// The small matrix products of SsdScan: tiles of rows x vectors whose sums stay in registers.
// Included by a kernels_<isa>.cc inside its namespace.

// Rows and vectors of a tile, as many as panels of float weights have tokens and vectors.
constexpr size_t kTileRows = kFloatPanelTokens;
constexpr size_t kTileVectors = 2;
constexpr size_t kFewRows = kTileRows / 3;  // of what is left over, before single rows

// Element (r, k) of the left side lies at data[r·row + k·column].
struct LeftSide {
  const float* data;
  size_t row, column;
};
struct RightSide {
  const float* data;
  size_t row;
};

// sums (R, V vectors) += left (R, count)·right (count, V vectors).
template <size_t R, size_t V, class Lanes>
SSMPRESS_INLINE void AddProduct(const LeftSide& left, const RightSide& right, size_t count,
                                Lanes lanes, F32 (&sums)[R][V]) {
  F32 sum[R][V];
  SSMPRESS_UNROLL
  for (size_t r = 0; r < R; ++r) {
    SSMPRESS_UNROLL
    for (size_t v = 0; v < V; ++v) sum[r][v] = sums[r][v];
  }
  const float *a = left.data, *b = right.data;
  for (size_t k = 0; k < count; ++k, a += left.column, b += right.row) {
    F32 w[V];
    SSMPRESS_UNROLL
    for (size_t v = 0; v < V; ++v) w[v] = lanes.Load(b + v * kLanes);
    SSMPRESS_UNROLL
    for (size_t r = 0; r < R; ++r) {
      const F32 scale = Set(a[r * left.row]);
      SSMPRESS_UNROLL
      for (size_t v = 0; v < V; ++v) sum[r][v] = Fma(scale, w[v], sum[r][v]);
    }
  }
  SSMPRESS_UNROLL
  for (size_t r = 0; r < R; ++r) {
    SSMPRESS_UNROLL
    for (size_t v = 0; v < V; ++v) sums[r][v] = sum[r][v];
  }
}

// As AddProduct for R columns and rows, of whose left side the part above the diagonal counts as
// absent, so that what is not a number in a later row does not reach an earlier one.
template <size_t R, size_t V, class Lanes>
SSMPRESS_INLINE void AddTriangle(const LeftSide& left, const RightSide& right, Lanes lanes,
                                 F32 (&sums)[R][V]) {
  SSMPRESS_UNROLL
  for (size_t k = 0; k < R; ++k) {
    F32 w[V];
    SSMPRESS_UNROLL
    for (size_t v = 0; v < V; ++v) w[v] = lanes.Load(right.data + k * right.row + v * kLanes);
    SSMPRESS_UNROLL
    for (size_t r = 0; r < R; ++r) {
      if (r < k) continue;
      const F32 scale = Set(left.data[r * left.row + k * left.column]);
      SSMPRESS_UNROLL
      for (size_t v = 0; v < V; ++v) sums[r][v] = Fma(scale, w[v], sums[r][v]);
    }
  }
}

template <size_t V, class Tile, class Lanes>
SSMPRESS_INLINE void EachRowTile(const Tile& tile, size_t rows, size_t column, Lanes lanes) {
  size_t r = 0;
  for (; r + kTileRows <= rows; r += kTileRows) tile.template Run<kTileRows, V>(r, column, lanes);
  for (; r + kFewRows <= rows; r += kFewRows) tile.template Run<kFewRows, V>(r, column, lanes);
  for (; r < rows; ++r) tile.template Run<1, V>(r, column, lanes);
}

// Calls tile.Run<R, V>(row, column, lanes) for tiles that cover rows x columns.
template <class Tile>
SSMPRESS_INLINE void EachTile(const Tile& tile, size_t rows, size_t columns) {
  constexpr size_t kWide = kTileVectors * kLanes;
  size_t c = 0;
  for (; c + kWide <= columns; c += kWide) EachRowTile<kTileVectors>(tile, rows, c, AllLanes());
  for (; c + kLanes <= columns; c += kLanes) EachRowTile<1>(tile, rows, c, AllLanes());
  if (c < columns) EachRowTile<1>(tile, rows, c, FirstLanes(columns - c));
}
