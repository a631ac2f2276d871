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

/* What a case holds, given back when it returns. */
struct device_ints {
    void *memory = NULL;
    explicit device_ints(int count)
    {
        if (cudaMalloc(&memory, (size_t)count * sizeof(int)))
            _exit(9);
    }
    ~device_ints()
    {
        (void)cudaFree(memory);
    }
    device_ints(const device_ints &) = delete;
    device_ints &operator=(const device_ints &) = delete;
    operator int *() const
    {
        return (int *)memory;
    }
};

struct pinned_ints {
    void *memory = NULL;
    ~pinned_ints()
    {
        (void)cudaFreeHost(memory);
    }
    int first() const
    {
        return *(volatile int *)memory;
    }
};

struct stream_of {
    cudaStream_t at = NULL;
    ~stream_of()
    {
        (void)cudaStreamDestroy(at);
    }
};

struct graph_of {
    cudaGraph_t at = NULL;
    cudaGraphExec_t exec = NULL;
    ~graph_of()
    {
        (void)cudaGraphExecDestroy(exec);
        (void)cudaGraphDestroy(at);
    }
};

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
    device_ints memory(4);
    (void)*(volatile int *)memory.memory;
}

bool is_shuffled(void)
{
    device_ints out(64);
    int got[64];
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
    device_ints out(1);
    int got = -1;
    run(hasty, 32, out);
    return !cudaMemcpy(&got, out, sizeof got, cudaMemcpyDeviceToHost) && got == 0;
}

/* Work waits for somebody to wait: a pinned result is not there at once. */
bool is_work_late(void)
{
    device_ints out(64);
    pinned_ints pinned;
    stream_of stream;
    if (cudaHostAlloc(&pinned.memory, 64 * sizeof(int), 0) || cudaStreamCreate(&stream.at))
        return false;
    memset(pinned.memory, 0, 64 * sizeof(int));
    if (dip__launch(stream.at, shuffled, dim3(1), 64, 0, (int *)out) ||
        cudaMemcpyAsync(pinned.memory, out, 64 * sizeof(int), cudaMemcpyDeviceToHost, stream.at))
        return false;
    bool is_early = pinned.first() != 0;
    return !cudaStreamSynchronize(stream.at) && !is_early && pinned.first() == 504;
}

/* A graph runs again what was captured, with what is in memory then. */
bool is_graph_replayed(void)
{
    device_ints out(64);
    stream_of stream;
    graph_of graph;
    int got = 0;
    if (cudaStreamCreate(&stream.at) || cudaMemset(out, 0, 64 * sizeof(int)) ||
        cudaStreamBeginCapture(stream.at, cudaStreamCaptureModeThreadLocal) ||
        dip__launch(stream.at, shuffled, dim3(1), 64, 0, (int *)out) ||
        cudaStreamEndCapture(stream.at, &graph.at) ||
        cudaGraphInstantiate(&graph.exec, graph.at, 0) ||
        cudaMemcpy(&got, out, 4, cudaMemcpyDeviceToHost))
        return false;
    bool is_run_by_capture = got != 0;
    return !cudaGraphLaunch(graph.exec, stream.at) && !cudaStreamSynchronize(stream.at) &&
           !cudaMemcpy(&got, out, 4, cudaMemcpyDeviceToHost) && got == 504 && !is_run_by_capture;
}

bool is_failing_on_request(void)
{
    device_ints out(64);
    dip_emulator_fail(1, cudaErrorIllegalAddress);
    bool is_refused =
        dip__launch((CUstream_st *)NULL, shuffled, dim3(1), 64, 0, (int *)out) == DIP_DEVICE &&
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
