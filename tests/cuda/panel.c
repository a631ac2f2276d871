/* tests/cuda/panel.c - operations of the autoregressive panel against their definitions.
 *
 * Every case draws sizes (1, primes, off the kernels' chunks), types and alignment. Tolerances
 * count roundings: a result is rounded once to its type, and what comes before is f32 (2^-24 each).
 */
#include "tests/cuda/device.h"

/* ---- elementwise ---- */

static void check_add(void)
{
    int64_t rows = gpu_rows(), columns = gpu_columns(), per_item = gpu_int(1, rows);
    int64_t items = (rows + per_item - 1) / per_item;
    bool is_gated = gpu_int(0, 1), is_broadcast = gpu_int(0, 1), is_aligned = gpu_int(0, 1);
    struct gpu_tensor sum = gpu_random(gpu_act(), rows, columns, is_aligned);
    struct gpu_tensor x = gpu_random(gpu_act(), is_broadcast ? items : rows, columns, is_aligned);
    struct gpu_tensor gate = gpu_random(gpu_act(), items, columns, is_aligned);
    struct dip_cuda_add job = {.sum = sum.view,
                               .x = x.view,
                               .rows_per_item = per_item,
                               .x_rows_per_item = is_broadcast ? per_item : 1};
    if (is_gated)
        job.gate = gate.view;
    gpu_ok(dip_cuda_add(gpu_stream, &job));
    struct dip_job_add cpu = {.sum = sum.values,
                              .x = x.values,
                              .gate = is_gated ? gate.values : NULL,
                              .column_count = columns,
                              .rows_per_item = per_item,
                              .x_rows_per_item = job.x_rows_per_item,
                              .sum_stride = columns,
                              .x_stride = columns,
                              .gate_stride = columns};
    dip_cpu_add(&cpu, 0, rows, NULL);
    gpu_near(&sum, sum.values, NULL, 0.0); /* every rounding is prescribed */
}

static void check_activations(void)
{
    int64_t rows = gpu_rows(), columns = gpu_columns(), count = rows * columns;
    bool is_aligned = gpu_int(0, 1);
    float *values = gpu_values(count, 12.0f);
    struct gpu_tensor in = gpu_tensor(gpu_act(), rows, columns, is_aligned, values);
    struct gpu_tensor up = gpu_random(gpu_act(), rows, columns, is_aligned);
    struct gpu_tensor out = gpu_empty(gpu_act(), rows, columns, is_aligned);
    float *want = gpu_host((size_t)count * sizeof *want);
    enum dip_kernel_act act = (enum dip_kernel_act)gpu_int(0, 3);
    struct dip_cuda_activate job = {.out = out.view, .in = in.view, .act = act};
    gpu_ok(dip_cuda_activate(gpu_stream, &job));
    struct dip_job_activate cpu = {.out = want,
                                   .in = in.values,
                                   .column_count = columns,
                                   .out_stride = columns,
                                   .in_stride = columns,
                                   .act = act};
    dip_cpu_activate(&cpu, 0, rows, NULL);
    gpu_near(&out, want, in.values, 32.0); /* the exponent's error grows with |x| up to 12 x 1.6 */
    struct dip_cuda_silu_mul mul = {.out = out.view, .gate = in.view, .up = up.view};
    gpu_ok(dip_cuda_silu_mul(gpu_stream, &mul));
    struct dip_job_silu_mul cpu_mul = {.out = want,
                                       .gate = in.values,
                                       .up = up.values,
                                       .column_count = columns,
                                       .out_stride = columns,
                                       .gate_stride = columns,
                                       .up_stride = columns};
    dip_cpu_silu_mul(&cpu_mul, 0, rows, NULL);
    gpu_near(&out, want, in.values, 32.0);
}

static struct gpu_tensor dense(enum dip_dtype dtype, int64_t count)
{
    struct gpu_tensor t = gpu_random(dtype, 1, count, gpu_int(0, 1));
    t.view.stride = count;
    return t;
}

static void check_blends(void)
{
    int items = (int)GPU_PICK(1, 2, 3);
    int64_t count = items * GPU_PICK(1, 5, 8, 64, 333);
    int terms = (int)gpu_int(1, 4);
    float *coefficients = gpu_values((int64_t)terms * items, 1.0f);
    struct dip_cuda_blend job = {.count = terms, .item_count = items};
    struct dip_job_blend cpu = {.coefficients = coefficients,
                                .item_elements = count / items,
                                .count = terms,
                                .item_count = items};
    job.coefficients = gpu_upload(coefficients, (size_t)(terms * items) * sizeof *coefficients);
    for (int i = 0; i < terms; i++) {
        struct gpu_tensor in = dense(gpu_act(), count);
        job.in[i] = in.view;
        cpu.in[i] = in.values;
    }
    struct gpu_tensor out = gpu_empty(gpu_act(), 1, count, true);
    job.out = out.view;
    cpu.out = out.values;
    gpu_ok(dip_cuda_blend(gpu_stream, &job));
    dip_cpu_blend(&cpu, 0, count, NULL);
    gpu_near(&out, out.values, NULL, 0.0);
    struct gpu_tensor uncond = dense(gpu_act(), count), cond = dense(gpu_act(), count);
    struct dip_cuda_guide guide = {
        .out = out.view, .uncond = uncond.view, .cond = cond.view, .scale = 2.3f};
    gpu_ok(dip_cuda_guide(gpu_stream, &guide));
    struct dip_job_guide cpu_guide = {
        .out = out.values, .uncond = uncond.values, .cond = cond.values, .scale = 2.3f};
    dip_cpu_guide(&cpu_guide, 0, count, NULL);
    gpu_near(&out, out.values, NULL, 0.0);
}

static void test_elementwise(void **state)
{
    (void)state;
    for (GPU_CASES(i, 60)) {
        check_add();
        check_activations();
        check_blends();
    }
}

/* Between any two types; bits of equal ones. What a half cannot hold is rounded to nearest even. */
static void test_cast_fill(void **state)
{
    (void)state;
    static const enum dip_dtype types[] = {DIP_F32, DIP_BF16, DIP_F16};
    for (GPU_CASES(i, 54)) {
        int64_t rows = gpu_rows(), columns = gpu_columns();
        bool is_aligned = gpu_int(0, 1);
        struct gpu_tensor in = gpu_random(types[i % 3], rows, columns, is_aligned);
        struct gpu_tensor out = gpu_empty(types[i / 3 % 3], rows, columns, is_aligned);
        struct dip_cuda_cast job = {.out = out.view, .in = in.view};
        gpu_ok(dip_cuda_cast(gpu_stream, &job));
        gpu_near(&out, in.values, NULL, out.view.dtype == DIP_F16 ? 0.5 : 0.0); /* subnormals */
        if (out.view.dtype == in.view.dtype)
            gpu_same(gpu_fetch(&out), in.values, rows * columns);
        struct dip_cuda_fill fill = {.out = out.view, .value = 1.25f};
        gpu_ok(dip_cuda_fill(gpu_stream, &fill));
        const float *filled = gpu_fetch(&out);
        for (int64_t k = 0; k < rows * columns; k++)
            assert_true(filled[k] == 1.25f);
    }
}

static bool is_flagged(const struct gpu_tensor *t)
{
    uint32_t zero = 0;
    struct dip_cuda_check_finite job = {.in = t->view, .flag = gpu_upload(&zero, sizeof zero)};
    gpu_ok(dip_cuda_check_finite(gpu_stream, &job));
    return *(uint32_t *)gpu_download(job.flag, sizeof zero) != 0;
}

static void test_check_finite(void **state)
{
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (GPU_CASES(i, 30)) {
        int64_t rows = gpu_rows(), columns = gpu_columns();
        float *values = gpu_values(rows * columns, 3e38f);
        enum dip_dtype dtype = gpu_act();
        bool is_aligned = gpu_int(0, 1);
        struct gpu_tensor good = gpu_tensor(dtype, rows, columns, is_aligned, values);
        assert_false(is_flagged(&good));
        values[gpu_int(0, rows * columns - 1)] = bad[i % 3];
        struct gpu_tensor broken = gpu_tensor(dtype, rows, columns, is_aligned, values);
        assert_true(is_flagged(&broken));
    }
}

/* The join of a tensor-parallel group: neighbours first, every sum rounded. */
static void test_tree_sum(void **state)
{
    (void)state;
    for (int parts = 1; parts <= 16; parts *= 2) {
        int64_t rows = 3, columns = 37, count = rows * columns;
        float *values = gpu_values(parts * count, 1.0f);
        struct gpu_tensor out = gpu_random(DIP_F32, rows, columns, false);
        struct dip_cuda_tree_sum job = {.out = out.view,
                                        .parts = gpu_upload(values, (size_t)(parts * count) * 4),
                                        .part_count = parts,
                                        .part_stride = count,
                                        .is_added = parts == 4};
        gpu_ok(dip_cuda_tree_sum(gpu_stream, &job));
        for (int width = 1; width < parts; width *= 2)
            for (int p = 0; p < parts; p += 2 * width)
                for (int64_t i = 0; i < count; i++)
                    values[p * count + i] += values[(p + width) * count + i];
        for (int64_t i = 0; i < count && job.is_added; i++)
            values[i] = out.values[i] + values[i];
        gpu_same(gpu_fetch(&out), values, count);
        gpu_reset();
    }
}

/* ---- embedding, norms ---- */

static void test_embed(void **state)
{
    (void)state;
    for (GPU_CASES(i, 40)) {
        int64_t rows = gpu_rows(), columns = gpu_columns(), vocab = gpu_int(1, 50);
        struct gpu_tensor out = gpu_empty(gpu_act(), rows, columns, gpu_int(0, 1));
        struct gpu_param table = gpu_param(gpu_weight(), vocab * columns, 1.0f);
        int32_t ids[64];
        for (int64_t r = 0; r < rows; r++)
            ids[r] = (int32_t)gpu_int(0, vocab - 1);
        struct dip_cuda_embed job = {.out = out.view,
                                     .table = table.device,
                                     .ids = gpu_upload(ids, (size_t)rows * sizeof ids[0]),
                                     .table_rows = vocab,
                                     .table_stride = columns};
        gpu_ok(dip_cuda_embed(gpu_stream, &job));
        struct dip_job_embed cpu = {.out = out.values,
                                    .table = table.host,
                                    .ids = ids,
                                    .column_count = columns,
                                    .out_stride = columns,
                                    .table_stride = columns};
        dip_cpu_embed(&cpu, 0, rows, NULL);
        gpu_near(&out, out.values, NULL, 0.0);
        ids[0] = i % 2 ? -1 : (int32_t)vocab; /* nothing else may come of a broken id */
        job.ids = gpu_upload(ids, (size_t)rows * sizeof ids[0]);
        gpu_ok(dip_cuda_embed(gpu_stream, &job));
        assert_true(isnan(gpu_fetch(&out)[0]));
    }
}

/* Sums of n squares have at most n / 8 / 32 + 13 roundings in a row; y has a dozen more. */
static void check_norm_rms(void)
{
    int64_t runs = GPU_PICK(1, 1, 2, 5),
            group = GPU_PICK(1, 7, 8, 24, 64, 128, 1000, 1024, 1031, 2240);
    int64_t rows = gpu_rows(), columns = runs * group, count = rows * columns;
    bool is_aligned = gpu_int(0, 1), has_bias = gpu_int(0, 1), is_added = gpu_int(0, 1);
    struct gpu_tensor in = gpu_random(gpu_act(), rows, columns, is_aligned);
    struct gpu_tensor out = gpu_random(gpu_act(), rows, columns, is_aligned);
    struct gpu_param weight = gpu_param(gpu_weight(), group, 1.0f);
    struct gpu_param bias = gpu_param(gpu_weight(), group, 1.0f);
    struct dip_cuda_norm_rms job = {.out = out.view,
                                    .in = in.view,
                                    .weight = weight.device,
                                    .group = group,
                                    .eps = 1e-6f,
                                    .act =
                                        gpu_int(0, 1) ? DIP_KERNEL_ACT_RELU : DIP_KERNEL_ACT_NONE,
                                    .is_added = is_added};
    if (has_bias)
        job.bias = bias.device;
    gpu_ok(dip_cuda_norm_rms(gpu_stream, &job));
    struct dip_job_norm_rms cpu = {.out = out.values,
                                   .in = in.values,
                                   .weight = weight.host,
                                   .column_count = columns,
                                   .group = group,
                                   .out_stride = columns,
                                   .in_stride = columns,
                                   .eps = 1e-6f,
                                   .act = job.act,
                                   .is_added = is_added};
    if (has_bias)
        cpu.bias = bias.host;
    dip_cpu_norm_rms(&cpu, 0, rows, NULL);
    float *size = gpu_host((size_t)count * sizeof *size);
    for (int64_t i = 0; i < count; i++) /* |y| is at most sqrt(group), mostly 2 */
        size[i] = fabsf(out.values[i]) + (float)fmin(sqrt((double)group), 4.0) + 2.0f;
    gpu_near(&out, out.values, size, (double)group / 256.0 + 16.0);
}

static void check_norm_layer(void)
{
    int64_t rows = gpu_rows(), columns = GPU_PICK(2, 7, 8, 24, 64, 1000, 1024, 1031, 2240);
    int64_t per_item = gpu_int(1, rows), items = (rows + per_item - 1) / per_item;
    bool is_aligned = gpu_int(0, 1);
    struct gpu_tensor in = gpu_random(gpu_act(), rows, columns, is_aligned);
    struct gpu_tensor out = gpu_empty(gpu_act(), rows, columns, is_aligned);
    struct gpu_tensor scale = gpu_random(gpu_act(), items, columns, is_aligned);
    struct gpu_tensor shift = gpu_random(gpu_act(), items, columns, is_aligned);
    struct dip_cuda_norm_layer job = {.out = out.view,
                                      .in = in.view,
                                      .scale = scale.view,
                                      .shift = shift.view,
                                      .rows_per_item = per_item,
                                      .eps = 1e-6f};
    gpu_ok(dip_cuda_norm_layer(gpu_stream, &job));
    struct dip_job_norm_layer cpu = {.out = out.values,
                                     .in = in.values,
                                     .scale = scale.values,
                                     .shift = shift.values,
                                     .column_count = columns,
                                     .rows_per_item = per_item,
                                     .out_stride = columns,
                                     .in_stride = columns,
                                     .scale_stride = columns,
                                     .shift_stride = columns,
                                     .eps = 1e-6f};
    dip_cpu_norm_layer(&cpu, 0, rows, NULL);
    /* Two neighbours may be near equal: what they differ by is then mostly rounding. */
    double spread = columns < 8 ? 64.0 : 4.0;
    gpu_near(&out, out.values, NULL, spread * ((double)columns / 256.0 + 24.0));
}

static void test_norms(void **state)
{
    (void)state;
    for (GPU_CASES(i, 60)) {
        check_norm_rms();
        check_norm_layer();
    }
}

/* A row has the same bits whatever is beside it. */
static void test_norm_alone(void **state)
{
    (void)state;
    for (GPU_CASES(i, 10)) {
        int64_t rows = 9, columns = GPU_PICK(64, 1000, 2240), row = gpu_int(0, rows - 1);
        struct gpu_tensor in = gpu_random(DIP_BF16, rows, columns, true);
        struct gpu_tensor many = gpu_empty(DIP_F32, rows, columns, true);
        struct gpu_tensor alone = gpu_empty(DIP_F32, 1, columns, false);
        struct gpu_param weight = gpu_param(DIP_BF16, columns, 1.0f);
        struct dip_cuda_norm_rms job = {.out = many.view,
                                        .in = in.view,
                                        .weight = weight.device,
                                        .group = columns,
                                        .eps = 1e-6f};
        gpu_ok(dip_cuda_norm_rms(gpu_stream, &job));
        job.out = alone.view;
        job.in = gpu_row(job.in, row);
        gpu_ok(dip_cuda_norm_rms(gpu_stream, &job));
        gpu_same_row(&alone, &many, row);
    }
}

/* ---- rotary embedding, cache, attention ---- */

struct panel {
    int64_t rows, heads, kv_heads, dim, slots, capacity;
    struct dip_kernel_row places[64];
    float inv_freq[DIP_CUDA_HEAD_DIM_MAX / 2];
    void *device_places, *device_freq;
};

static struct panel random_panel(void)
{
    struct panel p = {.rows = gpu_rows(),
                      .kv_heads = GPU_PICK(1, 2, 3),
                      .dim = GPU_PICK(2, 8, 24, 64, 126, 128, 256),
                      .slots = gpu_int(1, 4),
                      .capacity = GPU_PICK(1, 5, 64, 65, 150)};
    p.heads = p.kv_heads * GPU_PICK(1, 2, 4);
    for (int64_t r = 0; r < p.rows; r++)
        p.places[r] = (struct dip_kernel_row){(int32_t)gpu_int(0, p.slots - 1),
                                              (int32_t)gpu_int(0, p.capacity - 1)};
    for (int64_t i = 0; i < p.dim / 2; i++)
        p.inv_freq[i] = 1.0f / (float)pow(1e6, (double)(2 * i) / (double)p.dim);
    p.device_places = gpu_upload(p.places, (size_t)p.rows * sizeof p.places[0]);
    p.device_freq = gpu_upload(p.inv_freq, (size_t)(p.dim / 2) * sizeof(float));
    return p;
}

/* Angles are equal bits; sine and cosine are within 2 units, the rest as in a norm. */
static void test_rope(void **state)
{
    (void)state;
    for (GPU_CASES(i, 40)) {
        struct panel p = random_panel();
        int64_t columns = p.heads * p.dim;
        struct gpu_tensor x = gpu_random(gpu_act(), p.rows, columns, gpu_int(0, 1));
        struct gpu_param weight = gpu_param(gpu_weight(), p.dim, 1.0f);
        struct dip_cuda_rope job = {.x = x.view,
                                    .weight = weight.device,
                                    .rows = p.device_places,
                                    .inv_freq = p.device_freq,
                                    .head_dim = p.dim,
                                    .eps = 1e-6f};
        gpu_ok(dip_cuda_rope(gpu_stream, &job));
        struct dip_job_rope cpu = {.x = x.values,
                                   .weight = weight.host,
                                   .rows = p.places,
                                   .inv_freq = p.inv_freq,
                                   .head_count = p.heads,
                                   .head_dim = p.dim,
                                   .x_stride = columns,
                                   .eps = 1e-6f};
        dip_cpu_rope(&cpu, 0, p.rows, NULL);
        gpu_near(&x, x.values, NULL, 4.0 * 24.0);
    }
}

static struct gpu_tensor cache_of(const struct panel *p, enum dip_dtype dtype, bool is_aligned)
{
    return gpu_random(dtype, p->slots * p->capacity, p->kv_heads * p->dim, is_aligned);
}

/* One launch on the joint product has the bits of two ropes and an append. */
static void test_qkv_rope(void **state)
{
    (void)state;
    for (GPU_CASES(i, 30)) {
        struct panel p = random_panel();
        enum dip_dtype dtype = gpu_act();
        bool is_aligned = gpu_int(0, 1);
        for (int64_t r = 0; r < p.rows; r++) /* no two rows write one place */
            p.places[r] = (struct dip_kernel_row){(int32_t)(r % p.slots), (int32_t)(r / p.slots)};
        p.capacity = p.rows + 1;
        p.device_places = gpu_upload(p.places, (size_t)p.rows * sizeof p.places[0]);
        int64_t q = p.heads * p.dim, kv = p.kv_heads * p.dim;
        struct gpu_tensor joint = gpu_random(dtype, p.rows, q + 2 * kv, is_aligned);
        struct gpu_tensor apart = gpu_tensor(dtype, p.rows, q + 2 * kv, is_aligned, joint.values);
        struct gpu_tensor caches[4];
        caches[0] = cache_of(&p, dtype, is_aligned);
        caches[1] = cache_of(&p, dtype, is_aligned);
        for (int c = 0; c < 2; c++)
            caches[2 + c] = gpu_tensor(dtype, p.slots * p.capacity, kv, true, caches[c].values);
        struct gpu_param wq = gpu_param(gpu_weight(), p.dim, 1.0f);
        struct gpu_param wk = gpu_param(gpu_weight(), p.dim, 1.0f);
        struct dip_cuda_qkv_rope job = {.qkv = joint.view,
                                        .kv = {caches[0].view, caches[1].view, p.capacity},
                                        .q_weight = wq.device,
                                        .k_weight = wk.device,
                                        .rows = p.device_places,
                                        .inv_freq = p.device_freq,
                                        .head_count = p.heads,
                                        .kv_head_count = p.kv_heads,
                                        .head_dim = p.dim,
                                        .eps = 1e-6f};
        gpu_ok(dip_cuda_qkv_rope(gpu_stream, &job));
        struct dip_cuda_rope rope = {.x = apart.view,
                                     .weight = wq.device,
                                     .rows = p.device_places,
                                     .inv_freq = p.device_freq,
                                     .head_dim = p.dim,
                                     .eps = 1e-6f};
        size_t size = dip_dtype_bytes(dtype);
        rope.x.columns = q;
        gpu_ok(dip_cuda_rope(gpu_stream, &rope));
        rope.x.data = (char *)apart.view.data + (size_t)q * size;
        rope.x.columns = kv;
        rope.weight = wk.device;
        gpu_ok(dip_cuda_rope(gpu_stream, &rope));
        struct dip_cuda_kv_append append = {.kv = {caches[2].view, caches[3].view, p.capacity},
                                            .k = rope.x,
                                            .v = rope.x,
                                            .rows = p.device_places};
        append.v.data = (char *)apart.view.data + (size_t)(q + kv) * size;
        gpu_ok(dip_cuda_kv_append(gpu_stream, &append));
        for (int c = 0; c < 2; c++)
            gpu_same(gpu_fetch(&caches[c]), gpu_fetch(&caches[2 + c]), p.slots * p.capacity * kv);
        const float *a = gpu_fetch(&joint), *b = gpu_fetch(&apart);
        for (int64_t r = 0; r < p.rows; r++)
            gpu_same(a + r * (q + 2 * kv), b + r * (q + 2 * kv), q);
    }
}

static struct gpu_tensor attend(const struct panel *p, const struct gpu_tensor *q,
                                const struct gpu_tensor *k, const struct gpu_tensor *v)
{
    struct gpu_tensor out = gpu_empty(gpu_act(), p->rows, p->heads * p->dim, gpu_int(0, 1));
    struct dip_cuda_attend job = {.out = out.view,
                                  .q = q->view,
                                  .kv = {k->view, v->view, p->capacity},
                                  .rows = p->device_places,
                                  .head_count = p->heads,
                                  .kv_head_count = p->kv_heads,
                                  .head_dim = p->dim,
                                  .scratch = gpu_scratch};
    gpu_ok(dip_cuda_attend(gpu_stream, &job));
    return out;
}

/* Values are within 1 and so is a weighted mean; scores are within sqrt(dim), an exponent's error
 * is its argument's: a few times sqrt(dim) roundings, and the sums'. */
static void test_attend(void **state)
{
    (void)state;
    for (GPU_CASES(i, 40)) {
        struct panel p = random_panel();
        enum dip_dtype dtype = gpu_act();
        bool is_aligned = gpu_int(0, 1);
        int64_t columns = p.heads * p.dim, kv = p.kv_heads * p.dim;
        struct gpu_tensor q = gpu_random(dtype, p.rows, columns, is_aligned);
        struct gpu_tensor k = cache_of(&p, dtype, is_aligned), v = cache_of(&p, dtype, is_aligned);
        struct gpu_tensor out = attend(&p, &q, &k, &v);
        struct dip_job_attend cpu = {.out = out.values,
                                     .q = q.values,
                                     .k_cache = k.values,
                                     .v_cache = v.values,
                                     .rows = p.places,
                                     .head_count = p.heads,
                                     .kv_head_count = p.kv_heads,
                                     .head_dim = p.dim,
                                     .out_stride = columns,
                                     .q_stride = columns,
                                     .k_cache_stride = kv,
                                     .v_cache_stride = kv,
                                     .capacity = p.capacity};
        dip_cpu_attend(&cpu, 0, p.rows * p.kv_heads, NULL);
        gpu_near(&out, out.values, NULL, 4.0 * sqrt((double)p.dim) + 64.0);
    }
}

/* Prefill and decode, alone and in company: one position, the same bits. */
static void test_attend_alone(void **state)
{
    (void)state;
    for (GPU_CASES(i, 10)) {
        struct panel p = random_panel();
        int64_t columns = p.heads * p.dim, row = gpu_int(0, p.rows - 1);
        struct gpu_tensor q = gpu_random(DIP_BF16, p.rows, columns, true);
        struct gpu_tensor k = cache_of(&p, DIP_BF16, true), v = cache_of(&p, DIP_BF16, true);
        struct dip_cuda_attend job = {.kv = {k.view, v.view, p.capacity},
                                      .rows = p.device_places,
                                      .head_count = p.heads,
                                      .kv_head_count = p.kv_heads,
                                      .head_dim = p.dim,
                                      .scratch = gpu_scratch};
        struct gpu_tensor many = gpu_empty(DIP_F32, p.rows, columns, true);
        struct gpu_tensor one = gpu_empty(DIP_F32, 1, columns, true);
        job.out = many.view;
        job.q = q.view;
        gpu_ok(dip_cuda_attend(gpu_stream, &job));
        job.out = one.view;
        job.q = gpu_row(q.view, row);
        job.rows += row;
        gpu_ok(dip_cuda_attend(gpu_stream, &job));
        gpu_same_row(&one, &many, row);
    }
}

static void test_sinusoid(void **state)
{
    (void)state;
    for (GPU_CASES(i, 10)) {
        int64_t rows = gpu_int(1, 5), half = GPU_PICK(1, 3, 16, 128);
        float t[8];
        for (int64_t r = 0; r < rows; r++)
            t[r] = 500.0f * (gpu_float() + 1.0f);
        struct gpu_tensor out = gpu_empty(gpu_act(), rows, 2 * half, false);
        struct dip_cuda_sinusoid job = {.out = out.view, .t = gpu_upload(t, sizeof t)};
        gpu_ok(dip_cuda_sinusoid(gpu_stream, &job));
        struct dip_job_sinusoid cpu = {
            .out = out.values, .t = t, .half = half, .out_stride = 2 * half};
        dip_cpu_sinusoid(&cpu, 0, rows, NULL);
        gpu_near(&out, out.values, NULL, 1.0);
    }
}

int main(void)
{
    gpu_require();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_elementwise),  cmocka_unit_test(test_cast_fill),
        cmocka_unit_test(test_check_finite), cmocka_unit_test(test_tree_sum),
        cmocka_unit_test(test_embed),        cmocka_unit_test(test_norms),
        cmocka_unit_test(test_norm_alone),   cmocka_unit_test(test_rope),
        cmocka_unit_test(test_qkv_rope),     cmocka_unit_test(test_attend),
        cmocka_unit_test(test_attend_alone), cmocka_unit_test(test_sinusoid),
    };
    return cmocka_run_group_tests(tests, gpu_start, gpu_stop);
}
