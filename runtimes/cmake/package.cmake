# SPDX-License-Identifier: Apache-2.0
# The Python package: this project built once for every machine that a bundle can be for, and
# installed to ssmpress/lib/<machine>/. zig builds all of them, so that they need glibc 2.28 and no
# newer whatever this system has. Without zig this machine's own compiler builds for this machine
# and g++-aarch64-linux-gnu for aarch64; what nothing can build is left out.
include(ExternalProject)
find_package(Python COMPONENTS Interpreter)
include(cmake/find_zig.cmake)

string(REPLACE "arm64" "aarch64" host_machine "${CMAKE_HOST_SYSTEM_PROCESSOR}")
foreach(machine x86_64 aarch64)
  set(arguments)
  if(SSMPRESS_ZIG)
    set(compiler "zig")
    list(APPEND arguments --toolchain ${CMAKE_CURRENT_LIST_DIR}/zig.cmake
      -DSSMPRESS_ZIG=${SSMPRESS_ZIG} -DSSMPRESS_MACHINE=${machine})
  elseif(machine STREQUAL host_machine)
    set(compiler "the host's compiler")
  else()
    find_program(SSMPRESS_GCC_${machine} ${machine}-linux-gnu-g++)
    if(NOT SSMPRESS_GCC_${machine})
      message(WARNING "No compiler for ${machine}: the package will have no op library for it. "
        "Install one: pip install ziglang, or apt install g++-${machine}-linux-gnu.")
      continue()
    endif()
    set(compiler ${SSMPRESS_GCC_${machine}})
    list(APPEND arguments --toolchain ${CMAKE_CURRENT_LIST_DIR}/gcc.cmake
      -DSSMPRESS_MACHINE=${machine})
  endif()
  message(STATUS "${machine}: built by ${compiler}")
  ExternalProject_Add(${machine}
    SOURCE_DIR ${PROJECT_SOURCE_DIR}
    BINARY_DIR ${PROJECT_BINARY_DIR}/${machine}
    CMAKE_ARGS ${arguments} -DCMAKE_BUILD_TYPE=${CMAKE_BUILD_TYPE}
      -DCMAKE_MAKE_PROGRAM=${CMAKE_MAKE_PROGRAM}
    INSTALL_COMMAND ""
    BUILD_ALWAYS ON)
  install(SCRIPT ${PROJECT_BINARY_DIR}/${machine}/cmake_install.cmake)
endforeach()
