// SPDX-License-Identifier: Apache-2.0
// A Sigstore bundle with a DSSE envelope around an in-toto statement, signed by a key of one's own.
// Source: docs.sigstore.dev/about/bundle, github.com/secure-systems-lab/dsse (protocol.md),
// github.com/sigstore/model-transparency (docs/model_signing_format.md).
#include "runner/model/signature.h"

#include <dlfcn.h>

#include <optional>
#include <string_view>

#include "runner/failure.h"
#include "runner/files.h"
#include "runner/json/json.h"
#include "runner/model/manifest.h"
#include "runner/sha256.h"

namespace ssmrun {
namespace {

constexpr uint64_t kLimit = 4 << 20;  // bytes of a signature; one of two files has 1.6 kB
constexpr uint64_t kKeyLimit = 1 << 16;
constexpr const char* kPayloadType = "application/vnd.in-toto+json";
constexpr const char* kStatementType = "https://in-toto.io/Statement/v1";
constexpr const char* kPredicateType = "https://model_signing/signature/v1.0";
constexpr int kEllipticCurve = 408;  // OpenSSL's EVP_PKEY_EC

// The functions of OpenSSL 1.1.1 and 3 that a verification needs, out of this system's library.
class Crypto {
 public:
  Crypto() {
    // The loader's own places: this program has no search path of its own, and the bundle is none.
    for (const char* name : {"libcrypto.so.3", "libcrypto.so.1.1"}) {
      if (handle_ == nullptr) handle_ = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    }
    if (handle_ == nullptr) {
      BadDevice(
          "--verify-key: expected OpenSSL's libcrypto 3 or 1.1 on this device; there is none. "
          "Install it (libssl3), or verify the bundle with Python before it is copied.");
    }
  }

  // Whether `signature` is the key's over `text`; nothing if the key is none that signs bundles.
  std::optional<bool> verify(const std::string& pem, std::string_view text,
                             std::string_view signature) const {
    void* const memory = function<void*(const void*, int)>("BIO_new_mem_buf")(
        pem.data(), static_cast<int>(pem.size()));
    void* const key = function<void*(void*, void**, void*, void*)>("PEM_read_bio_PUBKEY")(
        memory, nullptr, nullptr, nullptr);
    function<int(void*)>("BIO_free")(memory);
    if (key == nullptr) return {};
    void* const context = function<void*()>("EVP_MD_CTX_new")();
    std::optional<bool> holds;
    if (const void* digest = digest_of(key)) {
      const auto begin =
          function<int(void*, void**, const void*, void*, void*)>("EVP_DigestVerifyInit");
      const auto end =
          function<int(void*, const void*, size_t, const void*, size_t)>("EVP_DigestVerify");
      holds = begin(context, nullptr, digest, nullptr, key) == 1 &&
              end(context, signature.data(), signature.size(), text.data(), text.size()) == 1;
    }
    function<void(void*)>("EVP_MD_CTX_free")(context);
    function<void(void*)>("EVP_PKEY_free")(key);
    return holds;
  }

 private:
  // The hash that goes with the size of the key's curve; null for a key of another kind.
  const void* digest_of(const void* key) const {
    const auto number = [&](const char* name, const char* older) {
      return function<int(const void*)>(dlsym(handle_, name) != nullptr ? name : older)(key);
    };
    if (number("EVP_PKEY_get_base_id", "EVP_PKEY_base_id") != kEllipticCurve) return nullptr;
    switch (number("EVP_PKEY_get_bits", "EVP_PKEY_bits")) {
      case 256:
        return function<const void*()>("EVP_sha256")();
      case 384:
        return function<const void*()>("EVP_sha384")();
      case 521:
        return function<const void*()>("EVP_sha512")();
      default:
        return nullptr;
    }
  }

  template <class Signature>
  Signature* function(const char* name) const {
    void* const symbol = dlsym(handle_, name);
    if (symbol == nullptr) {
      BadDevice(std::string("--verify-key: this system's libcrypto has no ") + name + ".");
    }
    return reinterpret_cast<Signature*>(symbol);
  }

  void* handle_ = nullptr;
};

// The text at a path of keys; nothing if there is none.
std::optional<std::string_view> TextAt(JsonValue value, std::initializer_list<const char*> keys) {
  for (const char* key : keys) {
    const auto found = value.find(key);
    if (!found) return {};
    value = *found;
  }
  if (!value.is(JsonValue::kString)) return {};
  return value.text();
}

// What is signed of a payload. Source: DSSE, "PAE".
std::string PreAuthenticationEncoding(std::string_view type, std::string_view payload) {
  std::string text = "DSSEv1 " + std::to_string(type.size()) + " " + std::string(type) + " ";
  return text + std::to_string(payload.size()) + " " + std::string(payload);
}

// Whether the statement is one of model-signing about a manifest of that hash.
bool Covers(JsonValue statement, std::string_view sha256) {
  if (TextAt(statement, {"_type"}) != kStatementType) return false;
  if (TextAt(statement, {"predicateType"}) != kPredicateType) return false;
  const auto predicate = statement.find("predicate");
  const auto resources = predicate ? predicate->find("resources") : std::nullopt;
  if (!resources || !resources->is(JsonValue::kArray)) return false;
  for (const JsonValue resource : *resources) {
    if (TextAt(resource, {"name"}) == kManifestName) {
      return TextAt(resource, {"algorithm"}) == "sha256" && TextAt(resource, {"digest"}) == sha256;
    }
  }
  return false;
}

}  // namespace

void CheckSignature(const std::string& folder, const std::string& manifest,
                    const std::string& key) {
  const std::string path = Join(folder, kSignatureName);
  if (!IsFile(path)) {
    BadInput(path +
             ": expected the bundle's signature; there is none. Sign it with model_signing.");
  }
  const std::string pem = ReadFile(key, kKeyLimit);
  const Json document(ReadFile(path, kLimit), path);
  std::optional<std::string> payload, signature;
  const auto envelope = document.root().find("dsseEnvelope");
  const auto signatures = envelope ? envelope->find("signatures") : std::nullopt;
  if (signatures && signatures->is(JsonValue::kArray) && signatures->size() == 1 &&
      TextAt(*envelope, {"payloadType"}) == kPayloadType) {
    const auto text = TextAt(*envelope, {"payload"});
    const auto sig = TextAt(*signatures->begin(), {"sig"});
    if (text) payload = DecodeBase64(*text);
    if (sig) signature = DecodeBase64(*sig);
  }
  if (!payload || !signature) {
    BadInput(path + ": expected a signature of model_signing by a key; got something else.");
  }
  const std::string signed_text = PreAuthenticationEncoding(kPayloadType, *payload);
  const std::optional<bool> holds = Crypto().verify(pem, signed_text, *signature);
  if (!holds) {
    BadInput(key + ": expected a public key in PEM of the curve P-256, P-384 or P-521; got none.");
  }
  if (!*holds) {
    BadInput(path + ": the signature is not by the key of " + key +
             ". Do not run the bundle: another one made it, or it was changed.");
  }
  Sha256 hash;
  hash.add(manifest.data(), manifest.size());
  const Json statement(std::move(*payload), path);
  if (!Covers(statement.root(), hash.hex())) {
    BadInput(path + ": the signature holds, but not for this " + kManifestName +
             ". Do not run the bundle: it was changed after it was signed.");
  }
}

}  // namespace ssmrun
