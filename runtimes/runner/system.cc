// SPDX-License-Identifier: Apache-2.0
#include "runner/system.h"

#include <dirent.h>
#include <fcntl.h>
#include <gnu/libc-version.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <optional>
#include <string_view>

#include "runner/failure.h"
#include "runner/files.h"
#include "runner/format.h"
#include "runner/processors.h"

namespace ssmrun {
namespace {

constexpr int kProcessors = 4096;

// CPU flags that decide how fast these kernels and ONNX Runtime's can be: device.py's ISA_FLAGS.
constexpr const char* kIsaFlags[] = {
    "sse4_2",   "avx",         "f16c",        "fma",         "avx2",     "avx_vnni", "avx512f",
    "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16", "asimd",
    "asimddp",  "asimdhp",     "i8mm",        "bf16",        "sve",      "sve2"};

// Names of the cores that Linux only numbers on arm64 (Arm's implementer 0x41).
// Source: MIDR_EL1 in each core's technical reference manual.
struct ArmPart {
  const char *part, *name;
};
constexpr ArmPart kArmParts[] = {
    {"0xd03", "Cortex-A53"},  {"0xd04", "Cortex-A35"},  {"0xd05", "Cortex-A55"},
    {"0xd07", "Cortex-A57"},  {"0xd08", "Cortex-A72"},  {"0xd09", "Cortex-A73"},
    {"0xd0a", "Cortex-A75"},  {"0xd0b", "Cortex-A76"},  {"0xd0c", "Neoverse-N1"},
    {"0xd0d", "Cortex-A77"},  {"0xd40", "Neoverse-V1"}, {"0xd41", "Cortex-A78"},
    {"0xd44", "Cortex-X1"},   {"0xd46", "Cortex-A510"}, {"0xd47", "Cortex-A710"},
    {"0xd49", "Neoverse-N2"}, {"0xd4f", "Neoverse-V2"}};

// The value of the first `key : value` line of /proc/cpuinfo.
std::string CpuInfo(const std::string& text, std::string_view key) {
  size_t at = 0;
  while (at < text.size()) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string line = text.substr(at, end - at);
    const size_t colon = line.find(':');
    if (colon != line.npos) {
      const size_t last = line.find_last_not_of(" \t", colon == 0 ? 0 : colon - 1);
      if (line.substr(0, last + 1) == key) {
        const size_t begin = line.find_first_not_of(" \t", colon + 1);
        return begin == line.npos ? "" : line.substr(begin);
      }
    }
    at = end + 1;
  }
  return "";
}

std::string CpuName(const std::string& cpuinfo) {
  if (const std::string name = CpuInfo(cpuinfo, "model name"); !name.empty()) return name;
  const std::string part = CpuInfo(cpuinfo, "CPU part");
  if (CpuInfo(cpuinfo, "CPU implementer") == "0x41") {
    for (const ArmPart& one : kArmParts) {
      if (part == one.part) return one.name;
    }
  }
  return part.empty() ? ThisMachine()
                      : "implementer " + CpuInfo(cpuinfo, "CPU implementer") + ", part " + part;
}

std::string CpuFile(int processor, const char* name) {
  return "/sys/devices/system/cpu/cpu" + std::to_string(processor) + "/cpufreq/" + name;
}

std::optional<int64_t> MaybeInteger(const std::string& text) {
  char* end = nullptr;
  const long long value = std::strtoll(text.c_str(), &end, 10);
  if (text.empty() || *end != '\0') return {};
  return int64_t{value};
}

double LoadAverage() {
  double load = 0;
  return getloadavg(&load, 1) == 1 ? std::round(100 * load) / 100 : 0;
}

std::vector<std::string> Zones() {
  std::vector<std::string> names;
  DIR* folder = opendir("/sys/class/thermal");
  if (folder == nullptr) return names;
  while (const dirent* entry = readdir(folder)) {
    if (std::strncmp(entry->d_name, "thermal_zone", 12) == 0) names.emplace_back(entry->d_name);
  }
  closedir(folder);
  std::sort(names.begin(), names.end());
  return names;
}

// Whether a thread of this process other than the calling one has a processor or waits for one.
bool OtherThreadRuns() {
  DIR* folder = opendir("/proc/self/task");
  if (folder == nullptr) return false;
  const std::string own = std::to_string(syscall(SYS_gettid));
  bool runs = false;
  while (const dirent* entry = readdir(folder)) {
    if (entry->d_name[0] == '.' || own == entry->d_name) continue;
    const std::string stat =
        ReadSystemFile("/proc/self/task/" + std::string(entry->d_name) + "/stat");
    const size_t name_end = stat.rfind(')');
    runs = runs || (name_end != stat.npos && stat.compare(name_end, 3, ") R") == 0);
  }
  closedir(folder);
  return runs;
}

}  // namespace

double NowMs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return 1e3 * static_cast<double>(now.tv_sec) + 1e-6 * static_cast<double>(now.tv_nsec);
}

uint64_t MemoryBytes(const std::string& key) {
  const std::string text = CpuInfo(ReadSystemFile("/proc/self/status"), key);
  const unsigned long long kilobytes = std::strtoull(text.c_str(), nullptr, 10);
  if (kilobytes == 0) {
    BadDevice("/proc/self/status has no " + key + ": this kernel does not count memory.");
  }
  return 1024 * uint64_t{kilobytes};
}

void DropFromPageCache(const std::string& model) {
  for (const std::string& path : {model, model + ".data"}) {
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) continue;
    fsync(file);
    posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
    close(file);
  }
}

void WaitUntilQuiet() {
  for (int i = 0; i < 300; ++i) {
    const timespec pause{0, 10'000'000};
    nanosleep(&pause, nullptr);
    if (!OtherThreadRuns()) return;
  }
}

void WriteEnvironment(JsonWriter& out, int threads, const std::string& ops_isa,
                      const std::string& runtime) {
  const std::string cpuinfo = ReadSystemFile("/proc/cpuinfo");
  std::string flags = CpuInfo(cpuinfo, "flags");
  if (flags.empty()) flags = CpuInfo(cpuinfo, "Features");
  flags = " " + flags + " ";
  std::vector<std::string> found;
  for (const char* flag : kIsaFlags) {
    if (flags.find(" " + std::string(flag) + " ") != flags.npos) found.emplace_back(flag);
  }
  const char* forced = std::getenv("SSMPRESS_ISA");
  utsname kernel;
  const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  out.begin_object().field("cpu", CpuName(cpuinfo)).field("machine", ThisMachine());
  out.field("board", Maybe(ReadSystemFile("/proc/device-tree/model"))).field("isa_flags", found);
  out.field("ops_isa", Maybe(ops_isa)).field("ops_isa_forced", Maybe(forced ? forced : ""));
  out.field("logical_cpus", int64_t{sysconf(_SC_NPROCESSORS_ONLN)});
  const Processors& processors = ProcessorsAtStart();
  out.field("available_cpus", processors.usable()).field("cpu_quota", processors.quota);
  out.field("threads", threads);
  out.field("governor", Maybe(ReadSystemFile(CpuFile(0, "scaling_governor"))));
  out.field("max_khz", Maybe(ReadSystemFile(CpuFile(0, "scaling_max_freq"))));
  out.field("mhz", Maybe(CpuInfo(cpuinfo, "cpu MHz"))).field("load_average_1min", LoadAverage());
  out.field("memory_bytes", static_cast<uint64_t>(pages) * static_cast<uint64_t>(page));
  out.field("kernel", Maybe(uname(&kernel) == 0 ? kernel.release : ""));
  out.field("glibc", gnu_get_libc_version()).field("onnxruntime", Maybe(runtime));
  out.field("ssmpress", SSMPRESS_VERSION).end_object();
}

void WriteMachineState(JsonWriter& out) {
  out.begin_object().key("temperature_c").begin_object();
  std::vector<std::string> seen;
  for (const std::string& zone : Zones()) {
    const std::string folder = "/sys/class/thermal/" + zone;
    const auto thousandths = MaybeInteger(ReadSystemFile(folder + "/temp"));
    std::string name = ReadSystemFile(folder + "/type");
    // Two zones may have the same type.
    if (std::find(seen.begin(), seen.end(), name) != seen.end()) name += "." + zone.substr(12);
    seen.push_back(name);
    if (thousandths) out.field(name, static_cast<double>(*thousandths) / 1000);
  }
  out.end_object();
  std::vector<int64_t> khz;
  std::vector<std::string> governors;
  for (int64_t i = 0; i < std::min<int64_t>(sysconf(_SC_NPROCESSORS_CONF), kProcessors); ++i) {
    const int processor = static_cast<int>(i);
    if (const auto now = MaybeInteger(ReadSystemFile(CpuFile(processor, "scaling_cur_freq")))) {
      khz.push_back(*now);
    }
    const std::string governor = ReadSystemFile(CpuFile(processor, "scaling_governor"));
    if (!governor.empty()) governors.push_back(governor);
  }
  out.field("khz", khz).field("governor", governors);
  out.field("throttled",
            Maybe(ReadSystemFile("/sys/devices/platform/soc/soc:firmware/get_throttled")));
  out.field("load_average_1min", LoadAverage()).end_object();
}

}  // namespace ssmrun
