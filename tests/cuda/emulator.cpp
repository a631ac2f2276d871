/* tests/cuda/emulator.cpp - the emulator catches what a GPU would let pass.
 *
 * Each case runs in a child, because most of them must end it. */
#include "kernels/cuda/launch.h"

#include <csignal>
#include <cstdlib>
#include <sys/wait.h>
#include <unistd.h>

namespace
{

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
const bool is_sanitized = true;
#else
const bool is_sanitized = false;
#endif

void half_barrier(int *)
{
    if (threadIdx.x < 32)
        __syncthreads();
}

void half_warp(int *out)
{
    if (threadIdx.x < 16)
        out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1, 1);
}

/* Every lane gets the sum of its warp's thread numbers, plus the vote of lane 3: 496 + 8 first. */
void shuffled(int *out)
{
    int sum = (int)threadIdx.x;
    for (int apart = 16; apart > 0; apart /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, apart);
    out[threadIdx.x] = sum + (int)__ballot_sync(0xffffffffu, threadIdx.x % 32 == 3);
}

/* 1 when a copy has arrived before it was waited for, 2 when not even then. */
void hasty(int *out)
{
    alignas(16) static int shared[4];
    alignas(16) static const int from[4] = {7, 7, 7, 7};
    if (threadIdx.x == 0) {
        shared[0] = 0;
        dip__copy_async(shared, from, true);
        dip__copy_commit();
        int early = shared[0] == 7;
        dip__copy_wait<0>();
        out[0] = early ? 1 : shared[0] == 7 ? 0 : 2;
    }
}

int *device_ints(int count)
{
    void *memory = NULL;
    if (cudaMalloc(&memory, (size_t)count * sizeof(int)))
        _exit(9);
    return (int *)memory;
}

void run(void (*kernel)(int *), int threads, int *out)
{
    if (dip__launch((CUstream_st *)NULL, kernel, dim3(2), (unsigned int)threads, 0, out))
        _exit(9);
}

/* Whether the child ended by a signal. */
bool is_killed(void (*body)(void))
{
    pid_t child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        body();
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) || (is_sanitized && WEXITSTATUS(status) != 0);
}

void diverge_at_barrier(void)
{
    run(half_barrier, 64, device_ints(64));
    (void)cudaDeviceSynchronize();
}

void diverge_in_warp(void)
{
    run(half_warp, 32, device_ints(32));
    (void)cudaDeviceSynchronize();
}

void read_on_host(void)
{
    volatile int *memory = device_ints(4);
    (void)memory[0];
}

bool is_shuffled(void)
{
    int *out = device_ints(64), got[64];
    run(shuffled, 64, out);
    if (cudaMemcpy(got, out, sizeof got, cudaMemcpyDeviceToHost))
        return false;
    for (int i = 0; i < 64; i++)
        if (got[i] != (i < 32 ? 496 : 496 + 32 * 32) + 8)
            return false;
    return true;
}

bool is_copy_late(void)
{
    int *out = device_ints(1), got = -1;
    run(hasty, 32, out);
    return !cudaMemcpy(&got, out, sizeof got, cudaMemcpyDeviceToHost) && got == 0;
}

/* Work waits for somebody to wait: a pinned result is not there at once. */
bool is_work_late(void)
{
    int *out = device_ints(64);
    void *pinned = NULL;
    cudaStream_t stream = NULL;
    if (cudaHostAlloc(&pinned, 64 * sizeof(int), 0) || cudaStreamCreate(&stream))
        return false;
    memset(pinned, 0, 64 * sizeof(int));
    if (dip__launch(stream, shuffled, dim3(1), 64, 0, out) ||
        cudaMemcpyAsync(pinned, out, 64 * sizeof(int), cudaMemcpyDeviceToHost, stream))
        return false;
    bool is_early = ((volatile int *)pinned)[0] != 0;
    return !cudaStreamSynchronize(stream) && !is_early && ((volatile int *)pinned)[0] == 504;
}

/* A graph runs again what was captured, with what is in memory then. */
bool is_graph_replayed(void)
{
    int *out = device_ints(64), got = 0;
    cudaStream_t stream = NULL;
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    if (cudaStreamCreate(&stream) || cudaMemset(out, 0, 64 * sizeof(int)) ||
        cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) ||
        dip__launch(stream, shuffled, dim3(1), 64, 0, out) ||
        cudaStreamEndCapture(stream, &graph) || cudaGraphInstantiate(&exec, graph, 0) ||
        cudaMemcpy(&got, out, 4, cudaMemcpyDeviceToHost))
        return false;
    bool is_run_by_capture = got != 0;
    return !cudaGraphLaunch(exec, stream) && !cudaStreamSynchronize(stream) &&
           !cudaMemcpy(&got, out, 4, cudaMemcpyDeviceToHost) && got == 504 && !is_run_by_capture;
}

bool is_failing_on_request(void)
{
    int *out = device_ints(64);
    dip_emulator_fail(1, cudaErrorIllegalAddress);
    bool is_refused =
        dip__launch((CUstream_st *)NULL, shuffled, dim3(1), 64, 0, out) == DIP_DEVICE &&
        cudaDeviceSynchronize() == cudaErrorIllegalAddress;
    (void)cudaDeviceReset();
    return is_refused && cudaDeviceSynchronize() == cudaSuccess;
}

int failed;
void check(const char *what, bool is_so)
{
    printf("%s: %s\n", is_so ? "ok" : "FAILED", what);
    failed += !is_so;
}

} // namespace

int main(void)
{
    check("a barrier that half of a block reaches ends the process", is_killed(diverge_at_barrier));
    check("a shuffle that half of a warp reaches ends the process", is_killed(diverge_in_warp));
    if (!is_sanitized)
        check("a host that reads device memory ends", is_killed(read_on_host));
    check("shuffles and votes", is_shuffled());
    check("a copy to shared memory arrives when it is waited for", is_copy_late());
    check("work runs when somebody waits", is_work_late());
    check("a graph runs what was captured", is_graph_replayed());
    check("errors come when asked for, and stay", is_failing_on_request());
    return failed != 0;
}
