// SPDX-License-Identifier: Apache-2.0
#include "runner/model/session.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <numeric>
#include <string_view>

#include "runner/files.h"

namespace ssmrun {
namespace {

constexpr const char* kConfigKey = "ssmpress.config";
constexpr size_t kStateLimit = size_t{1} << 40;  // bytes
constexpr size_t kAlignment = 64;                // a cache line
// Least tokens of the last piece: of fewer than 8 rows, ONNX Runtime's matrix product adds in
// another order, and the last bits would differ.
constexpr size_t kLastPiece = 64;

// ONNX Runtime's numbers of processors begin at 1; the first thread is the caller's own.
std::string Affinities(const std::vector<int>& pins) {
  std::string text;
  for (size_t i = 1; i < pins.size(); ++i) {
    text += (i > 1 ? ";" : "") + std::to_string(pins[i] + 1);
  }
  return text;
}

}  // namespace

size_t TensorShape::elements() const {
  return std::accumulate(shape.begin(), shape.end(), size_t{1},
                         [](size_t a, int64_t b) { return a * static_cast<size_t>(b); });
}

void State::Free::operator()(void* block) const { std::free(block); }

State::State(const Model& model) {
  static uint64_t made = 0;
  id_ = ++made;
  const auto padded = [](size_t bytes) {
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
  };
  const std::vector<TensorShape> shapes = model.interface().states(1);
  for (const TensorShape& shape : shapes) {
    bytes_ += padded(sizeof(float) * shape.elements());
    if (bytes_ > kStateLimit) BadInput(model.path() + ": the states are larger than any memory.");
  }
  void* block = nullptr;
  if (posix_memalign(&block, kAlignment, 2 * bytes_ + kAlignment) != 0) throw std::bad_alloc();
  block_.reset(block);
  std::memset(block, 0, 2 * bytes_ + kAlignment);
  size_t offset = 0;
  for (const TensorShape& shape : shapes) {
    const size_t size = sizeof(float) * shape.elements();
    Tensor tensor{shape, {}, {}};
    for (int side = 0; side < 2; ++side) {
      char* place = static_cast<char*>(block) + offset + (side == 0 ? 0 : bytes_);
      tensor.data[side] = reinterpret_cast<float*>(place);
      tensor.value[side] = model.runtime().tensor(place, size, shape.shape, ort::kFloat);
    }
    tensors_.push_back(std::move(tensor));
    offset += padded(size);
  }
}

void State::clear() { std::memset(block_.get(), 0, 2 * bytes_); }

// The two bindings for single tokens, made once: a step only writes its token.
class Model::Decoder {
 public:
  Decoder(const Model& model, const State& state)
      : state_id_(state.id()), logits_(static_cast<size_t>(model.interface_.vocab_size)) {
    const Runtime& runtime = model.runtime_;
    ids_ = runtime.tensor(&id_, sizeof id_, {1, 1}, ort::kInt64);
    positions_ = runtime.tensor(&position_, sizeof position_, {1}, ort::kInt64);
    value_ = runtime.tensor(logits_.data(), sizeof(float) * logits_.size(),
                            {1, 1, model.interface_.vocab_size}, ort::kFloat);
    for (int side = 0; side < 2; ++side) {
      bindings_[side] = model.bind(ids_, positions_, value_, state, side);
    }
  }

  uint64_t state_id() const { return state_id_; }
  const OwnedBinding& binding(int64_t token, int side) {
    id_ = token;
    return bindings_[side];
  }
  const float* logits() const { return logits_.data(); }

 private:
  uint64_t state_id_;
  int64_t id_ = 0, position_ = 0;
  std::vector<float> logits_;
  OwnedValue ids_, positions_, value_;
  OwnedBinding bindings_[2];
};

Model::Model(const Runtime& runtime, const OpLibrary* library, const std::string& path,
             const ModelOptions& options)
    : runtime_(runtime), path_(path), piece_tokens_(options.piece_tokens) {
  const ort::Api* api = runtime.api();
  if (!IsFile(path)) BadInput(path + ": expected an ONNX model; there is no such file.");
  ort::SessionOptions* made = nullptr;
  runtime.check(ort::kCreateSessionOptions(api)(&made), kInternal, path);
  const Owned<ort::SessionOptions, ort::kReleaseSessionOptions> settings(made, {api});
  const auto set = [&](ort::Status* status) { runtime.check(status, kInternal, path); };
  set(ort::kSetIntraOpNumThreads(api)(made, options.threads));
  set(ort::kSetInterOpNumThreads(api)(made, 1));
  set(ort::kSetSessionExecutionMode(api)(made, ort::kSequential));
  set(ort::kSetSessionLogSeverityLevel(api)(made, ort::kLogFatal));  // the status says it
  set(ort::kAddSessionConfigEntry(api)(made, "session.set_denormal_as_zero", "0"));
  if (options.pins.size() > 1) {
    const std::string list = Affinities(options.pins);
    set(ort::kAddSessionConfigEntry(api)(made, "session.intra_op_thread_affinities", list.c_str()));
  }
  if (library != nullptr) {
    runtime.check(library->add_to(made, runtime), kDevice,
                  library->path() + ": ONNX Runtime cannot use this op library");
  }
  ort::Session* session = nullptr;
  runtime.check(ort::kCreateSession(api)(runtime.env(), path.c_str(), made, &session), kBadInput,
                path + ": ONNX Runtime " + runtime.version() + " cannot load it");
  session_ = {session, {api}};
  interface_ = ReadInterface(read_config(), path);
  CheckInterface(runtime, session, interface_, path);
}

Model::~Model() = default;

std::string Model::read_config() const {
  const ort::Api* api = runtime_.api();
  ort::ModelMetadata* metadata = nullptr;
  runtime_.check(ort::kSessionGetModelMetadata(api)(session_.get(), &metadata), kInternal, path_);
  const Owned<ort::ModelMetadata, ort::kReleaseModelMetadata> owner(metadata, {api});
  ort::Allocator* allocator = nullptr;
  runtime_.check(ort::kGetAllocatorWithDefaultOptions(api)(&allocator), kInternal, path_);
  char* text = nullptr;
  runtime_.check(ort::kModelMetadataLookup(api)(metadata, allocator, kConfigKey, &text), kInternal,
                 path_);
  if (text == nullptr) {
    BadInput(path_ + ": expected the metadata entry " + kConfigKey +
             "; it has none. Only models that ssmpress exported can be opened.");
  }
  std::string config = text;
  runtime_.check(ort::kAllocatorFree(api)(allocator, text), kInternal, path_);
  return config;
}

OwnedBinding Model::bind(const OwnedValue& ids, const OwnedValue& positions,
                         const OwnedValue& logits, const State& state, int side) const {
  const ort::Api* api = runtime_.api();
  ort::IoBinding* made = nullptr;
  runtime_.check(ort::kCreateIoBinding(api)(session_.get(), &made), kInternal, path_);
  OwnedBinding binding(made, {api});
  const auto input = [&](const std::string& name, const OwnedValue& value) {
    runtime_.check(ort::kBindInput(api)(made, name.c_str(), value.get()), kBadInput, path_);
  };
  const auto output = [&](const std::string& name, const OwnedValue& value) {
    runtime_.check(ort::kBindOutput(api)(made, name.c_str(), value.get()), kBadInput, path_);
  };
  input("input_ids", ids);
  input("logits_positions", positions);
  output("logits", logits);
  for (const State::Tensor& tensor : state.tensors()) {
    input("past_" + tensor.shape.name, tensor.value[side]);
    output("present_" + tensor.shape.name, tensor.value[side ^ 1]);
  }
  return binding;
}

void Model::run(const OwnedBinding& binding) {
  runtime_.check(ort::kRunWithBinding(runtime_.api())(session_.get(), nullptr, binding.get()),
                 kBadInput, path_ + ": ONNX Runtime could not run it");
}

void Model::check_tokens(const std::vector<int64_t>& tokens, const std::string& what) const {
  if (tokens.empty()) BadInput(what + ": expected at least one token; got none.");
  for (const int64_t token : tokens) {
    if (token < 0 || token >= interface_.vocab_size) {
      BadInput(what + ": expected tokens from 0 to " + std::to_string(interface_.vocab_size - 1) +
               "; got " + std::to_string(token) +
               ". The text was made with another tokenizer than the model's.");
    }
  }
}

void Model::prefill(const std::vector<int64_t>& tokens, const std::vector<int64_t>& positions,
                    float* logits, State& state) {
  require(Task::kLanguageModel);
  check_tokens(tokens, "tokens");
  const auto vocab = static_cast<size_t>(interface_.vocab_size);
  auto wanted = positions.begin();
  size_t size = 0;
  for (size_t begin = 0; begin < tokens.size(); begin += size) {
    const size_t left = tokens.size() - begin;
    size = left >= piece_tokens_ + std::min(piece_tokens_, kLastPiece) ? piece_tokens_ : left;
    const auto first = tokens.begin() + static_cast<ptrdiff_t>(begin);
    const auto end = static_cast<int64_t>(begin + size);
    std::vector<int64_t> here;
    for (; wanted != positions.end() && *wanted < end; ++wanted) {
      here.push_back(*wanted - static_cast<int64_t>(begin));
    }
    prefill_piece({first, first + static_cast<ptrdiff_t>(size)}, here, logits, state);
    logits += here.size() * vocab;
  }
}

void Model::prefill_piece(const std::vector<int64_t>& tokens, const std::vector<int64_t>& positions,
                          float* logits, State& state) {
  const auto length = static_cast<int64_t>(tokens.size());
  const auto wanted = static_cast<int64_t>(positions.size());
  const int64_t vocab = interface_.vocab_size;
  // ONNX Runtime reads inputs only, but its C ABI has one tensor type for both.
  const OwnedValue ids = runtime_.tensor(const_cast<int64_t*>(tokens.data()),
                                         sizeof(int64_t) * tokens.size(), {1, length}, ort::kInt64);
  const OwnedValue places =
      runtime_.tensor(const_cast<int64_t*>(positions.data()), sizeof(int64_t) * positions.size(),
                      {wanted}, ort::kInt64);
  const OwnedValue result =
      runtime_.tensor(logits, sizeof(float) * positions.size() * static_cast<size_t>(vocab),
                      {1, wanted, vocab}, ort::kFloat);
  run(bind(ids, places, result, state, state.front()));
  state.swap();
}

const float* Model::step(int64_t token, State& state) {
  require(Task::kLanguageModel);
  check_tokens({token}, "token");
  if (decoder_ == nullptr || decoder_->state_id() != state.id()) {
    decoder_ = std::make_unique<Decoder>(*this, state);
  }
  run(decoder_->binding(token, state.front()));
  state.swap();
  return decoder_->logits();
}

void Model::require(Task::Kind kind) const {
  if (interface_.task.kind == kind) return;
  Task wanted;
  wanted.kind = kind;
  BadInput(path_ + ": expected a model whose task is " + wanted.name() + "; got " +
           interface_.task.name() + ".");
}

void Model::run_whole(const char* input, const OwnedValue& from, const char* output,
                      const OwnedValue& to) {
  const ort::Api* api = runtime_.api();
  ort::IoBinding* made = nullptr;
  runtime_.check(ort::kCreateIoBinding(api)(session_.get(), &made), kInternal, path_);
  const OwnedBinding binding(made, {api});
  runtime_.check(ort::kBindInput(api)(made, input, from.get()), kBadInput, path_);
  runtime_.check(ort::kBindOutput(api)(made, output, to.get()), kBadInput, path_);
  run(binding);
}

std::vector<float> Model::classify(const std::vector<int64_t>& tokens, size_t batch) {
  require(Task::kClassification);
  check_tokens(tokens, "tokens");
  const auto texts = static_cast<int64_t>(batch);
  const auto length = static_cast<int64_t>(tokens.size() / batch);
  const auto classes = static_cast<int64_t>(interface_.task.classes.size());
  std::vector<float> logits(batch * interface_.task.classes.size());
  const OwnedValue ids =
      runtime_.tensor(const_cast<int64_t*>(tokens.data()), sizeof(int64_t) * tokens.size(),
                      {texts, length}, ort::kInt64);
  const OwnedValue result =
      runtime_.tensor(logits.data(), sizeof(float) * logits.size(), {texts, classes}, ort::kFloat);
  run_whole("input_ids", ids, "logits", result);
  return logits;
}

std::vector<float> Model::forecast(const std::vector<float>& series) {
  require(Task::kForecast);
  const Task& task = interface_.task;
  const auto variates = static_cast<int64_t>(task.variates.size());
  const size_t one = static_cast<size_t>(task.lookback) * task.variates.size();
  if (series.empty() || series.size() % one != 0) {
    BadInput("series: expected a multiple of " + std::to_string(one) + " values (" +
             std::to_string(task.lookback) + " x " + std::to_string(variates) + "); got " +
             std::to_string(series.size()) + ".");
  }
  const auto batch = static_cast<int64_t>(series.size() / one);
  std::vector<float> forecast(static_cast<size_t>(batch * task.horizon * variates));
  const OwnedValue from =
      runtime_.tensor(const_cast<float*>(series.data()), sizeof(float) * series.size(),
                      {batch, task.lookback, variates}, ort::kFloat);
  const OwnedValue to = runtime_.tensor(forecast.data(), sizeof(float) * forecast.size(),
                                        {batch, task.horizon, variates}, ort::kFloat);
  run_whole("series", from, "forecast", to);
  return forecast;
}

}  // namespace ssmrun
