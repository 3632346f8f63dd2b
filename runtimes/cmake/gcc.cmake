# SPDX-License-Identifier: Apache-2.0
# Toolchain: Debian's cross compilers, for example g++-aarch64-linux-gnu.
#   cmake --toolchain runtimes/cmake/gcc.cmake -DSSMPRESS_MACHINE=aarch64 (or x86_64)
# What it links needs the C library of this system's Debian or newer; the op library alone uses
# nothing that is newer than glibc 2.27.
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES SSMPRESS_MACHINE)
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR ${SSMPRESS_MACHINE})
set(CMAKE_C_COMPILER ${SSMPRESS_MACHINE}-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER ${SSMPRESS_MACHINE}-linux-gnu-g++)
