// SPDX-License-Identifier: Apache-2.0
// Chooses the instruction set: the only place that asks what the CPU can do.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "kernels/isa.h"
#include "kernels/kernels.h"

namespace ssmpress {
namespace {

// Best first; the scalar one is always available.
const Isa* const kByPriority[] = {
    &kScalarIsa,
};

void ListNames(bool only_available, char* text, size_t size) {
  size_t used = 0;
  text[0] = '\0';
  // From the last: the plainest first reads best.
  for (size_t i = sizeof(kByPriority) / sizeof(kByPriority[0]); i-- > 0;) {
    const Isa& isa = *kByPriority[i];
    if (only_available && !isa.available()) continue;
    const int n = std::snprintf(text + used, size - used, "%s%s", used ? ", " : "", isa.name);
    if (n < 0 || static_cast<size_t>(n) >= size - used) return;
    used += static_cast<size_t>(n);
  }
}

}  // namespace

const Isa* SelectIsaByName(const char* name, char* error, size_t error_size) {
  char names[96];
  for (const Isa* isa : kByPriority) {
    if (name == nullptr) {
      if (isa->available()) return isa;
    } else if (std::strcmp(name, isa->name) == 0) {
      if (isa->available()) return isa;
      ListNames(true, names, sizeof names);
      std::snprintf(error, error_size,
                    "SSMPRESS_ISA=%s: this CPU cannot run it; expected one of %s; unset it or pick "
                    "one of those",
                    isa->name, names);
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
