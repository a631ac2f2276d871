/* tests/unit/cuda_device.c - the CUDA backend's memory, copies, waits and errors, on the emulated
 * GPU: whose work is put off until somebody waits, and whose memory the host cannot touch. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/emulator.h"

static struct dip_device *device;
static struct dip_stream *stream;

static int start(void **state)
{
    (void)state;
    device = emulator_open("f32");
    assert_int_equal(dip_stream_open(device, &stream), DIP_OK);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    dip_stream_close(stream);
    dip_device_close(device);
    return 0;
}

static float *numbers(int64_t count, float first)
{
    float *data = malloc((size_t)count * sizeof *data);
    assert_non_null(data);
    for (int64_t i = 0; i < count; i++)
        data[i] = first + (float)i;
    return data;
}

static void test_device(void **state)
{
    (void)state;
    assert_string_equal(dip_device_backend(device), "cuda");
    assert_string_equal(dip_device_class(device), "cuda-sm90-f32");
    assert_int_equal(dip_device_activation(device), DIP_F32);
    assert_false(dip_device_reads_host(device));
    struct dip_device *half = emulator_open(NULL);
    assert_string_equal(dip_device_class(half), "cuda-sm90-bf16");
    assert_int_equal(dip_device_activation(half), DIP_BF16);
    dip_device_close(half);
    struct dip_why why = {0};
    struct dip_device_options options = {
        .backend = "cuda", .index = 7, .plugin = DIP_EMULATED_PLUGIN};
    assert_int_equal(dip_device_open(&options, &why, &half), DIP_UNSUPPORTED);
    assert_string_equal(why.text, "there is no GPU 7: this process sees 1");
}

/* There and back, whole and in part, dense and strided, small and many times the pinned buffers. */
static void test_copies(void **state)
{
    (void)state;
    static const int64_t shapes[][2] = {{1, 1}, {3, 5}, {1000, 7}, {2, 3000000}, {7000, 999}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        int64_t rows = shapes[i][0];
        int64_t columns = shapes[i][1];
        int64_t half = (columns + 1) / 2;
        float *from = numbers(rows * columns, 1.0f);
        float *to = numbers(rows * columns, -1.0f);
        struct dip_mem mem = {0};
        size_t bytes = (size_t)(rows * columns) * sizeof(float);
        assert_int_equal(dip_reserve(device, 2 * bytes, &mem), DIP_OK);
        struct dip_tensor a = dip_rows(mem.base, DIP_F32, rows, columns);
        struct dip_tensor b = dip_rows((char *)mem.base + bytes, DIP_F32, rows, columns);
        struct dip_tensor host = dip_rows(from, DIP_F32, rows, columns);
        struct dip_tensor back = dip_rows(to, DIP_F32, rows, columns);
        /* In halves by columns up, whole across, in halves by rows down. */
        assert_int_equal(
            dip_copy(stream, dip_columns_slice(a, 0, half), dip_columns_slice(host, 0, half)), 0);
        if (columns > half)
            assert_int_equal(dip_copy(stream, dip_columns_slice(a, half, columns - half),
                                      dip_columns_slice(host, half, columns - half)),
                             0);
        memset(from + rows * columns - 1, 0, sizeof *from); /* it has been read */
        assert_int_equal(dip_copy(stream, b, a), DIP_OK);
        assert_int_equal(
            dip_copy(stream, dip_columns_slice(back, 0, half), dip_columns_slice(b, 0, half)),
            DIP_OK);
        if (columns > half)
            assert_int_equal(dip_copy(stream, dip_columns_slice(back, half, columns - half),
                                      dip_columns_slice(b, half, columns - half)),
                             DIP_OK);
        assert_int_equal(dip_wait(stream), DIP_OK);
        for (int64_t k = 0; k < rows * columns; k++)
            assert_true(to[k] == 1.0f + (float)k);
        dip_release(device, &mem);
        free(from);
        free(to);
    }
}

/* One flat array against rows with gaps. */
static void test_flat(void **state)
{
    (void)state;
    float *flat = numbers(12, 0.0f);
    float back[12] = {0};
    struct dip_mem mem = {0};
    assert_int_equal(dip_reserve(device, 100 * sizeof(float), &mem), DIP_OK);
    struct dip_tensor gaps = dip_rows(mem.base, DIP_F32, 3, 4);
    gaps.row_stride = 9;
    assert_int_equal(dip_copy(stream, gaps, dip_tensor_1d(flat, DIP_F32, 12)), DIP_OK);
    assert_int_equal(dip_copy(stream, dip_tensor_1d(back, DIP_F32, 12), gaps), DIP_OK);
    assert_int_equal(dip_wait(stream), DIP_OK);
    assert_memory_equal(back, flat, sizeof back);
    dip_release(device, &mem);
    free(flat);
}

/* What is reserved is zero; what is staged keeps the bytes of its time until the wait. */
static void test_stage(void **state)
{
    (void)state;
    float values[64] = {0};
    float back[64];
    struct dip_mem mem = {0};
    assert_int_equal(dip_reserve(device, sizeof back, &mem), DIP_OK);
    struct dip_tensor place = dip_tensor_1d(mem.base, DIP_F32, 64);
    assert_int_equal(dip_copy(stream, dip_tensor_1d(back, DIP_F32, 64), place), DIP_OK);
    assert_int_equal(dip_wait(stream), DIP_OK);
    assert_memory_equal(back, values, sizeof back);
    assert_ptr_equal(dip_stage(stream, mem.base, 8), mem.base);
    for (int i = 0; i < 64; i++)
        values[i] = (float)i;
    void *staged = (void *)(uintptr_t)dip_stage(stream, values, sizeof values);
    assert_non_null(staged);
    memset(values, 0, sizeof values);
    char *large = calloc(1, 5 << 20);
    assert_null(dip_stage(stream, large, 5 << 20)); /* more than the ring */
    free(large);
    dip_release(device, &mem);
}

static void test_memory_full(void **state)
{
    (void)state;
    void (*set_memory)(size_t) = NULL;
    *(void **)&set_memory = emulator_symbol("dip_emulator_set_memory");
    set_memory((size_t)1 << 30);
    struct dip_mem mem = {0};
    assert_int_equal(dip_reserve(device, (size_t)3 << 30, &mem), DIP_NO_MEMORY);
    assert_non_null(strstr(dip_device_note(device), "3.00 GiB were asked for"));
    assert_non_null(strstr(dip_device_note(device), "GiB too few"));
    assert_int_equal(dip_reserve(device, 1 << 20, &mem), DIP_OK); /* and nothing is broken */
    dip_release(device, &mem);
    set_memory((size_t)8 << 30);
}

/* The first error ends the device: every later call fails, nothing reaches the host, and closing
 * still gives everything back. */
static void test_death(void **state)
{
    (void)state;
    void (*break_at)(int, int) = NULL;
    *(void **)&break_at = emulator_symbol("dip_emulator_fail");
    struct dip_device *doomed = emulator_open("f32");
    struct dip_stream *s = NULL;
    struct dip_mem mem = {0};
    float back[4] = {7, 7, 7, 7};
    assert_int_equal(dip_stream_open(doomed, &s), DIP_OK);
    assert_int_equal(dip_reserve(doomed, sizeof back, &mem), DIP_OK);
    struct dip_tensor place = dip_tensor_1d(mem.base, DIP_F32, 4);
    assert_int_equal(dip_copy(s, dip_tensor_1d(back, DIP_F32, 4), place), DIP_OK);
    break_at(1, 700); /* an illegal address */
    assert_int_equal(dip_wait(s), DIP_DEVICE);
    assert_true(back[0] == 7);
    assert_non_null(strstr(dip_device_note(doomed), "GPU 0: "));
    assert_int_equal(dip_wait(s), DIP_DEVICE);
    assert_int_equal(dip_fill(s, place, 1.0f), DIP_DEVICE);
    assert_int_equal(dip_copy(s, dip_tensor_1d(back, DIP_F32, 4), place), DIP_DEVICE);
    assert_true(back[0] == 7);
    break_at(0, 0);
    dip_release(doomed, &mem);
    dip_stream_close(s);
    dip_device_close(doomed);
}

/* A recording repeats operations on whatever memory holds by then. */
static void test_graph(void **state)
{
    (void)state;
    float back[8];
    struct dip_mem mem = {0};
    struct dip_graph *graph = NULL;
    struct dip_fence *fence = NULL;
    assert_true(dip_can_capture(stream));
    assert_int_equal(dip_reserve(device, sizeof back, &mem), DIP_OK);
    struct dip_tensor x = dip_tensor_1d(mem.base, DIP_F32, 4);
    struct dip_tensor y = dip_tensor_1d((float *)mem.base + 4, DIP_F32, 4);
    assert_int_equal(dip_fence_new(stream, &fence), DIP_OK);
    assert_int_equal(dip_graph_begin(stream), DIP_OK);
    assert_int_equal(dip_add(stream, &(struct dip_add_args){.sum = x, .x = y}), DIP_OK);
    assert_int_equal(dip_graph_end(stream, &graph), DIP_OK);
    assert_int_equal(dip_fill(stream, y, 0.5f), DIP_OK);
    for (int i = 0; i < 3; i++)
        assert_int_equal(dip_graph_launch(stream, graph), DIP_OK);
    assert_int_equal(dip_fence_set(stream, fence), DIP_OK);
    assert_int_equal(dip_fill(stream, y, 10.0f), DIP_OK);
    assert_int_equal(dip_graph_launch(stream, graph), DIP_OK);
    assert_int_equal(dip_fence_wait(stream, fence), DIP_OK);
    assert_int_equal(
        dip_copy(stream, dip_tensor_1d(back, DIP_F32, 8), dip_tensor_1d(mem.base, DIP_F32, 8)), 0);
    assert_int_equal(dip_wait(stream), DIP_OK);
    assert_true(back[0] == 11.5f);
    assert_true(back[4] == 10.0f);
    dip_graph_free(stream, graph);
    dip_fence_free(stream, fence);
    dip_release(device, &mem);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_device),      cmocka_unit_test(test_copies),
        cmocka_unit_test(test_flat),        cmocka_unit_test(test_stage),
        cmocka_unit_test(test_memory_full), cmocka_unit_test(test_graph),
        cmocka_unit_test(test_death), /* the emulated GPU stays dead in this process */
    };
    return cmocka_run_group_tests(tests, start, stop);
}
