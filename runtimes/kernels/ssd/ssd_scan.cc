// SPDX-License-Identifier: Apache-2.0
// SsdScan split into blocks of heads; the recurrence itself is each instruction set's.
#include <cstring>

#include "kernels/isa/isa.h"
#include "kernels/scratch.h"

namespace ssmpress {
namespace {

// State updates (b·l·h·n·p) below which one thread is faster: waking ONNX Runtime's threads costs
// about 5 us, in which AVX2 does some 30,000 updates.
constexpr size_t kMinParallelUpdates = 65536;

// Blocks that a group's heads are split into, for as many threads. Each computes the products of B
// and C, which all heads of a group share, for itself.
constexpr size_t kMinBlocks = 4;

struct Work {
  const Isa* isa;
  const SsdScan* args;
  size_t each;    // heads per group
  size_t heads;   // per block
  size_t blocks;  // per group
  bool out_of_memory;
};

// Every block takes its own scratch memory: those that run one after the other get the same, which
// is in the cache already.
void RunBlock(void* context, size_t i) {
  Work& work = *static_cast<Work*>(context);
  const SsdScan& args = *work.args;
  const size_t group = i / work.blocks % args.g, begin = i % work.blocks * work.heads;
  SsdScanBlock block;
  block.args = &args;
  block.batch = i / work.blocks / args.g;
  block.head_begin = group * work.each + begin;
  block.head_end = group * work.each + BlockEnd(begin, work.heads, work.each);
  Scratch scratch;
  if (args.l > kSsdFewTokens &&
      !scratch.Allocate(SsdScratchFloats(args.n, args.p), sizeof(float))) {
    __atomic_store_n(&work.out_of_memory, true, __ATOMIC_RELAXED);
    return;
  }
  block.scratch = scratch.as<float>();
  work.isa->ssd_scan(block);
}

}  // namespace

bool RunSsdScan(const Isa& isa, const SsdScan& args, const ParallelFor& parallel) {
  const size_t states = args.b * args.h * args.n * args.p;
  if (args.l == 0) {
    if (states != 0) std::memmove(args.state_out, args.state, states * sizeof(float));
    return true;
  }
  const size_t each = args.h / args.g, share = (each + kMinBlocks - 1) / kMinBlocks;
  const size_t heads = share < kSsdHeads ? share : kSsdHeads;
  const size_t blocks = (each + heads - 1) / heads, count = args.b * args.g * blocks;
  Work work = {&isa, &args, each, heads, blocks, false};
  const ParallelFor run = states * args.l < kMinParallelUpdates ? RunSerially() : parallel;
  run.run(run.self, count, RunBlock, &work);
  return !work.out_of_memory;
}

}  // namespace ssmpress
