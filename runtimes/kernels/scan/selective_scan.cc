// SPDX-License-Identifier: Apache-2.0
// SelectiveScan split into blocks of channels; the recurrence itself is each instruction set's.
#include "kernels/isa/isa.h"
#include "kernels/scratch.h"

namespace ssmpress {
namespace {

// State updates (b·l·d·n) below which one thread is faster: waking ONNX Runtime's threads costs
// about 5 us, in which AVX2 does some 10,000 updates.
constexpr size_t kMinParallelUpdates = 32768;

// Blocks that the channels are split into, for as many threads. The rows of a token are pages
// apart: 512 tokens of 1536 channels take 1.07 times as long with 2 blocks as with 1, 1.14 times
// with 4 (AVX-512).
constexpr size_t kScanBlocks = 4;

struct Work {
  void (*run)(const SelectiveScanBlock&);
  const SelectiveScan* args;
  size_t blocks;    // per batch element
  size_t channels;  // per block
  float* scratch;
  size_t scratch_floats;  // per block
  ScanOptions options;
};

void RunBlock(void* context, size_t i) {
  const Work& work = *static_cast<const Work*>(context);
  const size_t begin = i % work.blocks * work.channels;
  SelectiveScanBlock block;
  block.args = work.args;
  block.batch = i / work.blocks;
  block.channel_begin = begin;
  block.channel_end = BlockEnd(begin, work.channels, work.args->d);
  block.scratch = work.scratch == nullptr ? nullptr : work.scratch + i * work.scratch_floats;
  block.options = work.options;
  work.run(block);
}

bool RunScan(Work work, const ParallelFor& parallel) {
  const SelectiveScan& args = *work.args;
  const size_t groups = (args.d + kScanChannels - 1) / kScanChannels;
  const size_t width = groups <= kScanBlocks ? 1 : (groups + kScanBlocks - 1) / kScanBlocks;
  work.channels = width * kScanChannels;
  work.blocks = (args.d + work.channels - 1) / work.channels;
  work.scratch_floats = width * ScanGroupFloats(args.n);
  Scratch scratch;
  if (args.l != 1) {
    if (!scratch.Allocate(args.b * work.blocks, work.scratch_floats * sizeof(float))) {
      return false;
    }
    work.scratch = scratch.as<float>();
  }
  const bool small = args.b * args.l * args.d * args.n < kMinParallelUpdates;
  const ParallelFor run = small ? RunSerially() : parallel;
  run.run(run.self, args.b * work.blocks, RunBlock, &work);
  return true;
}

}  // namespace

bool RunSelectiveScan(const Isa& isa, const SelectiveScan& args, const ParallelFor& parallel) {
  return RunScan({isa.selective_scan, &args, 0, 0, nullptr, 0, {true, false, 0}}, parallel);
}

bool RunUngatedScan(const Isa& isa, const UngatedScan& args, const ParallelFor& parallel) {
  return RunScan({isa.ungated_scan, &args.scan, 0, 0, nullptr, 0, args.options}, parallel);
}

}  // namespace ssmpress
