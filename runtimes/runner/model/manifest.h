// SPDX-License-Identifier: Apache-2.0
// manifest.json, as toolchain/ssmpress/report/manifest.py writes it, and the bundle around it.
#ifndef SSMPRESS_RUNNER_MANIFEST_H_
#define SSMPRESS_RUNNER_MANIFEST_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runner/json/json.h"

namespace ssmrun {

constexpr const char* kModelName = "model.onnx";
constexpr const char* kLibraryName = "libssmpress_ops.so";
constexpr const char* kRuntimeName = "libonnxruntime.so";
constexpr const char* kTokenizerName = "tokenizer.json";
constexpr const char* kManifestName = "manifest.json";
constexpr const char* kSignatureName = "model.sig";

struct BundleFile {
  std::string name;
  uint64_t bytes;
  std::string sha256;
};

// A folder whose files are what its manifest says.
class Bundle {
 public:
  // Checks the signature where there is a key to check it by, then reads and hashes every listed
  // file. Throws kBadInput; also where the folder has a library that the manifest does not list.
  Bundle(const std::string& folder, const std::string& key);

  const std::string& folder() const { return folder_; }
  const std::vector<BundleFile>& files() const { return files_; }
  JsonValue manifest() const { return manifest_->root(); }
  bool has(std::string_view name) const;
  // Path of a file; throws kBadInput if the manifest does not list it.
  std::string path(const std::string& name) const;
  // Version of a package when the bundle was made, for example `onnxruntime`; empty if unknown.
  std::string version(std::string_view package) const;

 private:
  void check_hash() const;
  void refuse_unlisted_libraries(const std::string& inside, int depth) const;
  void check_file(std::string_view name, JsonValue expected);

  std::string folder_;
  std::unique_ptr<Json> manifest_;
  std::vector<BundleFile> files_;
};

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_MANIFEST_H_
