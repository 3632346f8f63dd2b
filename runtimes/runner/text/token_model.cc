// SPDX-License-Identifier: Apache-2.0
#include "runner/text/token_model.h"

#include <cstdio>

#include "runner/failure.h"
#include "runner/text/known_parts.h"

namespace ssmrun {

void TokenModel::refuse_unknown() const {
  BadInput(file_ +
           ": the text has a character for which it has no token, and no unknown token. Take it "
           "out, or use another tokenizer.");
}

void TokenModel::read_bytes() {
  for (unsigned byte = 0; byte < 256; ++byte) {
    char token[8];
    std::snprintf(token, sizeof token, "<0x%02X>", byte);
    bytes_.push_back(vocabulary_.find(token));
  }
}

bool TokenModel::add_bytes(std::string_view text, std::vector<uint32_t>& out) const {
  if (bytes_.empty()) return false;
  for (const char c : text) {
    if (!bytes_[static_cast<uint8_t>(c)]) return false;
  }
  for (const char c : text) out.push_back(*bytes_[static_cast<uint8_t>(c)]);
  return true;
}

std::unique_ptr<TokenModel> ReadModel(const Part& model) {
  // Old files leave the type out; they are BPE if they have merges.
  if (!model.find("type") && model.find("merges")) return ReadBpe(model);
  switch (model.kind<ModelKind>(kModelKinds)) {
    case ModelKind::kBPE:
      return ReadBpe(model);
    case ModelKind::kUnigram:
      return ReadUnigram(model);
    case ModelKind::kWordPiece:
      return ReadWordPiece(model);
    case ModelKind::kWordLevel:
      return ReadWordLevel(model);
  }
  return nullptr;
}

}  // namespace ssmrun
