/* tests/cuda_emulator/cuda_runtime.h - stands where the toolkit's header stands: the
 * runtime's calls and, for C++, the language that kernels are written in. */
#pragma once

#include <cuda_runtime_api.h>

#ifdef __cplusplus
#include <dip_emulated_device.h>
#endif
