# find_package(infiniop): in CMAKE_PREFIX_PATH or $INFINI_ROOT, else where the Python that builds this has it installed.
find_package(infiniop CONFIG QUIET HINTS ENV INFINI_ROOT)
if(NOT infiniop_FOUND)
  find_package(Python COMPONENTS Interpreter REQUIRED)
  # pip's isolated build hides installed packages through PYTHONPATH.
  execute_process(
    COMMAND "${CMAKE_COMMAND}" -E env --unset=PYTHONPATH "${Python_EXECUTABLE}" -m infiniop root
    OUTPUT_VARIABLE infiniop_root OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
  if(failed)
    message(FATAL_ERROR "${Python_EXECUTABLE} has no infiniop: pip install infiniop, or set INFINI_ROOT to $(infiniop root)")
  endif()
  find_package(infiniop CONFIG REQUIRED PATHS "${infiniop_root}" NO_DEFAULT_PATH)
endif()
