/* tests/cuda/linear.c - the linear product: against its definition, in company, in pieces.
 *
 * Tolerance: products of two BF16 are exact in f32; a slice of 128 has as many sums (a tensor core
 * truncates, but only once for 16 of them); slices, chunks, bias, activation and residual add
 * K / 128 + 12. Of the sum of magnitudes. */
#include "tests/cuda/device.h"

struct sizes {
    int64_t rows, outs, ins;
    int chunk_count;
};

static struct sizes random_sizes(void)
{
    struct sizes n = {.rows = GPU_PICK(1, 1, 2, 5, 8, 9, 16, 17, 31, 65, 130),
                      .outs = GPU_PICK(1, 3, 8, 16, 17, 31, 64, 65, 130),
                      .ins = GPU_PICK(1, 7, 8, 13, 64, 96, 127, 128, 136, 250, 264, 776),
                      .chunk_count = 1};
    if (gpu_int(0, 2) == 0) {
        n.chunk_count = (int)GPU_PICK(2, 4, 8, 16);
        n.ins = n.chunk_count * GPU_PICK(1, 5, 8, 24, 40, 136);
    }
    return n;
}

struct operands {
    struct gpu_tensor in;
    struct gpu_tensor weight; /* a view: the stride of a column slice */
    struct gpu_param bias;
};

static struct operands random_operands(const struct sizes *n, enum dip_dtype act,
                                       enum dip_dtype weight)
{
    bool is_aligned = gpu_int(0, 2) > 0;
    return (struct operands){.in = gpu_random(act, n->rows, n->ins, is_aligned),
                             .weight = gpu_random(weight, n->outs, n->ins, is_aligned),
                             .bias = gpu_param(gpu_weight(), n->outs, 1.0f)};
}

static struct dip_cuda_linear job_of(const struct operands *o, const struct sizes *n)
{
    return (struct dip_cuda_linear){.in = o->in.view,
                                    .weight = {o->weight.view.data, o->weight.view.dtype},
                                    .weight_stride = o->weight.view.stride,
                                    .chunk_count = n->chunk_count,
                                    .scratch = gpu_scratch};
}

static void define(const struct operands *o, const struct sizes *n,
                   const struct dip_cuda_linear *job, float *in, float *weight, float *bias,
                   float *out)
{
    struct dip_job_linear cpu = {.out = out,
                                 .in = in,
                                 .weight = {weight, DIP_F32},
                                 .row_count = n->rows,
                                 .out_count = n->outs,
                                 .in_count = n->ins,
                                 .out_stride = n->outs,
                                 .in_stride = n->ins,
                                 .weight_stride = n->ins,
                                 .unit_rows = n->rows,
                                 .unit_columns = n->outs,
                                 .chunk_count = n->chunk_count,
                                 .act = job->act,
                                 .is_added = job->is_added};
    (void)o;
    if (bias)
        cpu.bias = (struct dip_param){bias, DIP_F32};
    dip_cpu_linear(&cpu, 0, 1, NULL);
}

static float *magnitudes(const float *values, int64_t count)
{
    float *sizes = gpu_host((size_t)count * sizeof *sizes);
    for (int64_t i = 0; i < count; i++)
        sizes[i] = fabsf(values[i]);
    return sizes;
}

static void check_definition(void)
{
    struct sizes n = random_sizes();
    enum dip_dtype act = gpu_act(), weight = gpu_int(0, 2) ? DIP_BF16 : gpu_weight();
    struct operands o = random_operands(&n, act, weight);
    struct gpu_tensor out = gpu_random(gpu_act(), n.rows, n.outs, gpu_int(0, 1));
    struct dip_cuda_linear job = job_of(&o, &n);
    job.out = out.view;
    job.is_added = gpu_int(0, 2) == 0;
    job.act = (enum dip_kernel_act)gpu_int(0, 3);
    float *bias = NULL;
    if (gpu_int(0, 1)) {
        job.bias = o.bias.device;
        bias = gpu_host((size_t)n.outs * sizeof *bias);
        for (int64_t i = 0; i < n.outs; i++)
            bias[i] = gpu_get(o.bias.host.dtype, o.bias.host.data, (size_t)i);
    }
    gpu_ok(dip_cuda_linear(gpu_stream, &job));
    float *size = magnitudes(out.values, n.rows * n.outs); /* the residual's part of it */
    float *bias_size = bias ? magnitudes(bias, n.outs) : NULL;
    define(&o, &n, &job, o.in.values, o.weight.values, bias, out.values);
    struct dip_cuda_linear linear = job; /* no activation magnifies by more than 1.13 */
    linear.act = DIP_KERNEL_ACT_NONE;
    define(&o, &n, &linear, magnitudes(o.in.values, n.rows * n.ins),
           magnitudes(o.weight.values, n.outs * n.ins), bias_size, size);
    double ins = (double)n.ins;
    gpu_near(&out, out.values, size, 1.2 * (fmin(ins, 128.0) + ins / 128.0 + 12.0));
}

static void test_definition(void **state)
{
    (void)state;
    for (GPU_CASES(i, 150)) {
        check_definition();
    }
}

/* Rows first .. first + count of the operands, on their own. */
static const float *some_rows(const struct operands *o, const struct sizes *n, int64_t first,
                              int64_t count)
{
    struct dip_cuda_linear job = job_of(o, n);
    struct gpu_tensor out = gpu_empty(DIP_F32, count, n->outs, gpu_int(0, 1));
    job.out = out.view;
    job.in.data =
        (char *)job.in.data + (size_t)(first * job.in.stride) * dip_dtype_bytes(job.in.dtype);
    job.in.rows = count;
    gpu_ok(dip_cuda_linear(gpu_stream, &job));
    return gpu_fetch(&out);
}

/* One row and 300 take different kernels; a row's bits are the same in all of them. */
static void test_alone(void **state)
{
    (void)state;
    for (GPU_CASES(i, 40)) {
        struct sizes n = random_sizes();
        n.rows = GPU_PICK(3, 16, 17, 40, 65, 200);
        if (i % 8 == 0)
            n = (struct sizes){
                .rows = 300, .outs = 1000, .ins = 136, .chunk_count = 1}; /* large tiles */
        enum dip_dtype weight = i % 4 ? DIP_BF16 : gpu_weight();
        struct operands o = random_operands(&n, i % 4 ? DIP_BF16 : gpu_act(), weight);
        const float *all = some_rows(&o, &n, 0, n.rows);
        for (int k = 0; k < 3; k++) {
            int64_t count = gpu_int(1, n.rows < 20 ? n.rows : 20),
                    first = gpu_int(0, n.rows - count);
            gpu_same(some_rows(&o, &n, first, count), all + first * n.outs, count * n.outs);
        }
    }
}

/* Ranks that hold a power of two of neighbouring chunks and join pairwise give the bits of one. */
static void test_ranks(void **state)
{
    (void)state;
    for (GPU_CASES(i, 12)) {
        struct sizes n = random_sizes();
        n.chunk_count = 8;
        n.ins = 8 * GPU_PICK(5, 8, 24, 136);
        int ranks = (int)GPU_PICK(2, 4, 8);
        struct operands o = random_operands(&n, DIP_BF16, DIP_BF16);
        int64_t share = n.ins / ranks, count = n.rows * n.outs;
        struct gpu_tensor whole = gpu_empty(DIP_F32, n.rows, n.outs, true);
        struct gpu_tensor joined = gpu_empty(DIP_F32, n.rows, n.outs, true);
        float *dense = gpu_alloc((size_t)(ranks * count) * sizeof(float));
        for (int r = 0; r < ranks; r++) {
            struct dip_cuda_linear job = job_of(&o, &n);
            job.out = (struct dip_cuda_view){dense + r * count, DIP_F32, n.rows, n.outs, n.outs};
            job.in.data = (uint16_t *)job.in.data + r * share;
            job.in.columns = share;
            job.weight.data = (const uint16_t *)job.weight.data + r * share;
            job.chunk_count = 8 / ranks;
            gpu_ok(dip_cuda_linear(gpu_stream, &job));
        }
        struct dip_cuda_tree_sum join = {
            .out = joined.view, .parts = dense, .part_count = ranks, .part_stride = count};
        gpu_ok(dip_cuda_tree_sum(gpu_stream, &join));
        struct dip_cuda_linear job = job_of(&o, &n);
        job.out = whole.view;
        gpu_ok(dip_cuda_linear(gpu_stream, &job));
        gpu_same(gpu_fetch(&joined), gpu_fetch(&whole), count);
    }
}

/* The launches that a folded product replaces, one by one. */
static const float *one_by_one(const struct dip_cuda_linear *job,
                               const struct gpu_param *norm_weight)
{
    struct dip_cuda_linear apart = *job;
    int64_t rows = job->in.rows, ins = job->in.columns, outs = job->out.columns;
    struct gpu_tensor normed = gpu_empty(job->operand_dtype, rows, ins, true);
    struct gpu_tensor out = gpu_empty(job->out.dtype, rows, outs, true);
    struct gpu_tensor pair = gpu_empty(job->out.dtype, rows, 2 * outs, true);
    if (job->norm_weight.data) {
        struct dip_cuda_norm_rms norm = {.out = normed.view,
                                         .in = job->in,
                                         .weight = norm_weight->device,
                                         .group = ins,
                                         .eps = job->norm_eps};
        gpu_ok(dip_cuda_norm_rms(gpu_stream, &norm));
        apart.in = normed.view;
        apart.norm_weight.data = NULL;
    }
    apart.out = job->is_gated ? pair.view : out.view;
    apart.is_gated = false;
    gpu_ok(dip_cuda_linear(gpu_stream, &apart));
    if (job->is_gated) {
        struct dip_cuda_silu_mul mul = {.out = out.view, .gate = pair.view, .up = pair.view};
        mul.gate.columns = mul.up.columns = outs;
        mul.up.data = (char *)pair.view.data + (size_t)outs * dip_dtype_bytes(job->out.dtype);
        gpu_ok(dip_cuda_silu_mul(gpu_stream, &mul));
    }
    return gpu_fetch(&out);
}

/* A norm before and a gate behind change no bit, whichever kernels the sizes choose. */
static void test_folded(void **state)
{
    (void)state;
    for (GPU_CASES(i, 40)) {
        int64_t rows = GPU_PICK(1, 2, 4, 5, 16, 17, 40), outs = GPU_PICK(1, 7, 8, 16, 31, 70);
        int64_t ins = GPU_PICK(7, 64, 136, 1024, 1032);
        bool is_gated = i % 3 > 0, is_normed = i % 3 != 1, is_aligned = gpu_int(0, 2) > 0;
        enum dip_dtype act = gpu_act();
        struct gpu_tensor in = gpu_random(is_normed ? gpu_act() : act, rows, ins, is_aligned);
        struct gpu_tensor weight = gpu_random(gpu_int(0, 3) ? DIP_BF16 : DIP_F32,
                                              is_gated ? 2 * outs : outs, ins, is_aligned);
        struct gpu_param norm_weight = gpu_param(gpu_weight(), ins, 1.0f);
        struct gpu_tensor out = gpu_empty(gpu_act(), rows, outs, is_aligned);
        struct dip_cuda_linear job = {.out = out.view,
                                      .in = in.view,
                                      .weight = {weight.view.data, weight.view.dtype},
                                      .weight_stride = weight.view.stride,
                                      .chunk_count = 1,
                                      .is_gated = is_gated,
                                      .is_early = true,
                                      .norm_eps = 1e-6f,
                                      .operand_dtype = act,
                                      .scratch = gpu_scratch};
        if (is_normed)
            job.norm_weight = norm_weight.device;
        gpu_ok(dip_cuda_linear(gpu_stream, &job));
        gpu_same(gpu_fetch(&out), one_by_one(&job, &norm_weight), rows * outs);
    }
}

static void test_grouped(void **state)
{
    (void)state;
    for (GPU_CASES(i, 25)) {
        int64_t rows = GPU_PICK(1, 3, 31, 32, 70), groups = gpu_int(1, 5);
        int64_t outs = GPU_PICK(1, 7, 16, 32, 70), ins = GPU_PICK(1, 5, 8, 32, 70);
        struct gpu_tensor in = gpu_random(gpu_act(), rows, groups * ins, gpu_int(0, 1));
        struct gpu_tensor out = gpu_empty(gpu_act(), rows, groups * outs, gpu_int(0, 1));
        struct gpu_param weight = gpu_param(gpu_weight(), groups * outs * ins, 1.0f);
        struct dip_cuda_linear_grouped job = {
            .out = out.view, .in = in.view, .weight = weight.device, .group_count = groups};
        gpu_ok(dip_cuda_linear_grouped(gpu_stream, &job));
        struct dip_job_linear_grouped cpu = {.out = out.values,
                                             .in = in.values,
                                             .weight = weight.host,
                                             .row_count = rows,
                                             .group_count = groups,
                                             .out_per_group = outs,
                                             .in_per_group = ins,
                                             .out_stride = groups * outs,
                                             .in_stride = groups * ins,
                                             .unit_rows = rows};
        dip_cpu_linear_grouped(&cpu, 0, 1, NULL);
        gpu_near(&out, out.values, NULL, (double)(ins * ins)); /* ins products within 1 */
    }
}

int main(void)
{
    gpu_require();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_definition), cmocka_unit_test(test_alone),
        cmocka_unit_test(test_ranks),      cmocka_unit_test(test_folded),
        cmocka_unit_test(test_grouped),
    };
    return cmocka_run_group_tests(tests, gpu_start, gpu_stop);
}
