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
  float* scratch;
  size_t scratch_floats;  // per block
};

void RunBlock(void* context, size_t i) {
  const Work& work = *static_cast<const Work*>(context);
  const SsdScan& args = *work.args;
  const size_t group = i / work.blocks % args.g, begin = i % work.blocks * work.heads;
  const size_t rest = work.each - begin;
  SsdScanBlock block;
  block.args = &args;
  block.batch = i / work.blocks / args.g;
  block.head_begin = group * work.each + begin;
  block.head_end = block.head_begin + (rest < work.heads ? rest : work.heads);
  block.scratch = work.scratch == nullptr ? nullptr : work.scratch + i * work.scratch_floats;
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
  Work work = {&isa, &args, each, heads, blocks, nullptr, SsdScratchFloats(args.n, args.p)};
  Scratch scratch;
  if (args.l > kSsdFewTokens) {
    if (!scratch.Allocate(count, work.scratch_floats * sizeof(float))) return false;
    work.scratch = scratch.as<float>();
  }
  const ParallelFor run = states * args.l < kMinParallelUpdates ? RunSerially() : parallel;
  run.run(run.self, count, RunBlock, &work);
  return true;
}

}  // namespace ssmpress
