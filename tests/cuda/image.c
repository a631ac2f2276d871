/* tests/cuda/image.c - operations of the diffusion half against their definitions: attention,
 * convolutions, layout. */
#include "tests/cuda/device.h"

static void *cpu_scratch;

/* ---- attention ---- */

/* As for the causal one; with BF16 the probabilities are rounded too, 2^-8 of each (65536
 * roundings). */
static void check_attend_cross(bool is_tensor)
{
    int64_t rows = GPU_PICK(1, 3, 16, 65, 70), keys = GPU_PICK(1, 5, 63, 64, 65, 130, 200);
    int64_t heads = GPU_PICK(1, 2, 3);
    int64_t dim = is_tensor ? GPU_PICK(8, 16, 30, 32, 72, 112, 128) : GPU_PICK(1, 16, 33, 200);
    int64_t columns = heads * dim;
    enum dip_dtype dtype = is_tensor ? DIP_BF16 : gpu_act();
    bool is_aligned = gpu_int(0, 2) > 0;
    struct gpu_tensor q =
        gpu_tensor(dtype, rows, columns, is_aligned, gpu_values(rows * columns, 3.0f));
    struct gpu_tensor k = gpu_random(dtype, keys, columns, is_aligned);
    struct gpu_tensor v = gpu_random(dtype, keys, columns, is_aligned);
    struct gpu_tensor out = gpu_empty(gpu_act(), rows, columns, is_aligned);
    struct dip_cuda_attend_cross job = {.out = out.view,
                                        .q = q.view,
                                        .k = k.view,
                                        .v = v.view,
                                        .head_count = heads,
                                        .head_dim = dim};
    gpu_ok(dip_cuda_attend_cross(gpu_stream, &job));
    struct dip_job_attend_cross cpu = {.out = out.values,
                                       .q = q.values,
                                       .k = k.values,
                                       .v = v.values,
                                       .row_count = rows,
                                       .key_count = keys,
                                       .head_count = heads,
                                       .head_dim = dim,
                                       .out_stride = columns,
                                       .q_stride = columns,
                                       .k_stride = columns,
                                       .v_stride = columns,
                                       .unit_rows = rows};
    dip_cpu_attend_cross(&cpu, 0, heads, NULL);
    bool is_rounded = dtype == DIP_BF16 && dim <= 128;
    gpu_near(&out, out.values, NULL,
             (is_rounded ? 65536.0 : 0.0) + 12.0 * sqrt((double)dim) + 256.0);
}

static void test_attend_cross(void **state)
{
    (void)state;
    for (GPU_CASES(i, 40)) {
        check_attend_cross(i % 4 > 0);
    }
}

/* Equal context rows give their value back to the bit, whatever the queries: what makes the
 * unconditional branch's attention a constant. */
static void test_attend_equal_rows(void **state)
{
    (void)state;
    int64_t rows = 20, keys = 730, columns = 112;
    struct gpu_tensor q = gpu_random(DIP_BF16, rows, columns, true);
    float *one = gpu_values(columns, 1.0f), *all = gpu_values(keys * columns, 1.0f);
    for (int64_t i = 0; i < keys * columns; i++)
        all[i] = one[i % columns];
    struct gpu_tensor kv = gpu_tensor(DIP_BF16, keys, columns, true, all);
    struct gpu_tensor out = gpu_empty(DIP_BF16, rows, columns, true);
    struct dip_cuda_attend_cross job = {
        .out = out.view, .q = q.view, .k = kv.view, .v = kv.view, .head_count = 1, .head_dim = 112};
    gpu_ok(dip_cuda_attend_cross(gpu_stream, &job));
    const float *got = gpu_fetch(&out);
    for (int64_t r = 0; r < rows; r++)
        gpu_same(got + r * columns, kv.values, columns);
    gpu_reset();
}

/* A query's bits do not depend on its neighbours or on its place among them. */
static void test_attend_cross_alone(void **state)
{
    (void)state;
    for (GPU_CASES(i, 6)) {
        int64_t rows = 80, keys = 100, dim = 32, row = gpu_int(0, rows - 1);
        struct gpu_tensor q = gpu_random(DIP_BF16, rows, dim, true);
        struct gpu_tensor kv = gpu_random(DIP_BF16, keys, dim, true);
        struct gpu_tensor many = gpu_empty(DIP_F32, rows, dim, true);
        struct gpu_tensor one = gpu_empty(DIP_F32, 1, dim, true);
        struct dip_cuda_attend_cross job = {.out = many.view,
                                            .q = q.view,
                                            .k = kv.view,
                                            .v = kv.view,
                                            .head_count = 1,
                                            .head_dim = dim};
        gpu_ok(dip_cuda_attend_cross(gpu_stream, &job));
        job.out = one.view;
        job.q = gpu_row(job.q, row);
        gpu_ok(dip_cuda_attend_cross(gpu_stream, &job));
        gpu_same_row(&one, &many, row);
    }
}

/* State and norm sum rows_per_item products, both applications head_dim; the quotient of positive
 * sums does not magnify the norm's error, the state's terms cancel against |v| <= 1. */
static void test_attend_linear(void **state)
{
    (void)state;
    for (GPU_CASES(i, 25)) {
        int64_t items = GPU_PICK(1, 2), per_item = GPU_PICK(1, 7, 32, 33, 256, 300),
                heads = gpu_int(1, 3);
        int64_t dim = GPU_PICK(1, 5, 8, 32, 33, 64), stride = gpu_int(0, 1) ? dim : 3 * dim;
        int64_t rows = items * per_item, columns = heads * stride;
        struct gpu_tensor q = gpu_random(gpu_act(), rows, columns, gpu_int(0, 1));
        struct gpu_tensor k = gpu_random(gpu_act(), rows, columns, gpu_int(0, 1));
        struct gpu_tensor v = gpu_random(gpu_act(), rows, columns, gpu_int(0, 1));
        struct gpu_tensor out = gpu_empty(gpu_act(), rows, heads * dim, gpu_int(0, 1));
        for (int64_t n = 0; n < rows * columns; n += columns) /* some queries see nothing */
            q.values[n] = fabsf(q.values[n]);
        q = gpu_tensor(q.view.dtype, rows, columns, true, q.values);
        struct dip_cuda_attend_linear job = {.out = out.view,
                                             .q = q.view,
                                             .k = k.view,
                                             .v = v.view,
                                             .head_count = heads,
                                             .head_dim = dim,
                                             .head_stride = stride,
                                             .rows_per_item = per_item,
                                             .scratch = gpu_scratch};
        gpu_ok(dip_cuda_attend_linear(gpu_stream, &job));
        struct dip_job_attend_linear cpu = {.out = out.values,
                                            .q = q.values,
                                            .k = k.values,
                                            .v = v.values,
                                            .head_count = heads,
                                            .head_dim = dim,
                                            .head_stride = stride,
                                            .rows_per_item = per_item,
                                            .out_stride = heads * dim,
                                            .q_stride = columns,
                                            .k_stride = columns,
                                            .v_stride = columns};
        dip_cpu_attend_linear(&cpu, 0, items * heads, cpu_scratch);
        gpu_near(&out, out.values, NULL,
                 2.0 * (double)(fmin((double)per_item, 256.0) + (double)dim) + 32.0);
    }
}

/* ---- convolutions ---- */

struct picture {
    int64_t batch, height, width, ins, outs;
    int edge, upsample, stride;
};

static struct picture random_picture(void)
{
    struct picture p = {.batch = GPU_PICK(1, 1, 2),
                        .height = GPU_PICK(1, 2, 4, 6, 9),
                        .width = GPU_PICK(1, 3, 4, 8, 11),
                        .ins = GPU_PICK(1, 3, 8, 16, 31, 40),
                        .outs = GPU_PICK(1, 3, 8, 16, 33, 70),
                        .edge = (int)GPU_PICK(1, 3, 3, 3, 5, 7),
                        .upsample = 1,
                        .stride = 1};
    int64_t form = gpu_int(0, 3);
    if (form == 1)
        p.upsample = 2;
    if (form == 2) {
        p.stride = 2;
        p.height += p.height % 2;
        p.width += p.width % 2;
    }
    return p;
}

static struct dip_job_conv cpu_conv(const struct picture *p)
{
    return (struct dip_job_conv){.batch = p->batch,
                                 .height = p->height,
                                 .width = p->width,
                                 .in_channels = p->ins,
                                 .out_height = p->height * p->upsample / p->stride,
                                 .out_width = p->width * p->upsample / p->stride,
                                 .out_channels = p->outs,
                                 .out_stride = p->outs,
                                 .in_stride = p->ins,
                                 .unit_pixels = 1 << 20,
                                 .unit_channels = p->outs,
                                 .edge = p->edge,
                                 .upsample = p->upsample,
                                 .stride = p->stride};
}

static struct gpu_param magnitude_of(const struct gpu_param *weight, int64_t count)
{
    float *sizes = gpu_host((size_t)count * sizeof *sizes);
    for (int64_t i = 0; i < count; i++)
        sizes[i] = fabsf(gpu_get(weight->host.dtype, weight->host.data, (size_t)i));
    return (struct gpu_param){.host = {sizes, DIP_F32}};
}

/* Sums as in a linear product; packed BF16 sums of stored weights are rounded once (2^-8). */
static void check_conv(void)
{
    struct picture p = random_picture();
    struct dip_job_conv cpu = cpu_conv(&p);
    int64_t in_rows = p.batch * p.height * p.width,
            out_rows = p.batch * cpu.out_height * cpu.out_width;
    int64_t weights = p.outs * p.ins * p.edge * p.edge;
    enum dip_dtype act = gpu_act();
    struct gpu_tensor in = gpu_random(act, in_rows, p.ins, gpu_int(0, 2) > 0);
    struct gpu_tensor out = gpu_empty(gpu_act(), out_rows, p.outs, gpu_int(0, 1));
    struct gpu_param weight = gpu_param(act == DIP_F32 ? gpu_weight() : DIP_BF16, weights, 1.0f);
    struct gpu_param bias = gpu_param(gpu_weight(), p.outs, 1.0f);
    struct dip_cuda_conv_pack pack = {.packed_dtype = act,
                                      .weight = weight.device,
                                      .out_channels = p.outs,
                                      .in_channels = p.ins,
                                      .edge = p.edge,
                                      .upsample = p.upsample};
    pack.packed = gpu_alloc(dip_cuda_conv_packed_bytes(&pack));
    gpu_ok(dip_cuda_conv_pack(gpu_stream, &pack));
    struct dip_cuda_conv job = {.out = out.view,
                                .in = in.view,
                                .packed = {pack.packed, act},
                                .batch = p.batch,
                                .height = p.height,
                                .width = p.width,
                                .edge = p.edge,
                                .upsample = p.upsample,
                                .stride = p.stride,
                                .act = (enum dip_kernel_act)gpu_int(0, 3),
                                .scratch = gpu_scratch};
    bool has_bias = gpu_int(0, 1);
    if (has_bias)
        job.bias = bias.device;
    gpu_ok(dip_cuda_conv(gpu_stream, &job));
    cpu.out = gpu_host((size_t)(out_rows * p.outs) * sizeof(float));
    cpu.in =
        magnitude_of(&(struct gpu_param){.host = {in.values, DIP_F32}}, in_rows * p.ins).host.data;
    cpu.weight = magnitude_of(&weight, weights).host;
    struct gpu_param bias_size = magnitude_of(&bias, p.outs);
    if (has_bias)
        cpu.bias = bias_size.host;
    dip_cpu_conv(&cpu, 0, 1, NULL);
    const float *size = cpu.out;
    cpu.out = out.values;
    cpu.in = in.values;
    cpu.weight = weight.host;
    cpu.act = job.act;
    if (has_bias)
        cpu.bias = bias.host;
    dip_cpu_conv(&cpu, 0, 1, NULL);
    double length = (double)(p.ins * p.edge * p.edge);
    double packing = p.upsample == 2 && act == DIP_BF16 ? 65536.0 : 0.0;
    gpu_near(&out, out.values, size, 1.2 * (fmin(length, 128.0) + length / 128.0 + 12.0 + packing));
}

static void test_conv(void **state)
{
    (void)state;
    for (GPU_CASES(i, 80)) {
        check_conv();
    }
}

static void test_conv_depthwise(void **state)
{
    (void)state;
    for (GPU_CASES(i, 40)) {
        struct picture p = random_picture();
        p.outs = GPU_PICK(1, 3, 8, 24, 70);
        bool is_gated = gpu_int(0, 1), has_bias = gpu_int(0, 1), is_aligned = gpu_int(0, 1);
        p.ins = is_gated ? 2 * p.outs : p.outs;
        int64_t rows = p.batch * p.height * p.width;
        struct gpu_tensor in = gpu_random(gpu_act(), rows, p.ins, is_aligned);
        struct gpu_tensor out = gpu_empty(gpu_act(), rows, p.outs, is_aligned);
        struct gpu_param weight = gpu_param(gpu_weight(), p.ins * p.edge * p.edge, 1.0f);
        struct gpu_param bias = gpu_param(gpu_weight(), p.ins, 1.0f);
        struct dip_cuda_conv_depthwise job = {.out = out.view,
                                              .in = in.view,
                                              .weight = weight.device,
                                              .batch = p.batch,
                                              .height = p.height,
                                              .width = p.width,
                                              .edge = p.edge,
                                              .is_gated = is_gated};
        struct dip_job_conv_depthwise cpu = {.out = out.values,
                                             .in = in.values,
                                             .weight = weight.host,
                                             .batch = p.batch,
                                             .height = p.height,
                                             .width = p.width,
                                             .channels = p.ins,
                                             .out_stride = p.outs,
                                             .in_stride = p.ins,
                                             .unit_rows = p.height,
                                             .unit_channels = p.outs,
                                             .edge = p.edge,
                                             .is_gated = is_gated};
        if (has_bias) {
            job.bias = bias.device;
            cpu.bias = bias.host;
        }
        gpu_ok(dip_cuda_conv_depthwise(gpu_stream, &job));
        dip_cpu_conv_depthwise(&cpu, 0, p.batch, NULL);
        double taps =
            (double)(p.edge * p.edge) + 1.0; /* each sum is within taps; a gate within its own */
        gpu_near(&out, out.values, NULL, 4.0 * taps * taps * (is_gated ? taps : 1.0));
    }
}

/* ---- layout: exact but for the type stored ---- */

static void check_shuffles(void)
{
    int64_t batch = gpu_int(1, 2), height = gpu_int(1, 4), width = gpu_int(1, 5);
    int64_t outs = GPU_PICK(1, 3, 8, 17), repeat = outs % 2 ? 4 : GPU_PICK(1, 2, 4);
    int64_t ins = 4 * outs / repeat, rows = batch * height * width;
    bool is_added = gpu_int(0, 1);
    struct gpu_tensor in = gpu_random(gpu_act(), rows, ins, gpu_int(0, 1));
    struct gpu_tensor out = gpu_random(gpu_act(), 4 * rows, outs, gpu_int(0, 1));
    struct dip_cuda_pixel_shuffle job = {.out = out.view,
                                         .in = in.view,
                                         .batch = batch,
                                         .height = height,
                                         .width = width,
                                         .is_added = is_added};
    gpu_ok(dip_cuda_pixel_shuffle(gpu_stream, &job));
    struct dip_job_pixel_shuffle cpu = {.out = out.values,
                                        .in = in.values,
                                        .width = width,
                                        .in_channels = ins,
                                        .out_channels = outs,
                                        .out_stride = outs,
                                        .in_stride = ins,
                                        .is_added = is_added};
    dip_cpu_pixel_shuffle(&cpu, 0, batch * height, NULL);
    gpu_near(&out, out.values, NULL, 0.0);
    int64_t times = gpu_int(1, 4);
    struct gpu_tensor wide = gpu_random(gpu_act(), rows, ins * times, gpu_int(0, 1));
    struct dip_cuda_repeat_add repeat_job = {.out = wide.view, .in = in.view};
    gpu_ok(dip_cuda_repeat_add(gpu_stream, &repeat_job));
    struct dip_job_repeat_add cpu_repeat = {.out = wide.values,
                                            .in = in.values,
                                            .in_channels = ins,
                                            .repeat = times,
                                            .out_stride = ins * times,
                                            .in_stride = ins};
    dip_cpu_repeat_add(&cpu_repeat, 0, rows, NULL);
    gpu_near(&wide, wide.values, NULL, 0.0);
}

static void check_patch(bool is_to_tokens)
{
    int64_t batch = gpu_int(1, 2), patch = gpu_int(1, 3), channels = GPU_PICK(1, 3, 8);
    int64_t height = patch * gpu_int(1, 3), width = patch * gpu_int(1, 4);
    int64_t pixels = batch * height * width, tokens = pixels / (patch * patch);
    int64_t wide = patch * patch * channels;
    struct gpu_tensor image = gpu_random(gpu_act(), pixels, channels, gpu_int(0, 1));
    struct gpu_tensor rows = gpu_random(gpu_act(), tokens, wide, gpu_int(0, 1));
    struct gpu_tensor *out = is_to_tokens ? &rows : &image, *in = is_to_tokens ? &image : &rows;
    struct dip_cuda_patch job = {.out = out->view,
                                 .in = in->view,
                                 .batch = batch,
                                 .height = height,
                                 .width = width,
                                 .channels = channels,
                                 .patch = patch,
                                 .is_to_tokens = is_to_tokens};
    gpu_ok(dip_cuda_patch(gpu_stream, &job));
    struct dip_job_patch cpu = {.out = out->values,
                                .in = in->values,
                                .width = width,
                                .channels = channels,
                                .patch = patch,
                                .token_stride = wide,
                                .pixel_stride = channels,
                                .is_to_tokens = is_to_tokens};
    dip_cpu_patch(&cpu, 0, batch * height / patch, NULL);
    gpu_near(out, out->values, NULL, 0.0);
}

static void check_layout(bool is_to_nchw)
{
    int64_t batch = gpu_int(1, 2), pixels = GPU_PICK(1, 4, 35), channels = GPU_PICK(1, 3, 8);
    int64_t count = batch * pixels * channels;
    struct gpu_tensor in = gpu_random(gpu_act(), 1, count, false);
    struct gpu_tensor out = gpu_empty(gpu_act(), 1, count, false);
    struct dip_cuda_layout job = {.out = out.view,
                                  .in = in.view,
                                  .batch = batch,
                                  .pixels = pixels,
                                  .channels = channels,
                                  .is_to_nchw = is_to_nchw};
    gpu_ok(dip_cuda_layout(gpu_stream, &job));
    struct dip_job_layout cpu = {.out = out.values,
                                 .in = in.values,
                                 .pixels = pixels,
                                 .channels = channels,
                                 .is_to_nchw = is_to_nchw};
    dip_cpu_layout(&cpu, 0, batch * channels, NULL);
    gpu_near(&out, out.values, NULL, 0.0);
}

/* Equal bytes, also half way between two levels, beyond the ends and for NaN. */
static void check_rgb8(void)
{
    int64_t rows = GPU_PICK(1, 7, 300), count = rows * 3;
    float *values = gpu_values(count, 1.3f);
    for (int64_t i = 0; i < count; i += 5)
        values[i] = i % 2 ? NAN : (float)(i % 256 * 2 + 1) / 255.0f - 1.0f;
    struct gpu_tensor in = gpu_tensor(gpu_act(), rows, 3, gpu_int(0, 1), values);
    struct dip_cuda_rgb8 job = {.in = in.view,
                                .out = {gpu_alloc((size_t)rows * 4), DIP_U8, rows, 3, 4}};
    gpu_ok(dip_cuda_rgb8(gpu_stream, &job));
    unsigned char *want = gpu_host((size_t)count);
    struct dip_job_rgb8 cpu = {.out = want, .in = in.values, .out_stride = 3, .in_stride = 3};
    dip_cpu_rgb8(&cpu, 0, rows, NULL);
    const unsigned char *got = gpu_download(job.out.data, (size_t)rows * 4);
    for (int64_t i = 0; i < count; i++)
        assert_int_equal(got[i / 3 * 4 + i % 3], want[i]);
}

static void test_layout(void **state)
{
    (void)state;
    for (GPU_CASES(i, 30)) {
        check_shuffles();
        check_patch(i % 2);
        check_layout(i % 2);
        check_rgb8();
    }
}

int main(void)
{
    gpu_require();
    cpu_scratch = malloc(DIP_KERNEL_SCRATCH_BYTES);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attend_cross),
        cmocka_unit_test(test_attend_equal_rows),
        cmocka_unit_test(test_attend_cross_alone),
        cmocka_unit_test(test_attend_linear),
        cmocka_unit_test(test_conv),
        cmocka_unit_test(test_conv_depthwise),
        cmocka_unit_test(test_layout),
    };
    int failed = cmocka_run_group_tests(tests, gpu_start, gpu_stop);
    free(cpu_scratch);
    return failed;
}
