# SPDX-License-Identifier: Apache-2.0
# SSMPRESS_ZIG: the compiler inside the Python package `ziglang`, or empty where it is not
# installed. Python is the one that builds the package, the project's environment, or python3.
if(NOT DEFINED SSMPRESS_ZIG)
  if(NOT Python_EXECUTABLE)
    find_program(Python_EXECUTABLE NAMES python3 NO_CMAKE_FIND_ROOT_PATH
      HINTS ${CMAKE_CURRENT_LIST_DIR}/../../.venv/bin)
  endif()
  execute_process(
    COMMAND ${Python_EXECUTABLE} -c
      "import importlib.util as u; s = u.find_spec('ziglang'); print(s.submodule_search_locations[0] + '/zig' if s else '', end='')"
    OUTPUT_VARIABLE SSMPRESS_ZIG)
endif()
