// SPDX-License-Identifier: Apache-2.0
// Makes a machine with AVX-512 look like one with AVX2 to the programs that load this library:
//
//   LD_PRELOAD=build/runtimes/libhide_avx512.so python runtimes/bench/whole_model.py ...
//
// Linux can let CPUID fault (arch_prctl(2), ARCH_SET_CPUID). The handler of the fault asks the CPU
// and clears the bits of AVX-512, AMX and the AVX extensions that came with or after them. A kernel
// or a CPU that cannot do this ends the program with exit code 7.
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define BIT(n) (1u << (n))

static long AllowCpuid(int allowed) { return syscall(SYS_arch_prctl, ARCH_SET_CPUID, allowed); }

static void OnFault(int number, siginfo_t* info, void* context) {
  (void)info;
  greg_t* const at = ((ucontext_t*)context)->uc_mcontext.gregs;
  const uint8_t* const instruction = (const uint8_t*)at[REG_RIP];
  if (instruction[0] != 0x0f || instruction[1] != 0xa2) {  // not CPUID: the program's own fault
    signal(number, SIG_DFL);
    return;
  }
  const uint32_t leaf = (uint32_t)at[REG_RAX], sub = (uint32_t)at[REG_RCX];
  uint32_t a, b, c, d;
  AllowCpuid(1);
  __asm__ volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(leaf), "c"(sub));
  AllowCpuid(0);
  if (leaf == 7 && sub == 0) {
    b &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) |
           BIT(31));                                        // AVX-512
    c &= ~(BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14));  // VBMI, VBMI2, VNNI, BITALG
    d &= ~(BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25));  // FP16, AMX
  } else if (leaf == 7 && sub == 1) {
    a &= ~(BIT(4) | BIT(5) | BIT(21) | BIT(23));           // AVX-VNNI, BF16, AMX-FP16, IFMA
    d &= ~(BIT(4) | BIT(5) | BIT(8) | BIT(10) | BIT(19));  // AVX-VNNI-INT8, AVX10
  }
  at[REG_RAX] = a;
  at[REG_RBX] = b;
  at[REG_RCX] = c;
  at[REG_RDX] = d;
  at[REG_RIP] += 2;
}

__attribute__((constructor)) static void Start(void) {
  struct sigaction action = {0};
  action.sa_sigaction = OnFault;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  if (sigaction(SIGSEGV, &action, NULL) == 0 && AllowCpuid(0) == 0) return;
  perror("libhide_avx512.so: arch_prctl(ARCH_SET_CPUID)");
  _exit(7);
}
