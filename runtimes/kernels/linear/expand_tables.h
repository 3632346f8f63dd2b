// SPDX-License-Identifier: Apache-2.0
// Shuffle tables that spread packed values over the set bits of a bitmask byte. Data only, the same
// for every instruction set: for byte b and position i, the index of the value that belongs there,
// or an index with its top bit set where no value is stored (a shuffle then gives 0).
#ifndef SSMPRESS_KERNELS_EXPAND_TABLES_H_
#define SSMPRESS_KERNELS_EXPAND_TABLES_H_

#include <cstdint>

namespace ssmpress {

struct ExpandTables {
  alignas(64) uint32_t lane32[256][8];  // indices of 32-bit values
  alignas(64) uint8_t byte16[256][16];  // byte indices of 16-bit values
  alignas(64) uint8_t byte8[256][8];    // byte indices of 8-bit values
  // Added to two joined entries of byte8: the second one starts after the values of the first,
  // whose byte selects the entry. (Selecting by the number of values needs 144 bytes instead of 4
  // KiB, but two more instructions for 16 weights in a loop that is bound by their number.)
  alignas(64) uint8_t second8[256][16];
};

constexpr ExpandTables MakeExpandTables() {
  ExpandTables tables = {};
  for (unsigned b = 0; b < 256; ++b) {
    unsigned next = 0;
    for (unsigned i = 0; i < 8; ++i) {
      const bool stored = (b >> i & 1) != 0;
      tables.lane32[b][i] = stored ? next : 0x80000000u;
      tables.byte16[b][2 * i] = static_cast<uint8_t>(stored ? 2 * next : 0x80);
      tables.byte16[b][2 * i + 1] = static_cast<uint8_t>(stored ? 2 * next + 1 : 0x80);
      tables.byte8[b][i] = static_cast<uint8_t>(stored ? next : 0x80);
      next += stored ? 1 : 0;
    }
    for (unsigned i = 8; i < 16; ++i) tables.second8[b][i] = static_cast<uint8_t>(next);
  }
  return tables;
}

inline constexpr ExpandTables kExpandTables = MakeExpandTables();

#if defined(__aarch64__)
// As lane32, in byte indices: tbl has no others.
struct ExpandBytes {
  alignas(64) uint8_t byte32[256][32];
};

constexpr ExpandBytes MakeExpandBytes() {
  ExpandBytes tables = {};
  for (unsigned b = 0; b < 256; ++b) {
    for (unsigned i = 0; i < 32; ++i) {
      const uint32_t lane = kExpandTables.lane32[b][i / 4];
      tables.byte32[b][i] = static_cast<uint8_t>(lane < 8 ? 4 * lane + i % 4 : 0x80);
    }
  }
  return tables;
}

inline constexpr ExpandBytes kExpandBytes = MakeExpandBytes();
#endif

}  // namespace ssmpress

#endif  // SSMPRESS_KERNELS_EXPAND_TABLES_H_
