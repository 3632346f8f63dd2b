// SPDX-License-Identifier: Apache-2.0
// Source: onnx.proto (its messages and field numbers), protobuf.dev/programming-guides/encoding.
#include "runner/model/external_data.h"

#include <algorithm>
#include <cstdint>
#include <string_view>

#include "runner/failure.h"
#include "runner/files.h"

namespace ssmrun {
namespace {

constexpr const char* kDataName = "model.onnx.data";
constexpr int kDepth = 100;  // of messages, as protobuf's own readers have it

// The messages in which a name of a file may stand.
enum class Message {
  kOther,
  kModel,
  kTraining,
  kGraph,
  kFunction,
  kNode,
  kAttribute,
  kSparseTensor,
  kTensor,
  kEntry,
};

Message Inside(Message message, uint64_t field) {
  switch (message) {
    case Message::kModel:
      return field == 7    ? Message::kGraph
             : field == 20 ? Message::kTraining
             : field == 25 ? Message::kFunction
                           : Message::kOther;
    case Message::kTraining:
      return field == 1 || field == 2 ? Message::kGraph : Message::kOther;
    case Message::kGraph:
      return field == 1    ? Message::kNode
             : field == 5  ? Message::kTensor
             : field == 15 ? Message::kSparseTensor
                           : Message::kOther;
    case Message::kFunction:
      return field == 7 ? Message::kNode : field == 11 ? Message::kAttribute : Message::kOther;
    case Message::kNode:
      return field == 5 ? Message::kAttribute : Message::kOther;
    case Message::kAttribute:
      return field == 5 || field == 10    ? Message::kTensor
             : field == 6 || field == 11  ? Message::kGraph
             : field == 22 || field == 23 ? Message::kSparseTensor
                                          : Message::kOther;
    case Message::kSparseTensor:
      return field == 1 || field == 2 ? Message::kTensor : Message::kOther;
    case Message::kTensor:
      return field == 13 ? Message::kEntry : Message::kOther;
    default:
      return Message::kOther;
  }
}

class Reader {
 public:
  Reader(std::string path, std::string_view content)
      : path_(std::move(path)), content_(content), own_(path_ + ".data") {
    own_.erase(0, own_.rfind('/') + 1);  // all of it where there is no slash: npos + 1 is 0
  }

  void read() const { read(Message::kModel, content_, 0); }

 private:
  void read(Message message, std::string_view text, int depth) const {
    if (depth > kDepth) damaged("messages nested more than " + std::to_string(kDepth) + " deep");
    std::string_view key, value;
    while (!text.empty()) {
      const std::string_view at = text;
      const uint64_t tag = varint(text);
      const uint64_t field = tag >> 3, wire = tag & 7;
      std::string_view content;
      if (field == 0 || (wire != 0 && wire != 1 && wire != 2 && wire != 5)) damaged("no field", at);
      if (wire == 0) {
        varint(text);
        continue;
      }
      const uint64_t size = wire == 2 ? varint(text) : wire == 1 ? 8 : 4;
      if (size > text.size()) damaged("a field", at, " that ends behind what holds it");
      content = text.substr(0, size);
      text.remove_prefix(size);
      if (wire != 2) continue;
      if (message == Message::kEntry) {
        if (field == 1) key = content;
        if (field == 2) value = content;
      } else if (const Message inside = Inside(message, field); inside != Message::kOther) {
        read(inside, content, depth + 1);
      }
    }
    if (key == "location" && value != kDataName && value != own_) {
      BadInput(path_ + ": expected its tensors in it or in " + kDataName +
               " beside it; one is in \"" + std::string(value.substr(0, 200)) +
               "\". Take the bundle as it was made.");
    }
  }

  // An integer of 7 bits a byte, which is taken off the text.
  uint64_t varint(std::string_view& text) const {
    uint64_t value = 0;
    for (size_t i = 0; i < std::min<size_t>(text.size(), 10); ++i) {
      const auto byte = static_cast<uint8_t>(text[i]);
      value |= uint64_t{byte & 0x7Fu} << 7 * i;
      if (byte < 0x80) {
        text.remove_prefix(i + 1);
        return value;
      }
    }
    damaged("no number", text);
  }

  [[noreturn]] void damaged(const std::string& what, std::string_view at,
                            const std::string& more = "") const {
    damaged(what + " at byte " + std::to_string(at.data() - content_.data()) + more);
  }

  [[noreturn]] void damaged(const std::string& what) const {
    BadInput(path_ + ": cannot load it: expected an ONNX model; got " + what +
             ". Copy the file again.");
  }

  std::string path_;
  std::string_view content_;
  std::string own_;
};

}  // namespace

void CheckExternalData(const std::string& model) {
  const MappedFile file(model);
  Reader(model, file.content()).read();
}

}  // namespace ssmrun
