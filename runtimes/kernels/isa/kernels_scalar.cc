// SPDX-License-Identifier: Apache-2.0
// The definition of every kernel as plain loops: what the vector kernels are tested against, and
// what runs on a CPU that has no vector kernel.
#include <cmath>
#include <cstring>

#include "kernels/isa/isa.h"

namespace ssmpress {
namespace {

// Beyond 20, log1p(exp(x)) - x is below half a unit in the last place of x.
float Softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }

float Silu(float x) { return x / (1.0f + expf(-x)); }

float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = half >> 10 & 31u;
  const uint32_t fraction = half & 0x3ffu;
  if (exponent == 0) {  // zero or subnormal: fraction · 2^-24
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  const uint32_t wide_exponent = exponent == 31 ? 255u : exponent + 112u;
  const uint32_t word = sign | wide_exponent << 23 | fraction << 13;
  float value;
  std::memcpy(&value, &word, sizeof value);
  return value;
}

// `block` is of a SelectiveScan, which has a gate, or of an UngatedScan.
void SelectiveScanChannel(const SelectiveScanBlock& block, size_t d) {
  const SelectiveScan& s = *block.args;
  const size_t batch = block.batch;
  const float* state = s.state + batch * s.n * s.d + d;
  float* h = s.state_out + batch * s.n * s.d + d;
  for (size_t n = 0; n < s.n; ++n) h[n * s.d] = state[n * s.d];
  for (size_t t = 0; t < s.l; ++t) {
    const size_t token = batch * s.l + (block.options.reverse ? s.l - 1 - t : t);
    const float u = s.u[token * s.d + d];
    const float step = s.delta[token * s.d + d] + s.delta_bias[d];
    const float dt = (block.options.softplus ? Softplus(step) : step) + block.options.offset;
    float y = s.D[d] * u;
    for (size_t n = 0; n < s.n; ++n) {
      float& state_n = h[n * s.d];
      state_n = expf(dt * s.A[n * s.d + d]) * state_n + dt * u * s.B[token * s.n + n];
      y += s.C[token * s.n + n] * state_n;
    }
    s.y[token * s.d + d] = s.z == nullptr ? y : y * Silu(s.z[token * s.d + d]);
  }
}

void SelectiveScanScalar(const SelectiveScanBlock& block) {
  for (size_t d = block.channel_begin; d < block.channel_end; ++d) {
    SelectiveScanChannel(block, d);
  }
}

void CausalConv1dScalar(const CausalConv1dBlock& block) {
  const CausalConv1d& a = *block.args;
  const size_t kept = a.k - 1;
  const float* x = a.x + block.batch * a.l * a.d;
  const float* state = a.state + block.batch * kept * a.d;
  for (size_t t = block.token_begin; t < block.token_end; ++t) {
    for (size_t d = 0; d < a.d; ++d) {
      float sum = a.bias[d];
      for (size_t j = 0; j < a.k; ++j) {
        // Row t + j of concat(state, x).
        const float* row = t + j < kept ? state + (t + j) * a.d : x + (t + j - kept) * a.d;
        sum += a.weight[j * a.d + d] * row[d];
      }
      a.y[(block.batch * a.l + t) * a.d + d] = Silu(sum);
    }
  }
}

// One head, by its definition, token by token.
void SsdScanHead(const SsdScan& s, size_t batch, size_t head) {
  const size_t n = s.n, p = s.p, group = head / (s.h / s.g);
  const float* state = s.state + (batch * s.h + head) * n * p;
  float* S = s.state_out + (batch * s.h + head) * n * p;
  if (S != state) std::memcpy(S, state, n * p * sizeof(float));
  for (size_t t = batch * s.l; t < (batch + 1) * s.l; ++t) {
    const float* x = s.x + (t * s.h + head) * p;
    const float* B = s.B + (t * s.g + group) * n;
    const float* C = s.C + (t * s.g + group) * n;
    float* y = s.y + (t * s.h + head) * p;
    float dt = Softplus(s.delta[t * s.h + head] + s.delta_bias[head]);
    dt = dt < s.dt_min ? s.dt_min : dt > s.dt_max ? s.dt_max : dt;
    const float decay = expf(dt * s.A[head]);
    for (size_t j = 0; j < p; ++j) y[j] = s.D[head * p + j] * x[j];
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = 0; j < p; ++j) {
        S[i * p + j] = decay * S[i * p + j] + dt * B[i] * x[j];
        y[j] += C[i] * S[i * p + j];
      }
    }
  }
}

void SsdScanScalar(const SsdScanBlock& block) {
  for (size_t head = block.head_begin; head < block.head_end; ++head) {
    SsdScanHead(*block.args, block.batch, head);
  }
}

void GatedRmsNormScalar(const GatedRmsNormBlock& block) {
  const GatedRmsNorm& a = *block.args;
  const size_t size = a.d / a.groups;
  for (size_t first = block.token_begin * a.d; first < block.token_end * a.d; first += size) {
    const float *x = a.x + first, *z = a.z + first, *weight = a.weight + first % a.d;
    float sum = 0.0f;
    for (size_t i = 0; i < size; ++i) {
      const float v = a.gate_first ? x[i] * Silu(z[i]) : x[i];
      sum += v * v;
    }
    const float scale = 1.0f / sqrtf(sum / static_cast<float>(size) + a.epsilon);
    for (size_t i = 0; i < size; ++i) a.y[first + i] = x[i] * Silu(z[i]) * (scale * weight[i]);
  }
}

template <class Quantized>
float Quantize(const float* x, size_t columns, size_t stride, Quantized* q) {
  float max = 0.0f;
  bool finite = true;
  for (size_t j = 0; j < columns; ++j) {
    finite = finite && std::isfinite(x[j]);
    max = std::fabs(x[j]) > max ? std::fabs(x[j]) : max;
  }
  std::memset(q, 0, stride * sizeof(Quantized));
  if (!finite) return NAN;
  const float scale = (max > 1e-30f ? max : 1e-30f) / 127.0f;
  for (size_t j = 0; j < columns; ++j) q[j] = static_cast<Quantized>(nearbyintf(x[j] / scale));
  return scale;
}

template <Values kValues>
struct Types;
template <>
struct Types<Values::kFp32> {
  using Stored = float;
  using Sum = float;
  static float Convert(float value) { return value; }
};
template <>
struct Types<Values::kFp16> {
  using Stored = uint16_t;
  using Sum = float;
  static float Convert(uint16_t value) { return HalfToFloat(value); }
};
template <>
struct Types<Values::kInt8> {
  using Stored = int8_t;
  using Sum = int32_t;
  static int32_t Convert(int8_t value) { return value; }
};

template <class T, class X>
typename T::Sum DotDense(const PackedMatrix& m, size_t row, const X* x) {
  const auto* weight = static_cast<const typename T::Stored*>(m.value) + row * m.columns;
  typename T::Sum sum = 0;
  for (size_t j = 0; j < m.columns; ++j) sum += T::Convert(weight[j]) * x[j];
  return sum;
}

template <class T, class X>
typename T::Sum DotBitmask(const PackedMatrix& m, size_t row, const X* x) {
  const auto* value = static_cast<const typename T::Stored*>(m.value) + m.start[row];
  const uint8_t* bits = m.bits + row * ((m.columns + 63) / 64 * 8);
  typename T::Sum sum = 0;
  for (size_t j = 0; j < m.columns; ++j) {
    if ((bits[j / 8] >> j % 8 & 1) != 0) sum += T::Convert(*value++) * x[j];
  }
  return sum;
}

template <Structure kStructure, Values kValues, class X>
void LinearScalar(const LinearBlock& block) {
  using T = Types<kValues>;
  const PackedMatrix& m = *block.matrix;
  for (size_t t = block.token_begin; t < block.token_end; ++t) {
    const X* x = static_cast<const X*>(block.x) + t * block.x_stride;
    for (size_t row = block.row_begin; row < block.row_end; ++row) {
      const auto sum =
          kStructure == Structure::kDense ? DotDense<T>(m, row, x) : DotBitmask<T>(m, row, x);
      float& y = block.y[t * m.rows + row];
      y = static_cast<float>(sum);
      if (kValues == Values::kInt8) y *= block.x_scale[t] * m.scale[row];
    }
  }
}

// The sums of one tile's entries for one token.
void SumTile(const PackedMatrix& m, size_t tile, const int8_t* x, int32_t (&sum)[kWindowTile]) {
  const auto* value = static_cast<const int8_t*>(m.value);
  size_t first[2] = {0, 0};
  for (size_t i = 0; i < kWindowTile; ++i) sum[i] = 0;
  for (int32_t record = m.start[tile]; record < m.start[tile + 1]; ++record) {
    const size_t at = static_cast<size_t>(record);
    first[0] += m.step[2 * at];
    first[1] += m.step[2 * at + 1];
    for (size_t slot = 0; slot < kWindowSlots; ++slot) {
      const unsigned position = m.position[at * 16 + slot % 16] >> slot / 16 * 4 & 15;
      sum[slot / 4] += value[at * kWindowSlots + slot] * x[first[slot / 16] + position];
    }
  }
}

void WindowScalar(const LinearBlock& block) {
  const PackedMatrix& m = *block.matrix;
  for (size_t t = block.token_begin; t < block.token_end; ++t) {
    const auto* x = static_cast<const int8_t*>(block.x) + t * block.x_stride;
    for (size_t entry = block.row_begin; entry < block.row_end; entry += kWindowTile) {
      int32_t sum[kWindowTile];
      SumTile(m, entry / kWindowTile, x, sum);
      for (size_t i = 0; i < kWindowTile; ++i) {
        const int32_t row = m.order[entry + i];
        if (row < 0) continue;
        block.y[t * m.rows + static_cast<size_t>(row)] =
            static_cast<float>(sum[i]) * (block.x_scale[t] * m.scale[row]);
      }
    }
  }
}

// docs/sparse_format.md: where weight (row, column) of an int4 matrix lies, times its ratio.
int Int4Weight(const PackedMatrix& m, size_t row, size_t column) {
  const size_t groups = (m.columns + kInt4Group - 1) / kInt4Group;
  const size_t block = row / kInt4Rows * groups + column / kInt4Group;
  const size_t in_row = row % kInt4Rows, in_group = column % kInt4Group;
  const auto* bytes = static_cast<const uint8_t*>(m.value) + block * kInt4Bytes;
  const unsigned byte = bytes[in_group / 8 * 64 + in_row * 4 + in_group % 4];
  const int nibble = static_cast<int>(byte >> in_group / 4 % 2 * 4 & 15);
  return (nibble - 8) * m.ratio[block * kInt4Rows + in_row];
}

void Int4Scalar(const LinearBlock& block) {
  const PackedMatrix& m = *block.matrix;
  for (size_t t = block.token_begin; t < block.token_end; ++t) {
    const auto* x = static_cast<const int8_t*>(block.x) + t * block.x_stride;
    for (size_t row = block.row_begin; row < block.row_end; ++row) {
      int32_t sum = 0;
      for (size_t j = 0; j < m.columns; ++j) sum += Int4Weight(m, row, j) * x[j];
      block.y[t * m.rows + row] = static_cast<float>(sum) * (block.x_scale[t] * m.scale[row]);
    }
  }
}

void WindowFp16Scalar(const LinearBlock& block) {
  const PackedMatrix& m = *block.matrix;
  const auto* value = static_cast<const uint16_t*>(m.value);
  for (size_t t = block.token_begin; t < block.token_end; ++t) {
    const auto* x = static_cast<const float*>(block.x) + t * block.x_stride;
    for (size_t entry = block.row_begin; entry < block.row_end; entry += kWindowTile) {
      float sum[kWindowTile] = {};
      size_t first = 0;
      const size_t tile = entry / kWindowTile;
      for (int32_t record = m.start[tile]; record < m.start[tile + 1]; ++record) {
        const size_t at = static_cast<size_t>(record);
        first += m.step[at];
        for (size_t i = 0; i < kWindowTile; ++i) {
          const unsigned position = m.position[4 * at + i / 2] >> i % 2 * 4 & 15;
          sum[i] += HalfToFloat(value[kWindowTile * at + i]) * x[first + position];
        }
      }
      for (size_t i = 0; i < kWindowTile; ++i) {
        const int32_t row = m.order[entry + i];
        if (row >= 0) block.y[t * m.rows + static_cast<size_t>(row)] = sum[i];
      }
    }
  }
}

float QuantizePanel(const float* x, size_t columns, size_t stride, void* q) {
  return Quantize(x, columns, stride, static_cast<int16_t*>(q));
}

constexpr Structure kDense = Structure::kDense;
constexpr Structure kBitmask = Structure::kBitmask;

}  // namespace

void ReadRow(const PackedMatrix& m, size_t row, float* y) {
  const float scale = m.scale[row];
  const auto* weight = static_cast<const int8_t*>(m.value) + row * m.columns;
  for (size_t j = 0; j < m.columns; ++j) {
    const int w = m.values == Values::kInt4 ? Int4Weight(m, row, j) : weight[j];
    y[j] = static_cast<float>(w) * scale;
  }
}

namespace {

constexpr Isa MakeScalar() {
  Isa isa = {};
  isa.name = "scalar";
  isa.panel_x_bytes = sizeof(int16_t);
  isa.selective_scan = SelectiveScanScalar;
  isa.ungated_scan = SelectiveScanScalar;
  isa.causal_conv1d = CausalConv1dScalar;
  isa.ssd_scan = SsdScanScalar;
  isa.gated_rms_norm = GatedRmsNormScalar;
  isa.quantize_int8 = Quantize<int8_t>;
  isa.quantize_panel = QuantizePanel;

  LinearFunctions& few = isa.few_tokens;
  few.At(kDense, Values::kFp32) = LinearScalar<kDense, Values::kFp32, float>;
  few.At(kDense, Values::kFp16) = LinearScalar<kDense, Values::kFp16, float>;
  few.At(kDense, Values::kInt8) = LinearScalar<kDense, Values::kInt8, int8_t>;
  few.At(kDense, Values::kInt4) = Int4Scalar;
  few.At(kBitmask, Values::kFp32) = LinearScalar<kBitmask, Values::kFp32, float>;
  few.At(kBitmask, Values::kFp16) = LinearScalar<kBitmask, Values::kFp16, float>;
  few.At(kBitmask, Values::kInt8) = LinearScalar<kBitmask, Values::kInt8, int8_t>;
  few.At(Structure::kWindow, Values::kFp16) = WindowFp16Scalar;
  few.At(Structure::kWindow, Values::kInt8) = WindowScalar;

  LinearFunctions& many = isa.many_tokens;
  many.At(kDense, Values::kFp32) = LinearScalar<kDense, Values::kFp32, float>;
  many.At(kDense, Values::kFp16) = LinearScalar<kDense, Values::kFp16, float>;
  many.At(kDense, Values::kInt8) = LinearScalar<kDense, Values::kInt8, int16_t>;
  many.At(kBitmask, Values::kFp32) = LinearScalar<kBitmask, Values::kFp32, float>;
  many.At(kBitmask, Values::kFp16) = LinearScalar<kBitmask, Values::kFp16, float>;
  many.At(kBitmask, Values::kInt8) = LinearScalar<kBitmask, Values::kInt8, int16_t>;
  return isa;
}

}  // namespace

constexpr Isa kScalarIsa = MakeScalar();

}  // namespace ssmpress
