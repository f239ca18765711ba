# The CUDA plugin libingot_cuda.so (preset cuda: INGOT_CUDA), and, in every other x86-64 build without sanitizers, the same sources on
# the host through src/cuda/emulator: they must compile and pass op_conformance where there is no GPU.
file(APPEND ${INGOT_MODULES_FILE} "cuda: op tensor base\n")
set(cuda_folder ${PROJECT_SOURCE_DIR}/src/cuda)
file(GLOB cuda_sources CONFIGURE_DEPENDS ${cuda_folder}/*.cu)

# One exported symbol; everything else of the static parts stays inside.
set(cuda_exports ${CMAKE_CURRENT_BINARY_DIR}/cuda_exports.map)
file(CONFIGURE OUTPUT ${cuda_exports} CONTENT "{ global: ingot_device_entry; local: *; };\n")  # rewritten only when it differs

function(ingot_cuda_plugin target)
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/include)
  target_link_libraries(${target} PRIVATE ingot_op ingot_tensor ingot_base Threads::Threads)
  target_link_options(${target} PRIVATE -Wl,--version-script=${cuda_exports} -Wl,--no-undefined)
  set_target_properties(${target} PROPERTIES LINK_DEPENDS ${cuda_exports} LIBRARY_OUTPUT_DIRECTORY ${INGOT_BIN})
endfunction()

if(INGOT_CUDA)
  # 90a-real: Hopper. Others: -DCMAKE_CUDA_ARCHITECTURES="80-real;89-real;90a-real;100-real;120-real".
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 90a-real)
  endif()
  enable_language(CUDA)
  set(CMAKE_CUDA_STANDARD 20)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know it of nvcc 13
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
  endif()
  # Not find_package(CUDAToolkit): CMake 3.25's stumbles over toolkits without nvToolsExt, as the PyPI wheels are.
  get_filename_component(cuda_root ${CMAKE_CUDA_COMPILER} REALPATH)
  get_filename_component(cuda_root ${cuda_root}/../.. ABSOLUTE)
  find_library(INGOT_CUBLASLT NAMES cublasLt libcublasLt.so.13 HINTS ${cuda_root} PATH_SUFFIXES lib64 lib targets/x86_64-linux/lib REQUIRED)
  # Host code alone, which nvcc 13.0 cannot parse with the headers of GCC 13.
  set_source_files_properties(${cuda_folder}/blas.cu ${cuda_folder}/fuse.cu ${cuda_folder}/options.cu
    ${cuda_folder}/upload.cu PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-xc++;-isystem;${cuda_root}/include")
  add_library(ingot_cuda SHARED ${cuda_sources})
  ingot_cuda_plugin(ingot_cuda)
  set_target_properties(ingot_cuda PROPERTIES CUDA_RUNTIME_LIBRARY Static)
  target_link_libraries(ingot_cuda PRIVATE ${INGOT_CUBLASLT} ${CMAKE_DL_LIBS})
  target_compile_options(ingot_cuda PRIVATE
    $<$<COMPILE_LANGUAGE:CUDA>:-O3 --expt-relaxed-constexpr --extended-lambda -Xcompiler=-Wall,-Wextra,-fvisibility=hidden -lineinfo>)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$" AND NOT INGOT_SANITIZE AND NOT INGOT_FUZZ)
  add_subdirectory(cuda/emulator)
  add_test(NAME cuda_smoke COMMAND ${PROJECT_SOURCE_DIR}/tools/cuda_smoke.sh ${CMAKE_CURRENT_BINARY_DIR}/cuda_smoke.o)
  set_tests_properties(cuda_smoke PROPERTIES LABELS "gpu" SKIP_RETURN_CODE 77 TIMEOUT 600)
endif()
