# Sources of src/cpu/simd are compiled once per instruction set, each time in a namespace of that set (INGOT_SIMD), and joined to the
# cpu module. Nothing else is compiled with wide instructions. -ffp-contract=off: a value must not depend on how a loop was unrolled.
file(GLOB simd_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/cpu/simd/*.cc)

function(ingot_isa name)
  add_library(ingot_cpu_${name} OBJECT ${simd_sources})
  target_include_directories(ingot_cpu_${name} PRIVATE ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/include)
  target_compile_options(ingot_cpu_${name} PRIVATE -O3 -ffp-contract=off -fno-math-errno ${ARGN})
  target_compile_definitions(ingot_cpu_${name} PRIVATE INGOT_SIMD=${name})
  target_sources(ingot_cpu PRIVATE $<TARGET_OBJECTS:ingot_cpu_${name}>)
endfunction()

ingot_isa(scalar)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
  ingot_isa(avx2 -DINGOT_SIMD_AVX2 -mavx2 -mfma -mf16c)
  ingot_isa(avx512 -DINGOT_SIMD_AVX512 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c)
  target_compile_definitions(ingot_cpu PRIVATE INGOT_X86_KERNELS)
endif()
