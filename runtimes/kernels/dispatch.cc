// SPDX-License-Identifier: Apache-2.0
// Chooses the instruction set: the only place that asks what the CPU can do.
#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "kernels/isa/isa.h"
#include "kernels/kernels.h"

namespace ssmpress {
namespace {

#if defined(__x86_64__)
// Asks the CPU itself: built with zig's clang, __builtin_cpu_supports("avx2") was false on a CPU
// that has it. `saved`: the registers that the operating system must save (XCR0). `ebx_needed` and
// `ecx_needed`: bits of leaf 7.
bool HasX86(unsigned saved, unsigned ebx_needed, unsigned ecx_needed) {
  unsigned eax, ebx, ecx, edx;
  constexpr unsigned kNeeded = bit_FMA | bit_F16C | bit_POPCNT | bit_OSXSAVE;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || (ecx & kNeeded) != kNeeded) return false;
  unsigned xcr0, high;
  __asm__("xgetbv" : "=a"(xcr0), "=d"(high) : "c"(0));
  if ((xcr0 & saved) != saved) return false;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (ebx & ebx_needed) == ebx_needed &&
         (ecx & ecx_needed) == ecx_needed;
}
// The upper halves of the 16 registers.
bool HasAvx2() { return HasX86(6, bit_AVX2, 0); }
// Those, the mask registers, the upper halves of the wider registers and 16 more of them.
bool HasAvx512() {
  return HasX86(0xe6,
                bit_AVX2 | bit_BMI2 | bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL,
                bit_AVX512VBMI2 | bit_AVX512VNNI);
}
#elif defined(__aarch64__)
// Bits of AT_HWCAP in the Linux ABI. GCC's name of the instruction set includes the other two.
constexpr unsigned long kHwcapAtomics = 1ul << 8, kHwcapRdm = 1ul << 12, kHwcapDotprod = 1ul << 20;

bool HasDotprod() {
  constexpr unsigned long kNeeded = kHwcapAtomics | kHwcapRdm | kHwcapDotprod;
  return (getauxval(AT_HWCAP) & kNeeded) == kNeeded;
}
#endif
bool Always() { return true; }

struct Candidate {
  const Isa* isa;
  bool (*available)();
};

// Best first; the scalar one is always available.
const Candidate kByPriority[] = {
#if defined(__x86_64__)
    {&kAvx512Isa, HasAvx512},
    {&kAvx2Isa, HasAvx2},
#elif defined(__aarch64__)
    {&kDotprodIsa, HasDotprod},
    {&kNeonIsa, Always},
#endif
    {&kScalarIsa, Always},
};

void ListNames(bool only_available, char* text, size_t size) {
  size_t used = 0;
  text[0] = '\0';
  // From the last: the plainest first reads best.
  for (size_t i = sizeof(kByPriority) / sizeof(kByPriority[0]); i-- > 0;) {
    if (only_available && !kByPriority[i].available()) continue;
    const int n =
        std::snprintf(text + used, size - used, "%s%s", used ? ", " : "", kByPriority[i].isa->name);
    if (n < 0 || static_cast<size_t>(n) >= size - used) return;
    used += static_cast<size_t>(n);
  }
}

}  // namespace

const Isa* SelectIsaByName(const char* name, char* error, size_t error_size) {
  char names[96];
  for (const Candidate& candidate : kByPriority) {
    if (name == nullptr) {
      if (candidate.available()) return candidate.isa;
    } else if (std::strcmp(name, candidate.isa->name) == 0) {
      if (candidate.available()) return candidate.isa;
      ListNames(true, names, sizeof names);
      std::snprintf(error, error_size,
                    "SSMPRESS_ISA=%s: this CPU cannot run it; expected one of %s; unset it or pick "
                    "one of those",
                    name, names);
      return nullptr;
    }
  }
  ListNames(false, names, sizeof names);
  std::snprintf(error, error_size,
                "SSMPRESS_ISA=%.64s: expected one of %s; unset it or pick one of those", name,
                names);
  return nullptr;
}

const Isa* SelectIsa(char* error, size_t error_size) {
  const char* name = std::getenv("SSMPRESS_ISA");
  return SelectIsaByName(name != nullptr && name[0] != '\0' ? name : nullptr, error, error_size);
}

const char* IsaName(const Isa& isa) { return isa.name; }

}  // namespace ssmpress
