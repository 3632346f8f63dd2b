// SPDX-License-Identifier: Apache-2.0
// Files: reading with a limit, writing so that a reader finds the whole file or none, ELF headers.
#ifndef SSMPRESS_RUNNER_FILES_H_
#define SSMPRESS_RUNNER_FILES_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace ssmrun {

std::string Join(const std::string& folder, const std::string& name);
bool IsFile(const std::string& path);
// The path with links and `..` resolved; empty if there is no such file.
std::string RealPath(const std::string& path);

// Calls `take` with the file's bytes, a block at a time. The file must be a regular one.
// Throws kBadInput; so do all functions here.
void ReadBlocks(const std::string& path, const std::function<void(const char*, size_t)>& take);
std::string ReadFile(const std::string& path, uint64_t limit);

// A regular file in memory, of which only what is looked at is read.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  std::string_view content() const;

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

struct FolderEntry {
  std::string name;
  bool is_folder;  // links followed
};
// What is in a folder, in any order; nothing where it cannot be read.
std::vector<FolderEntry> ListFolder(const std::string& path);

// What there is on stdin.
std::string ReadStdin(uint64_t limit);

// A temporary file beside it with these pieces, fsync, rename, fsync of the folder. Throws kDevice.
void WriteFile(const std::string& path, const std::vector<std::string_view>& pieces);
// The temporary file of a WriteFile that a signal interrupts; safe in a signal handler.
void RemoveUnfinishedFile();

// What /proc and /sys have: up to 64 KiB without the whitespace at its end; empty if unreadable.
std::string ReadSystemFile(const std::string& path);

// Name of the machine in an ELF header, for example `aarch64` (as uname -m calls it); what it is
// instead, for example `not a shared library`, in brackets.
std::string ElfMachine(const std::string& path);
std::string ThisMachine();

std::string Base64(const void* data, size_t size);
// RFC 4648, padded; nothing if it is anything else.
std::optional<std::string> DecodeBase64(std::string_view text);

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_FILES_H_
