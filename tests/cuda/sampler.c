/* tests/cuda/sampler.c - the ends of a sampler's step, modulations and the attention of several
 * items against the launches they stand for, bit for bit. */
#include "tests/cuda/device.h"

enum { ITEMS_MAX = 4 };

/* ---- a sampler's step ---- */

struct pictures {
    struct dip_cuda_sampler_item items[ITEMS_MAX]; /* of device memory */
    struct gpu_tensor latent[ITEMS_MAX], clean[ITEMS_MAX], previous[ITEMS_MAX];
};

static struct gpu_tensor dense(int64_t rows, int64_t columns)
{
    struct gpu_tensor t = gpu_random(DIP_F32, rows, columns, true);
    float *data = gpu_upload(t.values, (size_t)(rows * columns) * sizeof *data);
    t.view = (struct dip_cuda_view){data, DIP_F32, rows, columns, columns};
    t.shift = 0;
    t.bytes = (size_t)(rows * columns) * sizeof *data;
    return t;
}

static struct pictures random_pictures(int64_t items, int64_t count)
{
    struct pictures p;
    for (int64_t i = 0; i < items; i++) {
        p.latent[i] = dense(1, count);
        p.clean[i] = dense(1, count);
        p.previous[i] = dense(1, count);
        p.items[i] = (struct dip_cuda_sampler_item){
            .latent = p.latent[i].view.data,
            .clean = p.clean[i].view.data,
            .clean_previous = p.previous[i].view.data,
            .timestep = gpu_float(),
            .guidance = gpu_int(0, 2) ? 2.0f + gpu_float() : 1.0f,
            .to_clean = gpu_float(),
            .c = {gpu_float(), gpu_float(), gpu_float()},
            .rule = (int32_t)gpu_int(DIP_CUDA_SAMPLER_STRAIGHT, DIP_CUDA_SAMPLER_SECOND)};
    }
    return p;
}

static void blend(struct dip_cuda_view out, const struct dip_cuda_view *in, const float *c,
                  int count)
{
    struct dip_cuda_blend job = {.out = out,
                                 .coefficients = gpu_upload(c, (size_t)count * sizeof *c),
                                 .count = count,
                                 .item_count = 1};
    for (int i = 0; i < count; i++)
        job.in[i] = in[i];
    gpu_ok(dip_cuda_blend(gpu_stream, &job));
}

/* One picture by guide and blend, on copies of what it has. */
static void check_item(const struct pictures *p, int64_t i, struct dip_cuda_view uncond,
                       struct dip_cuda_view cond, const struct gpu_tensor *velocity)
{
    const struct dip_cuda_sampler_item *item = &p->items[i];
    int64_t count = cond.columns;
    const float to_clean[] = {1.0f, item->to_clean};
    struct gpu_tensor v = dense(1, count), x = dense(1, count), clean = dense(1, count);
    struct dip_cuda_cast move = {.out = v.view, .in = cond};
    gpu_ok(dip_cuda_cast(gpu_stream, &move));
    if (item->guidance != 1.0f) {
        struct dip_cuda_guide guide = {
            .out = v.view, .uncond = uncond, .cond = cond, .scale = item->guidance};
        gpu_ok(dip_cuda_guide(gpu_stream, &guide));
    }
    gpu_must(cudaMemcpy(x.view.data, p->latent[i].values, x.bytes, cudaMemcpyHostToDevice));
    bool is_straight = item->rule == DIP_CUDA_SAMPLER_STRAIGHT;
    const struct dip_cuda_view flow[] = {x.view, v.view};
    const struct dip_cuda_view step[] = {x.view, is_straight ? v.view : clean.view,
                                         p->previous[i].view};
    blend(clean.view, flow, to_clean, 2);
    blend(x.view, step, item->c, item->rule == DIP_CUDA_SAMPLER_SECOND ? 3 : 2);
    gpu_same(gpu_fetch(velocity) + i * count, gpu_fetch(&v), count);
    gpu_same(gpu_fetch(&p->clean[i]), gpu_fetch(&clean), count);
    gpu_same(gpu_fetch(&p->latent[i]), gpu_fetch(&x), count);
}

static void test_sampler(void **state)
{
    (void)state;
    for (GPU_CASES(n, 40)) {
        int64_t items = gpu_int(1, ITEMS_MAX), count = GPU_PICK(1, 7, 8, 36, 256, 1001);
        struct pictures p = random_pictures(items, count);
        struct gpu_tensor batch = dense(items, count), velocity = dense(items, count);
        struct gpu_tensor uncond = dense(items, count), cond = dense(items, count);
        struct dip_cuda_sampler_begin begin = {.latent = batch.view};
        begin.items = gpu_upload(p.items, (size_t)items * sizeof p.items[0]);
        begin.t = gpu_alloc(ITEMS_MAX * sizeof(float));
        begin.is_bad = gpu_alloc(ITEMS_MAX * sizeof(uint32_t));
        gpu_ok(dip_cuda_sampler_begin(gpu_stream, &begin));
        const float *t = gpu_download(begin.t, (size_t)items * sizeof *t);
        const float *latents = gpu_fetch(&batch);
        struct dip_cuda_sampler_end end = {.velocity = velocity.view,
                                           .uncond = uncond.view,
                                           .cond = cond.view,
                                           .items = begin.items,
                                           .is_bad = begin.is_bad};
        gpu_ok(dip_cuda_sampler_end(gpu_stream, &end));
        const uint32_t *is_bad = gpu_download(begin.is_bad, (size_t)items * sizeof *is_bad);
        for (int64_t i = 0; i < items; i++) {
            assert_true(t[i] == p.items[i].timestep);
            assert_int_equal(is_bad[i], 0);
            gpu_same(latents + i * count, p.latent[i].values, count);
            check_item(&p, i, gpu_row(uncond.view, i), gpu_row(cond.view, i), &velocity);
        }
    }
}

/* An infinity in one picture's last element is told of that picture alone. */
static void test_sampler_names_the_bad(void **state)
{
    (void)state;
    for (GPU_CASES(bad, 3)) {
        struct pictures p = random_pictures(3, 77);
        struct gpu_tensor velocity = dense(3, 77);
        uint32_t none[3] = {0};
        p.latent[bad].values[76] = INFINITY;
        gpu_must(cudaMemcpy(p.latent[bad].view.data, p.latent[bad].values, p.latent[bad].bytes,
                            cudaMemcpyHostToDevice));
        for (int i = 0; i < 3; i++)
            p.items[i].guidance = 1.0f;
        struct dip_cuda_sampler_end end = {.velocity = velocity.view,
                                           .cond = velocity.view,
                                           .items = gpu_upload(p.items, sizeof p.items),
                                           .is_bad = gpu_upload(none, sizeof none)};
        gpu_ok(dip_cuda_sampler_end(gpu_stream, &end));
        const uint32_t *is_bad = gpu_download(end.is_bad, sizeof none);
        for (int i = 0; i < 3; i++)
            assert_int_equal(is_bad[i], i == bad);
    }
}

/* ---- modulations ---- */

static void test_outer_sum(void **state)
{
    (void)state;
    for (GPU_CASES(n, 30)) {
        int64_t tables = gpu_int(1, 4), batch = gpu_int(1, 3), rows = batch * gpu_int(1, 3);
        int64_t columns = gpu_columns();
        struct gpu_tensor in = dense(batch, columns), table = dense(tables, columns);
        struct gpu_tensor out = dense(tables * rows, columns);
        struct dip_cuda_outer_sum job = {.out = out.view, .in = in.view, .tables = table.view};
        gpu_ok(dip_cuda_outer_sum(gpu_stream, &job));
        const float *got = gpu_fetch(&out);
        for (int64_t r = 0; r < tables * rows; r++)
            for (int64_t c = 0; c < columns; c++)
                assert_true(got[r * columns + c] == in.values[r % batch * columns + c] +
                                                        table.values[r / rows * columns + c]);
    }
}

/* ---- contexts of several items ---- */

/* Keys or values of three blocks, of which the launch reads one. */
static struct gpu_tensor kept(enum dip_dtype dtype, int64_t rows, int64_t columns)
{
    struct gpu_tensor t = gpu_random(dtype, 3 * rows, columns, true);
    struct dip_cuda_view dense_view = {
        gpu_alloc((size_t)(3 * rows * columns) * dip_dtype_bytes(dtype)), dtype, 3 * rows, columns,
        columns};
    struct dip_cuda_cast move = {.out = dense_view, .in = t.view};
    gpu_ok(dip_cuda_cast(gpu_stream, &move));
    t.view = dense_view;
    return t;
}

static void test_contexts(void **state)
{
    (void)state;
    for (GPU_CASES(n, 30)) {
        int64_t items = gpu_int(1, ITEMS_MAX), rows = GPU_PICK(1, 16, 30, 65, 70);
        int64_t heads = gpu_int(1, 2), dim = GPU_PICK(7, 16, 32, 112, 200), columns = heads * dim;
        enum dip_dtype dtype = gpu_act();
        struct gpu_tensor q = gpu_random(dtype, items * rows, columns, gpu_int(0, 1));
        struct gpu_tensor out = gpu_empty(gpu_act(), items * rows, columns, gpu_int(0, 1));
        struct gpu_tensor k[ITEMS_MAX], v[ITEMS_MAX];
        struct dip_cuda_context contexts[ITEMS_MAX] = {{0}};
        for (int64_t i = 0; i < items; i++) {
            contexts[i].row_count = GPU_PICK(1, 17, 64, 65, 130);
            k[i] = kept(dtype, contexts[i].row_count, columns);
            v[i] = kept(dtype, contexts[i].row_count, columns);
            contexts[i].k = k[i].view.data;
            contexts[i].v = v[i].view.data;
        }
        struct dip_cuda_attend_cross job = {.out = out.view,
                                            .q = q.view,
                                            .contexts = gpu_upload(contexts, sizeof contexts),
                                            .rows_per_item = rows,
                                            .block = gpu_int(0, 2),
                                            .head_count = heads,
                                            .head_dim = dim};
        gpu_ok(dip_cuda_attend_cross(gpu_stream, &job));
        const float *all = gpu_fetch(&out);
        for (int64_t i = 0; i < items; i++) {
            struct gpu_tensor one = gpu_empty(out.view.dtype, rows, columns, true);
            struct dip_cuda_attend_cross alone = {
                .out = one.view,
                .q = gpu_row(q.view, i * rows),
                .k = gpu_row(k[i].view, job.block * contexts[i].row_count),
                .v = gpu_row(v[i].view, job.block * contexts[i].row_count),
                .head_count = heads,
                .head_dim = dim};
            alone.q.rows = rows;
            alone.k.rows = alone.v.rows = contexts[i].row_count;
            gpu_ok(dip_cuda_attend_cross(gpu_stream, &alone));
            gpu_same(all + i * rows * columns, gpu_fetch(&one), rows * columns);
        }
    }
}

int main(void)
{
    gpu_require();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sampler),
        cmocka_unit_test(test_sampler_names_the_bad),
        cmocka_unit_test(test_outer_sum),
        cmocka_unit_test(test_contexts),
    };
    return cmocka_run_group_tests(tests, gpu_start, gpu_stop);
}
