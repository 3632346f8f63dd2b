# SPDX-License-Identifier: Apache-2.0
# Toolchain: zig's clang from the Python package `ziglang`, for Linux with glibc 2.28 or newer.
#   cmake --toolchain runtimes/cmake/zig.cmake -DSSMPRESS_MACHINE=aarch64 (or x86_64)
include(${CMAKE_CURRENT_LIST_DIR}/find_zig.cmake)
if(NOT SSMPRESS_ZIG)
  message(FATAL_ERROR "${Python_EXECUTABLE} has no ziglang: pip install ziglang")
endif()
# Without a link step in CMake's probes, zig need not build a C++ library that nothing uses (a
# minute), and CMake does not find one to add to what it links as C.
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES SSMPRESS_MACHINE SSMPRESS_ZIG)
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR ${SSMPRESS_MACHINE})
set(zig_target -target ${SSMPRESS_MACHINE}-linux-gnu.2.28)
set(CMAKE_C_COMPILER ${SSMPRESS_ZIG} cc ${zig_target})
set(CMAKE_CXX_COMPILER ${SSMPRESS_ZIG} c++ ${zig_target})
# zig's archiver is a subcommand, which CMAKE_AR cannot name.
foreach(language C CXX)
  set(CMAKE_${language}_ARCHIVE_CREATE "\"${SSMPRESS_ZIG}\" ar qcs <TARGET> <OBJECTS>")
  set(CMAKE_${language}_ARCHIVE_APPEND "\"${SSMPRESS_ZIG}\" ar qs <TARGET> <OBJECTS>")
  set(CMAKE_${language}_ARCHIVE_FINISH "")
endforeach()
