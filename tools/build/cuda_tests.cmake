# tools/build/cuda_tests.cmake - the CUDA kernels compiled by the host compiler over tests/cuda_emulator, and tests/cuda on them.
#
# tests/cuda/<name>.c is one program and one ctest entry (labels prop and emulated). With a toolkit the same sources are also
# linked with the real kernels as gpu_<name>: those say SKIPPED where there is no GPU.
enable_language(CXX)
file(GLOB cuda_kernels CONFIGURE_DEPENDS kernels/cuda/*.cu)
file(GLOB cuda_emulator CONFIGURE_DEPENDS tests/cuda_emulator/*.cpp)
foreach(kernel ${cuda_kernels}) # g++ does not know the suffix
  get_filename_component(name ${kernel} NAME_WE)
  set(emulated ${CMAKE_BINARY_DIR}/emulated_kernels/${name}.cpp)
  file(CONFIGURE OUTPUT ${emulated} CONTENT "#include \"${kernel}\"\n")
  list(APPEND cuda_emulator ${emulated})
endforeach()
add_library(cuda_kernels_emulated STATIC ${cuda_emulator})
set(emulated_options -Wall -Wextra -Werror -Wshadow -Wpointer-arith -Wno-unknown-pragmas -O2 -ffp-contract=off
                     -fno-math-errno -fvisibility=hidden)
if(DIPTYCH_SANITIZE)
  list(APPEND emulated_options -fsanitize=${DIPTYCH_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -g)
endif()
set_target_properties(cuda_kernels_emulated PROPERTIES COMPILE_OPTIONS "${emulated_options}" CXX_STANDARD 17
                      POSITION_INDEPENDENT_CODE ON)
if(DIPTYCH_SANITIZE MATCHES "thread") # emulated threads are its fibers; see fibers.cpp
  set_source_files_properties(tests/cuda_emulator/fibers.cpp PROPERTIES COMPILE_OPTIONS
                              "-fno-sanitize=all;-DDIP_EMULATOR_TSAN")
endif()
target_include_directories(cuda_kernels_emulated PUBLIC ${CMAKE_SOURCE_DIR})
target_include_directories(cuda_kernels_emulated SYSTEM PUBLIC ${CMAKE_SOURCE_DIR}/tests/cuda_emulator)
target_link_libraries(cuda_kernels_emulated PUBLIC Threads::Threads)

file(GLOB sources CONFIGURE_DEPENDS tests/cuda/*.c)
foreach(source ${sources})
  get_filename_component(name ${source} NAME_WE)
  add_executable(test_cuda_${name} ${source})
  target_link_libraries(test_cuda_${name} PRIVATE cuda_kernels_emulated kernels base PkgConfig::CMOCKA)
  add_test(NAME cuda/${name} COMMAND test_cuda_${name} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  set_tests_properties(cuda/${name} PROPERTIES LABELS "prop;emulated" TIMEOUT 600 SKIP_RETURN_CODE 77)
  if(TARGET cuda_kernels) # for tools/gpu-check
    add_executable(gpu_${name} ${source} $<TARGET_OBJECTS:cuda_kernels>)
    target_include_directories(gpu_${name} SYSTEM PRIVATE ${toolkit}/include)
    target_link_libraries(gpu_${name} PRIVATE kernels base ${CUDART_LIBRARY} PkgConfig::CMOCKA)
  endif()
endforeach()

# What judges the CPU judges the emulated GPU: the golden tests of every stage, in f32 and in bf16. The first panel is
# slow to emulate, so it takes one sequence.
function(emulated_test name precision filter)
  add_test(NAME emulated/${name}-${precision} COMMAND test_golden_${name} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  set(environment "DIPTYCH_TEST_BACKEND=cuda" "DIPTYCH_TEST_PRECISION=${precision}"
                  "DIPTYCH_TEST_PLUGIN=$<TARGET_FILE:diptych-cuda-emulated>" ${sanitizer_options})
  if(filter)
    list(APPEND environment "DIPTYCH_TEST_FILTER=${filter}")
  endif()
  set_tests_properties(emulated/${name}-${precision} PROPERTIES LABELS golden TIMEOUT 300 ENVIRONMENT "${environment}")
endfunction()
foreach(precision f32 bf16)
  emulated_test(ar ${precision} "forced_sequence tiny-c cpu")
  emulated_test(connector ${precision} "")
  emulated_test(dit ${precision} "velocities * cpu")
  emulated_test(vae ${precision} "")
endforeach()

# A cuDNN for the emulated GPU, loaded as the real one is.
add_library(cudnn-played MODULE tests/cuda_emulator/cudnn/played.cpp)
set_target_properties(cudnn-played PROPERTIES COMPILE_OPTIONS "${emulated_options}" CXX_STANDARD 17
                      LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/emulated)
target_include_directories(cudnn-played SYSTEM PRIVATE ${CMAKE_SOURCE_DIR}/tests/cuda_emulator)

# What the plug-in asks of cuDNN, judged by cuDNN itself: it makes plans for devices that are only described.
if(has_toolkit AND EXISTS ${toolkit}/lib/libcudnn.so.9)
  add_executable(test_cuda_cudnn_judged tests/cuda/judged/cudnn.c ops/cuda/cudnn_plan.c)
  target_include_directories(test_cuda_cudnn_judged SYSTEM PRIVATE ${toolkit}/include)
  target_compile_definitions(test_cuda_cudnn_judged PRIVATE DIP_CUDA_CUDNN DIP_CUDNN="${toolkit}/lib/libcudnn.so.9")
  target_link_libraries(test_cuda_cudnn_judged PRIVATE base PkgConfig::CMOCKA)
  add_test(NAME cuda/cudnn_judged COMMAND test_cuda_cudnn_judged)
  set_tests_properties(cuda/cudnn_judged PROPERTIES LABELS unit TIMEOUT 300
                       ENVIRONMENT "LD_LIBRARY_PATH=${toolkit}/lib")
endif()

# Of the emulator itself, in its own language.
add_executable(test_cuda_emulator tests/cuda/emulator.cpp)
set_target_properties(test_cuda_emulator PROPERTIES COMPILE_OPTIONS "${emulated_options}" CXX_STANDARD 17)
target_link_libraries(test_cuda_emulator PRIVATE cuda_kernels_emulated kernels base)
add_test(NAME cuda/emulator COMMAND test_cuda_emulator)
set_tests_properties(cuda/emulator PROPERTIES LABELS unit TIMEOUT 60)
