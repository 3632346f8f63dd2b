// SPDX-License-Identifier: Apache-2.0
// CausalConv1d split into blocks of tokens, and its state.
#include <cstring>

#include "kernels/isa/isa.h"

namespace ssmpress {
namespace {

constexpr size_t kTokensPerBlock = 16;

// Outputs (b·l·d) below which one thread is faster: a decode step of 1536 channels takes 2 us, less
// than waking a thread.
constexpr size_t kMinParallelOutputs = 16384;

struct Work {
  const Isa* isa;
  const CausalConv1d* args;
  size_t blocks;  // per batch element
};

void RunBlock(void* context, size_t i) {
  const Work& work = *static_cast<const Work*>(context);
  const size_t begin = i % work.blocks * kTokensPerBlock;
  work.isa->causal_conv1d(
      {work.args, i / work.blocks, begin, BlockEnd(begin, kTokensPerBlock, work.args->l)});
}

// The last k-1 rows of concat(state, x).
void WriteState(const CausalConv1d& args) {
  const size_t kept = args.k - 1;
  const size_t from_x = args.l < kept ? args.l : kept;
  const size_t from_state = kept - from_x;
  const size_t row = args.d * sizeof(float);
  if (kept == 0 || row == 0) return;
  for (size_t i = 0; i < args.b; ++i) {
    float* out = args.state_out + i * kept * args.d;
    if (from_state > 0) {
      std::memmove(out, args.state + (i * kept + from_x) * args.d, from_state * row);
    }
    if (from_x > 0) {
      std::memcpy(out + from_state * args.d, args.x + (i * args.l + args.l - from_x) * args.d,
                  from_x * row);
    }
  }
}

}  // namespace

bool RunCausalConv1d(const Isa& isa, const CausalConv1d& args, const ParallelFor& parallel) {
  Work work = {&isa, &args, (args.l + kTokensPerBlock - 1) / kTokensPerBlock};
  const bool small = args.b * args.l * args.d < kMinParallelOutputs;
  const ParallelFor run = small ? RunSerially() : parallel;
  run.run(run.self, args.b * work.blocks, RunBlock, &work);
  WriteState(args);
  return true;
}

}  // namespace ssmpress
