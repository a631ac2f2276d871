/* tests/prop/attend.c - rotation and the three attentions: definitions, laws, alone against among.
 */
#include "tests/prop/prop.h"

/* ---- rotation ---- */

struct rope {
    int64_t rows, heads, head_dim;
    struct dip_row *at;
    float *inv_freq;
    struct dip_tensor x, weight;
};

static struct rope random_rope(void)
{
    struct rope n = {.rows = PROP_PICK(1, 2, 5, 17),
                     .heads = PROP_PICK(1, 2, 5, 16),
                     .head_dim = PROP_PICK(2, 6, 16, 24, 34, 128)};
    n.at = prop_bytes((size_t)n.rows * sizeof *n.at);
    n.inv_freq = prop_bytes((size_t)n.head_dim / 2 * sizeof *n.inv_freq);
    for (int64_t r = 0; r < n.rows; r++)
        n.at[r] = (struct dip_row){.slot = 0, .position = (int32_t)prop_int(0, 20000)};
    for (int64_t c = 0; c < n.head_dim / 2; c++)
        n.inv_freq[c] = (float)pow(1e6, -2.0 * (double)c / (double)n.head_dim);
    n.x = prop_random(DIP_F32, n.rows, n.heads * n.head_dim, prop_int(0, 3));
    n.weight = prop_random_1d(prop_dtype(), n.head_dim);
    return n;
}

static void rotate(struct dip_stream *s, const struct rope *n, struct dip_tensor x,
                   const struct dip_row *at)
{
    struct dip_rope_args a = {.x = x,
                              .weight = n->weight,
                              .rows = at,
                              .inv_freq = n->inv_freq,
                              .head_dim = (int)n->head_dim,
                              .eps = 1e-6f};
    prop_ok(dip_rope(s, &a));
}

/* Normalised values are at most sqrt(head_dim); a dozen roundings each. */
static void test_rope(void **state)
{
    (void)state;
    for (int i = 0; i < 100; i++) {
        struct rope n = random_rope();
        struct dip_tensor plain = prop_clone(n.x);
        struct dip_tensor fast = prop_clone(n.x);
        rotate(prop_plain, &n, plain, n.at);
        rotate(prop_streams[0], &n, fast, n.at);
        prop_near_all(fast, plain, 0x1p-24 * 16.0 * sqrt((double)n.head_dim));
        for (int t = 1; t < PROP_THREADS_COUNT; t++) {
            struct dip_tensor again = prop_clone(n.x);
            rotate(prop_streams[t], &n, again, n.at);
            prop_same_bits(again, fast);
        }
        int64_t row = prop_int(0, n.rows - 1);
        struct dip_tensor alone = prop_clone(dip_rows_slice(n.x, row, 1));
        rotate(prop_streams[0], &n, alone, n.at + row);
        prop_same_bits(alone, dip_rows_slice(fast, row, 1));
        prop_reset();
    }
}

static double mean_square(const float *x, int64_t count)
{
    double squares = 0;
    for (int64_t c = 0; c < count; c++)
        squares += (double)x[c] * x[c];
    return squares / (double)count;
}

/* A rotation keeps the length of each pair: with unit weights a head's mean square m becomes
 * m / (m + eps). */
static void test_rope_length(void **state)
{
    (void)state;
    for (int i = 0; i < 50; i++) {
        struct rope n = random_rope();
        n.weight = dip_tensor_1d(prop_view(DIP_F32, 1, n.head_dim, 0).data, DIP_F32, n.head_dim);
        prop_ok(dip_fill(prop_streams[0], n.weight, 1.0f));
        struct dip_tensor before = prop_clone(n.x);
        rotate(prop_streams[1], &n, n.x, n.at);
        for (int64_t r = 0; r < n.rows; r++) {
            for (int64_t c = 0; c < n.heads * n.head_dim; c += n.head_dim) {
                double m = mean_square(prop_at(before, r, c), n.head_dim);
                double expected = m / (m + 1e-6);
                assert_true(fabs(mean_square(prop_at(n.x, r, c), n.head_dim) - expected) < 2e-6);
            }
        }
        prop_reset();
    }
}

/* ---- causal attention ---- */

struct causal {
    int64_t rows, slots, capacity;
    int heads, kv_heads, head_dim;
    struct dip_row *at;
    struct dip_tensor q;
    struct dip_kv kv;
};

static struct dip_tensor cache_of(const struct causal *n)
{
    struct dip_tensor rows =
        prop_random(DIP_F32, n->slots * n->capacity, (int64_t)n->kv_heads * n->head_dim, 0);
    rows.rank = 3;
    rows.dims[2] = rows.dims[1];
    rows.dims[0] = n->slots;
    rows.dims[1] = n->capacity;
    return rows;
}

static struct causal random_causal(void)
{
    struct causal n = {.rows = PROP_PICK(1, 2, 5, 16),
                       .slots = prop_int(1, 4),
                       .capacity = PROP_PICK(1, 5, 31, 32, 33, 65, 130, 200),
                       .kv_heads = (int)PROP_PICK(1, 2, 3, 8),
                       .head_dim = (int)PROP_PICK(2, 6, 16, 24, 40, 128)};
    n.heads = n.kv_heads * (int)PROP_PICK(1, 2, 3, 4, 5);
    n.at = prop_bytes((size_t)n.rows * sizeof *n.at);
    for (int64_t r = 0; r < n.rows; r++)
        n.at[r] = (struct dip_row){.slot = (int32_t)prop_int(0, n.slots - 1),
                                   .position = (int32_t)prop_int(0, n.capacity - 1)};
    n.q = prop_random(DIP_F32, n.rows, (int64_t)n.heads * n.head_dim, prop_int(0, 3));
    n.kv.k = cache_of(&n);
    n.kv.v = cache_of(&n);
    return n;
}

static void attend(struct dip_stream *s, const struct causal *n, struct dip_tensor out,
                   struct dip_tensor q, const struct dip_row *at)
{
    struct dip_attend_args a = {.out = out,
                                .q = q,
                                .kv = n->kv,
                                .rows = at,
                                .heads = n->heads,
                                .kv_heads = n->kv_heads,
                                .head_dim = n->head_dim};
    prop_ok(dip_attend(s, &a));
}

/* Scores are at most sqrt(d) with d / 8 + 8 roundings each, and shift every probability by as much;
 * the weighted mean of values below 1 adds a chain of 32 and one rounding per block. */
static double causal_limit(const struct causal *n)
{
    double score = sqrt(n->head_dim) * (n->head_dim / 8.0 + 8.0);
    return 0x1p-24 * (2.0 * score + 32.0 + 3.0 * (double)n->capacity / 32.0 + 8.0);
}

static void test_causal(void **state)
{
    (void)state;
    for (int i = 0; i < 120; i++) {
        struct causal n = random_causal();
        struct dip_tensor fast = prop_view(DIP_F32, n.rows, (int64_t)n.heads * n.head_dim, 1);
        struct dip_tensor plain = prop_view(DIP_F32, n.rows, (int64_t)n.heads * n.head_dim, 0);
        attend(prop_streams[0], &n, fast, n.q, n.at);
        attend(prop_plain, &n, plain, n.q, n.at);
        prop_near_all(fast, plain, causal_limit(&n));
        for (int t = 1; t < PROP_THREADS_COUNT; t++) {
            struct dip_tensor again = prop_view(DIP_F32, n.rows, (int64_t)n.heads * n.head_dim, 0);
            attend(prop_streams[t], &n, again, n.q, n.at);
            prop_same_bits(again, fast);
        }
        int64_t row = prop_int(0, n.rows - 1);
        struct dip_tensor alone = prop_view(DIP_F32, 1, (int64_t)n.heads * n.head_dim, 0);
        attend(prop_streams[1], &n, alone, prop_clone(dip_rows_slice(n.q, row, 1)), n.at + row);
        prop_same_bits(alone, dip_rows_slice(fast, row, 1));
        prop_reset();
    }
}

/* Keys after a row's position are not looked at: with NaN there nothing changes. Appending puts
 * rows where attention finds them. */
static void test_append(void **state)
{
    (void)state;
    for (int i = 0; i < 60; i++) {
        struct causal n = random_causal();
        n.rows = 1;
        struct dip_tensor before = prop_view(DIP_F32, 1, (int64_t)n.heads * n.head_dim, 0);
        struct dip_tensor after = prop_view(DIP_F32, 1, (int64_t)n.heads * n.head_dim, 0);
        struct dip_tensor q = prop_clone(dip_rows_slice(n.q, 0, 1));
        attend(prop_streams[0], &n, before, q, n.at);
        int64_t first = n.at[0].slot * n.capacity + n.at[0].position;
        struct dip_tensor k = prop_clone(dip_rows_slice(n.kv.k, first, 1));
        struct dip_tensor v = prop_clone(dip_rows_slice(n.kv.v, first, 1));
        for (int64_t p = first; p < (n.at[0].slot + 1) * n.capacity; p++) {
            prop_ok(dip_fill(prop_streams[0], dip_rows_slice(n.kv.k, p, 1), NAN));
            prop_ok(dip_fill(prop_streams[0], dip_rows_slice(n.kv.v, p, 1), NAN));
        }
        struct dip_kv_append_args a = {.kv = n.kv, .k = k, .v = v, .rows = n.at};
        prop_ok(dip_kv_append(prop_streams[1], &a));
        attend(prop_streams[1], &n, after, q, n.at);
        prop_same_bits(after, before);
        prop_reset();
    }
}

/* ---- attention without a mask ---- */

struct cross {
    int64_t rows, keys;
    int heads, head_dim;
    struct dip_tensor q, k, v;
};

static struct cross random_cross(void)
{
    struct cross n = {.rows = PROP_PICK(1, 2, 7, 47, 48, 49, 100),
                      .keys = PROP_PICK(1, 2, 17, 64, 100, 257, 1024, 1025, 2100),
                      .heads = (int)PROP_PICK(1, 2, 5),
                      .head_dim = (int)PROP_PICK(1, 7, 16, 20, 112)};
    int64_t columns = (int64_t)n.heads * n.head_dim;
    n.q = prop_random(DIP_F32, n.rows, columns, prop_int(0, 3));
    n.k = prop_random(DIP_F32, n.keys, columns, prop_int(0, 3));
    n.v = prop_random(DIP_F32, n.keys, columns, prop_int(0, 3));
    return n;
}

static struct dip_tensor cross_out(const struct cross *n, int64_t rows)
{
    return prop_view(DIP_F32, rows, (int64_t)n->heads * n->head_dim, prop_int(0, 3));
}

static void attend_cross(struct dip_stream *s, const struct cross *n, struct dip_tensor out,
                         struct dip_tensor q)
{
    struct dip_attend_cross_args a = {
        .out = out, .q = q, .k = n->k, .v = n->v, .heads = n->heads, .head_dim = n->head_dim};
    prop_ok(dip_attend_cross(s, &a));
}

static void test_cross(void **state)
{
    (void)state;
    for (int i = 0; i < 100; i++) {
        struct cross n = random_cross();
        struct dip_tensor fast = cross_out(&n, n.rows);
        struct dip_tensor plain = cross_out(&n, n.rows);
        attend_cross(prop_streams[0], &n, fast, n.q);
        attend_cross(prop_plain, &n, plain, n.q);
        /* as for causal attention, chains of head_dim and of 256 keys */
        double score = sqrt(n.head_dim) * (n.head_dim + 4.0);
        prop_near_all(fast, plain, 0x1p-24 * (2.0 * score + 256.0 + (double)n.keys / 100.0 + 8.0));
        for (int t = 1; t < PROP_THREADS_COUNT; t++) {
            struct dip_tensor again = cross_out(&n, n.rows);
            attend_cross(prop_streams[t], &n, again, n.q);
            prop_same_bits(again, fast);
        }
        int64_t count = prop_int(1, n.rows < 17 ? n.rows : 17);
        int64_t row = prop_int(0, n.rows - count);
        struct dip_tensor some = cross_out(&n, count);
        attend_cross(prop_streams[1], &n, some, prop_clone(dip_rows_slice(n.q, row, count)));
        prop_same_bits(some, dip_rows_slice(fast, row, count));
        prop_reset();
    }
}

/* Probabilities sum to 1: equal value rows come out as they are, whatever the scores; exactly, when
 * the keys are equal too and sums of the values are exact. The unconditional branch rests on it. */
static void test_cross_constant(void **state)
{
    (void)state;
    for (int i = 0; i < 40; i++) {
        struct cross n = random_cross();
        bool is_exact = i % 2;
        for (int64_t c = 0; c < dip_tensor_columns(n.v); c++) {
            float value = (float)prop_int(-128, 127) / 128.0f;
            float key = prop_float();
            for (int64_t m = 0; m < n.keys; m++) {
                *prop_at(n.v, m, c) = value;
                if (is_exact)
                    *prop_at(n.k, m, c) = key;
            }
        }
        struct dip_tensor out = cross_out(&n, n.rows);
        attend_cross(prop_streams[1], &n, out, n.q);
        for (int64_t r = 0; r < n.rows; r++)
            prop_near_all(dip_rows_slice(out, r, 1), dip_rows_slice(n.v, 0, 1),
                          is_exact ? 0.0 : 0x1p-24 * 300.0);
        prop_reset();
    }
}

/* ---- ReLU linear attention ---- */

struct relu {
    int64_t items, per_item, head_stride;
    int heads, head_dim;
    struct dip_tensor q, k, v;
};

static struct relu random_relu(void)
{
    struct relu n = {.items = prop_int(1, 3),
                     .per_item = PROP_PICK(1, 2, 33, 64, 255, 256, 257, 600),
                     .heads = (int)PROP_PICK(1, 2, 6),
                     .head_dim = (int)PROP_PICK(1, 8, 12, 16, 32, 40)};
    int64_t rows = n.items * n.per_item;
    if (prop_int(0, 1)) { /* three views into one tensor, head by head */
        n.head_stride = 3 * n.head_dim;
        struct dip_tensor wide = prop_random(DIP_F32, rows, n.heads * n.head_stride, 2);
        int64_t columns = (n.heads - 1) * n.head_stride + n.head_dim;
        n.q = dip_columns_slice(wide, 0, columns);
        n.k = dip_columns_slice(wide, n.head_dim, columns);
        n.v = dip_columns_slice(wide, 2 * (int64_t)n.head_dim, columns);
    } else {
        n.head_stride = n.head_dim;
        int64_t columns = (int64_t)n.heads * n.head_dim;
        n.q = prop_random(DIP_F32, rows, columns, 0);
        n.k = prop_random(DIP_F32, rows, columns, 1);
        n.v = prop_random(DIP_F32, rows, columns, 2);
    }
    return n;
}

static void attend_relu(struct dip_stream *s, const struct relu *n, struct dip_tensor out,
                        int64_t item, int64_t items)
{
    int64_t row = item * n->per_item, rows = items * n->per_item;
    struct dip_attend_linear_args a = {.out = out,
                                       .q = dip_rows_slice(n->q, row, rows),
                                       .k = dip_rows_slice(n->k, row, rows),
                                       .v = dip_rows_slice(n->v, row, rows),
                                       .heads = n->heads,
                                       .head_dim = n->head_dim,
                                       .head_stride = (int)n->head_stride,
                                       .rows_per_item = n->per_item};
    prop_ok(dip_attend_linear(s, &a));
}

/* Numerator and denominator are sums of at most 256 + rows / 256 roundings of magnitudes whose
 * ratio is a weighted mean of values below 1; head_dim more in the second product. */
static void test_relu(void **state)
{
    (void)state;
    for (int i = 0; i < 100; i++) {
        struct relu n = random_relu();
        int64_t columns = (int64_t)n.heads * n.head_dim, rows = n.items * n.per_item;
        struct dip_tensor fast = prop_view(DIP_F32, rows, columns, 2);
        struct dip_tensor plain = prop_view(DIP_F32, rows, columns, 0);
        attend_relu(prop_streams[0], &n, fast, 0, n.items);
        attend_relu(prop_plain, &n, plain, 0, n.items);
        prop_near_all(fast, plain, 0x1p-24 * 2.0 * (256.0 + n.head_dim + 8.0));
        for (int t = 1; t < PROP_THREADS_COUNT; t++) {
            struct dip_tensor again = prop_view(DIP_F32, rows, columns, 0);
            attend_relu(prop_streams[t], &n, again, 0, n.items);
            prop_same_bits(again, fast);
        }
        int64_t item = prop_int(0, n.items - 1);
        struct dip_tensor alone = prop_view(DIP_F32, n.per_item, columns, 0);
        attend_relu(prop_streams[1], &n, alone, item, 1);
        prop_same_bits(alone, dip_rows_slice(fast, item * n.per_item, n.per_item));
        prop_reset();
    }
}

/* A query without a positive channel gives exactly zero, not NaN. */
static void test_relu_zero(void **state)
{
    (void)state;
    struct relu n = random_relu();
    for (int64_t c = 0; c < dip_tensor_columns(n.q); c++)
        *prop_at(n.q, 0, c) = -1.0f;
    struct dip_tensor out =
        prop_view(DIP_F32, n.items * n.per_item, (int64_t)n.heads * n.head_dim, 0);
    attend_relu(prop_streams[0], &n, out, 0, n.items);
    for (int64_t c = 0; c < dip_tensor_columns(out); c++)
        assert_true(*prop_at(out, 0, c) == 0.0f);
    prop_reset();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rope),   cmocka_unit_test(test_rope_length),
        cmocka_unit_test(test_causal), cmocka_unit_test(test_append),
        cmocka_unit_test(test_cross),  cmocka_unit_test(test_cross_constant),
        cmocka_unit_test(test_relu),   cmocka_unit_test(test_relu_zero),
    };
    return cmocka_run_group_tests(tests, prop_start, prop_stop);
}
