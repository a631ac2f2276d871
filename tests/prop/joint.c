/* tests/prop/joint.c - operations at one stroke against the operations they stand for, bit for bit:
 * on the CPU, where they are those, and on the emulated GPU in both precisions, where they are not.
 *
 * Every row is also computed alone: how much is joined may depend on how many rows there are, bits
 * may not. */
#include "tests/prop/prop.h"

#include "tests/emulator.h"

enum { SIDES = 3, MEMORY_BYTES = 8 << 20 };

/* A device and memory on it, given out from the front and taken back whole. */
struct side {
    struct dip_device *device;
    struct dip_stream *s;
    struct dip_mem mem;
    size_t used;
};
static struct side sides[SIDES];

static int start(void **state)
{
    (void)state;
    const struct dip_device_options cpu = {.backend = "cpu", .threads = 2};
    prop_ok(dip_device_open(&cpu, NULL, &sides[0].device));
    sides[1].device = emulator_open("f32");
    sides[2].device = emulator_open("bf16");
    for (int i = 0; i < SIDES; i++) {
        prop_ok(dip_stream_open(sides[i].device, &sides[i].s));
        prop_ok(dip_reserve(sides[i].device, MEMORY_BYTES, &sides[i].mem));
    }
    return 0;
}

static int stop(void **state)
{
    (void)state;
    for (int i = 0; i < SIDES; i++) {
        dip_release(sides[i].device, &sides[i].mem);
        dip_stream_close(sides[i].s);
        dip_device_close(sides[i].device);
    }
    return 0;
}

/* ---- memory of a side ---- */

static void side_reset(struct side *side)
{
    prop_ok(dip_wait(side->s));
    side->used = 0;
    prop_reset();
}

static struct dip_tensor empty(struct side *side, enum dip_dtype dtype, int64_t rows,
                               int64_t columns)
{
    size_t bytes = ((size_t)(rows * columns) * dip_dtype_bytes(dtype) + 255) / 256 * 256;
    assert_true(side->used + bytes <= side->mem.bytes);
    side->used += bytes;
    return dip_rows((char *)side->mem.base + side->used - bytes, dtype, rows, columns);
}

static struct dip_tensor given(struct side *side, struct dip_tensor host)
{
    struct dip_tensor t = empty(side, host.dtype, dip_tensor_rows(host), dip_tensor_columns(host));
    prop_ok(dip_copy(side->s, t, host));
    return t;
}

static struct dip_tensor drawn(struct side *side, enum dip_dtype dtype, int64_t rows,
                               int64_t columns)
{
    return given(side, prop_random(dtype, rows, columns, 0));
}

static struct dip_tensor vector(struct side *side, int64_t count)
{
    return dip_tensor_1d(drawn(side, DIP_BF16, 1, count).data, DIP_BF16, count);
}

static struct dip_tensor fetched(struct side *side, struct dip_tensor t)
{
    struct dip_tensor host = prop_view(t.dtype, dip_tensor_rows(t), dip_tensor_columns(t), 0);
    prop_ok(dip_copy(side->s, host, t));
    prop_ok(dip_wait(side->s));
    return host;
}

static enum dip_dtype activation(const struct side *side)
{
    return dip_device_activation(side->device);
}

/* ---- a product with its norm and its gate ---- */

static struct dip_linear_normed_args normed_args(struct side *side, int64_t rows, int64_t ins,
                                                 int64_t outs, bool is_gated)
{
    enum dip_dtype act = activation(side);
    return (struct dip_linear_normed_args){
        .in = drawn(side, DIP_F32, rows, ins),
        .weight = drawn(side, DIP_BF16, is_gated ? 2 * outs : outs, ins),
        .norm = vector(side, ins),
        .normed = empty(side, act, rows, ins),
        .pair = empty(side, act, rows, 2 * outs),
        .out = empty(side, act, rows, outs),
        .eps = 1e-6f,
        .is_gated = is_gated};
}

static struct dip_tensor normed_apart(struct side *side, const struct dip_linear_normed_args *a)
{
    struct dip_tensor pair = a->is_gated ? a->pair : a->out;
    int64_t F = dip_tensor_columns(a->out);
    struct dip_norm_rms_args norm = {
        .out = a->normed, .in = a->in, .weight = a->norm, .eps = a->eps};
    struct dip_linear_args product = {.out = pair, .in = a->normed, .weight = a->weight};
    prop_ok(dip_norm_rms(side->s, &norm));
    prop_ok(dip_linear(side->s, &product));
    if (a->is_gated) {
        struct dip_silu_mul_args mul = {.out = a->out,
                                        .gate = dip_columns_slice(pair, 0, F),
                                        .up = dip_columns_slice(pair, F, F)};
        prop_ok(dip_silu_mul(side->s, &mul));
    }
    return fetched(side, a->out);
}

static void normed_alone(struct side *side, struct dip_linear_normed_args a,
                         struct dip_tensor expected)
{
    int64_t row = prop_int(0, dip_tensor_rows(expected) - 1);
    struct dip_tensor *views[] = {&a.out, &a.in, &a.normed, &a.pair};
    for (int i = 0; i < 4; i++)
        *views[i] = dip_rows_slice(*views[i], row, 1);
    prop_ok(dip_linear_normed(side->s, &a));
    prop_same_bits(fetched(side, a.out), dip_rows_slice(expected, row, 1));
}

static void test_linear_normed(void **state)
{
    (void)state;
    for (int i = 0; i < 36; i++) {
        struct side *side = &sides[i % SIDES];
        int64_t rows = PROP_PICK(1, 2, 4, 5, 16, 17, 40);
        int64_t ins = PROP_PICK(7, 64, 136, 1032);
        struct dip_linear_normed_args a =
            normed_args(side, rows, ins, PROP_PICK(1, 8, 31, 64), i / SIDES % 2);
        struct dip_tensor expected = normed_apart(side, &a);
        if (a.is_gated && prop_int(0, 1)) /* as the autoregressive panel has it */
            a.out = dip_columns_slice(a.pair, 0, dip_tensor_columns(a.out));
        prop_ok(dip_linear_normed(side->s, &a));
        prop_same_bits(fetched(side, a.out), expected);
        normed_alone(side, a, expected);
        side_reset(side);
    }
}

/* ---- rotation and cache ---- */

enum { ROWS_MAX = 24, CAPACITY = 16, SLOTS = 3, HEAD_DIM_MAX = 64 };

static struct dip_kv cache(struct side *side, int64_t width)
{
    struct dip_kv kv = {.k = drawn(side, activation(side), SLOTS * CAPACITY, width)};
    kv.v = kv.k;
    kv.v.data = drawn(side, activation(side), SLOTS * CAPACITY, width).data;
    kv.k.rank = kv.v.rank = 3;
    const int64_t dims[] = {SLOTS, CAPACITY, width, 1};
    memcpy(kv.k.dims, dims, sizeof dims);
    memcpy(kv.v.dims, dims, sizeof dims);
    return kv;
}

static void rope_apart(struct side *side, const struct dip_qkv_rope_args *a)
{
    int64_t q = (int64_t)a->heads * a->head_dim;
    int64_t kv = (int64_t)a->kv_heads * a->head_dim;
    struct dip_rope_args turn = {.x = dip_columns_slice(a->qkv, 0, q),
                                 .weight = a->q_norm,
                                 .rows = a->rows,
                                 .inv_freq = a->inv_freq,
                                 .head_dim = a->head_dim,
                                 .eps = a->eps};
    prop_ok(dip_rope(side->s, &turn));
    turn.x = dip_columns_slice(a->qkv, q, kv);
    turn.weight = a->k_norm;
    prop_ok(dip_rope(side->s, &turn));
    struct dip_kv_append_args append = {
        .kv = a->kv, .k = turn.x, .v = dip_columns_slice(a->qkv, q + kv, kv), .rows = a->rows};
    prop_ok(dip_kv_append(side->s, &append));
}

/* Where each row stands, no two in one place, and the caches' first contents. */
static void check_qkv_rope(struct side *side, int64_t rows, int heads, int kv_heads, int head_dim)
{
    struct dip_row places[ROWS_MAX];
    float inv_freq[HEAD_DIM_MAX / 2];
    int64_t q = (int64_t)heads * head_dim;
    int64_t kv = (int64_t)kv_heads * head_dim;
    for (int64_t r = 0; r < rows; r++)
        places[r] = (struct dip_row){(int32_t)(r % SLOTS), (int32_t)(CAPACITY - 1 - r / SLOTS)};
    for (int j = 0; j < head_dim / 2; j++)
        inv_freq[j] = 1.0f / (float)(1 + j);
    struct dip_qkv_rope_args a = {.qkv = drawn(side, activation(side), rows, q + 2 * kv),
                                  .q_norm = vector(side, head_dim),
                                  .k_norm = vector(side, head_dim),
                                  .kv = cache(side, kv),
                                  .rows = places,
                                  .inv_freq = inv_freq,
                                  .heads = heads,
                                  .kv_heads = kv_heads,
                                  .head_dim = head_dim,
                                  .eps = 1e-6f};
    struct dip_qkv_rope_args apart = a;
    struct dip_tensor first = dip_rows(a.kv.k.data, a.kv.k.dtype, SLOTS * CAPACITY, kv);
    struct dip_tensor second = dip_rows(a.kv.v.data, a.kv.v.dtype, SLOTS * CAPACITY, kv);
    apart.qkv = given(side, fetched(side, a.qkv));
    apart.kv.k.data = given(side, fetched(side, first)).data;
    apart.kv.v.data = given(side, fetched(side, second)).data;
    rope_apart(side, &apart);
    prop_ok(dip_qkv_rope(side->s, &a));
    prop_same_bits(fetched(side, dip_columns_slice(a.qkv, 0, q)),
                   fetched(side, dip_columns_slice(apart.qkv, 0, q)));
    struct dip_tensor first_apart = first;
    struct dip_tensor second_apart = second;
    first_apart.data = apart.kv.k.data;
    second_apart.data = apart.kv.v.data;
    prop_same_bits(fetched(side, first), fetched(side, first_apart));
    prop_same_bits(fetched(side, second), fetched(side, second_apart));
}

static void test_qkv_rope(void **state)
{
    (void)state;
    for (int i = 0; i < 24; i++) {
        struct side *side = &sides[i % SIDES];
        int kv_heads = (int)prop_int(1, 3);
        check_qkv_rope(side, PROP_PICK(1, 2, 7, ROWS_MAX), kv_heads * (int)PROP_PICK(1, 2, 4),
                       kv_heads, (int)PROP_PICK(2, 8, 20, HEAD_DIM_MAX));
        side_reset(side);
    }
}

/* ---- modulations ---- */

static void test_outer_sum(void **state)
{
    (void)state;
    for (int i = 0; i < 18; i++) {
        struct side *side = &sides[i % SIDES];
        int64_t tables = prop_int(1, 4);
        int64_t copies = prop_int(1, 3);
        int64_t batch = prop_int(1, 3);
        int64_t columns = PROP_PICK(1, 8, 30, 129);
        struct dip_outer_sum_args a = {.out =
                                           empty(side, DIP_F32, tables * copies * batch, columns),
                                       .in = drawn(side, DIP_F32, batch, columns),
                                       .tables = drawn(side, DIP_F32, tables, columns)};
        prop_ok(dip_outer_sum(side->s, &a));
        struct dip_tensor in = fetched(side, a.in);
        struct dip_tensor table = fetched(side, a.tables);
        struct dip_tensor out = fetched(side, a.out);
        for (int64_t r = 0; r < dip_tensor_rows(out); r++)
            for (int64_t c = 0; c < columns; c++)
                assert_true(*prop_at(out, r, c) ==
                            *prop_at(in, r % batch, c) + *prop_at(table, r / (copies * batch), c));
        side_reset(side);
    }
}

/* ---- contexts of several items ---- */

enum { ITEMS_MAX = 4 };

static void check_contexts(struct side *side, int64_t items, int64_t rows, int heads, int head_dim)
{
    struct dip_cross_context contexts[ITEMS_MAX];
    int64_t columns = (int64_t)heads * head_dim;
    enum dip_dtype act = activation(side);
    int64_t block = prop_int(0, 2);
    struct dip_attend_contexts_args a = {.out = empty(side, act, items * rows, columns),
                                         .q = drawn(side, act, items * rows, columns),
                                         .contexts = contexts,
                                         .rows_per_item = rows,
                                         .block = block,
                                         .heads = heads,
                                         .head_dim = head_dim};
    for (int64_t i = 0; i < items; i++) {
        int64_t keys = PROP_PICK(1, 17, 64, 65, 130);
        contexts[i] = (struct dip_cross_context){drawn(side, act, 3 * keys, columns).data,
                                                 drawn(side, act, 3 * keys, columns).data, keys};
    }
    prop_ok(dip_attend_contexts(side->s, &a));
    for (int64_t i = 0; i < items; i++) {
        const struct dip_cross_context *c = &contexts[i];
        struct dip_tensor k = dip_rows(c->k, act, 3 * c->row_count, columns);
        struct dip_tensor v = dip_rows(c->v, act, 3 * c->row_count, columns);
        struct dip_attend_cross_args one = {
            .out = empty(side, act, rows, columns),
            .q = dip_rows_slice(a.q, i * rows, rows),
            .k = dip_rows_slice(k, block * c->row_count, c->row_count),
            .v = dip_rows_slice(v, block * c->row_count, c->row_count),
            .heads = heads,
            .head_dim = head_dim};
        prop_ok(dip_attend_cross(side->s, &one));
        prop_same_bits(fetched(side, dip_rows_slice(a.out, i * rows, rows)),
                       fetched(side, one.out));
    }
}

static void test_attend_contexts(void **state)
{
    (void)state;
    for (int i = 0; i < 18; i++) {
        struct side *side = &sides[i % SIDES];
        check_contexts(side, prop_int(1, ITEMS_MAX), PROP_PICK(1, 16, 30, 70), (int)prop_int(1, 2),
                       (int)PROP_PICK(7, 16, 32, 112));
        side_reset(side);
    }
}

/* ---- a sampler's step ---- */

struct pictures {
    struct dip_sampler_item items[ITEMS_MAX];
    struct dip_tensor latent[ITEMS_MAX], clean[ITEMS_MAX], previous[ITEMS_MAX]; /* [1, count] */
};

static struct pictures random_pictures(struct side *side, int64_t items, int64_t count)
{
    struct pictures p;
    for (int64_t i = 0; i < items; i++) {
        p.latent[i] = drawn(side, DIP_F32, 1, count);
        p.clean[i] = empty(side, DIP_F32, 1, count);
        p.previous[i] = drawn(side, DIP_F32, 1, count);
        p.items[i] = (struct dip_sampler_item){
            .latent = p.latent[i].data,
            .clean = p.clean[i].data,
            .clean_previous = p.previous[i].data,
            .timestep = prop_float(),
            .guidance = prop_int(0, 2) ? 2.0f + prop_float() : 1.0f,
            .to_clean = prop_float(),
            .c = {prop_float(), prop_float(), prop_float()},
            .rule = (int32_t)prop_int(DIP_SAMPLER_STRAIGHT, DIP_SAMPLER_SECOND)};
    }
    return p;
}

/* Of one picture, by plain operations. */
static void step_apart(struct side *side, const struct dip_sampler_item *item,
                       struct dip_tensor latent, struct dip_tensor clean,
                       struct dip_tensor previous, struct dip_tensor velocity)
{
    float to_clean[2] = {1.0f, item->to_clean};
    struct dip_blend_args first = {
        .out = clean, .in = {latent, velocity}, .coefficients = to_clean, .count = 2};
    struct dip_blend_args then = {.out = latent,
                                  .in = {latent, clean, previous},
                                  .coefficients = item->c,
                                  .count = item->rule == DIP_SAMPLER_SECOND ? 3 : 2};
    if (item->rule == DIP_SAMPLER_STRAIGHT)
        then.in[1] = velocity;
    prop_ok(dip_blend(side->s, &first));
    prop_ok(dip_blend(side->s, &then));
}

static void check_sampler(struct side *side, int64_t items, int64_t count)
{
    struct pictures p = random_pictures(side, items, count);
    struct dip_tensor words = empty(side, DIP_I32, 2, ITEMS_MAX);
    struct dip_tensor batch = empty(side, DIP_F32, items, count);
    struct dip_tensor uncond = drawn(side, DIP_F32, items, count);
    struct dip_tensor cond = drawn(side, DIP_F32, items, count);
    struct dip_tensor velocity = empty(side, DIP_F32, items, count);
    float *t = words.data;
    uint32_t *is_bad = (uint32_t *)words.data + ITEMS_MAX;
    struct dip_sampler_begin_args begin = {
        .latent = batch, .items = p.items, .t = t, .is_bad = is_bad};
    struct dip_sampler_end_args end = {
        .velocity = velocity, .uncond = uncond, .cond = cond, .items = p.items, .is_bad = is_bad};
    struct dip_tensor before[ITEMS_MAX];
    for (int64_t i = 0; i < items; i++)
        before[i] = given(side, fetched(side, p.latent[i]));
    prop_ok(dip_sampler_begin(side->s, &begin));
    prop_ok(dip_sampler_end(side->s, &end));
    struct dip_tensor said = fetched(side, words);
    for (int64_t i = 0; i < items; i++) {
        struct dip_tensor row = dip_rows_slice(cond, i, 1);
        struct dip_tensor clean = empty(side, DIP_F32, 1, count);
        prop_same_bits(fetched(side, dip_rows_slice(batch, i, 1)), fetched(side, before[i]));
        assert_memory_equal((float *)said.data + i, &p.items[i].timestep, sizeof(float));
        assert_int_equal(((int32_t *)said.data)[ITEMS_MAX + i], 0);
        struct dip_guide_args guide = {.out = row,
                                       .uncond = dip_rows_slice(uncond, i, 1),
                                       .cond = row,
                                       .scale = p.items[i].guidance};
        if (p.items[i].guidance != 1.0f)
            prop_ok(dip_guide(side->s, &guide));
        prop_same_bits(fetched(side, dip_rows_slice(velocity, i, 1)), fetched(side, row));
        step_apart(side, &p.items[i], before[i], clean, p.previous[i], row);
        prop_same_bits(fetched(side, p.latent[i]), fetched(side, before[i]));
        prop_same_bits(fetched(side, p.clean[i]), fetched(side, clean));
    }
}

static void test_sampler(void **state)
{
    (void)state;
    for (int i = 0; i < 24; i++) {
        struct side *side = &sides[i % SIDES];
        check_sampler(side, prop_int(1, ITEMS_MAX), PROP_PICK(1, 7, 8, 36, 256, 1001));
        side_reset(side);
    }
}

/* The one whose numbers run away is named, and no other. */
static void test_sampler_names_the_bad(void **state)
{
    (void)state;
    for (int i = 0; i < SIDES; i++) {
        struct side *side = &sides[i];
        struct pictures p = random_pictures(side, 3, 20);
        struct dip_tensor velocity = drawn(side, DIP_F32, 3, 20);
        struct dip_tensor words = empty(side, DIP_I32, 1, 3);
        p.items[1].c[0] = INFINITY;
        p.items[1].guidance = p.items[0].guidance = p.items[2].guidance = 1.0f;
        struct dip_tensor none = prop_view(DIP_I32, 1, 3, 0);
        memset(none.data, 0, 3 * sizeof(int32_t));
        prop_ok(dip_copy(side->s, words, none));
        struct dip_sampler_end_args end = {
            .velocity = velocity, .cond = velocity, .items = p.items, .is_bad = words.data};
        prop_ok(dip_sampler_end(side->s, &end));
        const int32_t *said = fetched(side, words).data;
        assert_int_equal(said[0], 0);
        assert_int_equal(said[1], 1);
        assert_int_equal(said[2], 0);
        side_reset(side);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear_normed), cmocka_unit_test(test_qkv_rope),
        cmocka_unit_test(test_outer_sum),     cmocka_unit_test(test_attend_contexts),
        cmocka_unit_test(test_sampler),       cmocka_unit_test(test_sampler_names_the_bad),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
