// SPDX-License-Identifier: Apache-2.0
// GatedRMSNorm split into blocks of tokens.
#include "kernels/isa/isa.h"

namespace ssmpress {
namespace {

constexpr size_t kTokensPerBlock = 16;

// Outputs (t·d) below which one thread is faster: a decode step of 1536 channels takes 1 us, less
// than waking a thread.
constexpr size_t kMinParallelOutputs = 16384;

struct Work {
  const Isa* isa;
  const GatedRmsNorm* args;
};

void RunBlock(void* context, size_t i) {
  const Work& work = *static_cast<const Work*>(context);
  const size_t begin = i * kTokensPerBlock;
  work.isa->gated_rms_norm({work.args, begin, BlockEnd(begin, kTokensPerBlock, work.args->tokens)});
}

}  // namespace

void RunGatedRmsNorm(const Isa& isa, const GatedRmsNorm& args, const ParallelFor& parallel) {
  Work work = {&isa, &args};
  const ParallelFor run = args.tokens * args.d < kMinParallelOutputs ? RunSerially() : parallel;
  run.run(run.self, (args.tokens + kTokensPerBlock - 1) / kTokensPerBlock, RunBlock, &work);
}

}  // namespace ssmpress
