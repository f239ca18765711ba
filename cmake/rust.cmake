# The Rust archive (rust/), built by cargo, as the imported target ingot_rust.
#
#   A build costs minutes of CPU, so the archive is kept outside the build folder, named by a hash of the crate's sources, its lock
#   file and the compiler's version: other build folders (sanitizers, fuzzers, worktrees) reuse it. INGOT_RUST_CACHE moves that place.
find_program(CARGO cargo HINTS $ENV{HOME}/.cargo/bin REQUIRED)
find_program(RUSTC rustc HINTS $ENV{HOME}/.cargo/bin REQUIRED)
execute_process(COMMAND ${RUSTC} --version OUTPUT_VARIABLE rust_version OUTPUT_STRIP_TRAILING_WHITESPACE)

if(DEFINED ENV{XDG_CACHE_HOME})
  set(rust_cache_default $ENV{XDG_CACHE_HOME}/ingot/rust)
else()
  set(rust_cache_default $ENV{HOME}/.cache/ingot/rust)
endif()
set(INGOT_RUST_CACHE ${rust_cache_default} CACHE PATH "Where built Rust archives are kept")

set(rust_dir ${PROJECT_SOURCE_DIR}/rust)
file(GLOB_RECURSE rust_sources CONFIGURE_DEPENDS ${rust_dir}/src/*.rs)
list(SORT rust_sources)
list(PREPEND rust_sources ${rust_dir}/Cargo.toml ${rust_dir}/Cargo.lock)
set(rust_key "${rust_version} ${CMAKE_SYSTEM_PROCESSOR}")
foreach(source ${rust_sources})
  file(SHA256 ${source} source_hash)
  file(RELATIVE_PATH source_name ${rust_dir} ${source})
  string(APPEND rust_key "\n${source_name} ${source_hash}")
endforeach()
string(SHA256 rust_hash "${rust_key}")
string(SUBSTRING ${rust_hash} 0 24 rust_hash)
# A changed source means another name for the archive, so it must run the configuration again.
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${rust_sources})

# The build folder links a copy of its own: Ninja deletes the outputs of a rule that is interrupted, which must not reach the cache.
set(rust_cached ${INGOT_RUST_CACHE}/${rust_hash}/libingot_text.a)
set(rust_archive ${CMAKE_BINARY_DIR}/rust/${rust_hash}/libingot_text.a)
add_custom_command(
  OUTPUT ${rust_archive}
  COMMAND ${CMAKE_COMMAND} -DCARGO=${CARGO} -DRUST_DIR=${rust_dir} -DTARGET_DIR=${CMAKE_BINARY_DIR}/rust -DCACHED=${rust_cached}
          -DARCHIVE=${rust_archive} -P ${PROJECT_SOURCE_DIR}/cmake/rust_build.cmake
  COMMENT "Building the Rust archive (tokenizers, llguidance, chat templates)"
  USES_TERMINAL VERBATIM)
add_custom_target(ingot_rust_archive DEPENDS ${rust_archive})
add_library(ingot_rust STATIC IMPORTED GLOBAL)
set_target_properties(ingot_rust PROPERTIES IMPORTED_LOCATION ${rust_archive} INTERFACE_LINK_LIBRARIES "m;${CMAKE_DL_LIBS}")
add_dependencies(ingot_rust ingot_rust_archive)
