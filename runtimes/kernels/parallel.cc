// SPDX-License-Identifier: Apache-2.0
#include "kernels/kernels.h"

namespace ssmpress {

ParallelFor RunSerially() {
  return {[](void*, size_t count, ParallelFor::Task task, void* context) {
            for (size_t i = 0; i < count; ++i) task(context, i);
          },
          nullptr};
}

}  // namespace ssmpress
