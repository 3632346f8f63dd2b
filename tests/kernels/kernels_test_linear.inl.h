// SPDX-License-Identifier: Apache-2.0
// The linear formats; part of kernels_test.cc. The packer below is written from
// docs/sparse_format.md and shares nothing with the kernels.

const char* FormatName(int format) {
  static const char* const names[] = {"dense-fp32",   "dense-fp16",   "dense-int8",
                                      "bitmask-fp32", "bitmask-fp16", "bitmask-int8",
                                      "window-int8",  "dense-int4",   "window-fp16"};
  return names[format];
}

constexpr int kFormats = 9, kBitmaskFormats = 3, kWindowFormat = 6, kInt4Format = 7,
              kFp16WindowFormat = 8;

Values ValuesOf(int format) {
  return format == kInt4Format         ? Values::kInt4
         : format == kFp16WindowFormat ? Values::kFp16
         : format == kWindowFormat     ? Values::kInt8
                                       : static_cast<Values>(format % 3);
}
// Activations are quantised, and sums exact.
bool IsInt8(int format) { return ValuesOf(format) >= Values::kInt8; }

#include "kernels_test_window.inl.h"

float FromHalf(uint16_t half) {
  const int exponent = half >> 10 & 31, fraction = half & 1023;
  const double magnitude =
      exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  return static_cast<float>((half & 0x8000) != 0 ? -magnitude : magnitude);
}

struct Packed {
  int format;
  PackedMatrix m = {};
  std::vector<double> dense;  // (r, c) the stored values, int4 times their ratios; no scale
  std::vector<char> stored;   // (r, c) 1 where a value is stored
  Buffer<uint8_t> value{0}, bits{0}, step{0}, position{0};
  Buffer<int32_t> start{0}, order{0};
  Buffer<int8_t> ratio{0};
  Floats scale{0};

  // Draws a matrix of which about `density` is stored; every fifth row or so is empty.
  Packed(Random& r, int format_, size_t rows, size_t columns, float density)
      : format(format_), dense(rows * columns), stored(rows * columns) {
    m.structure = format < 3 || format == kInt4Format ? Structure::kDense
                  : format < kWindowFormat            ? Structure::kBitmask
                                                      : Structure::kWindow;
    m.values = ValuesOf(format);
    m.rows = rows;
    m.columns = columns;
    scale = Draw(r, rows, 0, 0.1f);
    m.scale = scale.get();
    if (format == kInt4Format) {
      MakeInt4(r, density);
      return;
    }
    std::vector<uint8_t> bytes;
    index_of_.resize(rows * columns);
    const size_t row_bytes = (columns + 63) / 64 * 8;
    bits = Buffer<uint8_t>(rows * row_bytes);
    start = Buffer<int32_t>(rows + 1);
    size_t count = 0;
    for (size_t i = 0; i < rows; ++i) {
      const bool empty = r.Below(5) == 0;
      for (size_t j = 0; j < columns; ++j) {
        const bool keep = !empty && r.Uniform(0, 1) < density;
        if (format >= 3 && !keep) continue;
        dense[i * columns + j] = keep ? Append(r, bytes) : AppendZero(bytes);
        stored[i * columns + j] = 1;
        index_of_[i * columns + j] = count;
        bits[i * row_bytes + j / 8] |= static_cast<uint8_t>(1 << j % 8);
        ++count;
      }
      start[i + 1] = static_cast<int32_t>(count);
    }
    if (m.structure == Structure::kBitmask) bytes.resize(bytes.size() + kValuePadding);
    if (format == kWindowFormat) MakeWindows(r, bytes);
    if (format == kFp16WindowFormat) MakeFp16Windows(r, bytes);
    const size_t element = ElementSize();
    value = Buffer<uint8_t>(bytes.size(), element);
    if (!bytes.empty()) std::memcpy(value.get(), bytes.data(), bytes.size());
    m.value = value.get();
    m.value_count = bytes.size() / element;
    m.bits = bits.get();
    m.start = start.get();
  }

 private:
  std::vector<size_t> index_of_;  // of stored values, in row order

  // Everything at random, what lies beyond the rows and columns too; extremes are frequent.
  void MakeInt4(Random& r, float density) {
    const size_t tiles = (m.rows + 15) / 16, groups = (m.columns + 15) / 16;
    value = Buffer<uint8_t>(tiles * groups * 128);
    ratio = Buffer<int8_t>(tiles * groups * 16);
    for (size_t i = 0; i < ratio.size(); ++i) {
      ratio[i] = static_cast<int8_t>(r.Below(8) == 0 ? 127 : static_cast<int>(r.Below(255)) - 127);
    }
    const int extreme = r.Below(4) == 0 ? 0 : -1;
    for (size_t i = 0; i < value.size(); ++i) {
      for (int shift : {0, 4}) {
        const int drawn = extreme == 0 ? 0 : static_cast<int>(r.Below(16));
        value[i] |= static_cast<uint8_t>((r.Uniform(0, 1) < density ? drawn : 8) << shift);
      }
    }
    for (size_t i = 0; i < m.rows; ++i) {
      for (size_t j = 0; j < m.columns; ++j) {
        const size_t block = i / 16 * groups + j / 16;
        const uint8_t byte = value[block * 128 + j % 16 / 8 * 64 + i % 16 * 4 + j % 4];
        const int nibble = j / 4 % 2 == 0 ? byte & 15 : byte >> 4;
        dense[i * m.columns + j] = (nibble - 8) * ratio[block * 16 + i % 16];
      }
    }
    m.value = value.get();
    m.value_count = value.size();
    m.ratio = ratio.get();
  }

  size_t ElementSize() const { return m.values == Values::kFp32 ? 4 : IsInt8(format) ? 1 : 2; }

  template <class T>
  static Buffer<T> Copy(const std::vector<T>& from) {
    Buffer<T> to(from.size());
    std::copy(from.begin(), from.end(), to.get());
    return to;
  }
  void MakeWindows(Random& r, std::vector<uint8_t>& bytes) {
    const WindowPacker packer(r, m.rows, m.columns, dense, stored);
    const WindowSections& made = packer.out();
    order = Copy(made.order);
    start = Copy(made.start);
    step = Copy(made.step);
    position = Copy(made.position);
    bytes.assign(made.value.begin(), made.value.end());
    m.order = order.get();
    m.step = step.get();
    m.position = position.get();
  }
  // As MakeWindows draws them: windows begin early, steps and slots are left empty at random.
  void MakeFp16Windows(Random& r, std::vector<uint8_t>& bytes) {
    const size_t tiles = (m.rows + 7) / 8;
    std::vector<int32_t> rows(8 * tiles, -1), starts(1, 0);
    std::vector<uint8_t> steps, positions, halves;
    for (size_t i = 0; i < m.rows; ++i) rows[i] = static_cast<int32_t>(i);
    for (size_t i = m.rows; i > 1; --i) std::swap(rows[i - 1], rows[r.Below(i)]);
    for (size_t tile = 0; tile < tiles; ++tile) {
      size_t at[8] = {}, first = 0;
      for (;;) {
        size_t next = m.columns;
        for (size_t i = 0; i < 8; ++i) {
          const size_t row = static_cast<size_t>(rows[8 * tile + i]);
          while (rows[8 * tile + i] >= 0 && at[i] < m.columns && !stored[row * m.columns + at[i]]) {
            ++at[i];
          }
          if (rows[8 * tile + i] >= 0) next = std::min(next, at[i]);
        }
        if (next == m.columns) break;
        const size_t earliest = std::max(first, next - std::min<size_t>(next, r.Below(16)));
        const size_t begin = std::min(earliest, first + 255);
        steps.push_back(static_cast<uint8_t>(begin - first));
        first = begin;
        uint8_t nibbles[4] = {};
        for (size_t i = 0; i < 8; ++i) {
          const bool use =
              rows[8 * tile + i] >= 0 && at[i] < std::min(m.columns, first + 16) && r.Below(8) != 0;
          const size_t from = use ? static_cast<size_t>(rows[8 * tile + i]) * m.columns + at[i] : 0;
          halves.push_back(use ? bytes[2 * index_of_[from]] : 0);
          halves.push_back(use ? bytes[2 * index_of_[from] + 1] : 0x80);
          if (!use) continue;
          nibbles[i / 2] |= static_cast<uint8_t>((at[i]++ - first) << i % 2 * 4);
        }
        positions.insert(positions.end(), nibbles, nibbles + 4);
      }
      starts.push_back(static_cast<int32_t>(steps.size()));
    }
    order = Copy(rows);
    start = Copy(starts);
    step = Copy(steps);
    position = Copy(positions);
    m.order = order.get();
    m.step = step.get();
    m.position = position.get();
    bytes = halves;
  }
  double Append(Random& r, std::vector<uint8_t>& bytes) {
    const bool tiny = r.Below(50) == 0;  // subnormal
    if (IsInt8(format)) {
      const int q = static_cast<int>(r.Below(255)) - 127;
      bytes.push_back(static_cast<uint8_t>(q));
      return q;
    }
    if (m.values == Values::kFp16) {
      uint16_t half = static_cast<uint16_t>(tiny ? r.Below(1024) : 0x3000 + r.Below(0xc00)) |
                      static_cast<uint16_t>(r.Below(2) << 15);
      if (half == 0x8000) half = 0;  // -0 says that a slot of a window is not in use
      bytes.push_back(static_cast<uint8_t>(half));
      bytes.push_back(static_cast<uint8_t>(half >> 8));
      return FromHalf(half);
    }
    const float w = tiny ? 1e-42f : r.Uniform(-1, 1);
    const uint8_t* p = reinterpret_cast<const uint8_t*>(&w);
    bytes.insert(bytes.end(), p, p + 4);
    return w;
  }
  double AppendZero(std::vector<uint8_t>& bytes) {
    bytes.resize(bytes.size() + ElementSize());
    return 0;
  }
};

// The arithmetic of docs/sparse_format.md, to the last bit.
float Int8Result(Packed& p, size_t row, const float* x) {
  float max = 0;
  for (size_t j = 0; j < p.m.columns; ++j) {
    if (!std::isfinite(x[j])) return NAN;
    max = std::max(max, std::fabs(x[j]));
  }
  const float x_scale = std::max(max, 1e-30f) / 127.0f;
  int64_t sum = 0;
  for (size_t j = 0; j < p.m.columns; ++j) {
    const auto q = static_cast<int64_t>(std::nearbyint(x[j] / x_scale));
    sum += static_cast<int64_t>(p.dense[row * p.m.columns + j]) * q;
  }
  return static_cast<float>(sum) * (x_scale * p.scale[row]);
}

// A sum of c products in any order is off by at most c·eps·Σ|w·x|; its roundings are as good as
// random, so that 2·sqrt(c) + 4 of them hold for every order that is not itself wrong.
bool FloatResultOk(Packed& p, size_t row, const float* x, float y, double* expected) {
  double sum = 0, scale = 0;
  for (size_t j = 0; j < p.m.columns; ++j) {
    const double product = p.dense[row * p.m.columns + j] * x[j];
    sum += product;
    scale += std::fabs(product);
  }
  *expected = sum;
  const double bound = (2 * std::sqrt(static_cast<double>(p.m.columns)) + 4) * kEps * scale;
  return std::fabs(y - sum) <= bound + 1e-44 * static_cast<double>(p.m.columns);
}

void CheckLinear(const Isa& isa, Packed& p, size_t tokens, Floats& x, Floats& y) {
  for (size_t t = 0; t < tokens; ++t) {
    for (size_t row = 0; row < p.m.rows; ++row) {
      const float got = y[t * p.m.rows + row];
      const float* xt = x.get() + t * p.m.columns;
      double expected;
      bool ok;
      if (IsInt8(p.format)) {
        expected = Int8Result(p, row, xt);
        ok = static_cast<double>(got) == expected;
      } else {
        ok = FloatResultOk(p, row, xt, got, &expected);
      }
      Check(ok, "%s %s %zux%zu, %zu tokens: y[%zu, %zu] = %.9g, expected %.9g", IsaName(isa),
            FormatName(p.format), p.m.rows, p.m.columns, tokens, t, row, got, expected);
    }
  }
}

Floats RunOn(const Isa& isa, Packed& p, size_t tokens, Floats& x, size_t threads) {
  Floats y(tokens * p.m.rows);
  Threads on{threads};
  const ParallelFor parallel = threads == 1 ? RunSerially() : ParallelFor{RunOnThreads, &on};
  Check(RunLinear(isa, {&p.m, tokens, x.get(), y.get()}, parallel), "linear: out of memory");
  return y;
}

// The same bits from 2 and 4 threads; a token's result does not depend on its neighbours within
// the few-token and within the many-token kernel, and for int8 not at all.
void CheckLinearInvariance(const Isa& isa, Packed& p, size_t tokens, Floats& x, Floats& y) {
  for (size_t threads : {2, 4}) {
    Floats other = RunOn(isa, p, tokens, x, threads);
    Check(SameBits(y, other, y.size()), "%s %s: %zu threads change the result", IsaName(isa),
          FormatName(p.format), threads);
  }
  const size_t group = IsInt8(p.format) || tokens < 8 ? 1 : 8;
  for (size_t t = 0; t + group <= tokens && t < 40; ++t) {
    Floats one(group * p.m.columns);
    std::copy_n(x.get() + t * p.m.columns, one.size(), one.get());
    Floats alone = RunOn(isa, p, group, one, 1);
    const bool same = p.m.rows == 0 || std::memcmp(alone.get(), y.get() + t * p.m.rows,
                                                   alone.size() * sizeof(float)) == 0;
    Check(same, "%s %s: token %zu of %zu depends on the others", IsaName(isa), FormatName(p.format),
          t, tokens);
  }
}

void CheckLinearNan(const Isa& isa, Random& random, int format, size_t tokens, size_t rows) {
  Packed p(random, format, rows, 70, 0.5f);
  for (float poison : {static_cast<float>(NAN), static_cast<float>(INFINITY)}) {
    Floats x = Draw(random, tokens * 70, 0.5f, 1);
    const size_t bad = tokens / 2, column = 67;
    x[bad * 70 + column] = poison;
    Floats y = RunOn(isa, p, tokens, x, 1);
    for (size_t at = 0; at < y.size(); ++at) {
      const size_t row = at % rows;
      const double w = p.dense[row * 70 + column];
      if (at / rows != bad) {
        Check(std::isfinite(y[at]), "%s: a NaN reached another token", FormatName(format));
      } else if (IsInt8(format)) {
        Check(std::isnan(y[at]), "%s: row %zu is not NaN", FormatName(format), row);
      } else if (w != 0) {
        Check(!std::isfinite(y[at]), "%s: row %zu lost a NaN", FormatName(format), row);
      }
    }
  }
}

// Activations that fall halfway between two integers round to the even one.
void CheckTies(const Isa& isa, Random& random, int format, size_t tokens, size_t rows) {
  Packed p(random, format, rows, 100, 0.9f);
  Floats x(tokens * 100);
  for (size_t at = 0; at < x.size(); ++at) {
    x[at] = at % 100 == 99 ? -127.0f : static_cast<float>(random.Below(254)) - 126.5f;
  }
  Floats y = RunOn(isa, p, tokens, x, 1);
  CheckLinear(isa, p, tokens, x, y);
}

// Many tokens of whole tiles: two blocks of tokens, two panels of columns, two of entries.
void TestWindowPanels(const Isa& isa, Random& random) {
  for (size_t tokens : {64, 530}) {
    Packed p(random, kWindowFormat, 40, 1100, 0.3f);
    Floats x = Draw(random, tokens * 1100, -1, 1);
    Floats y = RunOn(isa, p, tokens, x, 1);
    CheckLinear(isa, p, tokens, x, y);
    CheckLinearInvariance(isa, p, tokens, x, y);
  }
  CheckLinearNan(isa, random, kWindowFormat, 65, 24);
  CheckTies(isa, random, kWindowFormat, 65, 16);
}

void TestLinear(const Isa& isa, Random& random, int format, int cases) {
  const float densities[] = {0.0f, 0.004f, 0.05f, 0.3f, 0.5f, 0.9f, 1.0f};
  for (int i = 0; i < cases; ++i) {
    size_t rows = random.Size(35, {63, 80, 130});
    // Panels of windows, from 64 tokens on, want whole tiles.
    if (format == kWindowFormat && random.Below(2) == 0) rows = (rows + 7) / 8 * 8;
    const size_t columns =
        random.Size(35, {48, 63, 64, 65, 127, 256, 300, 511, 512, 513, 770, 1024, 1100});
    const size_t tokens = random.Size(15, {16, 33, 48, 64, 71});
    Packed p(random, format, rows, columns, densities[random.Below(7)]);
    char error[256] = "";
    Check(CheckMatrix(p.m, error, sizeof error), "%s: %s", FormatName(format), error);
    const float magnitude = random.Below(20) == 0 ? 1e-36f : 3.0f;
    Floats x = Draw(random, tokens * columns, -magnitude, magnitude);
    Floats y = RunOn(isa, p, tokens, x, 1);
    CheckLinear(isa, p, tokens, x, y);
    if (i % 4 == 0) CheckLinearInvariance(isa, p, tokens, x, y);
  }
  // Large enough for threads, for two blocks of tokens and for two panels of columns.
  for (size_t tokens : {1, 5, 260}) {
    Packed p(random, format, 27, 1100, 0.3f);
    Floats x = Draw(random, tokens * 1100, -1, 1);
    Floats y = RunOn(isa, p, tokens, x, 1);
    CheckLinear(isa, p, tokens, x, y);
    CheckLinearInvariance(isa, p, tokens, x, y);
  }
  for (size_t tokens : {1, 3, 11}) {
    CheckLinearNan(isa, random, format, tokens, 21);
    if (IsInt8(format)) CheckTies(isa, random, format, tokens, 9);
  }
  if (format == kWindowFormat) TestWindowPanels(isa, random);
}

// 20 rows of 70 columns, about half of them stored: 3 tiles, 4 entries without a row.
template <class Broken>
void TestHostileWindows(Broken broken) {
  const int format = kWindowFormat;
  broken(format, "order[0]: expected each of 20 rows once and 4 times -1, got 20",
         [](Packed& p) { p.order[0] = 20; });
  broken(format, "got -2", [](Packed& p) { p.order[5] = -2; });
  broken(format, "order[", [](Packed& p) { p.order[1] = p.order[0]; });
  broken(format, "order[", [](Packed& p) { p.order[0] = p.order[0] < 0 ? 3 : -1; });
  broken(format, "start[0]: expected 0, got -1", [](Packed& p) { p.start[0] = -1; });
  broken(format, "start[2]: expected at least start[1]",
         [](Packed& p) { p.start[2] = p.start[1] - 1; });
  broken(format, "(records), got 2147483647", [](Packed& p) { p.start[3] = 0x7fffffff; });
  broken(format, "(records), got", [](Packed& p) { p.m.value_count += 32; });
  broken(format, "step: expected columns below 70", [](Packed& p) { p.step[0] = 255; });
  broken(format, "step: expected columns below 70",
         [](Packed& p) { p.step[p.step.size() - 1] += 70; });
  broken(format, "position: expected ascending", [](Packed& p) {
    for (size_t i = 0; i < p.position.size(); ++i) p.position[i] = 0x10;
  });
  broken(format, "position: expected ascending", [](Packed& p) {
    for (size_t i = 0; i < p.step.size(); ++i) p.step[i] = 0;
  });
  broken(format, "position: expected ascending", [](Packed& p) {
    for (size_t i = 0; i < p.value.size(); ++i) p.value[i] = 1;
  });
  broken(format, "position: expected ascending", [](Packed& p) {
    for (size_t i = 0; i < p.position.size(); i += 4) {
      p.position[i] = p.position[i + 2] = p.position[i + 3] = 0;
      p.position[i + 1] = 0x22;
    }
  });
}

void TestHostileMatrices() {
  Random random(7);
  char error[256];
  // Draws a matrix, breaks it, and looks for the text of the error.
  auto broken = [&](int format, const char* text, void (*breakage)(Packed&)) {
    Packed p(random, format, 20, 70, 0.5f);
    Check(CheckMatrix(p.m, error, sizeof error), "%s", error);
    breakage(p);
    error[0] = '\0';
    Check(!CheckMatrix(p.m, error, sizeof error) && std::strstr(error, text) != nullptr,
          "expected an error with '%s', got '%s'", text, error);
  };
  for (int format = kBitmaskFormats; format < kWindowFormat; ++format) {
    broken(format, "start[0]: expected 0, got -1", [](Packed& p) { p.start[0] = -1; });
    broken(format, "start[8]: expected at least start[7]",
           [](Packed& p) { p.start[8] = p.start[7] - 1; });
    broken(format, "value: expected at least start[20] = 2147483647",
           [](Packed& p) { p.start[20] = 0x7fffffff; });
    broken(format, "of padding", [](Packed& p) { p.m.value_count -= 1; });
    broken(format, "expected 0 from column 70", [](Packed& p) { p.bits[8 + 16] |= 0x80; });
    broken(format, "set in row 1", [](Packed& p) { p.bits[17] ^= 4; });
  }
  for (int format : {2, 5, kWindowFormat}) {
    broken(format, "scale[3]: expected a finite number", [](Packed& p) { p.scale[3] = INFINITY; });
    broken(format, "scale[0]: expected a finite number", [](Packed& p) { p.scale[0] = NAN; });
    broken(format, "scale[0]: expected a finite number", [](Packed& p) { p.scale[0] = -1; });
    broken(format, "got -128", [](Packed& p) { p.value[2] = 0x80; });
  }
  TestHostileWindows(broken);
  broken(kFp16WindowFormat, "order[", [](Packed& p) { p.order[1] = p.order[0]; });
  broken(kFp16WindowFormat, "(records), got 2147483647",
         [](Packed& p) { p.start[3] = 0x7fffffff; });
  broken(kFp16WindowFormat, "step: expected columns below 70", [](Packed& p) { p.step[0] = 255; });
  broken(kFp16WindowFormat, "position: expected ascending", [](Packed& p) {
    for (size_t i = 0; i < p.position.size(); ++i) p.position[i] = 0;
  });
  broken(kFp16WindowFormat, "position: expected ascending", [](Packed& p) {
    for (size_t i = 0; i < p.value.size(); ++i) p.value[i] = 1;
  });
  broken(kInt4Format, "scale[3]: expected a finite number", [](Packed& p) { p.scale[3] = -1; });
  broken(kInt4Format, "ratio 5: expected -127 to 127, got -128",
         [](Packed& p) { p.ratio[5] = -128; });
}
