// SPDX-License-Identifier: Apache-2.0
#include "runner/model/state.h"

#include <cstdlib>
#include <cstring>
#include <new>

#include "runner/data/half.h"

namespace ssmrun {
namespace {

constexpr size_t kAlignment = 64;  // a cache line

size_t Padded(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

State::Memory Zeros(size_t bytes) {
  void* block = nullptr;
  if (posix_memalign(&block, kAlignment, bytes + kAlignment) != 0) throw std::bad_alloc();
  std::memset(block, 0, bytes + kAlignment);
  return State::Memory(block);
}

}  // namespace

void State::Free::operator()(void* block) const { std::free(block); }

State::State(const Model& model) : model_(model) {
  static uint64_t made = 0;
  id_ = ++made;
  const std::vector<StateTensor>& kinds = model.interface().states;
  for (const StateTensor& kind : kinds) {
    bytes_ += Padded(kind.bytes_of(kind.shape_at(1, 0)));
    if (bytes_ > kStateLimit) BadInput(model.path() + ": the states are larger than any memory.");
  }
  block_ = Zeros(2 * bytes_);
  size_t offset = 0;
  for (const StateTensor& kind : kinds) {
    Tensor tensor;
    tensor.kind = kind;
    const std::vector<int64_t> shape = kind.shape_at(1, 0);
    const size_t size = kind.bytes_of(shape);
    for (int side = 0; side < 2; ++side) {
      tensor.shape[side] = shape;
      tensor.data[side] = static_cast<char*>(block_.get()) + offset + (side == 0 ? 0 : bytes_);
      tensor.value[side] = model.runtime().tensor(tensor.data[side], size, shape, kind.type);
    }
    tensors_.push_back(std::move(tensor));
    offset += Padded(size);
  }
}

std::vector<float> State::Tensor::values(int side) const {
  std::vector<float> values(kind.bytes_of(shape[side]) / (kind.type == ort::kFloat16 ? 2 : 4));
  if (kind.type != ort::kFloat16) {
    if (!values.empty()) std::memcpy(values.data(), data[side], sizeof(float) * values.size());
    return values;
  }
  const auto* halves = static_cast<const uint16_t*>(data[side]);
  for (size_t i = 0; i < values.size(); ++i) values[i] = Widened(halves[i]);
  return values;
}

void State::resize(Tensor& tensor, int side, int64_t tokens) {
  const std::vector<int64_t> shape = tensor.kind.shape_at(1, tokens);
  const size_t size = tensor.kind.bytes_of(shape);
  if (size > kStateLimit) BadInput(model_.path() + ": the states are larger than any memory.");
  if (size > tensor.room[side]) {  // doubled, so that most tokens find room
    tensor.room[side] = 2 * size;
    tensor.own[side] = Zeros(2 * size);
    tensor.data[side] = tensor.own[side].get();
  }
  tensor.shape[side] = shape;
  tensor.value[side] = model_.runtime().tensor(tensor.data[side], size, shape, tensor.kind.type);
}

void State::make_room(size_t tokens) {
  for (Tensor& tensor : tensors_) {
    if (tensor.kind.grows < 0) continue;
    resize(tensor, front_ ^ 1, tokens_ + static_cast<int64_t>(tokens));
  }
}

void State::advance(size_t tokens) {
  tokens_ += static_cast<int64_t>(tokens);
  front_ ^= 1;
}

void State::clear() {
  std::memset(block_.get(), 0, 2 * bytes_);
  tokens_ = 0;
  for (Tensor& tensor : tensors_) {
    if (tensor.kind.grows >= 0) resize(tensor, front_, 0);
  }
}

}  // namespace ssmrun
