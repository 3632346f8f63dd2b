// SPDX-License-Identifier: Apache-2.0
#include "runner/processors.h"

#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <set>
#include <string>
#include <string_view>

#include "runner/failure.h"
#include "runner/files.h"

namespace ssmrun {
namespace {

constexpr int kProcessors = 4096;

std::vector<std::string> Split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  size_t begin = 0;
  while (begin <= text.size()) {
    const size_t end = std::min(text.find(separator, begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

bool Has(const std::vector<std::string>& list, std::string_view item) {
  return std::find(list.begin(), list.end(), item) != list.end();
}

// The names between the slashes; none of the root.
std::vector<std::string> PathParts(const std::string& path) {
  std::vector<std::string> parts = Split(path, '/');
  parts.erase(std::remove(parts.begin(), parts.end(), ""), parts.end());
  return parts;
}

// A line of mountinfo: what is mounted of its file system, where, and what kind that is.
struct Mount {
  std::string root, place;
  bool v1_cpu, v2;
};

// mountinfo writes a space in a path as an octal number.
std::string Spaces(std::string text) {
  for (size_t at = 0; (at = text.find("\\040", at)) != text.npos;) text.replace(at, 4, " ");
  return text;
}

std::optional<Mount> ReadMount(const std::string& line) {
  const size_t dash = line.find(" - ");
  if (dash == line.npos) return {};
  const std::vector<std::string> left = Split(line.substr(0, dash), ' ');
  const std::vector<std::string> right = Split(line.substr(dash + 3), ' ');
  if (left.size() < 5 || right.size() < 3) return {};
  return Mount{Spaces(left[3]), Spaces(left[4]),
               right[0] == "cgroup" && Has(Split(right[2], ','), "cpu"), right[0] == "cgroup2"};
}

// The folders of a group and of those above it, as far as the mount shows them. A group that is
// outside of what is mounted here has the mount's own limit.
std::vector<std::string> Folders(const Mount& mount, const std::string& group) {
  std::vector<std::string> parts = PathParts(group);
  const std::vector<std::string> hidden = PathParts(mount.root);
  const bool inside = parts.size() >= hidden.size() && !Has(parts, "..") &&
                      std::equal(hidden.begin(), hidden.end(), parts.begin());
  parts.erase(parts.begin(),
              inside ? parts.begin() + static_cast<ptrdiff_t>(hidden.size()) : parts.end());
  std::vector<std::string> folders{mount.place};
  for (const std::string& part : parts) folders.push_back(Join(folders.back(), part));
  return folders;
}

uint64_t Positive(const std::string& text) {
  const bool digits =
      !text.empty() && text.size() < 19 && text.find_first_not_of("0123456789") == text.npos;
  return digits ? std::stoull(text) : 0;
}

// Processors that a control group grants; nothing where it does not limit them.
std::optional<double> Quota(const std::string& folder) {
  std::string limit = ReadSystemFile(Join(folder, "cpu.max")), period;
  if (limit.empty()) {
    limit = ReadSystemFile(Join(folder, "cpu.cfs_quota_us"));
    period = ReadSystemFile(Join(folder, "cpu.cfs_period_us"));
  } else {
    const size_t space = std::min(limit.find(' '), limit.size());
    period = limit.substr(std::min(space + 1, limit.size()));
    limit.resize(space);
  }
  const uint64_t numbers[] = {Positive(limit), Positive(period)};
  if (numbers[0] == 0 || numbers[1] == 0) return {};  // "max" and -1 are no limit
  return static_cast<double>(numbers[0]) / static_cast<double>(numbers[1]);
}

std::optional<double> SmallestQuota() {
  std::vector<Mount> mounts;
  for (const std::string& line : Split(ReadSystemFile("/proc/self/mountinfo"), '\n')) {
    if (const auto mount = ReadMount(line)) mounts.push_back(*mount);
  }
  std::optional<double> smallest;
  for (const std::string& line : Split(ReadSystemFile("/proc/self/cgroup"), '\n')) {
    const size_t first = line.find(':');
    const size_t second = first == line.npos ? line.npos : line.find(':', first + 1);
    if (second == line.npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool v2 = line.substr(0, first) == "0" && controllers.empty();
    if (!v2 && !Has(Split(controllers, ','), "cpu")) continue;
    for (const Mount& mount : mounts) {
      if (v2 ? !mount.v2 : !mount.v1_cpu) continue;
      for (const std::string& folder : Folders(mount, line.substr(second + 1))) {
        const auto quota = Quota(folder);
        if (quota && (!smallest || *quota < *smallest)) smallest = quota;
      }
    }
  }
  return smallest;
}

std::vector<int> Affinity() {
  std::vector<int> processors;
  cpu_set_t* set = CPU_ALLOC(kProcessors);
  const size_t size = CPU_ALLOC_SIZE(kProcessors);
  if (set != nullptr && sched_getaffinity(0, size, set) == 0) {
    for (int i = 0; i < kProcessors; ++i) {
      if (CPU_ISSET_S(static_cast<size_t>(i), size, set)) processors.push_back(i);
    }
  }
  CPU_FREE(set);
  if (processors.empty()) processors.push_back(0);
  return processors;
}

int Least(size_t processors, const std::optional<double>& quota) {
  const double limit = quota ? std::floor(*quota) : static_cast<double>(processors);
  return std::max(1, static_cast<int>(std::min(static_cast<double>(processors), limit)));
}

}  // namespace

int Processors::usable() const { return Least(affinity.size(), quota); }

int Processors::usable_pinned(const std::vector<int>& pins) const {
  return Least(std::set<int>(pins.begin(), pins.end()).size(), quota);
}

const Processors& ProcessorsAtStart() {
  static const Processors processors{Affinity(), SmallestQuota()};
  return processors;
}

void PinTo(int processor) {
  cpu_set_t* set = CPU_ALLOC(kProcessors);
  const size_t size = CPU_ALLOC_SIZE(kProcessors);
  CPU_ZERO_S(size, set);
  CPU_SET_S(static_cast<size_t>(processor), size, set);
  const int failed = sched_setaffinity(0, size, set);
  const int error = errno;
  CPU_FREE(set);
  if (failed != 0) {
    BadDevice("--pin: this process cannot run on processor " + std::to_string(processor) + ": " +
              std::strerror(error) + ".");
  }
}

}  // namespace ssmrun
