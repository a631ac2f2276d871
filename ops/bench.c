/* ops/bench.c - timing operations; see ops/bench.h for the method. */
#include "ops/bench.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "ops/cpu.h"

enum { CALLS_MIN = 8, CALLS_MAX = 20000, CALLS_TOGETHER = 8 };
static const double RESULT_SECONDS = 0.5; /* spent on one result, when that is more calls */
enum { BLOCK_ELEMENTS = 1 << 16 };
static const size_t SPREAD_BYTES = (size_t)192 << 20; /* more than the last-level cache */

/* ---- what every measurement needs ---- */

/* Calls of one operation; `turn` counts them, so that a call can move on to other memory. */
struct work {
    enum dip_status (*call)(struct dip_stream *s, void *context, int64_t turn);
    void *context;
};

/* The best call, after two that only warm up; of a GPU the best mean of some between two waits, so
 * that neither the wait nor the first launch is in it. */
static enum dip_status measure(struct dip_stream *s, const struct work *work, double *ret_seconds)
{
    int64_t best_ns = INT64_MAX;
    int64_t spent_ns = 0;
    DIP_TRY(work->call(s, work->context, 0));
    DIP_TRY(work->call(s, work->context, 1));
    DIP_TRY(dip_wait(s));
    int together = dip_device_reads_host(dip_stream_device(s)) ? 1 : CALLS_TOGETHER;
    for (int64_t i = 2; i < CALLS_MAX; i += together) {
        if (i >= CALLS_MIN && (double)spent_ns > RESULT_SECONDS * 1e9)
            break;
        int64_t start_ns = dip_clock_now_ns();
        for (int k = 0; k < together; k++)
            DIP_TRY(work->call(s, work->context, i + k));
        DIP_TRY(dip_wait(s));
        int64_t call_ns = (dip_clock_now_ns() - start_ns) / together;
        spent_ns += together * call_ns;
        if (call_ns < best_ns)
            best_ns = call_ns;
    }
    *ret_seconds = (double)best_ns * 1e-9;
    return DIP_OK;
}

/* A stream and one block of memory, carved from the front. */
struct bench {
    struct dip_device *device;
    struct dip_stream *stream;
    struct dip_mem mem;
    size_t used_bytes;
    uint32_t seed;
};

static enum dip_status bench_open(struct dip_device *device, size_t bytes, struct bench *b)
{
    *b = (struct bench){.device = device, .seed = 1};
    DIP_TRY(dip_stream_open(device, &b->stream));
    return dip_reserve(device, bytes, &b->mem);
}

static void bench_close(struct bench *b)
{
    dip_stream_close(b->stream);
    dip_release(b->device, &b->mem);
}

static size_t padded(size_t bytes)
{
    return (bytes + 63) & ~(size_t)63;
}

static void *carve(struct bench *b, size_t bytes)
{
    void *at = (char *)b->mem.base + b->used_bytes;
    b->used_bytes += padded(bytes);
    return at;
}

/* Uniform in [-0.5, 0.5), never zero: a multiplicative congruence is enough to defeat zeros. */
static float next_value(struct bench *b)
{
    b->seed = b->seed * 1664525u + 1013904223u;
    return (float)(b->seed >> 8) * 0x1p-24f - 0.49999f;
}

/* Bytes into device memory. An error shows at the next wait, which every measurement has. */
static void put(struct bench *b, void *to, const void *from, size_t bytes)
{
    struct dip_tensor source = dip_tensor_1d((void *)(uintptr_t)from, DIP_U8, (int64_t)bytes);
    if (dip_copy(b->stream, dip_tensor_1d(to, DIP_U8, (int64_t)bytes), source))
        return;
}

static void fill_random(struct bench *b, enum dip_dtype dtype, void *data, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (dtype == DIP_F32)
            ((float *)data)[i] = next_value(b);
        else if (dtype == DIP_BF16)
            ((uint16_t *)data)[i] = dip_bf16_from_f32(next_value(b));
        else
            ((uint16_t *)data)[i] = (uint16_t)(0x3000 | (dip_f32_bits(next_value(b)) & 0x83ff));
    }
}

/* Where the host cannot write, a block of random numbers is copied over and over. */
static struct dip_tensor random_rows(struct bench *b, enum dip_dtype dtype, int64_t rows,
                                     int64_t columns)
{
    size_t element = dip_dtype_bytes(dtype);
    size_t count = (size_t)(rows * columns);
    char *data = carve(b, count * element);
    if (dip_device_reads_host(b->device)) {
        fill_random(b, dtype, data, count);
        return dip_rows(data, dtype, rows, columns);
    }
    static uint32_t block[BLOCK_ELEMENTS];
    fill_random(b, dtype, block, BLOCK_ELEMENTS);
    for (size_t i = 0; i < count; i += BLOCK_ELEMENTS) {
        size_t some = count - i < BLOCK_ELEMENTS ? count - i : BLOCK_ELEMENTS;
        put(b, data + i * element, block, some * element);
    }
    return dip_rows(data, dtype, rows, columns);
}

/* Rows that a network keeps between its operations. */
static struct dip_tensor random_kept(struct bench *b, int64_t rows, int64_t columns)
{
    return random_rows(b, dip_device_activation(b->device), rows, columns);
}

static struct dip_tensor random_f32(struct bench *b, int64_t rows, int64_t columns)
{
    return random_rows(b, DIP_F32, rows, columns);
}

static size_t f32_bytes(int64_t count)
{
    return padded((size_t)count * sizeof(float));
}

static double kept_size(const struct bench *b)
{
    return (double)dip_dtype_bytes(dip_device_activation(b->device));
}

/* ---- ceilings ---- */

/* A call takes the next 16 MB of 512: about as long as an operation of a step. */
enum { CEILING_UNITS = 64, CEILING_WINDOWS = 32 };
static const int64_t WINDOW_BYTES = (int64_t)16 << 20;
static const int64_t FMA_ROUNDS = 2000;

struct ceiling {
    unsigned char *data;
    uint64_t words[CEILING_UNITS];
    float sums[CEILING_UNITS];
};

static enum dip_status read_window(struct dip_stream *s, void *context, int64_t turn)
{
    struct ceiling *c = context;
    struct dip_job_ceiling_read job = {.data = c->data + turn % CEILING_WINDOWS * WINDOW_BYTES,
                                       .unit_bytes = WINDOW_BYTES / CEILING_UNITS,
                                       .ret_sums = c->words};
    dip__cpu_run(s, s->device->kernels->ceiling_read, &job, CEILING_UNITS, 1e6);
    return DIP_OK;
}

/* Half a window from the first half of the memory to the second. */
static enum dip_status copy_window(struct dip_stream *s, void *context, int64_t turn)
{
    struct ceiling *c = context;
    unsigned char *at = c->data + turn % CEILING_WINDOWS * (WINDOW_BYTES / 2);
    struct dip_job_ceiling_copy job = {.to = at + CEILING_WINDOWS / 2 * WINDOW_BYTES,
                                       .from = at,
                                       .unit_bytes = WINDOW_BYTES / 2 / CEILING_UNITS};
    dip__cpu_run(s, s->device->kernels->ceiling_copy, &job, CEILING_UNITS, 1e6);
    return DIP_OK;
}

static enum dip_status multiply(struct dip_stream *s, void *context, int64_t turn)
{
    (void)turn;
    struct ceiling *c = context;
    struct dip_job_ceiling_fma job = {.rounds = FMA_ROUNDS, .ret_sums = c->sums};
    dip__cpu_run(s, s->device->kernels->ceiling_fma, &job, CEILING_UNITS, 1e6);
    return DIP_OK;
}

/* ---- ceilings of a device with memory of its own ---- */

enum { LAUNCHES = 1000, PRODUCT_EDGE = 8192, COPIED_BYTES_OF_EDGE = 16 /* 1 GB */ };

struct accelerator {
    struct dip_tensor from, to;        /* U8 */
    struct dip_tensor out, in, weight; /* bf16 */
};

static enum dip_status copy_all(struct dip_stream *s, void *context, int64_t turn)
{
    const struct accelerator *a = context;
    (void)turn;
    return dip_copy(s, a->to, a->from);
}

static enum dip_status product(struct dip_stream *s, void *context, int64_t turn)
{
    const struct accelerator *a = context;
    (void)turn;
    return dip_linear(s, &(struct dip_linear_args){.out = a->out,
                                                   .in = a->in,
                                                   .weight = a->weight,
                                                   .rows_per_item = dip_tensor_rows(a->in)});
}

static enum dip_status launches(struct dip_stream *s, void *context, int64_t turn)
{
    const struct accelerator *a = context;
    (void)turn;
    struct dip_tensor one = dip_rows_slice(dip_columns_slice(a->out, 0, 1), 0, 1);
    for (int i = 0; i < LAUNCHES; i++)
        DIP_TRY(dip_fill(s, one, 1.0f));
    return DIP_OK;
}

/* Copies, products of matrices of edge n in its own dtype, and the smallest kernel a thousand
 * times. */
static enum dip_status measure_accelerator(struct dip_device *device, int64_t n,
                                           struct dip_bench_machine *ret_machine)
{
    struct bench b;
    struct accelerator a;
    int64_t copied = COPIED_BYTES_OF_EDGE * n * n; /* in a third of the reservation each */
    double copy = 0.0;
    double multiply_s = 0.0;
    double launch = 0.0;
    enum dip_dtype dtype = dip_device_activation(device);
    enum dip_status status = bench_open(device, (size_t)(3 * copied), &b);
    if (!status) {
        a.in = random_rows(&b, dtype, n, n);
        a.weight = random_rows(&b, dtype, n, n);
        a.out = random_rows(&b, dtype, n, n);
        a.from = dip_tensor_1d((char *)b.mem.base + copied, DIP_U8, copied);
        a.to = dip_tensor_1d((char *)b.mem.base + 2 * copied, DIP_U8, copied);
        status = measure(b.stream, &(struct work){copy_all, &a}, &copy);
    }
    if (!status)
        status = measure(b.stream, &(struct work){product, &a}, &multiply_s);
    if (!status)
        status = measure(b.stream, &(struct work){launches, &a}, &launch);
    if (!status)
        *ret_machine = (struct dip_bench_machine){.threads = 1,
                                                  .read_bytes_per_s = 2.0 * (double)copied / copy,
                                                  .copy_bytes_per_s = 2.0 * (double)copied / copy,
                                                  .flops_per_s = 2.0 * (double)n * (double)n *
                                                                 (double)n / multiply_s,
                                                  .launch_s = launch / LAUNCHES};
    bench_close(&b);
    return status;
}

enum dip_status dip_bench_machine(struct dip_device *device, int64_t product_edge,
                                  struct dip_bench_machine *ret_machine)
{
    if (!dip_device_reads_host(device))
        return measure_accelerator(device, product_edge ? product_edge : PRODUCT_EDGE, ret_machine);
    struct bench b;
    struct ceiling c = {0};
    double read = 0.0;
    double copy = 0.0;
    double fma = 0.0;
    enum dip_status status = bench_open(device, (size_t)(CEILING_WINDOWS * WINDOW_BYTES), &b);
    if (status)
        goto out;
    c.data = b.mem.base;
    for (int64_t i = 0; i < CEILING_WINDOWS * WINDOW_BYTES; i += 8)
        memcpy(c.data + i, &i, sizeof i);
    status = measure(b.stream, &(struct work){read_window, &c}, &read);
    if (!status)
        status = measure(b.stream, &(struct work){copy_window, &c}, &copy);
    if (!status)
        status = measure(b.stream, &(struct work){multiply, &c}, &fma);
    if (status)
        goto out;
    double flops = (double)FMA_ROUNDS * CEILING_UNITS * DIP_KERNEL_CEILING_FMA_FLOPS;
    *ret_machine = (struct dip_bench_machine){.threads = dip_device_threads(device),
                                              .read_bytes_per_s = (double)WINDOW_BYTES / read,
                                              .copy_bytes_per_s = (double)WINDOW_BYTES / copy,
                                              .flops_per_s = flops / fma};
out:
    bench_close(&b);
    return status;
}

/* ---- operations ---- */

/* Copies of an operand of `bytes` that together leave no cache useful. */
static int64_t copies_of(size_t bytes)
{
    return bytes >= SPREAD_BYTES ? 1 : (int64_t)(SPREAD_BYTES / bytes) + 1;
}

/* An operand that lies elsewhere on every call. */
struct moving {
    char *data;
    size_t bytes;
    int64_t copies;
};

static void *moving_at(const struct moving *m, int64_t turn)
{
    return m->data + (size_t)(turn % m->copies) * m->bytes;
}

/* Room for `copies` of a random operand must be reserved. */
static struct moving moving_rows(struct bench *b, enum dip_dtype dtype, int64_t copies,
                                 int64_t rows, int64_t columns)
{
    struct moving m = {.copies = copies};
    m.data = random_rows(b, dtype, rows, columns).data;
    m.bytes = padded((size_t)(rows * columns) * dip_dtype_bytes(dtype));
    for (int64_t i = 1; i < copies; i++)
        put(b, carve(b, m.bytes), m.data, m.bytes);
    return m;
}

static struct moving moving_kept(struct bench *b, int64_t copies, int64_t rows, int64_t columns)
{
    return moving_rows(b, dip_device_activation(b->device), copies, rows, columns);
}

struct linear {
    struct dip_linear_args args;
    struct moving weights;
};

static enum dip_status call_linear(struct dip_stream *s, void *context, int64_t turn)
{
    struct linear *l = context;
    l->args.weight.data = moving_at(&l->weights, turn);
    return dip_linear(s, &l->args);
}

enum dip_status dip_bench_linear(struct dip_device *device, const struct dip_bench_linear *shape,
                                 struct dip_bench_result *ret_result)
{
    struct bench b;
    size_t bytes = padded((size_t)(shape->outs * shape->ins) * dip_dtype_bytes(shape->dtype));
    int64_t copies = copies_of(bytes);
    double flops = 2.0 * (double)shape->rows * (double)(shape->outs * shape->ins);
    enum dip_status status =
        bench_open(device,
                   bytes * (size_t)copies + f32_bytes(shape->rows * shape->ins) +
                       f32_bytes(shape->rows * shape->outs),
                   &b);
    if (status)
        goto out;
    struct linear l = {
        .args = {.in = random_rows(&b, dip_device_activation(device), shape->rows, shape->ins),
                 .out = random_rows(&b, dip_device_activation(device), shape->rows, shape->outs),
                 .chunk_count = shape->chunk_count,
                 .rows_per_item = shape->rows},
        .weights = moving_rows(&b, shape->dtype, copies, shape->outs, shape->ins)};
    l.args.weight = dip_rows(l.weights.data, shape->dtype, shape->outs, shape->ins);
    double seconds = 0.0;
    status = measure(b.stream, &(struct work){call_linear, &l}, &seconds);
    if (status)
        goto out;
    *ret_result = (struct dip_bench_result){
        .seconds = seconds,
        .bytes = (double)(shape->outs * shape->ins) * (double)dip_dtype_bytes(shape->dtype) +
                 kept_size(&b) * (double)(shape->rows * (shape->ins + shape->outs)),
        .flops = flops};
out:
    bench_close(&b);
    return status;
}

struct depthwise {
    struct dip_conv_depthwise_args args;
    struct moving in, out;
};

static enum dip_status call_depthwise(struct dip_stream *s, void *context, int64_t turn)
{
    struct depthwise *d = context;
    d->args.in.data = moving_at(&d->in, turn);
    d->args.out.data = moving_at(&d->out, turn);
    return dip_conv_depthwise(s, &d->args);
}

enum dip_status dip_bench_depthwise(struct dip_device *device,
                                    const struct dip_bench_depthwise *shape,
                                    struct dip_bench_result *ret_result)
{
    struct bench b;
    int64_t pixels = shape->batch * shape->height * shape->width;
    int64_t outs = shape->is_gated ? shape->channels / 2 : shape->channels;
    int64_t taps = (int64_t)shape->edge * shape->edge;
    int64_t copies = copies_of(f32_bytes(pixels * (shape->channels + outs)));
    enum dip_status status = bench_open(
        device,
        (size_t)copies * (f32_bytes(pixels * shape->channels) + f32_bytes(pixels * outs)) +
            f32_bytes(shape->channels * taps) + f32_bytes(shape->channels),
        &b);
    if (status)
        goto out;
    struct dip_tensor bias = random_f32(&b, 1, shape->channels);
    struct depthwise d = {
        .args = {.weight = dip_image(random_f32(&b, shape->channels, taps).data, DIP_F32,
                                     shape->channels, 1, shape->edge, shape->edge),
                 .bias = &bias,
                 .is_gated = shape->is_gated},
        .in = moving_kept(&b, copies, pixels, shape->channels),
        .out = moving_kept(&b, copies, pixels, outs)};
    enum dip_dtype kept = dip_device_activation(device);
    d.args.in =
        dip_image(d.in.data, kept, shape->batch, shape->height, shape->width, shape->channels);
    d.args.out = dip_image(d.out.data, kept, shape->batch, shape->height, shape->width, outs);
    double seconds = 0.0;
    status = measure(b.stream, &(struct work){call_depthwise, &d}, &seconds);
    if (status)
        goto out;
    *ret_result = (struct dip_bench_result){
        .seconds = seconds,
        .bytes = kept_size(&b) * (double)(pixels * (shape->channels + outs)),
        .flops = 2.0 * (double)(pixels * shape->channels * taps)};
out:
    bench_close(&b);
    return status;
}

struct norm {
    struct dip_norm_rms_args rms;
    struct dip_norm_layer_args layer;
    struct moving in, out;
    bool is_rms;
};

static enum dip_status call_norm(struct dip_stream *s, void *context, int64_t turn)
{
    struct norm *n = context;
    n->rms.in.data = n->layer.in.data = moving_at(&n->in, turn);
    n->rms.out.data = n->layer.out.data = moving_at(&n->out, turn);
    return n->is_rms ? dip_norm_rms(s, &n->rms) : dip_norm_layer(s, &n->layer);
}

enum dip_status dip_bench_norm(struct dip_device *device, enum dip_bench_norm kind, int64_t rows,
                               int64_t columns, struct dip_bench_result *ret_result)
{
    struct bench b;
    int64_t copies = copies_of(2 * f32_bytes(rows * columns));
    enum dip_status status = bench_open(
        device, 2 * (size_t)copies * f32_bytes(rows * columns) + 2 * f32_bytes(columns), &b);
    if (status)
        goto out;
    bool is_rms = kind == DIP_BENCH_NORM_RMS;
    enum dip_dtype kept = dip_device_activation(device);
    enum dip_dtype from = is_rms ? kept : DIP_F32; /* of a layer's norm the residual stream */
    struct norm n = {.in = moving_rows(&b, from, copies, rows, columns),
                     .out = moving_kept(&b, copies, rows, columns),
                     .is_rms = is_rms};
    struct dip_tensor in = dip_rows(n.in.data, from, rows, columns);
    struct dip_tensor out = dip_rows(n.out.data, kept, rows, columns);
    struct dip_tensor weight = random_f32(&b, 1, columns);
    struct dip_tensor shift = random_f32(&b, 1, columns);
    n.rms = (struct dip_norm_rms_args){.out = out, .in = in, .weight = weight, .eps = 1e-6f};
    n.layer = (struct dip_norm_layer_args){
        .out = out, .in = in, .scale = weight, .shift = shift, .rows_per_item = rows, .eps = 1e-6f};
    double seconds = 0.0;
    status = measure(b.stream, &(struct work){call_norm, &n}, &seconds);
    if (status)
        goto out;
    *ret_result = (struct dip_bench_result){
        .seconds = seconds,
        .bytes = (kept_size(&b) + (double)dip_dtype_bytes(from)) * (double)(rows * columns),
        .flops = 6.0 * (double)(rows * columns)};
out:
    bench_close(&b);
    return status;
}

static enum dip_status call_conv(struct dip_stream *s, void *context, int64_t turn)
{
    (void)turn;
    return dip_conv(s, context);
}

/* As a device reads it: where that is not the host's memory, packed and planned for. */
static enum dip_status conv_prepare(struct bench *b, const struct dip_bench_conv *shape,
                                    struct dip_conv_args *a)
{
    size_t count = (size_t)(shape->out_channels * shape->in_channels * 9);
    if (dip_device_reads_host(b->device)) {
        a->weight.data = random_f32(b, 1, (int64_t)count).data;
        return DIP_OK;
    }
    enum dip_weight_use use = shape->upsample == 2 ? DIP_WEIGHT_CONV_UPSAMPLED : DIP_WEIGHT_CONV;
    float *host = malloc(count * sizeof *host);
    if (!host)
        return DIP_NO_MEMORY;
    fill_random(b, DIP_F32, host, count);
    a->weight.data = host;
    void *at = carve(b, dip_weight_bytes(b->device, a->weight, use));
    enum dip_status status = dip_weight_place(b->stream, use, at, &a->weight);
    if (!status)
        status = dip_wait(b->stream);
    free(host);
    bool is_planned = !status && dip_plans_begin(b->stream);
    if (is_planned) {
        status = dip_conv(b->stream, a);
        dip_plans_end(b->stream);
    }
    return status;
}

enum dip_status dip_bench_conv(struct dip_device *device, const struct dip_bench_conv *shape,
                               struct dip_bench_result *ret_result)
{
    struct bench b;
    enum dip_dtype kept = dip_device_activation(device);
    int64_t in_pixels = shape->height * shape->width;
    int64_t out_pixels = in_pixels * shape->upsample * shape->upsample;
    int64_t weights = shape->out_channels * shape->in_channels * 9;
    /* Enlarging takes four taps for nine where weights are packed for it. */
    double taps = shape->upsample == 2 && !dip_device_reads_host(device) ? 4.0 / 9.0 : 1.0;
    enum dip_status status = bench_open(device,
                                        f32_bytes(in_pixels * shape->in_channels) +
                                            f32_bytes(out_pixels * shape->out_channels) +
                                            2 * f32_bytes(weights) + f32_bytes(shape->out_channels),
                                        &b);
    if (status)
        goto out;
    struct dip_tensor bias = random_kept(&b, 1, shape->out_channels);
    struct dip_conv_args a = {
        .in = dip_image(random_kept(&b, in_pixels, shape->in_channels).data, kept, 1, shape->height,
                        shape->width, shape->in_channels),
        .out = dip_image(random_kept(&b, out_pixels, shape->out_channels).data, kept, 1,
                         shape->height * shape->upsample, shape->width * shape->upsample,
                         shape->out_channels),
        .weight = dip_image(NULL, DIP_F32, shape->out_channels, shape->in_channels, 3, 3),
        .bias = shape->has_act ? &bias : NULL,
        .act = shape->has_act ? DIP_ACT_SILU : DIP_ACT_NONE,
        .upsample = shape->upsample,
        .stride = 1};
    status = conv_prepare(&b, shape, &a);
    double seconds = 0.0;
    if (!status)
        status = measure(b.stream, &(struct work){call_conv, &a}, &seconds);
    if (status)
        goto out;
    *ret_result = (struct dip_bench_result){
        .seconds = seconds,
        .bytes = kept_size(&b) * (double)(in_pixels * shape->in_channels +
                                          out_pixels * shape->out_channels + weights),
        .flops = 2.0 * (double)out_pixels * (double)weights * taps};
out:
    bench_close(&b);
    return status;
}

static enum dip_status call_sample(struct dip_stream *s, void *context, int64_t turn)
{
    (void)turn;
    return dip_sample(s, context);
}

/* Logits of a broad distribution: sums of uniforms, standard deviation about 2. */
static enum dip_status spread_logits(struct bench *b, struct dip_tensor logits)
{
    int64_t count = dip_tensor_count(logits);
    float *values = malloc((size_t)count * sizeof *values);
    if (!values)
        return DIP_NO_MEMORY;
    for (int64_t i = 0; i < count; i++)
        values[i] = 4.0f * (next_value(b) + next_value(b) + next_value(b));
    put(b, logits.data, values, (size_t)count * sizeof *values);
    enum dip_status status = dip_wait(b->stream);
    free(values);
    return status;
}

enum dip_status dip_bench_sample(struct dip_device *device, int64_t rows, int64_t vocab,
                                 struct dip_bench_result *ret_result)
{
    struct bench b;
    struct dip_draw draws[DIP_SLOTS_MAX];
    if (rows > DIP_SLOTS_MAX)
        return DIP_LIMIT;
    enum dip_status status =
        bench_open(device, f32_bytes(rows * vocab) + padded((size_t)rows * sizeof(int32_t)), &b);
    if (status)
        goto out;
    for (int64_t r = 0; r < rows; r++)
        draws[r] = (struct dip_draw){.temperature = 1.0f,
                                     .top_k = vocab < 1200 ? (int32_t)vocab : 1200,
                                     .top_p = 0.95f,
                                     .uniform = ((float)r + 0.5f) / (float)rows};
    struct dip_sample_args a = {
        .logits = dip_rows(carve(&b, (size_t)(rows * vocab) * sizeof(float)), DIP_F32, rows, vocab),
        .ids = dip_tensor_1d(carve(&b, (size_t)rows * sizeof(int32_t)), DIP_I32, rows),
        .draws = draws};
    status = spread_logits(&b, a.logits);
    double seconds = 0.0;
    if (!status)
        status = measure(b.stream, &(struct work){call_sample, &a}, &seconds);
    if (status)
        goto out;
    *ret_result =
        (struct dip_bench_result){.seconds = seconds, .bytes = 4.0 * (double)(rows * vocab)};
out:
    bench_close(&b);
    return status;
}

struct attend {
    struct dip_attend_args args;
    struct moving k, v;
};

static enum dip_status call_attend(struct dip_stream *s, void *context, int64_t turn)
{
    struct attend *a = context;
    a->args.kv.k.data = moving_at(&a->k, turn);
    a->args.kv.v.data = moving_at(&a->v, turn);
    return dip_attend(s, &a->args);
}

enum dip_status dip_bench_attend(struct dip_device *device, const struct dip_bench_attend *shape,
                                 struct dip_bench_result *ret_result)
{
    struct bench b;
    struct dip_row at[DIP_SLOTS_MAX];
    if (shape->rows > DIP_SLOTS_MAX)
        return DIP_LIMIT;
    int64_t kv_columns = (int64_t)shape->kv_heads * shape->head_dim;
    int64_t q_columns = (int64_t)shape->heads * shape->head_dim;
    int64_t kv_count = shape->rows * shape->keys * kv_columns;
    int64_t copies = copies_of(2 * f32_bytes(kv_count));
    enum dip_status status = bench_open(
        device, 2 * (size_t)copies * f32_bytes(kv_count) + 2 * f32_bytes(shape->rows * q_columns),
        &b);
    if (status)
        goto out;
    struct attend a = {.k = moving_kept(&b, copies, shape->rows * shape->keys, kv_columns),
                       .v = moving_kept(&b, copies, shape->rows * shape->keys, kv_columns)};
    struct dip_tensor cache =
        dip_rows(a.k.data, dip_device_activation(device), shape->rows * shape->keys, kv_columns);
    cache.rank = 3;
    cache.dims[0] = shape->rows;
    cache.dims[1] = shape->keys;
    cache.dims[2] = kv_columns;
    for (int64_t r = 0; r < shape->rows; r++)
        at[r] = (struct dip_row){.slot = (int32_t)r, .position = (int32_t)(shape->keys - 1)};
    a.args = (struct dip_attend_args){.out = random_kept(&b, shape->rows, q_columns),
                                      .q = random_kept(&b, shape->rows, q_columns),
                                      .kv = {.k = cache, .v = cache},
                                      .rows = at,
                                      .heads = shape->heads,
                                      .kv_heads = shape->kv_heads,
                                      .head_dim = shape->head_dim};
    double seconds = 0.0;
    status = measure(b.stream, &(struct work){call_attend, &a}, &seconds);
    if (status)
        goto out;
    *ret_result = (struct dip_bench_result){.seconds = seconds,
                                            .bytes = 2 * kept_size(&b) * (double)kv_count,
                                            .flops = 4.0 * (double)(shape->rows * shape->keys) *
                                                     (double)q_columns};
out:
    bench_close(&b);
    return status;
}

static enum dip_status call_cross(struct dip_stream *s, void *context, int64_t turn)
{
    (void)turn;
    return dip_attend_cross(s, context);
}

static enum dip_status call_relu(struct dip_stream *s, void *context, int64_t turn)
{
    (void)turn;
    return dip_attend_linear(s, context);
}

enum dip_status dip_bench_cross(struct dip_device *device, const struct dip_bench_cross *shape,
                                struct dip_bench_result *ret_result)
{
    struct bench b;
    bool is_linear = shape->keys == 0;
    int64_t columns = (int64_t)shape->heads * shape->head_dim;
    int64_t keys = is_linear ? shape->rows : shape->keys;
    enum dip_status status = bench_open(
        device, 2 * f32_bytes(shape->rows * columns) + 2 * f32_bytes(keys * columns), &b);
    if (status)
        goto out;
    struct dip_tensor out = random_kept(&b, shape->rows, columns);
    struct dip_tensor q = random_kept(&b, shape->rows, columns);
    struct dip_tensor k = random_kept(&b, keys, columns);
    struct dip_tensor v = random_kept(&b, keys, columns);
    struct dip_attend_cross_args cross = {
        .out = out, .q = q, .k = k, .v = v, .heads = shape->heads, .head_dim = shape->head_dim};
    struct dip_attend_linear_args relu = {.out = out,
                                          .q = q,
                                          .k = k,
                                          .v = v,
                                          .heads = shape->heads,
                                          .head_dim = shape->head_dim,
                                          .head_stride = shape->head_dim,
                                          .rows_per_item = shape->rows};
    struct work work = {is_linear ? call_relu : call_cross,
                        is_linear ? (void *)&relu : (void *)&cross};
    double seconds = 0.0;
    status = measure(b.stream, &work, &seconds);
    if (status)
        goto out;
    double width = is_linear ? shape->head_dim : (double)keys;
    *ret_result = (struct dip_bench_result){.seconds = seconds,
                                            .bytes = 2 * kept_size(&b) *
                                                     (double)((shape->rows + keys) * columns),
                                            .flops = 4.0 * (double)(shape->rows * columns) * width};
out:
    bench_close(&b);
    return status;
}
