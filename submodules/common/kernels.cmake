# How every kernel package of this repository is built: one nanobind extension without libtorch, its hot files compiled
# once per instruction set and chosen at run time (isa.h).
#
#   include(../common/kernels.cmake)
#   gs_add_module(_C PACKAGE some_package SOURCES csrc/bindings.cpp SIMD_SOURCES csrc/kernels.cpp)
#
# builds some_package/_C.so and installs it together with tensor_checks.py, as some_package/_checks.py.
# Needs GCC or Clang. -DGS_SCALAR_ONLY=ON leaves the x86 instruction sets out, as on any other machine.

include_guard(GLOBAL)
include(CheckCXXCompilerFlag)
include(CheckCXXSourceCompiles)

option(GS_SCALAR_ONLY "Compile the kernels for the baseline instruction set alone" OFF)

set(GS_COMMON_DIR ${CMAKE_CURRENT_LIST_DIR})

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release)
endif()

find_package(Python 3.10 REQUIRED COMPONENTS Interpreter Development.Module OPTIONAL_COMPONENTS Development.SABIModule)
find_package(nanobind CONFIG REQUIRED)
find_package(OpenMP COMPONENTS CXX)

check_cxx_source_compiles("
  #if !defined(__x86_64__)
  #error another architecture
  #endif
  int main() { return __builtin_cpu_supports(\"avx512f\"); }" GS_TARGET_IS_X86_64)
check_cxx_compiler_flag(-fopenmp-simd GS_HAS_OPENMP_SIMD)

set(GS_ISAS scalar)
if(GS_TARGET_IS_X86_64 AND NOT GS_SCALAR_ONLY)
  list(APPEND GS_ISAS avx2 avx512)
endif()

# GS_VECTOR_BYTES is the register width that the source may ask of the compiler's vector types; on any machine 16 is safe.
set(GS_FLAGS_scalar -DGS_VECTOR_BYTES=16)
set(GS_FLAGS_avx2 -DGS_VECTOR_BYTES=32 -mavx2 -mfma)
set(GS_FLAGS_avx512 -DGS_VECTOR_BYTES=64 -mavx512f -mavx512dq -mavx512bw -mavx512vl -mfma -mprefer-vector-width=512)

# Not -ffast-math: linking with it turns denormals off in the whole host process, and isnan must go on working.
function(gs_set_flags target)
  target_compile_features(${target} PRIVATE cxx_std_17)
  target_compile_options(${target} PRIVATE -O3 -fno-math-errno -fno-trapping-math -Wall -Wextra)
  target_include_directories(${target} PRIVATE ${GS_COMMON_DIR} ${CMAKE_CURRENT_SOURCE_DIR}/csrc)
  set_target_properties(${target} PROPERTIES
    POSITION_INDEPENDENT_CODE ON CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON CXX_EXTENSIONS OFF)
  if(OpenMP_CXX_FOUND)
    target_link_libraries(${target} PRIVATE OpenMP::OpenMP_CXX)
  elseif(GS_HAS_OPENMP_SIMD)
    target_compile_options(${target} PRIVATE -fopenmp-simd)
  endif()
  if(GS_TARGET_IS_X86_64 AND NOT GS_SCALAR_ONLY)
    target_compile_definitions(${target} PRIVATE GS_X86_KERNELS)
  endif()
endfunction()

function(gs_add_module name)
  cmake_parse_arguments(PARSE_ARGV 1 ARG "" "PACKAGE" "SOURCES;SIMD_SOURCES")

  # Stable ABI where nanobind has it (Python 3.12 on); no link-time optimisation, which could merge the instruction sets.
  nanobind_add_module(${name} STABLE_ABI NB_STATIC NOMINSIZE NB_SUPPRESS_WARNINGS ${ARG_SOURCES})
  gs_set_flags(${name})
  foreach(isa IN LISTS GS_ISAS)
    if(ARG_SIMD_SOURCES)
      add_library(${name}_${isa} OBJECT ${ARG_SIMD_SOURCES})
      gs_set_flags(${name}_${isa})
      target_compile_options(${name}_${isa} PRIVATE -DGS_SIMD_SOURCE -DGS_ISA=${isa} ${GS_FLAGS_${isa}})
      target_sources(${name} PRIVATE $<TARGET_OBJECTS:${name}_${isa}>)
    endif()
  endforeach()

  # What makes two builds give the same bits, as far as a program can know: sources and compiler.
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/csrc/* ${GS_COMMON_DIR}/*)
  list(SORT sources)
  set(hashes "")
  foreach(source IN LISTS sources)
    file(SHA256 ${source} hash)
    string(APPEND hashes ${hash})
  endforeach()
  string(SHA256 hash "${hashes}")
  string(SUBSTRING ${hash} 0 12 hash)
  target_compile_definitions(${name} PRIVATE
    GS_BUILD="${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION} ${hash}")

  install(TARGETS ${name} LIBRARY DESTINATION ${ARG_PACKAGE})
  install(FILES ${GS_COMMON_DIR}/tensor_checks.py DESTINATION ${ARG_PACKAGE} RENAME _checks.py)
endfunction()
