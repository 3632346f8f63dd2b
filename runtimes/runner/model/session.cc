// SPDX-License-Identifier: Apache-2.0
#include "runner/model/session.h"

#include <algorithm>
#include <string_view>

#include "runner/files.h"
#include "runner/model/external_data.h"
#include "runner/model/state.h"

namespace ssmrun {
namespace {

constexpr const char* kConfigKey = "ssmpress.config";
constexpr const char* kStatesKey = "ssmpress.states";
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

// Reads the tensor from the buffer of `side` and writes the other one.
void BindState(const Model& model, ort::IoBinding* binding, const State::Tensor& tensor, int side) {
  const Runtime& runtime = model.runtime();
  const auto check = [&](ort::Status* status) { runtime.check(status, kBadInput, model.path()); };
  const std::string past = "past_" + tensor.kind.name, present = "present_" + tensor.kind.name;
  check(ort::kBindInput(runtime.api())(binding, past.c_str(), tensor.value[side].get()));
  check(ort::kBindOutput(runtime.api())(binding, present.c_str(), tensor.value[side ^ 1].get()));
}

}  // namespace

// The two bindings for single tokens, made once: a step only writes its token.
class Model::Decoder {
 public:
  Decoder(const Model& model, const State& state)
      : state_id_(state.id()), logits_(static_cast<size_t>(model.interface_.vocab_size)) {
    const Runtime& runtime = model.runtime_;
    ids_ = runtime.tensor(&id_, sizeof id_, {1, 1}, ort::kInt64);
    positions_ = runtime.tensor(&position_, sizeof position_, {1}, ort::kInt64);
    value_ = runtime.tensor(logits_, {1, 1, model.interface_.vocab_size});
    for (int side = 0; side < 2; ++side) {
      bindings_[side] = model.bind(ids_, positions_, value_, state, side);
    }
  }

  uint64_t state_id() const { return state_id_; }
  // What grows is bound again: it has another shape, and perhaps another place.
  const OwnedBinding& binding(const Model& model, int64_t token, const State& state) {
    id_ = token;
    const OwnedBinding& binding = bindings_[state.front()];
    for (const State::Tensor& tensor : state.tensors()) {
      if (tensor.kind.grows >= 0) BindState(model, binding.get(), tensor, state.front());
    }
    return binding;
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
  CheckExternalData(path);
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
  size_t inputs = 0;
  runtime.check(ort::kSessionGetInputCount(api)(session, &inputs), kInternal, path);
  interface_ = ReadInterface(read_metadata(), inputs, path);
  CheckInterface(runtime, session, interface_, path);
}

Model::~Model() = default;

Metadata Model::read_metadata() const {
  const ort::Api* api = runtime_.api();
  ort::ModelMetadata* metadata = nullptr;
  runtime_.check(ort::kSessionGetModelMetadata(api)(session_.get(), &metadata), kInternal, path_);
  const Owned<ort::ModelMetadata, ort::kReleaseModelMetadata> owner(metadata, {api});
  ort::Allocator* allocator = nullptr;
  runtime_.check(ort::kGetAllocatorWithDefaultOptions(api)(&allocator), kInternal, path_);
  const auto entry = [&](const char* key) -> std::optional<std::string> {
    char* text = nullptr;
    runtime_.check(ort::kModelMetadataLookup(api)(metadata, allocator, key, &text), kInternal,
                   path_);
    if (text == nullptr) return std::nullopt;
    std::string copy = text;
    runtime_.check(ort::kAllocatorFree(api)(allocator, text), kInternal, path_);
    return copy;
  };
  const std::optional<std::string> config = entry(kConfigKey);
  if (!config) {
    BadInput(path_ + ": expected the metadata entry " + kConfigKey +
             "; it has none. Only models that ssmpress exported can be opened.");
  }
  return {*config, entry(kStatesKey)};
}

OwnedBinding Model::bind(const OwnedValue& ids, const OwnedValue& positions,
                         const OwnedValue& logits, const State& state, int side) const {
  const ort::Api* api = runtime_.api();
  ort::IoBinding* made = nullptr;
  runtime_.check(ort::kCreateIoBinding(api)(session_.get(), &made), kInternal, path_);
  OwnedBinding binding(made, {api});
  const auto check = [&](ort::Status* status) { runtime_.check(status, kBadInput, path_); };
  check(ort::kBindInput(api)(made, "input_ids", ids.get()));
  check(ort::kBindInput(api)(made, "logits_positions", positions.get()));
  check(ort::kBindOutput(api)(made, "logits", logits.get()));
  for (const State::Tensor& tensor : state.tensors()) BindState(*this, made, tensor, side);
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
  const OwnedValue ids = runtime_.tensor(tokens, {1, length});
  const OwnedValue places = runtime_.tensor(positions, {wanted});
  const OwnedValue result =
      runtime_.tensor(logits, sizeof(float) * positions.size() * static_cast<size_t>(vocab),
                      {1, wanted, vocab}, ort::kFloat);
  state.make_room(tokens.size());
  run(bind(ids, places, result, state, state.front()));
  state.advance(tokens.size());
}

const float* Model::step(int64_t token, State& state) {
  check_tokens({token}, "token");
  if (decoder_ == nullptr || decoder_->state_id() != state.id()) {
    decoder_ = std::make_unique<Decoder>(*this, state);
  }
  state.make_room(1);
  run(decoder_->binding(*this, token, state));
  state.advance(1);
  return decoder_->logits();
}

void Model::require(const TaskKind& kind) const {
  if (&interface_.task->kind() == &kind) return;
  BadInput(path_ + ": expected a model whose task is " + kind.name + "; got " +
           interface_.task->kind().name + ".");
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

std::vector<OwnedValue> Model::run_named(const std::vector<const char*>& inputs,
                                         const std::vector<const ort::Value*>& from,
                                         const std::vector<const char*>& outputs) {
  const ort::Api* api = runtime_.api();
  std::vector<ort::Value*> made(outputs.size(), nullptr);
  ort::Status* const status =
      ort::kRun(api)(session_.get(), nullptr, inputs.data(), from.data(), inputs.size(),
                     outputs.data(), outputs.size(), made.data());
  std::vector<OwnedValue> values;
  for (ort::Value* value : made)
    values.emplace_back(value, Releaser<ort::Value, ort::kReleaseValue>{api});
  runtime_.check(status, kBadInput, path_ + ": ONNX Runtime could not run it");
  return values;
}

}  // namespace ssmrun
