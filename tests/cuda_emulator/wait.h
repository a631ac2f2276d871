/* tests/cuda_emulator/wait.h - work on the emulated GPU that waits for something outside of it. */
#pragma once

#include <cuda_runtime_api.h>

#include <functional>

/* may_run is asked, with the device's memory in reach, until it says yes; then function runs. While
 * it waits, other threads may ask the runtime, and find nothing done. In a capture both are kept,
 * and run with every launch of the graph. */
void dip_emulator_enqueue_wait(cudaStream_t stream, std::function<bool()> may_run,
                               std::function<void()> function);
