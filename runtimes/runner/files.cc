// SPDX-License-Identifier: Apache-2.0
#include "runner/files.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "runner/failure.h"

namespace ssmrun {
namespace {

constexpr size_t kBlock = 1 << 18;

// What a signal handler has to remove.
const char* volatile unfinished_file = nullptr;

class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  ~Descriptor() {
    if (number_ >= 0) close(number_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int number() const { return number_; }
  int release() {
    const int number = number_;
    number_ = -1;
    return number;
  }

 private:
  int number_;
};

[[noreturn]] void Unreadable(const std::string& path, int error) {
  BadInput(path + ": cannot be read: " + std::strerror(error) + ".");
}

// A regular file that is open for reading; throws kBadInput if it is anything else.
struct RegularFile {
  // Non-blocking, so that opening a pipe does not wait for a writer.
  explicit RegularFile(const std::string& path)
      : descriptor(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
    if (number() < 0 || fstat(number(), &status) != 0) Unreadable(path, errno);
    if (!S_ISREG(status.st_mode)) BadInput(path + ": expected a regular file; it is not one.");
  }
  int number() const { return descriptor.number(); }

  const Descriptor descriptor;
  struct stat status;
};

ssize_t ReadSome(int file, void* buffer, size_t size) {
  while (true) {
    const ssize_t got = read(file, buffer, size);
    if (got >= 0 || errno != EINTR) return got;
  }
}

void ReadAll(int file, const std::string& path,
             const std::function<void(const char*, size_t)>& take) {
  std::vector<char> block(kBlock);
  while (true) {
    const ssize_t got = ReadSome(file, block.data(), block.size());
    if (got < 0) Unreadable(path, errno);
    if (got == 0) return;
    take(block.data(), static_cast<size_t>(got));
  }
}

std::function<void(const char*, size_t)> AppendTo(std::string& out, const std::string& path,
                                                  uint64_t limit) {
  return [&out, path, limit](const char* data, size_t size) {
    if (size > limit - out.size()) {
      BadInput(path + ": expected at most " + std::to_string(limit) +
               " bytes; it has more. Check that it is the right file.");
    }
    out.append(data, size);
  };
}

int SixBits(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  return c == '+' ? 62 : c == '/' ? 63 : -1;
}

}  // namespace

std::string Join(const std::string& folder, const std::string& name) {
  return !folder.empty() && folder.back() == '/' ? folder + name : folder + "/" + name;
}

bool IsFile(const std::string& path) {
  struct stat status;
  return stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode);
}

std::string RealPath(const std::string& path) {
  char* resolved = realpath(path.c_str(), nullptr);
  const std::string result = resolved == nullptr ? "" : resolved;
  std::free(resolved);
  return result;
}

void ReadBlocks(const std::string& path, const std::function<void(const char*, size_t)>& take) {
  const RegularFile file(path);
  ReadAll(file.number(), path, take);
}

MappedFile::MappedFile(const std::string& path) {
  const RegularFile file(path);
  size_ = static_cast<size_t>(file.status.st_size);
  if (size_ == 0) return;
  data_ = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.number(), 0);
  if (data_ == MAP_FAILED) Unreadable(path, errno);
}

MappedFile::~MappedFile() {
  if (size_ > 0) munmap(data_, size_);
}

std::string_view MappedFile::content() const { return {static_cast<const char*>(data_), size_}; }

std::vector<FolderEntry> ListFolder(const std::string& path) {
  std::vector<FolderEntry> entries;
  DIR* const folder = opendir(path.c_str());
  if (folder == nullptr) return entries;
  while (const dirent* entry = readdir(folder)) {
    const std::string name = entry->d_name;
    if (name == "." || name == "..") continue;
    struct stat status;
    const bool is_folder = stat(Join(path, name).c_str(), &status) == 0 && S_ISDIR(status.st_mode);
    entries.push_back({name, is_folder});
  }
  closedir(folder);
  return entries;
}

std::string ReadFile(const std::string& path, uint64_t limit) {
  std::string out;
  ReadBlocks(path, AppendTo(out, path, limit));
  return out;
}

std::string ReadStdin(uint64_t limit) {
  std::string out;
  ReadAll(STDIN_FILENO, "stdin", AppendTo(out, "stdin", limit));
  return out;
}

void WriteFile(const std::string& path, const std::vector<std::string_view>& pieces) {
  const size_t slash = path.rfind('/');
  const std::string folder = slash == path.npos ? "." : path.substr(0, slash + 1);
  std::string temporary = path + ".XXXXXX";
  const auto fail = [&](bool remove) {
    const int error = errno;
    if (remove) unlink(temporary.c_str());
    unfinished_file = nullptr;
    BadDevice(path + ": cannot be written: " + std::strerror(error) + ".");
  };
  Descriptor file(mkostemp(temporary.data(), O_CLOEXEC));
  if (file.number() < 0) fail(false);
  unfinished_file = temporary.c_str();
  for (std::string_view piece : pieces) {
    while (!piece.empty()) {
      const ssize_t wrote = write(file.number(), piece.data(), piece.size());
      if (wrote < 0 && errno == EINTR) continue;
      if (wrote < 0) fail(true);
      piece.remove_prefix(static_cast<size_t>(wrote));
    }
  }
  if (fchmod(file.number(), 0644) != 0 || fsync(file.number()) != 0) fail(true);
  if (close(file.release()) != 0 || rename(temporary.c_str(), path.c_str()) != 0) fail(true);
  unfinished_file = nullptr;
  const Descriptor parent(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (parent.number() >= 0) fsync(parent.number());
}

void RemoveUnfinishedFile() {
  if (const char* path = unfinished_file) unlink(path);
}

std::string ReadSystemFile(const std::string& path) {
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.number() < 0) return "";
  std::string out(1 << 16, '\0');
  size_t size = 0;
  while (size < out.size()) {
    const ssize_t got = ReadSome(file.number(), out.data() + size, out.size() - size);
    if (got <= 0) break;
    size += static_cast<size_t>(got);
  }
  while (size > 0 && std::strchr(" \n\t", out[size - 1]) != nullptr) --size;  // and \0
  out.resize(size);
  return out;
}

std::string ElfMachine(const std::string& path) {
  unsigned char header[20] = {};
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.number() < 0) Unreadable(path, errno);
  const ssize_t got = ReadSome(file.number(), header, sizeof header);
  if (got < static_cast<ssize_t>(sizeof header) || std::memcmp(header, "\177ELF", 4) != 0) {
    return "(not a shared library)";
  }
  if (header[5] != 1) return "(big-endian)";
  const int machine = header[18] | header[19] << 8;
  switch (machine) {
    case 3:
      return "i686";
    case 40:
      return "arm";
    case 62:
      return "x86_64";
    case 183:
      return "aarch64";
    case 243:
      return "riscv64";
    default:
      return "(ELF machine " + std::to_string(machine) + ")";
  }
}

// What this program was built for: under a 64-bit kernel a 32-bit program loads 32-bit libraries.
std::string ThisMachine() {
#if defined(__x86_64__)
  return "x86_64";
#elif defined(__aarch64__)
  return "aarch64";
#else
  struct utsname name;
  return uname(&name) == 0 ? name.machine : "(unknown)";
#endif
}

std::string Base64(const void* data, size_t size) {
  constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const auto* bytes = static_cast<const unsigned char*>(data);
  std::string out;
  out.reserve((size + 2) / 3 * 4);
  for (size_t i = 0; i < size; i += 3) {
    const size_t left = size - i;
    const uint32_t group = uint32_t{bytes[i]} << 16 | (left > 1 ? uint32_t{bytes[i + 1]} << 8 : 0) |
                           (left > 2 ? uint32_t{bytes[i + 2]} : 0);
    out += kDigits[group >> 18];
    out += kDigits[group >> 12 & 63];
    out += left > 1 ? kDigits[group >> 6 & 63] : '=';
    out += left > 2 ? kDigits[group & 63] : '=';
  }
  return out;
}

std::optional<std::string> DecodeBase64(std::string_view text) {
  if (text.size() % 4 != 0) return {};
  size_t padding = 0;
  while (padding < 2 && padding < text.size() && text[text.size() - 1 - padding] == '=') ++padding;
  std::string bytes;
  uint32_t bits = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const int value = i + padding < text.size() ? SixBits(text[i]) : 0;
    if (value < 0) return {};
    bits = bits << 6 | static_cast<uint32_t>(value);
    if (i % 4 != 3) continue;
    for (const int shift : {16, 8, 0}) bytes += static_cast<char>(bits >> shift & 0xFF);
    bits = 0;
  }
  bytes.resize(bytes.size() - padding);
  return bytes;
}

}  // namespace ssmrun
