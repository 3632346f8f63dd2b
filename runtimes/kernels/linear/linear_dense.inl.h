// SPDX-License-Identifier: Apache-2.0
// Readers of dense rows. A reader walks one row in words of 64 columns; within a word it gives the
// columns in ascending order, floats by kLanes, int8 by the vector that is asked for. Columns at
// and beyond the end of the row read as 0; kWhole says that the word lies within the row. Included
// by a kernels_<isa>.cc.

// Bytes ahead that are asked for. Several streams, and new pages all the time, are more than the
// hardware's own prefetch keeps up with: without this the kernels that read few bytes a weight run
// at 50 to 70 % of the bandwidth of memory. 1.5 and 6 KiB are slower, though not by much.
constexpr uintptr_t kPrefetchBytes = 3072;

// Hints at kLines cache lines ahead of p. An address beyond the section is never read.
template <int kLines>
SSMPRESS_INLINE void PrefetchLines(const void* p) {
  const uintptr_t ahead = reinterpret_cast<uintptr_t>(p) + kPrefetchBytes;
  for (int i = 0; i < kLines; ++i) {
    __builtin_prefetch(reinterpret_cast<const void*>(ahead + static_cast<uintptr_t>(64 * i)));
  }
}

struct DenseFp32Reader {
  const float* weight;
  size_t left;  // columns

  void Seek(const PackedMatrix& m, size_t row, size_t column, size_t /*stored*/) {
    weight = static_cast<const float*>(m.value) + row * m.columns + column;
    left = m.columns - column;
  }
  size_t stored(const PackedMatrix&) const { return 0; }
  SSMPRESS_INLINE void BeginWord() { PrefetchLines<4>(weight); }
  template <bool kWhole>
  SSMPRESS_INLINE F32 Next() {
    const F32 w = kWhole || left >= kLanes ? Load(weight) : LoadPartial(weight, left);
    weight += kLanes;
    left = kWhole || left >= kLanes ? left - kLanes : 0;
    return w;
  }
};

struct DenseFp16Reader {
  const uint16_t* weight;
  size_t left;

  void Seek(const PackedMatrix& m, size_t row, size_t column, size_t /*stored*/) {
    weight = static_cast<const uint16_t*>(m.value) + row * m.columns + column;
    left = m.columns - column;
  }
  size_t stored(const PackedMatrix&) const { return 0; }
  SSMPRESS_INLINE void BeginWord() { PrefetchLines<2>(weight); }
  template <bool kWhole>
  SSMPRESS_INLINE F32 Next() {
    uint16_t tail[kLanes] = {};
    const uint16_t* from = weight;
    if (!kWhole && left < kLanes) {
      std::memcpy(tail, weight, left * sizeof(uint16_t));
      from = tail;
    }
    weight += kLanes;
    left = kWhole || left >= kLanes ? left - kLanes : 0;
    return LoadHalf(from);
  }
};

struct DenseInt8Reader {
  const int8_t* weight;
  size_t left;

  void Seek(const PackedMatrix& m, size_t row, size_t column, size_t /*stored*/) {
    weight = static_cast<const int8_t*>(m.value) + row * m.columns + column;
    left = m.columns - column;
  }
  size_t stored(const PackedMatrix&) const { return 0; }
  SSMPRESS_INLINE void BeginWord() { PrefetchLines<1>(weight); }
  template <class Vector, bool kWhole>
  SSMPRESS_INLINE Vector NextBytes() {
    constexpr size_t kBytes = sizeof(Vector);
    int8_t tail[kBytes] = {};
    const int8_t* from = weight;
    if (!kWhole && left < kBytes) {
      std::memcpy(tail, weight, left);
      from = tail;
    }
    weight += kBytes;
    left = kWhole || left >= kBytes ? left - kBytes : 0;
    return LoadBytes<Vector>(from);
  }
};
