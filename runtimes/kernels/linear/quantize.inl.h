// SPDX-License-Identifier: Apache-2.0
// Activations of one token -> int8 values and a scale. Included by a kernels_<isa>.cc.

template <class Quantized>
float Quantize(const float* x, size_t columns, size_t stride, Quantized* q) {
  // Absolute values compare like integers, and a NaN or an infinity is above every finite number.
  I32 max_bits = ZeroI32();
  size_t j = 0;
  for (; j + kLanes <= columns; j += kLanes) max_bits = Max(max_bits, AbsBits(Load(x + j)));
  if (j < columns) max_bits = Max(max_bits, AbsBits(LoadPartial(x + j, columns - j)));
  const int32_t bits = HorizontalMax(max_bits);
  if (bits >= 0x7f800000) {
    std::memset(q, 0, stride * sizeof(Quantized));
    return __builtin_nanf("");
  }
  float max;
  std::memcpy(&max, &bits, sizeof max);
  const float scale = (max > 1e-30f ? max : 1e-30f) / 127.0f;
  const F32 scales = Set(scale);
  for (j = 0; j + kLanes <= columns; j += kLanes) {
    StoreNarrow(q + j, RoundToEven(Div(Load(x + j), scales)));
  }
  if (j < columns) {
    StoreNarrow(q + j, RoundToEven(Div(LoadPartial(x + j, columns - j), scales)));
    j += kLanes;
  }
  if (j < stride) std::memset(q + j, 0, (stride - j) * sizeof(Quantized));
  return scale;
}

// For many_tokens.
template <class Quantized>
float QuantizePanel(const float* x, size_t columns, size_t stride, void* q) {
  return Quantize(x, columns, stride, static_cast<Quantized*>(q));
}
