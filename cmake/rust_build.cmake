# cmake -DCARGO= -DRUST_DIR= -DTARGET_DIR= -DCACHED= -DARCHIVE= -P rust_build.cmake: builds the crate unless the cache has its archive
# (the name of CACHED is the hash of all it is made from), and puts a copy at ARCHIVE. Each file appears whole or not at all.
function(put from to)
  get_filename_component(folder ${to} DIRECTORY)
  string(RANDOM LENGTH 8 suffix)
  file(MAKE_DIRECTORY ${folder})
  file(COPY_FILE ${from} ${to}.${suffix})
  file(RENAME ${to}.${suffix} ${to})
endfunction()

if(NOT EXISTS ${CACHED})
  execute_process(COMMAND ${CMAKE_COMMAND} -E env CARGO_TARGET_DIR=${TARGET_DIR} ${CARGO} build --release --locked
                          --manifest-path ${RUST_DIR}/Cargo.toml
                  RESULT_VARIABLE result)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "cargo build of ${RUST_DIR} failed (${result})")
  endif()
  put(${TARGET_DIR}/release/libingot_text.a ${CACHED})
endif()
put(${CACHED} ${ARCHIVE})
