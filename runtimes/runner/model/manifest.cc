// SPDX-License-Identifier: Apache-2.0
#include "runner/model/manifest.h"

#include <sys/stat.h>

#include <algorithm>

#include "runner/failure.h"
#include "runner/files.h"
#include "runner/model/signature.h"
#include "runner/sha256.h"

namespace ssmrun {
namespace {

constexpr uint64_t kManifestLimit = 16 << 20;  // bytes; real ones stay far below 1 MB
constexpr uint64_t kManifestVersion = 1;
// The deepest that a loader looks: tls/haswell/avx512_1/x86_64/NAME of older glibc.
constexpr int kLibraryDepth = 5;
constexpr const char* kOwnHash = "manifest_sha256";

// A name of parts between single slashes that are neither `.` nor `..`.
bool IsInsideName(std::string_view name) {
  if (name.empty() || name == kManifestName) return false;
  if (name.find('\\') != name.npos || name.find('\0') != name.npos) return false;
  size_t begin = 0;
  while (true) {
    const size_t end = std::min(name.find('/', begin), name.size());
    const std::string_view part = name.substr(begin, end - begin);
    if (part.empty() || part == "." || part == "..") return false;
    if (end == name.size()) return true;
    begin = end + 1;
  }
}

bool IsLibraryName(std::string_view name) {
  const bool ends = name.size() >= 3 && name.substr(name.size() - 3) == ".so";
  return ends || name.find(".so.") != name.npos;
}

std::string Described(uint64_t bytes, std::string_view sha256) {
  return std::to_string(bytes) + " bytes, sha256 " + std::string(sha256.substr(0, 12)) + "...";
}

}  // namespace

Bundle::Bundle(const std::string& folder, const std::string& key) : folder_(folder) {
  struct stat status;
  if (stat(folder.c_str(), &status) != 0 || !S_ISDIR(status.st_mode)) {
    BadInput(folder + ": expected the folder of a bundle; there is none.");
  }
  const std::string path = Join(folder, kManifestName);
  if (!IsFile(path)) {
    BadInput(path + ": expected the bundle's manifest; there is none. Copy the whole bundle.");
  }
  std::string text = ReadFile(path, kManifestLimit);
  if (!key.empty()) CheckSignature(folder, text, key);
  manifest_ = std::make_unique<Json>(std::move(text), path);
  if (!manifest().is(JsonValue::kObject)) {
    BadInput(path + ": expected a JSON object; got " + manifest().shown() + ".");
  }
  const auto version = manifest().find("manifest_version");
  if (!version || version->unsigned_integer() != kManifestVersion) {
    BadInput(path + ": expected manifest_version " + std::to_string(kManifestVersion) + "; got " +
             (version ? version->shown() : "none") + ". Another version of ssmpress wrote it.");
  }
  check_hash();
  const auto files = manifest().find("files");
  if (!files || !files->is(JsonValue::kObject) || files->size() == 0) {
    BadInput(path + ": expected files with their hashes; there are none.");
  }
  for (auto item = files->begin(); item != files->end(); ++item) {
    check_file(item.key(), item.value());
  }
  refuse_unlisted_libraries("", 1);
}

// ONNX Runtime's library is told to look for what it needs in its own folder first, and the loader
// looks in folders in it too (glibc-hwcaps).
void Bundle::refuse_unlisted_libraries(const std::string& inside, int depth) const {
  for (const FolderEntry& entry : ListFolder(Join(folder_, inside))) {
    const std::string name = inside + entry.name;
    if (entry.is_folder && depth < kLibraryDepth) refuse_unlisted_libraries(name + "/", depth + 1);
    const bool known = name == kLibraryName || name == kRuntimeName;  // `path` refuses those
    if (!entry.is_folder && IsLibraryName(entry.name) && !known && !has(name)) {
      BadInput(Join(folder_, name) +
               ": expected no library in a bundle that its manifest does not list. Remove it, or "
               "copy the bundle again.");
    }
  }
}

void Bundle::check_hash() const {
  const std::string canonical = manifest().canonical(kOwnHash);
  Sha256 hash;
  hash.add(canonical.data(), canonical.size());
  const auto own = manifest().find(kOwnHash);
  if (!own || !own->is(JsonValue::kString) || own->text() != hash.hex()) {
    BadInput(Join(folder_, kManifestName) + ": " + kOwnHash +
             " does not fit: the manifest was changed. Make or copy the bundle again.");
  }
}

void Bundle::check_file(std::string_view name, JsonValue expected) {
  if (!IsInsideName(name)) {
    BadInput(Join(folder_, kManifestName) + ": \"" + std::string(name) +
             "\" is not a name of a file inside the bundle.");
  }
  const std::string path = Join(folder_, std::string(name));
  if (!IsFile(path)) {
    BadInput(path + ": the manifest names it, but there is no such file. Copy the whole bundle.");
  }
  if (RealPath(path).rfind(Join(RealPath(folder_), ""), 0) != 0) {
    BadInput(path + ": expected a file inside the bundle; it is a link out of it.");
  }
  const auto bytes = expected.find("bytes"), sha256 = expected.find("sha256");
  if (!bytes || !bytes->unsigned_integer() || !sha256 || !sha256->is(JsonValue::kString)) {
    BadInput(Join(folder_, kManifestName) + ": " + std::string(name) +
             ": expected bytes and sha256; got " + expected.shown() + ".");
  }
  Sha256 hash;
  BundleFile file{std::string(name), 0, ""};
  ReadBlocks(path, [&](const char* data, size_t size) {
    hash.add(data, size);
    file.bytes += size;
  });
  file.sha256 = hash.hex();
  if (file.bytes != *bytes->unsigned_integer() || file.sha256 != sha256->text()) {
    BadInput(path + ": expected " + Described(*bytes->unsigned_integer(), sha256->text()) +
             "; got " + Described(file.bytes, file.sha256) +
             " The file was changed after the bundle was made: make or copy it again.");
  }
  files_.push_back(std::move(file));
}

bool Bundle::has(std::string_view name) const {
  return std::any_of(files_.begin(), files_.end(),
                     [&](const BundleFile& file) { return file.name == name; });
}

std::string Bundle::path(const std::string& name) const {
  if (!has(name)) {
    BadInput(folder_ + ": expected " + name + " among the files of its manifest; it is not.");
  }
  return Join(folder_, name);
}

std::string Bundle::version(std::string_view package) const {
  const auto versions = manifest().find("versions");
  const auto found = versions ? versions->find(package) : std::nullopt;
  return found && found->is(JsonValue::kString) ? std::string(found->text()) : "";
}

}  // namespace ssmrun
