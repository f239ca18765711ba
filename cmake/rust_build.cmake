# cmake -DCARGO= -DRUST_DIR= -DTARGET_DIR= -DARCHIVE= -P rust_build.cmake: builds the crate and puts its archive at ARCHIVE at once.
# The archive's name is the hash of all it is made from. A build folder that meets an archive for the first time has no record of how
# it was made, so Ninja runs this even though it exists.
if(EXISTS ${ARCHIVE})
  return()
endif()
execute_process(COMMAND ${CMAKE_COMMAND} -E env CARGO_TARGET_DIR=${TARGET_DIR} ${CARGO} build --release --locked
                        --manifest-path ${RUST_DIR}/Cargo.toml
                RESULT_VARIABLE result)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "cargo build of ${RUST_DIR} failed (${result})")
endif()
get_filename_component(folder ${ARCHIVE} DIRECTORY)
string(RANDOM LENGTH 8 suffix)
file(MAKE_DIRECTORY ${folder})
file(COPY_FILE ${TARGET_DIR}/release/libingot_text.a ${ARCHIVE}.${suffix})
file(RENAME ${ARCHIVE}.${suffix} ${ARCHIVE})
