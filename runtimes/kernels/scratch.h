// SPDX-License-Identifier: Apache-2.0
// Scratch memory of one call: 64-byte aligned, freed at the end of the scope.
#ifndef SSMPRESS_KERNELS_SCRATCH_H_
#define SSMPRESS_KERNELS_SCRATCH_H_

#include <cstddef>
#include <cstdint>
#include <cstdlib>

namespace ssmpress {

class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { std::free(data_); }

  // count elements of `size` bytes each; false when there is no memory, or for an absurd size.
  bool Allocate(size_t count, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > SIZE_MAX / 2) return false;
    data_ = std::aligned_alloc(64, (bytes + 127) / 64 * 64);
    return data_ != nullptr;
  }

  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
};

}  // namespace ssmpress

#endif  // SSMPRESS_KERNELS_SCRATCH_H_
