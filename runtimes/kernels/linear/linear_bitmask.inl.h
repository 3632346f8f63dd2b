// SPDX-License-Identifier: Apache-2.0
// Readers of bitmask rows; the interface is that of linear_dense.inl.h. `stored` is the index in
// `value` of the next stored weight, from which Seek goes on. Values are loaded eight or sixteen at
// a time whether they are needed or not: the padding of the section makes that safe. Included by a
// kernels_<isa>.cc.

template <class Stored>
struct BitmaskCursor {
  const uint8_t* bits;
  const Stored* value;
  uint64_t word;

  void Seek(const PackedMatrix& m, size_t row, size_t column, size_t stored) {
    bits = m.bits + row * ((m.columns + 63) / 64 * 8) + column / 8;
    value = static_cast<const Stored*>(m.value) + stored;
  }
  size_t stored(const PackedMatrix& m) const {
    return static_cast<size_t>(value - static_cast<const Stored*>(m.value));
  }
  SSMPRESS_INLINE void BeginWord() {
    std::memcpy(&word, bits, sizeof word);
    bits += sizeof word;
    PrefetchLines<sizeof(Stored) == 1 ? 1 : 2>(value);
  }
};

template <class Stored>
struct BitmaskFloatReader : BitmaskCursor<Stored> {
  template <bool kWhole>
  SSMPRESS_INLINE F32 Next() {
    const unsigned next = this->word & ((1u << kLanes) - 1);
    const F32 w = Expand(this->value, next);
    this->word >>= kLanes;
    this->value += CountBits<kLanes>(next);
    return w;
  }
};
using BitmaskFp32Reader = BitmaskFloatReader<float>;
using BitmaskFp16Reader = BitmaskFloatReader<uint16_t>;

struct BitmaskInt8Reader : BitmaskCursor<int8_t> {
  template <class Vector, bool kWhole>
  SSMPRESS_INLINE Vector NextBytes() {
    constexpr size_t kBytes = sizeof(Vector);
    const Vector w = ExpandBytes<Vector>(value, word);
    value += CountBits<kBytes>(word);
    word = kBytes == 64 ? 0 : word >> kBytes % 64;
    return w;
  }
};
