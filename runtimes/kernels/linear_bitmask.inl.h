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
    const unsigned byte = this->word & 255;
    const F32 w = Expand(this->value, byte);
    this->word >>= 8;
    this->value += CountBits8(byte);
    return w;
  }
};
using BitmaskFp32Reader = BitmaskFloatReader<float>;
using BitmaskFp16Reader = BitmaskFloatReader<uint16_t>;

struct BitmaskInt8Reader : BitmaskCursor<int8_t> {
  template <bool kWhole>
  SSMPRESS_INLINE I8x16 Next16() {
    const unsigned low = word & 255, high = word >> 8 & 255;
    const I8x16 w = ExpandI8(value, low, high);
    value += CountBits16(low, high);
    word >>= 16;
    return w;
  }
  template <bool kWhole>
  SSMPRESS_INLINE I8x32 Next32() {
    const I8x16 low = Next16<kWhole>();
    return Join(low, Next16<kWhole>());
  }
};
