# tools/build/cuda.cmake - the CUDA plug-in, libdiptych-cuda.so: for GPUs where a CUDA 13 toolkit is, and emulated for the tests.
#
# The real one is compiled by nvcc from kernels/cuda and linked with the toolkit's libraries; it needs no driver to be
# built. The emulated one is the same sources compiled by the host compiler over tests/cuda_emulator, so that every line
# but NVIDIA's own is run by the tests of any machine.
set(DIPTYCH_CUDA "AUTO" CACHE STRING "the CUDA plug-in: AUTO builds it where a toolkit is found, ON requires one, OFF leaves it out")

file(GLOB cuda_host_sources CONFIGURE_DEPENDS ops/cuda/*.c)
file(GLOB cuda_kernel_sources CONFIGURE_DEPENDS kernels/cuda/*.cu)

# What tools/setup/cuda.sh has fetched, else an installed toolkit. An older one, or one without cuBLASLt, is none.
find_program(DIPTYCH_NVCC nvcc HINTS ${CMAKE_SOURCE_DIR}/build/cuda/bin PATHS /usr/local/cuda/bin)
mark_as_advanced(DIPTYCH_NVCC)
set(has_toolkit OFF)
if(DIPTYCH_NVCC AND NOT DIPTYCH_CUDA STREQUAL "OFF")
  execute_process(COMMAND ${DIPTYCH_NVCC} --version OUTPUT_VARIABLE nvcc_version ERROR_QUIET)
  get_filename_component(toolkit ${DIPTYCH_NVCC} REALPATH)
  get_filename_component(toolkit ${toolkit}/../.. ABSOLUTE)
  set(hints HINTS ${toolkit} PATH_SUFFIXES lib lib64 lib/x86_64-linux-gnu)
  find_library(CUDART_LIBRARY cudart ${hints})
  find_library(CUBLASLT_LIBRARY cublasLt ${hints})
  find_library(NCCL_LIBRARY nccl ${hints})
  if(nvcc_version MATCHES "release 13\\." AND CUDART_LIBRARY AND CUBLASLT_LIBRARY)
    set(has_toolkit ON)
  else()
    message(STATUS "CUDA: ${DIPTYCH_NVCC} is not of a whole toolkit 13, so the plug-in is left out")
  endif()
endif()
if(DIPTYCH_CUDA STREQUAL "ON" AND NOT has_toolkit)
  message(FATAL_ERROR "no CUDA toolkit: install CUDA 13, run tools/setup/cuda.sh, or leave -DDIPTYCH_CUDA at AUTO")
endif()

# Shared by both: one visible symbol, and base/ and the tensor views compiled in.
function(diptych_plugin target folder)
  add_library(${target} MODULE ${cuda_host_sources} ops/tensor.c ${ARGN})
  set_target_properties(${target} PROPERTIES OUTPUT_NAME diptych-cuda LIBRARY_OUTPUT_DIRECTORY ${folder})
  target_include_directories(${target} PRIVATE ${CMAKE_SOURCE_DIR})
  target_link_libraries(${target} PRIVATE base)
  if(NOT DIPTYCH_SANITIZE) # whose runtime is the program's
    target_link_options(${target} PRIVATE -Wl,-z,defs)
  endif()
endfunction()

if(has_toolkit)
  set(CMAKE_CUDA_COMPILER ${DIPTYCH_NVCC})
  set(CMAKE_CUDA_STANDARD 17)
  add_compile_options("$<$<COMPILE_LANGUAGE:CUDA>:-fmad=false>") # contraction only where a kernel says so
  # A100 and its kin (whose code runs on 8.6 and 8.9 too), H100 and H200, B200; as text for what comes after.
  set(CMAKE_CUDA_ARCHITECTURES "80;90a-real;100-real" CACHE STRING "GPU architectures to compile for")
  # With the static runtime that CMake prefers there would be two runtimes in one process: cuBLASLt's and ours.
  set(CMAKE_CUDA_RUNTIME_LIBRARY Shared)
  enable_language(CUDA)
  add_library(cuda_kernels OBJECT ${cuda_kernel_sources})
  target_include_directories(cuda_kernels PRIVATE ${CMAKE_SOURCE_DIR})
  diptych_plugin(diptych-cuda ${CMAKE_BINARY_DIR} $<TARGET_OBJECTS:cuda_kernels>)
  target_include_directories(diptych-cuda SYSTEM PRIVATE ${toolkit}/include)
  target_compile_definitions(diptych-cuda PRIVATE DIP_CUDA_CUBLASLT)
  target_link_libraries(diptych-cuda PRIVATE ${CUDART_LIBRARY} ${CUBLASLT_LIBRARY})
  if(EXISTS ${toolkit}/include/cudnn_graph.h) # the library itself is loaded where it is wanted
    target_compile_definitions(diptych-cuda PRIVATE DIP_CUDA_CUDNN)
  endif()
  if(NCCL_LIBRARY)
    target_compile_definitions(diptych-cuda PRIVATE DIP_CUDA_NCCL)
    target_link_libraries(diptych-cuda PRIVATE ${NCCL_LIBRARY})
  endif()
endif()

# The kernels and the emulator come as a library from cuda_tests.cmake.
if(BUILD_TESTING)
  diptych_plugin(diptych-cuda-emulated ${CMAKE_BINARY_DIR}/emulated)
  target_link_libraries(diptych-cuda-emulated PRIVATE "$<LINK_LIBRARY:WHOLE_ARCHIVE,cuda_kernels_emulated>")
  target_compile_definitions(diptych-cuda-emulated PRIVATE DIP_CUDA_EMULATED DIP_CUDA_CUDNN DIP_CUDA_NCCL)
endif()
