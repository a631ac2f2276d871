/* tests/cuda/device.h - random operands on a CUDA device and their values on the host.
 *
 * The same tests run on a GPU and on the emulator: they call launchers and the CUDA runtime, and
 * know of neither. Where there is no device the program says so and counts as skipped.
 *
 * A view starts at any element, aligned or not, and the gaps between its rows hold NaN: a kernel
 * that reads outside shows as NaN, one that writes outside is looked for. */
#pragma once

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <cuda_runtime_api.h>

#include "kernels/cuda/cuda.h"

enum { GPU_BUFFERS_MAX = 512, GPU_SKIPPED = 77 };

/* How often a case is drawn: the thread sanitizer takes 20 times as long for each, and sees in a
 * few what there is to see. */
#if defined(__SANITIZE_THREAD__)
#define GPU_TIMES(count) ((count) / 8 + 1)
#else
#define GPU_TIMES(count) (count)
#endif

/* `count` cases, each of which gives its buffers back: for (GPU_CASES(i, 40)) { ... } */
#define GPU_CASES(i, count)                                                                        \
    int i = 0;                                                                                     \
    i < GPU_TIMES(count);                                                                          \
    i++, gpu_reset()

static cudaStream_t gpu_stream;
static void *gpu_scratch;
static void *gpu_device_buffers[GPU_BUFFERS_MAX], *gpu_host_buffers[GPU_BUFFERS_MAX];
static int gpu_device_count, gpu_host_count;
static uint64_t gpu_state = 0x2545f4914f6cdd1du;

static inline void gpu_must(cudaError_t error)
{
    if (error)
        fail_msg("CUDA: %s", cudaGetErrorString(error));
}

static inline void gpu_ok(enum dip_status status)
{
    if (status)
        fail_msg("status %d: %s", (int)status, cudaGetErrorString(cudaGetLastError()));
}

/* Ends the program where there is no device. */
static inline void gpu_require(void)
{
    int count = 0;
    if (cudaGetDeviceCount(&count) == cudaSuccess && count > 0)
        return;
    (void)fprintf(stderr, "SKIPPED: there is no CUDA device here; nothing of this was run\n");
    exit(GPU_SKIPPED);
}

static inline int gpu_start(void **state)
{
    (void)state;
    gpu_must(cudaStreamCreateWithFlags(&gpu_stream, cudaStreamNonBlocking));
    gpu_must(cudaMalloc(&gpu_scratch, DIP_CUDA_SCRATCH_BYTES));
    return 0;
}

/* Gives back every buffer of the case that ended. */
static inline void gpu_reset(void)
{
    gpu_must(cudaStreamSynchronize(gpu_stream));
    while (gpu_device_count > 0)
        gpu_must(cudaFree(gpu_device_buffers[--gpu_device_count]));
    while (gpu_host_count > 0)
        free(gpu_host_buffers[--gpu_host_count]);
}

static inline int gpu_stop(void **state)
{
    (void)state;
    gpu_reset();
    gpu_must(cudaFree(gpu_scratch));
    gpu_must(cudaStreamDestroy(gpu_stream));
    return 0;
}

/* ---- randomness: splitmix64 ---- */

static inline uint64_t gpu_bits(void)
{
    uint64_t z = gpu_state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static inline int64_t gpu_int(int64_t first, int64_t last)
{
    return first + (int64_t)(gpu_bits() % (uint64_t)(last - first + 1));
}

/* Uniform in [-1, 1). */
static inline float gpu_float(void)
{
    return (float)(gpu_bits() >> 40) * 0x1p-23f - 1.0f;
}

#define GPU_PICK(...)                                                                              \
    ((const int64_t[]){                                                                            \
        __VA_ARGS__}[gpu_bits() % (sizeof((const int64_t[]){__VA_ARGS__}) / sizeof(int64_t))])

static inline enum dip_dtype gpu_act(void)
{
    return (enum dip_dtype)GPU_PICK(DIP_F32, DIP_BF16, DIP_BF16);
}

static inline enum dip_dtype gpu_weight(void)
{
    return (enum dip_dtype)GPU_PICK(DIP_F32, DIP_BF16, DIP_BF16, DIP_F16);
}

/* One, primes, and sizes on both sides of what kernels take at a time. */
static inline int64_t gpu_columns(void)
{
    return GPU_PICK(1, 3, 7, 8, 9, 24, 31, 64, 96, 129, 256, 1000);
}

static inline int64_t gpu_rows(void)
{
    return GPU_PICK(1, 1, 2, 3, 7, 16, 17, 33);
}

/* ---- memory ---- */

static inline void *gpu_host(size_t bytes)
{
    assert_true(gpu_host_count < GPU_BUFFERS_MAX);
    void *memory = malloc(bytes ? bytes : 1);
    assert_non_null(memory);
    gpu_host_buffers[gpu_host_count++] = memory;
    return memory;
}

static inline void *gpu_alloc(size_t bytes)
{
    assert_true(gpu_device_count < GPU_BUFFERS_MAX);
    void *memory = NULL;
    gpu_must(cudaMalloc(&memory, bytes ? bytes : 1));
    gpu_device_buffers[gpu_device_count++] = memory;
    return memory;
}

/* A copy of `bytes` of host memory on the device. */
static inline void *gpu_upload(const void *from, size_t bytes)
{
    void *memory = gpu_alloc(bytes);
    gpu_must(cudaMemcpy(memory, from, bytes, cudaMemcpyHostToDevice));
    return memory;
}

/* What is at `from` after everything enqueued has run. */
static inline void *gpu_download(const void *from, size_t bytes)
{
    void *memory = gpu_host(bytes);
    gpu_must(cudaStreamSynchronize(gpu_stream));
    gpu_must(cudaMemcpy(memory, from, bytes, cudaMemcpyDeviceToHost));
    return memory;
}

/* ---- operands ---- */

static inline float gpu_get(enum dip_dtype dtype, const void *data, size_t i)
{
    return dip_f32_at(dtype, data, i);
}

static inline void gpu_set(enum dip_dtype dtype, void *data, size_t i, float x)
{
    if (dtype == DIP_F32) {
        ((float *)data)[i] = x;
    } else if (dtype == DIP_BF16) {
        ((uint16_t *)data)[i] = dip_bf16_from_f32(x);
    } else { /* any half near x: only its own value is used */
        uint32_t bits = dip_f32_bits(x);
        int exponent = (int)(bits >> 23 & 255) - 112;
        uint16_t half = exponent <= 0 ? 0 : (uint16_t)(exponent << 10 | (bits >> 13 & 0x3ff));
        ((uint16_t *)data)[i] = (uint16_t)(half | (bits >> 16 & 0x8000));
    }
}

/* A view on the device; `values` are its elements in f32, dense. */
struct gpu_tensor {
    struct dip_cuda_view view;
    float *values;
    size_t shift, bytes; /* first element within its buffer; the buffer's size */
};

/* Uploads values[rows * columns], rounded to dtype (and rounds them in place). */
static inline struct gpu_tensor gpu_tensor(enum dip_dtype dtype, int64_t rows, int64_t columns,
                                           bool is_aligned, float *values)
{
    struct gpu_tensor t = {.values = values};
    size_t size = dip_dtype_bytes(dtype);
    int64_t stride =
        columns + (is_aligned ? (8 - columns % 8) % 8 + 8 * gpu_int(0, 1) : gpu_int(0, 5));
    t.shift = is_aligned ? 8 : (size_t)gpu_int(1, 7);
    t.bytes = (t.shift + (size_t)(rows * stride) + 8) * size;
    char *host = gpu_host(t.bytes);
    memset(host, 0xff, t.bytes);
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t c = 0; c < columns; c++) {
            size_t at = t.shift + (size_t)(r * stride + c);
            gpu_set(dtype, host, at, values[r * columns + c]);
            values[r * columns + c] = gpu_get(dtype, host, at);
        }
    }
    char *base = gpu_upload(host, t.bytes);
    t.view = (struct dip_cuda_view){base + t.shift * size, dtype, rows, columns, stride};
    return t;
}

static inline float *gpu_values(int64_t count, float scale)
{
    float *values = gpu_host((size_t)count * sizeof *values);
    for (int64_t i = 0; i < count; i++)
        values[i] = scale * gpu_float();
    return values;
}

static inline struct gpu_tensor gpu_random(enum dip_dtype dtype, int64_t rows, int64_t columns,
                                           bool is_aligned)
{
    return gpu_tensor(dtype, rows, columns, is_aligned, gpu_values(rows * columns, 1.0f));
}

/* For results: full of NaN. */
static inline struct gpu_tensor gpu_empty(enum dip_dtype dtype, int64_t rows, int64_t columns,
                                          bool is_aligned)
{
    float *values = gpu_values(rows * columns, 1.0f);
    for (int64_t i = 0; i < rows * columns; i++)
        values[i] = NAN;
    return gpu_tensor(dtype, rows, columns, is_aligned, values);
}

/* A parameter in both places. */
struct gpu_param {
    struct dip_param device, host;
};

static inline struct gpu_param gpu_param(enum dip_dtype dtype, int64_t count, float scale)
{
    size_t bytes = (size_t)count * dip_dtype_bytes(dtype);
    void *host = gpu_host(bytes);
    for (int64_t i = 0; i < count; i++)
        gpu_set(dtype, host, (size_t)i, scale * gpu_float());
    return (struct gpu_param){.device = {gpu_upload(host, bytes), dtype}, .host = {host, dtype}};
}

/* The view's elements now, dense f32; fails when something between or around its rows was written.
 */
static inline float *gpu_fetch(const struct gpu_tensor *t)
{
    const struct dip_cuda_view *v = &t->view;
    size_t size = dip_dtype_bytes(v->dtype);
    char *all = gpu_download((char *)v->data - t->shift * size, t->bytes);
    float *values = gpu_host((size_t)(v->rows * v->columns) * sizeof *values);
    for (size_t i = 0; i < t->bytes / size; i++) {
        int64_t at = (int64_t)i - (int64_t)t->shift;
        int64_t row = at / v->stride, column = at % v->stride;
        bool is_inside = at >= 0 && row < v->rows && column < v->columns;
        if (is_inside)
            values[row * v->columns + column] = gpu_get(v->dtype, all, i);
        else
            for (size_t b = 0; b < size; b++)
                if ((unsigned char)all[i * size + b] != 0xff)
                    fail_msg("element %lld beside the view was written", (long long)at);
    }
    return values;
}

/* ---- comparisons ---- */

/* Half a unit in the last place, relative. */
static inline double gpu_half_ulp(enum dip_dtype dtype)
{
    return dtype == DIP_F32 ? 0x1p-24 : dtype == DIP_BF16 ? 0x1p-8 : 0x1p-11;
}

/* |got - want| <= the rounding of the result + roundings * 2^-24 * size[i]; size NULL: 1. */
static inline void gpu_near(const struct gpu_tensor *got, const float *want, const float *size,
                            double roundings)
{
    const float *values = gpu_fetch(got);
    for (int64_t i = 0; i < got->view.rows * got->view.columns; i++) {
        double error = roundings * 0x1p-24 * (size ? (double)fabsf(size[i]) : 1.0);
        double limit = gpu_half_ulp(got->view.dtype) * (fabs((double)want[i]) + error) + error;
        if (!(fabs((double)values[i] - (double)want[i]) <= limit * 1.001 + 1e-38))
            fail_msg("row %lld column %lld: %.9g, expected %.9g within %.3g",
                     (long long)(i / got->view.columns), (long long)(i % got->view.columns),
                     (double)values[i], (double)want[i], limit);
    }
}

static inline void gpu_same(const float *a, const float *b, int64_t count)
{
    assert_memory_equal(a, b, (size_t)count * sizeof *a);
}

/* ---- alone and in company ---- */

/* One row of a view: what a test gives to the launch that it compares with that of all rows. */
static inline struct dip_cuda_view gpu_row(struct dip_cuda_view all, int64_t row)
{
    all.data = (char *)all.data + (size_t)(row * all.stride) * dip_dtype_bytes(all.dtype);
    all.rows = 1;
    return all;
}

static inline void gpu_same_row(const struct gpu_tensor *one, const struct gpu_tensor *many,
                                int64_t row)
{
    int64_t columns = many->view.columns;
    gpu_same(gpu_fetch(one), gpu_fetch(many) + row * columns, columns);
}
