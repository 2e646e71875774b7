# How every kernel package of this repository is built: one nanobind extension without libtorch, its hot files compiled
# once per instruction set and chosen at run time (isa.h).
#
#   include(../common/kernels.cmake)
#   gs_add_module(_C PACKAGE some_package SOURCES csrc/bindings.cpp SIMD_SOURCES csrc/kernels.cpp)
#
# builds some_package/_C.so and installs it together with tensor_checks.py, as some_package/_checks.py, and
# device_kernels.py, as some_package/_devices.py.
# Needs GCC or Clang. -DGS_SCALAR_ONLY=ON leaves the x86 instruction sets out, as on any other machine.
#
#   gs_add_cuda_module(PACKAGE some_package SOURCES csrc/cuda/bindings.cpp CUDA_SOURCES csrc/cuda/kernels.cu)
#
# builds some_package/_cuda.so where CMake finds a CUDA compiler (-DGS_CUDA=OFF: not even then; -DGS_CUDA=REQUIRED:
# no build without one), for CMAKE_CUDA_ARCHITECTURES. -DGS_EMULATED_CUDA=ON builds the same kernels for the CPU as
# some_package/_cuda_emulated.so, for the tests.

include_guard(GLOBAL)
include(CheckCXXCompilerFlag)
include(CheckCXXSourceCompiles)

option(GS_SCALAR_ONLY "Compile the kernels for the baseline instruction set alone" OFF)
set(GS_CUDA AUTO CACHE STRING "CUDA kernels: AUTO (where there is a compiler), OFF or REQUIRED")
option(GS_EMULATED_CUDA "Compile the CUDA kernels for the CPU too, for tests" OFF)
set(GS_SANITIZE "" CACHE STRING "Sanitizers, for tests: address (and undefined behaviour) or thread")
set(GS_SANITIZERS_address -fsanitize=address,undefined -fno-sanitize=vptr -fno-sanitize-recover=undefined)
set(GS_SANITIZERS_thread -fsanitize=thread)

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
  if(GS_SANITIZE)
    target_compile_options(${target} PRIVATE -O1 -g1 ${GS_SANITIZERS_${GS_SANITIZE}})
    target_link_options(${target} PRIVATE ${GS_SANITIZERS_${GS_SANITIZE}})
  endif()
  if(GS_SANITIZE STREQUAL "thread")  # which takes OpenMP's own synchronisation for none
    target_compile_definitions(${target} PRIVATE GS_PLAIN_THREADS)
  elseif(OpenMP_CXX_FOUND)
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

  gs_name_build(${name} "/(cuda|gpu)/" "${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}")
  install(TARGETS ${name} LIBRARY DESTINATION ${ARG_PACKAGE})
  install(FILES ${GS_COMMON_DIR}/tensor_checks.py DESTINATION ${ARG_PACKAGE} RENAME _checks.py)
  install(FILES ${GS_COMMON_DIR}/device_kernels.py DESTINATION ${ARG_PACKAGE} RENAME _devices.py)
endfunction()

# Defines GS_BUILD, what makes two builds give the same bits, as far as a program can know: compiler and sources, those
# whose path matches `without` aside.
function(gs_name_build target without compiler)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/csrc/* ${GS_COMMON_DIR}/*)
  list(FILTER sources EXCLUDE REGEX "${without}")
  list(SORT sources)
  set(hashes "")
  foreach(source IN LISTS sources)
    file(SHA256 ${source} hash)
    string(APPEND hashes ${hash})
  endforeach()
  string(SHA256 hash "${hashes}")
  string(SUBSTRING ${hash} 0 12 hash)
  target_compile_definitions(${target} PRIVATE GS_BUILD="${compiler} ${hash}")
endfunction()

# Sets CMAKE_CUDA_COMPILER where there is one that works. Without a wish for architectures: the GPU at hand, if there
# is one, or else the oldest that CUDA 13 knows, in a form that the driver of any newer one translates when it first
# runs.
macro(gs_find_cuda)
  if(NOT GS_CUDA STREQUAL "OFF")
    include(CheckLanguage)
    check_language(CUDA)
    if(CMAKE_CUDA_COMPILER)
      if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
        execute_process(COMMAND nvidia-smi --query-gpu=compute_cap --format=csv,noheader
          OUTPUT_VARIABLE gs_gpus ERROR_QUIET RESULT_VARIABLE gs_no_gpu)
        string(REGEX MATCHALL "[0-9]+[.][0-9]" gs_gpus "${gs_gpus}")
        string(REPLACE "." "" gs_gpus "${gs_gpus}")
        list(REMOVE_DUPLICATES gs_gpus)
        if(gs_no_gpu OR NOT gs_gpus)
          set(gs_gpus 75)
        endif()
        set(CMAKE_CUDA_ARCHITECTURES ${gs_gpus} CACHE STRING "GPUs to compile for, such as 75;90-virtual")
      endif()
      enable_language(CUDA)
    elseif(GS_CUDA STREQUAL "REQUIRED")
      message(FATAL_ERROR "GS_CUDA=REQUIRED: expected a CUDA compiler, found none (set CUDACXX)")
    else()
      message(STATUS "No CUDA compiler: kernels for the CPU only")
    endif()
  endif()
endmacro()
gs_find_cuda()

# A domain each: nanobind would take classes of the same name for the same.
function(gs_add_cuda_module)
  cmake_parse_arguments(PARSE_ARGV 0 ARG "" "PACKAGE" "SOURCES;CUDA_SOURCES")

  if(CMAKE_CUDA_COMPILER AND NOT GS_CUDA STREQUAL "OFF")
    nanobind_add_module(_cuda STABLE_ABI NB_STATIC NOMINSIZE NB_SUPPRESS_WARNINGS NB_DOMAIN cuda ${ARG_SOURCES})
    add_library(_cuda_kernels OBJECT ${ARG_CUDA_SOURCES})
    target_compile_options(_cuda_kernels PRIVATE
      $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr -Xcompiler=-Wall,-Wextra,-Wno-unused-parameter>)
    target_include_directories(_cuda_kernels PRIVATE ${GS_COMMON_DIR} ${CMAKE_CURRENT_SOURCE_DIR}/csrc)
    set_target_properties(_cuda_kernels PROPERTIES
      CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON POSITION_INDEPENDENT_CODE ON CUDA_VISIBILITY_PRESET hidden)
    target_sources(_cuda PRIVATE $<TARGET_OBJECTS:_cuda_kernels>)
    gs_set_flags(_cuda)
    target_include_directories(_cuda SYSTEM PRIVATE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
    set_target_properties(_cuda PROPERTIES CUDA_RUNTIME_LIBRARY Static LINKER_LANGUAGE CUDA)
    target_compile_definitions(_cuda PRIVATE GS_MODULE=_cuda)
    gs_name_build(_cuda "/cpu/" "nvcc ${CMAKE_CUDA_COMPILER_VERSION} ${CMAKE_CUDA_ARCHITECTURES}")
    install(TARGETS _cuda LIBRARY DESTINATION ${ARG_PACKAGE})
  endif()

  if(GS_EMULATED_CUDA)
    foreach(source IN LISTS ARG_CUDA_SOURCES)  # by another name, for a source has one language
      get_filename_component(name ${source} NAME_WE)
      set(wrapper ${CMAKE_CURRENT_BINARY_DIR}/emulated/${name}.cpp)
      file(GENERATE OUTPUT ${wrapper} CONTENT "#include \"${CMAKE_CURRENT_SOURCE_DIR}/${source}\"\n")
      list(APPEND wrappers ${wrapper})
    endforeach()
    nanobind_add_module(_cuda_emulated STABLE_ABI NB_STATIC NOMINSIZE NB_SUPPRESS_WARNINGS NB_DOMAIN cuda_emulated
      ${ARG_SOURCES} ${wrappers} ${GS_COMMON_DIR}/gpu/emulation.cpp)
    target_compile_features(_cuda_emulated PRIVATE cxx_std_17)
    # Nothing is fused but what the source says: which sums a kernel may fuse is no question of the test's compiler.
    target_compile_options(_cuda_emulated PRIVATE -O2 -g0 -ffp-contract=off -Wall -Wextra -Wno-unknown-pragmas
      ${GS_SANITIZERS_${GS_SANITIZE}})
    target_link_options(_cuda_emulated PRIVATE ${GS_SANITIZERS_${GS_SANITIZE}})
    target_include_directories(_cuda_emulated PRIVATE ${GS_COMMON_DIR} ${CMAKE_CURRENT_SOURCE_DIR}/csrc)
    target_compile_definitions(_cuda_emulated PRIVATE GS_EMULATED GS_MODULE=_cuda_emulated)
    gs_name_build(_cuda_emulated "/cpu/" "emulated")
    install(TARGETS _cuda_emulated LIBRARY DESTINATION ${ARG_PACKAGE})
  endif()
endfunction()
