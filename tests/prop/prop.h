/* tests/prop/prop.h - random tensors, the two CPU families side by side, and comparisons.
 *
 * Every buffer is filled with NaN beyond and between what the test writes, so that a kernel that
 * reads outside its view, or forgets an output, shows. */
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

#include "ops/device.h"

enum { PROP_THREADS_COUNT = 5, PROP_BUFFERS_MAX = 4096, PROP_PAD = 64 };

/* streams[i] computes with prop_threads[i] threads; the last, on a processor that has wider
 * registers, with the narrower ones. plain computes the definitions on one thread. */
static const int prop_threads[PROP_THREADS_COUNT] = {1, 2, 3, 5, 2};
static const char *const prop_backends[PROP_THREADS_COUNT] = {"cpu", "cpu", "cpu", "cpu",
                                                              "cpu-avx2"};

static struct dip_device *prop_devices[PROP_THREADS_COUNT + 1];
static struct dip_stream *prop_streams[PROP_THREADS_COUNT];
static struct dip_stream *prop_plain;

static void *prop_buffers[PROP_BUFFERS_MAX];
static int prop_buffer_count;
static uint64_t prop_state = 0x9e3779b97f4a7c15u;

static inline int prop_start(void **state)
{
    (void)state;
    for (int i = 0; i <= PROP_THREADS_COUNT; i++) {
        bool is_plain = i == PROP_THREADS_COUNT;
        struct dip_device_options options = {.backend = is_plain ? "cpu-plain" : prop_backends[i],
                                             .threads = is_plain ? 1 : prop_threads[i]};
        struct dip_stream **stream = is_plain ? &prop_plain : &prop_streams[i];
        if (dip_device_open(&options, NULL, &prop_devices[i]) ||
            dip_stream_open(prop_devices[i], stream))
            return -1;
        prop_devices[i]->part_ns_min = 0.0; /* cut everything that has two units */
    }
    return 0;
}

static inline int prop_stop(void **state)
{
    (void)state;
    for (int i = 0; i < PROP_THREADS_COUNT; i++)
        dip_stream_close(prop_streams[i]);
    dip_stream_close(prop_plain);
    for (int i = 0; i <= PROP_THREADS_COUNT; i++)
        dip_device_close(prop_devices[i]);
    return 0;
}

/* Gives back every buffer of the case that ended. */
static inline void prop_reset(void)
{
    while (prop_buffer_count > 0)
        free(prop_buffers[--prop_buffer_count]);
}

/* ---- randomness: splitmix64 ---- */

static inline uint64_t prop_bits(void)
{
    uint64_t z = prop_state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* Uniform in first..last. */
static inline int64_t prop_int(int64_t first, int64_t last)
{
    return first + (int64_t)(prop_bits() % (uint64_t)(last - first + 1));
}

/* Uniform in [-1, 1). */
static inline float prop_float(void)
{
    return (float)(prop_bits() >> 40) * 0x1p-23f - 1.0f;
}

#define PROP_PICK(...)                                                                             \
    ((const int64_t[]){                                                                            \
        __VA_ARGS__}[prop_bits() % (sizeof((const int64_t[]){__VA_ARGS__}) / sizeof(int64_t))])

/* ---- tensors ---- */

static inline void *prop_bytes(size_t bytes)
{
    assert_true(prop_buffer_count < PROP_BUFFERS_MAX);
    char *base = malloc(bytes + 2 * PROP_PAD);
    assert_non_null(base);
    memset(base, 0xff, bytes + 2 * PROP_PAD); /* NaN as f32, bf16 and f16 */
    prop_buffers[prop_buffer_count++] = base;
    return base + PROP_PAD;
}

/* A view of rows x columns with `gap` foreign elements between rows. Start is only element-aligned.
 */
static inline struct dip_tensor prop_view(enum dip_dtype dtype, int64_t rows, int64_t columns,
                                          int64_t gap)
{
    size_t size = dip_dtype_bytes(dtype);
    int64_t shift = prop_int(0, 7);
    char *base = prop_bytes((size_t)(rows * (columns + gap) + shift) * size);
    struct dip_tensor t = dip_rows(base + (size_t)shift * size, dtype, rows, columns);
    t.row_stride += gap;
    return t;
}

static inline struct dip_tensor prop_picture(int64_t batch, int64_t height, int64_t width,
                                             int64_t channels, int64_t gap)
{
    struct dip_tensor rows = prop_view(DIP_F32, batch * height * width, channels, gap);
    struct dip_tensor t = dip_image(rows.data, DIP_F32, batch, height, width, channels);
    t.row_stride = rows.row_stride;
    return t;
}

static inline float *prop_at(struct dip_tensor t, int64_t row, int64_t column)
{
    return (float *)t.data + row * t.row_stride + column;
}

/* A random finite half: no exponent of all ones. */
static inline uint16_t prop_half(enum dip_dtype dtype)
{
    if (dtype == DIP_BF16)
        return dip_bf16_from_f32(prop_float());
    uint16_t bits = (uint16_t)prop_bits();
    return (uint16_t)((bits & 0x83ff) | prop_int(8, 14) << 10); /* 2^-7 .. 1 */
}

static inline struct dip_tensor prop_fill(struct dip_tensor t)
{
    for (int64_t r = 0; r < dip_tensor_rows(t); r++) {
        for (int64_t c = 0; c < dip_tensor_columns(t); c++) {
            size_t at = (size_t)(r * t.row_stride + c);
            if (t.dtype == DIP_F32)
                ((float *)t.data)[at] = prop_float();
            else
                ((uint16_t *)t.data)[at] = prop_half(t.dtype);
        }
    }
    return t;
}

static inline struct dip_tensor prop_random(enum dip_dtype dtype, int64_t rows, int64_t columns,
                                            int64_t gap)
{
    return prop_fill(prop_view(dtype, rows, columns, gap));
}

static inline struct dip_tensor prop_random_1d(enum dip_dtype dtype, int64_t count)
{
    return dip_tensor_1d(prop_random(dtype, 1, count, 0).data, dtype, count);
}

static inline enum dip_dtype prop_dtype(void)
{
    return (enum dip_dtype)PROP_PICK(DIP_F32, DIP_BF16, DIP_F16);
}

/* A view of the same shape over fresh memory holding the same values. */
static inline struct dip_tensor prop_clone(struct dip_tensor t)
{
    struct dip_tensor copy = t;
    size_t size = dip_dtype_bytes(t.dtype);
    char *base = prop_bytes((size_t)(dip_tensor_rows(t) * t.row_stride) * size);
    for (int64_t r = 0; r < dip_tensor_rows(t); r++)
        memcpy(base + (size_t)(r * t.row_stride) * size,
               (const char *)t.data + (size_t)(r * t.row_stride) * size,
               (size_t)dip_tensor_columns(t) * size);
    copy.data = base;
    return copy;
}

/* |t|, as f32 weights for an error bound. */
static inline struct dip_tensor prop_magnitude(struct dip_tensor t)
{
    struct dip_tensor m = prop_view(DIP_F32, dip_tensor_rows(t), dip_tensor_columns(t), 0);
    for (int64_t r = 0; r < dip_tensor_rows(t); r++)
        for (int64_t c = 0; c < dip_tensor_columns(t); c++)
            *prop_at(m, r, c) = fabsf(dip_f32_at(t.dtype, t.data, (size_t)(r * t.row_stride + c)));
    m.rank = t.rank;
    memcpy(m.dims, t.dims, sizeof m.dims);
    m.row_stride = t.dims[t.rank - 1];
    return m;
}

/* ---- comparisons ---- */

static inline void prop_same_bits(struct dip_tensor a, struct dip_tensor b)
{
    assert_int_equal(dip_tensor_rows(a), dip_tensor_rows(b));
    assert_int_equal(dip_tensor_columns(a), dip_tensor_columns(b));
    size_t size = dip_dtype_bytes(a.dtype);
    for (int64_t r = 0; r < dip_tensor_rows(a); r++)
        assert_memory_equal((const char *)a.data + (size_t)(r * a.row_stride) * size,
                            (const char *)b.data + (size_t)(r * b.row_stride) * size,
                            (size_t)dip_tensor_columns(a) * size);
}

/* |a - b| <= factor * 2^-24 * bound, elementwise; a NaN fails. */
static inline void prop_near(struct dip_tensor a, struct dip_tensor b, struct dip_tensor bound,
                             double factor)
{
    for (int64_t r = 0; r < dip_tensor_rows(a); r++) {
        for (int64_t c = 0; c < dip_tensor_columns(a); c++) {
            double x = *prop_at(a, r, c);
            double y = *prop_at(b, r, c);
            double limit = factor * 0x1p-24 * (double)*prop_at(bound, r, c);
            if (!(fabs(x - y) <= limit))
                fail_msg("row %lld column %lld: %.9g against %.9g, allowed %.3g", (long long)r,
                         (long long)c, x, y, limit);
        }
    }
}

/* The same with one bound for all elements. */
static inline void prop_near_all(struct dip_tensor a, struct dip_tensor b, double limit)
{
    for (int64_t r = 0; r < dip_tensor_rows(a); r++) {
        for (int64_t c = 0; c < dip_tensor_columns(a); c++) {
            double x = *prop_at(a, r, c);
            double y = *prop_at(b, r, c);
            if (!(fabs(x - y) <= limit))
                fail_msg("row %lld column %lld: %.9g against %.9g, allowed %.3g", (long long)r,
                         (long long)c, x, y, limit);
        }
    }
}

static inline void prop_ok(enum dip_status status)
{
    assert_string_equal(dip_status_text(status), dip_status_text(DIP_OK));
}
