/* tests/golden/golden.h - what the programs of tests/golden share: a tiny model on a device, its
 * golden tensors by key, and distances.
 *
 * Include after cmocka.h. Device memory comes from one arena that golden_open reserves and each
 * test winds back. Keys: tests/golden/README.md. */
#pragma once

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/model.h"
#include "model/safetensors.h"
#include "tests/device.h"

enum { GOLDEN_MEMORY_BYTES = 64 << 20 };

struct golden {
    char variant[16];    /* "tiny-a" */
    const char *backend; /* "cpu", or "cpu-plain" */
    struct dip_device *device;
    struct dip_stream *s;
    struct dip_model *model;
    struct dip_safetensors *file;
    struct dip_mem mem;
    struct dip_arena memory;
};

/* One test for one variant on one family of kernels, named after all three. */
#define GOLDEN_TEST(test, variant, backend)                                                        \
    {                                                                                              \
#test " " variant " " backend, test, golden_setup, golden_teardown,                        \
            (void *)(uintptr_t)(variant ":" backend)                                               \
    }
#define GOLDEN_TESTS(test)                                                                         \
    GOLDEN_TEST(test, "tiny-a", "cpu"), GOLDEN_TEST(test, "tiny-b", "cpu"),                        \
        GOLDEN_TEST(test, "tiny-c", "cpu"), GOLDEN_TEST(test, "tiny-a", "cpu-plain"),              \
        GOLDEN_TEST(test, "tiny-b", "cpu-plain"), GOLDEN_TEST(test, "tiny-c", "cpu-plain")

static inline void golden_ok(enum dip_status status, const char *what)
{
    if (status != DIP_OK)
        fail_msg("%s: %s", what, dip_status_text(status));
}

/* ---- golden tensors ---- */

static inline struct dip_safetensors *golden_file(const char *folder)
{
    char path[256];
    struct dip_why why = {0};
    struct dip_safetensors *file = NULL;
    (void)snprintf(path, sizeof path, "tests/golden/%s/golden.safetensors", folder);
    golden_ok(dip_safetensors_open(path, &why, &file), why.text);
    return file;
}

static inline const struct dip_safetensors_tensor *golden_find(const struct dip_safetensors *file,
                                                               const char *key, const char *dtype)
{
    const struct dip_safetensors_tensor *t = dip_safetensors_find(file, key);
    if (!t)
        fail_msg("no golden tensor %s", key);
    assert_string_equal(t->dtype_name, dtype);
    return t;
}

static inline const float *golden_f32(const struct golden *g, const char *key)
{
    return (const float *)(const void *)golden_find(g->file, key, "F32")->data;
}

static inline const int32_t *golden_i32(const struct golden *g, const char *key)
{
    return (const int32_t *)(const void *)golden_find(g->file, key, "I32")->data;
}

static inline int golden_dim(const struct golden *g, const char *key, int dim)
{
    const struct dip_safetensors_tensor *t = dip_safetensors_find(g->file, key);
    if (!t)
        fail_msg("no golden tensor %s", key);
    return (int)t->dims[dim];
}

/* ---- distances ---- */

static inline double golden_distance(const float *got, const float *want, size_t count)
{
    double error = 0, norm = 0;
    for (size_t i = 0; i < count; i++) {
        double d = (double)got[i] - want[i];
        error += d * d;
        norm += (double)want[i] * want[i];
    }
    assert_true(norm > 0);
    return sqrt(error / norm); /* NaN fails every comparison below */
}

/* With bf16 between the operations a stage is allowed eight of its roundings (2^-9 each), whatever
 * its limit in f32. */
static const double GOLDEN_LIMIT_BF16 = 8.0 / 512;

static inline bool golden_is_bf16(const struct golden *g)
{
    return g->device && dip_device_activation(g->device) == DIP_BF16; /* none: plain arithmetic */
}

/* Relative L2 distance at most `limit`; what was measured is printed. */
static inline void golden_close(const struct golden *g, const char *what, const float *got,
                                const float *want, size_t count, double limit)
{
    double distance = golden_distance(got, want, count);
    if (golden_is_bf16(g))
        limit = GOLDEN_LIMIT_BF16;
    print_message("%s %s %s: %.1e (limit %.0e)\n", g->variant, g->backend, what, distance, limit);
    if (!(distance <= limit))
        fail_msg("%s %s %s: relative L2 distance %g, limit %g", g->variant, g->backend, what,
                 distance, limit);
}

/* ---- images ---- */

/* [c, h, w] of the golden file to [h, w, c] of the engine, and back. */
static inline void golden_to_nhwc(float *to, const float *from, int c, int h, int w)
{
    for (int i = 0; i < h * w; i++)
        for (int k = 0; k < c; k++)
            to[i * c + k] = from[k * h * w + i];
}

static inline void golden_to_nchw(float *to, const float *from, int c, int h, int w)
{
    for (int i = 0; i < h * w; i++)
        for (int k = 0; k < c; k++)
            to[k * h * w + i] = from[i * c + k];
}

/* ---- device memory ---- */

static inline struct dip_tensor golden_rows(struct golden *g, int64_t rows, int64_t columns)
{
    void *data = dip_arena_push(&g->memory, (size_t)(rows * columns) * sizeof(float));
    assert_non_null(data);
    return dip_rows(data, DIP_F32, rows, columns);
}

static inline void golden_write(struct golden *g, struct dip_tensor to, const float *from)
{
    struct dip_tensor host = to;
    host.data = (void *)(uintptr_t)from;
    golden_ok(dip_copy(g->s, to, host), "copy to the device");
    golden_ok(dip_wait(g->s), "wait");
}

/* Host memory; the caller frees it. */
static inline float *golden_read(struct golden *g, struct dip_tensor from)
{
    struct dip_tensor host = from;
    host.data = calloc((size_t)dip_tensor_count(from), sizeof(float));
    assert_non_null(host.data);
    golden_ok(dip_copy(g->s, host, from), "copy from the device");
    golden_ok(dip_wait(g->s), "wait");
    return host.data;
}

/* A golden matrix on the device. */
static inline struct dip_tensor golden_load(struct golden *g, const char *key)
{
    struct dip_tensor t = golden_rows(g, golden_dim(g, key, 0), golden_dim(g, key, 1));
    golden_write(g, t, golden_f32(g, key));
    return t;
}

/* A golden image [c, h, w] on the device as [1, h, w, c]. */
static inline struct dip_tensor golden_load_image(struct golden *g, const char *key)
{
    int c = golden_dim(g, key, 0), h = golden_dim(g, key, 1), w = golden_dim(g, key, 2);
    float *nhwc = calloc((size_t)(c * h * w), sizeof *nhwc);
    assert_non_null(nhwc);
    golden_to_nhwc(nhwc, golden_f32(g, key), c, h, w);
    struct dip_tensor t = golden_rows(g, (int64_t)h * w, c);
    golden_write(g, t, nhwc);
    free(nhwc);
    return dip_image(t.data, DIP_F32, 1, h, w, c);
}

/* Compares an image [1, h, w, c] on the device with a golden [c, h, w]. */
static inline void golden_close_image(struct golden *g, const char *key, struct dip_tensor image,
                                      double limit)
{
    int c = golden_dim(g, key, 0), h = golden_dim(g, key, 1), w = golden_dim(g, key, 2);
    assert_int_equal(dip_tensor_count(image), (int64_t)c * h * w);
    float *nhwc = golden_read(g, image);
    float *nchw = calloc((size_t)(c * h * w), sizeof *nchw);
    assert_non_null(nchw);
    golden_to_nchw(nchw, nhwc, c, h, w);
    golden_close(g, key, nchw, golden_f32(g, key), (size_t)(c * h * w), limit);
    free(nchw);
    free(nhwc);
}

/* A scratch arena of exactly the bytes a network asked for: what it needs beyond that asserts. */
static inline struct dip_arena golden_scratch(struct golden *g, size_t bytes)
{
    void *base = dip_arena_push(&g->memory, bytes);
    assert_non_null(base);
    struct dip_arena scratch;
    dip_arena_init(&scratch, base, bytes);
    return scratch;
}

/* ---- setup ---- */

/* On another device than the CPU: there is one family of kernels then, not two. */
static inline bool golden_is_elsewhere(void)
{
    return strcmp(test_device_options(1).backend, "cpu") != 0;
}

__attribute__((constructor)) static inline void golden_choose(void)
{
    const char *filter = getenv("DIPTYCH_TEST_FILTER");
    if (filter || golden_is_elsewhere())
        cmocka_set_test_filter(filter ? filter : "* cpu");
}

static inline int golden_setup(void **state)
{
    struct golden *g = calloc(1, sizeof *g);
    assert_non_null(g);
    struct dip_why why = {0};
    const char *place = *state, *colon = strchr(place, ':');
    char directory[256];

    assert_non_null(colon);
    memcpy(g->variant, place, (size_t)(colon - place)); /* the rest is zeroed */
    struct dip_device_options options = test_device_options(2);
    if (!golden_is_elsewhere())
        options.backend = colon + 1;
    g->backend = options.backend;
    (void)snprintf(directory, sizeof directory, "tests/golden/%s/model", g->variant);
    golden_ok(dip_device_open(&options, &why, &g->device), why.text);
    golden_ok(dip_stream_open(g->device, &g->s), "stream");
    golden_ok(dip_model_open(directory, &why, &g->model), why.text);
    golden_ok(dip_model_prepare(g->model, g->s, &why), why.text);
    if (g->model->ar)
        golden_ok(dip_ar_place(g->model->ar, g->s, &why), why.text);
    golden_ok(dip_reserve(g->device, GOLDEN_MEMORY_BYTES, &g->mem), "reserve");
    dip_arena_init(&g->memory, g->mem.base, g->mem.bytes);
    g->file = golden_file(g->variant);
    *state = g;
    return 0;
}

static inline int golden_teardown(void **state)
{
    struct golden *g = *state;
    dip_safetensors_close(g->file);
    dip_release(g->device, &g->mem);
    dip_model_close(g->model);
    dip_stream_close(g->s);
    dip_device_close(g->device);
    free(g);
    return 0;
}
