// SPDX-License-Identifier: Apache-2.0
// model.sig, as the tool model-signing writes it: who made a bundle.
#ifndef SSMPRESS_RUNNER_SIGNATURE_H_
#define SSMPRESS_RUNNER_SIGNATURE_H_

#include <string>

namespace ssmrun {

// Throws kBadInput unless the signature in the bundle's folder is by the private key of `key`, a
// PEM file of an elliptic curve's public key, and over a manifest of this content; the manifest
// covers the rest. Throws kDevice where this system has no libcrypto: docs/decisions/0019.
void CheckSignature(const std::string& folder, const std::string& manifest, const std::string& key);

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_SIGNATURE_H_
