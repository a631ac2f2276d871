/* tests/cuda_emulator/runtime.cpp - the CUDA runtime's calls over host memory.
 *
 * Work on streams is put off until somebody waits, as a GPU may: one queue for all streams, in the
 * order it was enqueued, which every legal order of streams and events allows. So a host that reads
 * a result too early, or reuses a pinned buffer too early, is seen. Copies from pageable memory
 * take their source at once and copies to it wait, as the real ones do.
 *
 * Device memory is out of bounds for the host while nothing runs (it has no access rights then, and
 * ends at a page without any); under the address sanitizer it is malloc'd instead, with red zones.
 * It starts as NaN. A capture collects the calls; a graph's launch runs them again.
 *
 * Any thread may call; one lock covers all. */
#include <cuda_runtime.h>

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "tests/cuda_emulator/wait.h"

#if defined(__SANITIZE_ADDRESS__)
#define WITH_ASAN 1
#else
#define WITH_ASAN 0
#endif

typedef std::function<void()> work;

struct CUgraph_st {
    std::vector<work> list;
    int wait_count; /* of them, that wait for something outside */
};
struct CUgraphExec_st {
    std::vector<work> list;
    int wait_count;
};
struct CUstream_st {
    CUgraph_st *capture; /* what is enqueued goes there instead */
    bool is_origin;
};
struct CUevent_st {
    CUgraph_st *capture; /* recorded inside a capture */
    bool is_recorded, is_pending;
    double at_ms;
};

namespace
{

enum { PAGE = 4096, QUEUE_MAX = 8192, SHARED_MAX = 227 << 10 };

struct range {
    size_t bytes;
    void *mapping; /* NULL: malloc'd */
    size_t mapped_bytes;
};

pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP; /* a test may fail inside a kernel */
struct guard {
    guard()
    {
        pthread_mutex_lock(&lock);
    }
    ~guard()
    {
        pthread_mutex_unlock(&lock);
    }
};

std::map<char *, range> device_ranges, pinned_ranges;
std::deque<work> queue;
bool is_draining; /* by a thread that may have let go of the lock */
int wait_count;   /* works in the queue that wait for something outside */
enum { WAIT_US = 100 };
std::vector<CUstream_st *> captures; /* streams inside a capture */
CUstream_st default_stream;
size_t memory_of_device(void)
{
    const char *bytes = getenv("DIPTYCH_EMULATED_MEMORY");
    return bytes ? (size_t)strtoull(bytes, NULL, 10) : (size_t)8 << 30;
}

size_t memory_bytes = memory_of_device(), used_bytes;
struct dip_emulator_counts counts;
thread_local cudaError_t last_error;
cudaError_t device_error; /* stays */
int fail_calls;
cudaError_t fail_error;

cudaError_t set(cudaError_t error)
{
    if (error)
        last_error = error;
    return error;
}

/* What stands against a call before it begins. */
cudaError_t trouble(void)
{
    /* From outside of a process: its GPU breaks when this file appears. */
    static const char *const omen = getenv("DIPTYCH_EMULATED_BREAKS");
    if (omen && !device_error && access(omen, F_OK) == 0)
        device_error = cudaErrorIllegalAddress;
    if (device_error)
        return device_error;
    if (fail_calls == 0 || --fail_calls > 0)
        return cudaSuccess;
    if (fail_error >= cudaErrorIllegalAddress)
        device_error = fail_error;
    return fail_error;
}

bool is_in(const std::map<char *, range> &ranges, const void *pointer)
{
    auto after = ranges.upper_bound((char *)pointer);
    if (after == ranges.begin())
        return false;
    --after;
    return (char *)pointer < after->first + after->second.bytes;
}

void protect(int rights)
{
    for (auto &r : device_ranges)
        if (r.second.mapping)
            mprotect(r.second.mapping, r.second.mapped_bytes - PAGE, rights);
}

void let_others(void)
{
    pthread_mutex_unlock(&lock);
    usleep(WAIT_US);
    pthread_mutex_lock(&lock);
}

void drain(void)
{
    while (is_draining)
        let_others();
    if (queue.empty())
        return;
    is_draining = true;
    protect(PROT_READ | PROT_WRITE);
    while (!queue.empty()) {
        work next = std::move(queue.front());
        queue.pop_front();
        if (!device_error)
            next();
    }
    protect(PROT_NONE);
    is_draining = false;
}

void put_off(work w)
{
    queue.push_back(std::move(w));
    if (queue.size() > QUEUE_MAX)
        drain();
}

/* Work of one call of the host's, or a part of what a capture collects. */
cudaError_t enqueue(cudaStream_t stream, work w)
{
    CUstream_st *s = stream ? stream : &default_stream;
    if (s->capture) {
        s->capture->list.push_back(std::move(w));
        return cudaSuccess;
    }
    counts.calls++;
    put_off(std::move(w));
    return cudaSuccess;
}

cudaError_t wait_all(cudaStream_t stream)
{
    CUstream_st *s = stream ? stream : &default_stream;
    if (s->capture)
        return set(cudaErrorStreamCaptureUnsupported);
    drain();
    return set(device_error);
}

double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

void copy_rows(char *to, size_t to_pitch, const char *from, size_t from_pitch, size_t width,
               size_t height)
{
    counts.moves++;
    for (size_t row = 0; row < height; row++)
        memmove(to + row * to_pitch, from + row * from_pitch, width);
}

cudaError_t check_kind(const void *to, const void *from, enum cudaMemcpyKind kind)
{
    bool is_to = is_in(device_ranges, to), is_from = is_in(device_ranges, from);
    bool wants_to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    bool wants_from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (kind == cudaMemcpyDefault || (is_to == wants_to && is_from == wants_from))
        return cudaSuccess;
    return cudaErrorInvalidValue;
}

cudaError_t copy(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                 size_t height, enum cudaMemcpyKind kind, cudaStream_t stream)
{
    cudaError_t error = trouble();
    if (!error)
        error = check_kind(to, from, kind);
    if (!error && height > 1 && (width > to_pitch || width > from_pitch))
        error = cudaErrorInvalidValue;
    if (error || width == 0 || height == 0)
        return set(error);
    CUstream_st *s = stream ? stream : &default_stream;
    char *t = (char *)to;
    const char *f = (const char *)from;
    bool is_pageable_from = !is_in(device_ranges, from) && !is_in(pinned_ranges, from);
    bool is_pageable_to = !is_in(device_ranges, to) && !is_in(pinned_ranges, to);
    if (s->capture && (is_pageable_from || is_pageable_to))
        return set(cudaErrorStreamCaptureUnsupported);
    if (is_pageable_from) {
        auto taken = std::make_shared<std::vector<char>>(width * height);
        copy_rows(taken->data(), width, f, from_pitch, width, height);
        counts.moves--; /* only taken so far */
        error =
            enqueue(stream, [=] { copy_rows(t, to_pitch, taken->data(), width, width, height); });
    } else {
        error = enqueue(stream, [=] { copy_rows(t, to_pitch, f, from_pitch, width, height); });
    }
    return is_pageable_to && !error ? wait_all(stream) : set(error);
}

cudaError_t fill(void *to, size_t pitch, int value, size_t width, size_t height,
                 cudaStream_t stream)
{
    cudaError_t error = trouble();
    if (!error && (!is_in(device_ranges, to) || (height > 1 && width > pitch)))
        error = cudaErrorInvalidValue;
    if (error)
        return set(error);
    char *t = (char *)to;
    return enqueue(stream, [=] {
        counts.moves++;
        for (size_t row = 0; row < height; row++)
            memset(t + row * pitch, value, width);
    });
}

void leave_capture(CUgraph_st *graph)
{
    std::vector<CUstream_st *> left;
    for (CUstream_st *s : captures) {
        if (s->capture == graph)
            s->capture = NULL;
        else
            left.push_back(s);
    }
    captures = left;
}

} // namespace

/* ---- kernels ---- */

int dip_emulator_launch(dim3 grid, dim3 block, size_t shared_bytes, CUstream_st *stream,
                        dip_emulator_body body, const void *closure, size_t closure_bytes)
{
    guard g;
    cudaError_t error = trouble();
    unsigned int threads = block.x * block.y * block.z;
    bool is_fitting = threads >= 1 && threads <= 1024 && block.z <= 64 && grid.x >= 1 &&
                      grid.y >= 1 && grid.z >= 1 && grid.x <= 0x7fffffffu && grid.y <= 65535 &&
                      grid.z <= 65535 && shared_bytes <= SHARED_MAX;
    if (!error && !is_fitting)
        error = cudaErrorInvalidConfiguration;
    if (error)
        return (int)set(error);
    auto taken = std::make_shared<std::vector<uint4>>(closure_bytes / sizeof(uint4) + 1);
    memcpy((void *)taken->data(), closure, closure_bytes);
    return (int)enqueue(stream, [=] {
        counts.kernels++;
        dip_emulator_run(grid, block, shared_bytes, body, taken->data());
    });
}

void dip_emulator_enqueue_wait(cudaStream_t stream, std::function<bool()> may_run,
                               std::function<void()> function)
{
    guard g;
    CUstream_st *s = stream ? stream : &default_stream;
    (s->capture ? s->capture->wait_count : wait_count)++;
    (void)set(enqueue(stream, [=] {
        counts.kernels++;
        while (!may_run())
            let_others();
        function();
        wait_count--;
    }));
}

extern "C" {

void dip_emulator_enqueue(cudaStream_t stream, cudaHostFn_t function, void *data)
{
    guard g;
    (void)set(enqueue(stream, [=] {
        counts.kernels++;
        function(data);
    }));
}

void dip_emulator_count(struct dip_emulator_counts *ret_counts)
{
    guard g;
    *ret_counts = counts;
}

void dip_emulator_set_memory(size_t bytes)
{
    guard g;
    memory_bytes = bytes;
}

void dip_emulator_fail(int calls, cudaError_t error)
{
    guard g;
    fail_calls = calls;
    fail_error = error;
}

/* ---- errors ---- */

#define ERRORS(X)                                                                                  \
    X(cudaSuccess, "no error")                                                                     \
    X(cudaErrorInvalidValue, "invalid argument")                                                   \
    X(cudaErrorMemoryAllocation, "out of memory")                                                  \
    X(cudaErrorInvalidConfiguration, "invalid configuration argument")                             \
    X(cudaErrorInsufficientDriver, "CUDA driver version is insufficient for CUDA runtime version") \
    X(cudaErrorInvalidDeviceFunction, "invalid device function")                                   \
    X(cudaErrorNoDevice, "no CUDA-capable device is detected")                                     \
    X(cudaErrorInvalidDevice, "invalid device ordinal")                                            \
    X(cudaErrorInvalidResourceHandle, "invalid resource handle")                                   \
    X(cudaErrorNotReady, "device not ready")                                                       \
    X(cudaErrorIllegalAddress, "an illegal memory access was encountered")                         \
    X(cudaErrorLaunchOutOfResources, "too many resources requested for launch")                    \
    X(cudaErrorLaunchFailure, "unspecified launch failure")                                        \
    X(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing")       \
    X(cudaErrorUnknown, "unknown error")

const char *cudaGetErrorName(cudaError_t error)
{
    switch (error) {
#define NAME(value, text)                                                                          \
    case value:                                                                                    \
        return #value;
        ERRORS(NAME)
    }
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t error)
{
    switch (error) {
#define TEXT(value, text)                                                                          \
    case value:                                                                                    \
        return text;
        ERRORS(TEXT)
    }
    return "unrecognized error code";
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t error = device_error ? device_error : last_error;
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError(void)
{
    return device_error ? device_error : last_error;
}

/* ---- the device: one, with the limits of a Hopper card ---- */

cudaError_t cudaGetDeviceCount(int *count)
{
    int driver = 0;
    const char *devices = getenv("DIPTYCH_EMULATED_DEVICES");
    *count = devices ? atoi(devices) : 1;
    (void)cudaDriverGetVersion(&driver);
    return set(driver < CUDART_VERSION ? cudaErrorInsufficientDriver
               : *count == 0           ? cudaErrorNoDevice
                                       : cudaSuccess);
}

cudaError_t cudaSetDevice(int device)
{
    return set(device == 0 ? device_error : cudaErrorInvalidDevice);
}

cudaError_t cudaGetDevice(int *device)
{
    *device = 0;
    return cudaSuccess;
}

cudaError_t cudaSetDeviceFlags(unsigned int flags)
{
    (void)flags;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device)
{
    if (device != 0)
        return set(cudaErrorInvalidDevice);
    memset(p, 0, sizeof *p);
    strcpy(p->name, "Emulated");
    p->totalGlobalMem = memory_bytes;
    p->sharedMemPerBlock = 48 << 10;
    p->sharedMemPerBlockOptin = SHARED_MAX;
    p->regsPerBlock = 65536;
    p->warpSize = 32;
    p->maxThreadsPerBlock = 1024;
    p->major = 9;
    p->multiProcessorCount = 8;
    if (getenv("DIPTYCH_EMULATED_APART")) { /* each process has a GPU of its own */
        int id = (int)getpid();
        memcpy(p->uuid.bytes, &id, sizeof id);
    }
    p->l2CacheSize = 1 << 20;
    p->memoryBusWidth = 64;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device)
{
    if (device != 0)
        return set(cudaErrorInvalidDevice);
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
        *value = 1024;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = 48 << 10;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = SHARED_MAX;
        break;
    case cudaDevAttrMultiProcessorCount:
        *value = 8;
        break;
    case cudaDevAttrComputeCapabilityMajor:
        *value = 9;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *value = 0;
        break;
    case cudaDevAttrL2CacheSize:
        *value = 1 << 20;
        break;
    case cudaDevAttrClockRate:
        *value = 1000000;
        break;
    case cudaDevAttrMemoryClockRate:
        *value = 1000000;
        break;
    case cudaDevAttrGlobalMemoryBusWidth:
        *value = 64;
        break;
    }
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *text, int length, int device)
{
    (void)snprintf(text, (size_t)length, "0000:%02x:00.0", device);
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void)
{
    guard g;
    cudaError_t error = trouble();
    return error ? set(error) : wait_all(NULL);
}

cudaError_t cudaDeviceReset(void)
{
    guard g;
    queue.clear();
    device_error = cudaSuccess;
    fail_calls = 0;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    const char *driver = getenv("DIPTYCH_EMULATED_DRIVER"); /* 12040 is 12.4 */
    *version = driver ? atoi(driver) : CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **function,
                                             unsigned int version, unsigned long long flags,
                                             enum cudaDriverEntryPointQueryResult *result)
{
    (void)symbol;
    (void)version;
    (void)flags;
    *function = NULL;
    if (result)
        *result = cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    guard g;
    *total_bytes = memory_bytes;
    *free_bytes = memory_bytes > used_bytes ? memory_bytes - used_bytes : 0;
    return set(device_error);
}

/* ---- memory ---- */

cudaError_t cudaMalloc(void **pointer, size_t bytes)
{
    guard g;
    cudaError_t error = trouble();
    if (!error && !captures.empty())
        error = cudaErrorStreamCaptureUnsupported;
    size_t rounded = (bytes + 255) / 256 * 256;
    if (!error && (used_bytes + rounded > memory_bytes || rounded < bytes))
        error = cudaErrorMemoryAllocation;
    *pointer = NULL;
    if (error || bytes == 0)
        return set(error);
    range r = {bytes, NULL, 0};
    char *base;
    if (WITH_ASAN) {
        if (posix_memalign((void **)&base, 256, bytes))
            return set(cudaErrorMemoryAllocation);
    } else {
        r.mapped_bytes = (rounded + PAGE - 1) / PAGE * PAGE + PAGE;
        r.mapping = mmap(NULL, r.mapped_bytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (r.mapping == MAP_FAILED)
            return set(cudaErrorMemoryAllocation);
        base = (char *)r.mapping + r.mapped_bytes - PAGE - rounded;
    }
    if (bytes < (64 << 20)) /* more would only cost time */
        memset(base, 0xff, bytes);
    if (r.mapping)
        mprotect(r.mapping, r.mapped_bytes, PROT_NONE);
    device_ranges[base] = r;
    used_bytes += rounded;
    *pointer = base;
    return cudaSuccess;
}

cudaError_t cudaFree(void *pointer)
{
    guard g;
    if (!pointer)
        return cudaSuccess;
    drain();
    auto found = device_ranges.find((char *)pointer);
    if (found == device_ranges.end())
        return set(cudaErrorInvalidValue);
    used_bytes -= (found->second.bytes + 255) / 256 * 256;
    if (found->second.mapping)
        munmap(found->second.mapping, found->second.mapped_bytes);
    else
        free(pointer);
    device_ranges.erase(found);
    return set(device_error);
}

cudaError_t cudaHostAlloc(void **pointer, size_t bytes, unsigned int flags)
{
    guard g;
    (void)flags;
    cudaError_t error = trouble();
    *pointer = NULL;
    if (!error && posix_memalign(pointer, PAGE, bytes ? bytes : 1))
        error = cudaErrorMemoryAllocation;
    if (!error)
        pinned_ranges[(char *)*pointer] = {bytes, NULL, 0};
    return set(error);
}

cudaError_t cudaHostGetDevicePointer(void **device, void *host, unsigned int flags)
{
    guard g;
    (void)flags;
    if (!is_in(pinned_ranges, host))
        return set(cudaErrorInvalidValue);
    *device = host;
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **pointer, size_t bytes)
{
    return cudaHostAlloc(pointer, bytes, cudaHostAllocDefault);
}

cudaError_t cudaFreeHost(void *pointer)
{
    guard g;
    if (!pointer)
        return cudaSuccess;
    drain();
    if (!pinned_ranges.erase((char *)pointer))
        return set(cudaErrorInvalidValue);
    free(pointer);
    return set(device_error);
}

cudaError_t cudaHostRegister(void *pointer, size_t bytes, unsigned int flags)
{
    guard g;
    (void)flags;
    cudaError_t error = trouble();
    if (!error)
        pinned_ranges[(char *)pointer] = {bytes, NULL, 0};
    return set(error);
}

cudaError_t cudaHostUnregister(void *pointer)
{
    guard g;
    drain();
    return set(pinned_ranges.erase((char *)pointer) ? cudaSuccess : cudaErrorInvalidValue);
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind)
{
    guard g;
    cudaError_t error = copy(to, bytes, from, bytes, bytes, 1, kind, NULL);
    return error ? error : wait_all(NULL);
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    guard g;
    return copy(to, bytes, from, bytes, bytes, 1, kind, stream);
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, enum cudaMemcpyKind kind,
                              cudaStream_t stream)
{
    guard g;
    return copy(to, to_pitch, from, from_pitch, width, height, kind, stream);
}

cudaError_t cudaMemset(void *to, int value, size_t bytes)
{
    guard g;
    return fill(to, bytes, value, bytes, 1, NULL);
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream)
{
    guard g;
    return fill(to, bytes, value, bytes, 1, stream);
}

cudaError_t cudaMemset2DAsync(void *to, size_t pitch, int value, size_t width, size_t height,
                              cudaStream_t stream)
{
    guard g;
    return fill(to, pitch, value, width, height, stream);
}

/* ---- streams and events ---- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned int flags)
{
    guard g;
    (void)flags;
    cudaError_t error = trouble();
    if (!error)
        *stream = new CUstream_st();
    return set(error);
}

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned int flags, int priority)
{
    (void)priority;
    return cudaStreamCreateWithFlags(stream, flags);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    guard g;
    drain();
    delete stream;
    return set(device_error);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    guard g;
    cudaError_t error = trouble();
    return error ? set(error) : wait_all(stream);
}

/* Asking is a chance to run: who polls gets there. */
cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    guard g;
    if (queue.empty())
        return set(device_error);
    cudaError_t error = wait_all(stream);
    return error ? error : cudaErrorNotReady;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int flags)
{
    guard g;
    (void)flags;
    CUstream_st *s = stream ? stream : &default_stream;
    if (event->capture && !s->capture) {
        s->capture = event->capture;
        captures.push_back(s);
    }
    return set(device_error);
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data)
{
    guard g;
    return set(enqueue(stream, [=] { function(data); }));
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned int flags)
{
    guard g;
    (void)flags;
    cudaError_t error = trouble();
    if (!error)
        *event = new CUevent_st();
    return set(error);
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    guard g;
    drain();
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    guard g;
    cudaError_t error = trouble();
    CUstream_st *s = stream ? stream : &default_stream;
    event->capture = s->capture;
    if (error || s->capture)
        return set(error);
    event->is_recorded = event->is_pending = true;
    put_off([=] {
        event->at_ms = now_ms();
        event->is_pending = false;
    });
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    guard g;
    return event->is_pending ? wait_all(NULL) : set(device_error);
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    guard g;
    if (!event->is_pending)
        return set(device_error);
    if (wait_count > 0) /* who asks must not get stuck */
        return cudaErrorNotReady;
    cudaError_t error = wait_all(NULL);
    return error ? error : cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to)
{
    guard g;
    if (!from->is_recorded || !to->is_recorded)
        return set(cudaErrorInvalidResourceHandle);
    if (from->is_pending || to->is_pending)
        return set(cudaErrorNotReady);
    *ms = (float)(to->at_ms - from->at_ms);
    return cudaSuccess;
}

/* ---- graphs ---- */

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode)
{
    guard g;
    (void)mode;
    cudaError_t error = trouble();
    if (!error && (!stream || stream->capture))
        error = cudaErrorStreamCaptureUnsupported;
    if (error)
        return set(error);
    stream->capture = new CUgraph_st();
    stream->is_origin = true;
    captures.push_back(stream);
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    guard g;
    *graph = NULL;
    if (!stream || !stream->capture || !stream->is_origin)
        return set(cudaErrorInvalidValue);
    *graph = stream->capture;
    stream->is_origin = false;
    leave_capture(*graph);
    return set(device_error);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status)
{
    guard g;
    *status =
        stream && stream->capture ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags)
{
    guard g;
    (void)flags;
    cudaError_t error = trouble();
    if (!error)
        *exec = new CUgraphExec_st{graph->list, graph->wait_count};
    return set(error);
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, void **nodes, size_t *count)
{
    if (nodes)
        return set(cudaErrorInvalidValue);
    *count = graph->list.size();
    return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t stream)
{
    (void)exec;
    (void)stream;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    guard g;
    cudaError_t error = trouble();
    if (!error && stream && stream->capture)
        error = cudaErrorStreamCaptureUnsupported;
    if (error)
        return set(error);
    counts.calls++;
    wait_count += exec->wait_count;
    for (const work &w : exec->list)
        put_off(w);
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    guard g;
    drain();
    delete exec;
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    guard g;
    delete graph;
    return cudaSuccess;
}

} // extern "C"
