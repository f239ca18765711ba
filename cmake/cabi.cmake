# The C interface of third-party backends. Libraries bind to functions of the program that loads them, so every program with this
# module exports the interface's names (and no others); and they name libtritonserver.so as needed, so an empty library of that
# name travels inside the module.
ingot_module(cabi DEPS repository server base LIBS ${CMAKE_DL_LIBS})
target_link_options(ingot_cabi INTERFACE -Wl,--dynamic-list=${PROJECT_SOURCE_DIR}/src/cabi/exports.txt)

set(soname_source ${CMAKE_CURRENT_BINARY_DIR}/tritonserver.c)
file(CONFIGURE OUTPUT ${soname_source} CONTENT "const char ingot_tritonserver_name[] = \"the functions are in the program itself\";\n")  # rewritten only when it differs
add_library(tritonserver SHARED ${soname_source})
target_compile_options(tritonserver PRIVATE -fno-sanitize=all)
target_link_options(tritonserver PRIVATE -nostdlib -fno-sanitize=all -Wl,--build-id=none -Wl,-z,noseparate-code)
add_custom_command(OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/soname_library.cc
  COMMAND ${CMAKE_COMMAND} -DFILE=$<TARGET_FILE:tritonserver> -DOUT=${CMAKE_CURRENT_BINARY_DIR}/soname_library.cc
          -P ${PROJECT_SOURCE_DIR}/cmake/embed_soname.cmake
  DEPENDS tritonserver ${PROJECT_SOURCE_DIR}/cmake/embed_soname.cmake VERBATIM)
target_sources(ingot_cabi PRIVATE ${CMAKE_CURRENT_BINARY_DIR}/soname_library.cc)

# The backend of the tests: plain C over include/triton/core. It names libtritonserver.so as needed, as such libraries do, and finds
# none on the disk.
if(NOT INGOT_FUZZ)
  add_library(plain_backend MODULE ${PROJECT_SOURCE_DIR}/tests/cabi/plain_backend.c)
  target_include_directories(plain_backend PRIVATE ${PROJECT_SOURCE_DIR}/include)
  target_compile_options(plain_backend PRIVATE -std=c11 -D_DEFAULT_SOURCE)
  target_link_libraries(plain_backend PRIVATE -Wl,--no-as-needed tritonserver Threads::Threads)
  set_target_properties(plain_backend PROPERTIES OUTPUT_NAME triton_plain SKIP_BUILD_RPATH ON LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/backends/plain)
  add_dependencies(cabi_test plain_backend)
endif()
