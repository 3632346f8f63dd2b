// SPDX-License-Identifier: Apache-2.0
// Any number of tokens of a dense int4 matrix, kInt4Tokens at a time: included after the DotInt4 of
// an instruction set, which multiplies a tile of rows.

template <int kTokens>
void DotInt4Tiles(const LinearBlock& b, size_t token) {
  for (size_t row = b.row_begin; row < b.row_end; row += kInt4Rows) {
    DotInt4<kTokens>(b, row, token);
  }
}

void Int4Tokens(const LinearBlock& b) {
  size_t token = b.token_begin;
  for (; token + kInt4Tokens <= b.token_end; token += kInt4Tokens) {
    DotInt4Tiles<kInt4Tokens>(b, token);
  }
  if (token + 3 == b.token_end) DotInt4Tiles<3>(b, token);
  if (token + 2 == b.token_end) DotInt4Tiles<2>(b, token);
  if (token + 1 == b.token_end) DotInt4Tiles<1>(b, token);
}
