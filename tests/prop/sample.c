/* tests/prop/sample.c - drawing a token: against a naive full sort, exactly, ties included.
 *
 * The naive form below is written from the rule alone and shares no code with the kernels. Its
 * exponential is the C library's, so it can differ from them only where `uniform` or the nucleus'
 * edge falls within 1e-12 of a boundary between unequal values; between equal ones sums are exact.
 */
#include "tests/prop/prop.h"

struct entry {
    float value;
    int32_t id;
};

static int by_value(const void *left, const void *right)
{
    const struct entry *a = left;
    const struct entry *b = right;
    if (a->value != b->value)
        return a->value > b->value ? -1 : 1;
    return a->id - b->id;
}

static int32_t naive(const float *logits, int64_t count, const struct dip_draw *draw)
{
    struct entry *all = prop_bytes((size_t)count * sizeof *all);
    for (int64_t i = 0; i < count; i++)
        all[i] = (struct entry){.value = logits[i] / draw->temperature, .id = (int32_t)i};
    qsort(all, (size_t)count, sizeof *all, by_value);
    if (draw->top_k == 1)
        return all[0].id;
    int64_t kept = count;
    if (draw->top_k > 0 && draw->top_k < count) {
        kept = 0;
        while (kept < count && all[kept].value >= all[draw->top_k - 1].value)
            kept++;
    }
    double *p = prop_bytes((size_t)count * sizeof *p);
    double total = 0;
    for (int64_t i = 0; i < kept; i++)
        total += p[i] = exp((double)all[i].value - all[0].value);
    if (draw->top_p < 1.0f) {
        double below = 0;
        int64_t nucleus = kept;
        for (int64_t i = kept - 1; i > 0; i--) {
            below += p[i];
            if (below <= (1.0 - (double)draw->top_p) * total)
                nucleus = i;
        }
        kept = nucleus;
    }
    total = 0;
    for (int64_t i = 0; i < kept; i++)
        total += p[i];
    double reached = 0;
    for (int64_t i = 0; i < kept; i++) {
        reached += p[i];
        if (reached > (double)draw->uniform * total)
            return all[i].id;
    }
    return all[kept - 1].id;
}

static struct dip_draw random_draw(int64_t vocab)
{
    struct dip_draw d = {.temperature = prop_int(0, 1) ? 1.0f : 0.3f + fabsf(prop_float()),
                         .top_k = (int32_t)PROP_PICK(0, 1, 2, 20, 100, 1200),
                         .top_p = (float)PROP_PICK(10, 50, 95, 100) / 100.0f,
                         .uniform = fabsf(prop_float()) * 0.999f};
    if (prop_int(0, 4) == 0)
        d.top_k = (int32_t)prop_int(1, vocab);
    if (d.top_k > vocab)
        d.top_k = (int32_t)vocab;
    if (prop_int(0, 9) == 0)
        d.uniform = prop_int(0, 1) ? 0.0f : 0x1.fffffep-1f;
    return d;
}

/* kind 0: smooth; 1: rounded to eighths, many ties; 2: few distinct values; 3: one peak; 4: all
 * equal. */
static float random_logit(int kind, int64_t i)
{
    float x = 4.0f * (prop_float() + prop_float() + prop_float());
    switch (kind) {
    case 1:
        return rintf(x * 8.0f) / 8.0f;
    case 2:
        return (float)prop_int(-2, 2) * 0.5f;
    case 3:
        return i == 5 ? 60.0f : x;
    case 4:
        return -0.0f;
    default:
        return x;
    }
}

static void draw(struct dip_stream *s, struct dip_tensor ids, struct dip_tensor logits,
                 const struct dip_draw *draws)
{
    struct dip_sample_args a = {.ids = ids, .logits = logits, .draws = draws};
    prop_ok(dip_sample(s, &a));
}

static void check_rows(int64_t rows, int64_t vocab, int kind)
{
    struct dip_tensor logits = prop_view(DIP_F32, rows, vocab, prop_int(0, 9));
    struct dip_draw *draws = prop_bytes((size_t)rows * sizeof *draws);
    for (int64_t r = 0; r < rows; r++) {
        draws[r] = random_draw(vocab);
        for (int64_t c = 0; c < vocab; c++)
            *prop_at(logits, r, c) = random_logit(kind, c);
    }
    struct dip_tensor ids = prop_view(DIP_I32, 1, rows, 0);
    for (int t = -1; t < PROP_THREADS_COUNT; t++) {
        draw(t < 0 ? prop_plain : prop_streams[t], ids, logits, draws);
        for (int64_t r = 0; r < rows; r++)
            assert_int_equal(((int32_t *)ids.data)[r],
                             naive(prop_at(logits, r, 0), vocab, &draws[r]));
    }
    prop_reset();
}

static void test_against_sort(void **state)
{
    (void)state;
    for (int i = 0; i < 400; i++)
        check_rows(PROP_PICK(1, 1, 3, 7),
                   PROP_PICK(1, 2, 7, 8, 9, 100, 127, 128, 129, 395, 4000, 20011), i % 5);
    for (int kind = 0; kind < 5; kind++)
        check_rows(1, 217210, kind);
}

static const float odd[] = {0.0f, -0.0f,    INFINITY, -INFINITY, NAN,    -1.0f,
                            1.0f, -3.4e38f, 3.4e38f,  1e-45f,    -1e-45f};

/* Signs, zeros of both signs, infinities, NaN: one order, one answer, never out of range. */
static void test_odd_values(void **state)
{
    (void)state;
    for (int i = 0; i < 300; i++) {
        int64_t vocab = prop_int(1, 300);
        struct dip_tensor logits = prop_view(DIP_F32, 1, vocab, 0);
        for (int64_t c = 0; c < vocab; c++)
            *prop_at(logits, 0, c) = odd[prop_int(0, i % 3 ? 10 : 4)];
        struct dip_draw d = random_draw(vocab);
        int32_t fast = -1;
        int32_t plain = -2;
        draw(prop_streams[0], dip_tensor_1d(&fast, DIP_I32, 1), logits, &d);
        draw(prop_plain, dip_tensor_1d(&plain, DIP_I32, 1), logits, &d);
        assert_int_equal(fast, plain);
        assert_in_range(fast, 0, vocab - 1);
        prop_reset();
    }
}

/* Zeros of both signs are equal, so the lower id wins; a lone NaN loses to everything. */
static void test_greedy(void **state)
{
    (void)state;
    float zeros[3] = {-0.0f, 0.0f, -1.0f};
    float broken[3] = {NAN, -5.0f, NAN};
    struct dip_draw d = {.temperature = 1.0f, .top_k = 1, .top_p = 1.0f, .uniform = 0.99f};
    for (int i = 0; i < 2; i++) {
        struct dip_stream *s = i ? prop_plain : prop_streams[0];
        int32_t id = -1;
        draw(s, dip_tensor_1d(&id, DIP_I32, 1), dip_rows(zeros, DIP_F32, 1, 3), &d);
        assert_int_equal(id, 0);
        draw(s, dip_tensor_1d(&id, DIP_I32, 1), dip_rows(broken, DIP_F32, 1, 3), &d);
        assert_int_equal(id, 1);
    }
}

/* Over an even grid of uniforms each id is drawn in proportion to its probability. */
static void test_proportions(void **state)
{
    (void)state;
    enum { DRAWS = 1000 };
    float logits[4] = {logf(0.1f), logf(0.4f), logf(0.2f), logf(0.3f)};
    int counts[4] = {0};
    for (int i = 0; i < DRAWS; i++) {
        struct dip_draw d = {
            .temperature = 1.0f, .top_p = 1.0f, .uniform = ((float)i + 0.5f) / (float)DRAWS};
        int32_t id = -1;
        draw(prop_streams[0], dip_tensor_1d(&id, DIP_I32, 1), dip_rows(logits, DIP_F32, 1, 4), &d);
        counts[id]++;
    }
    assert_int_equal(counts[0], 100);
    assert_int_equal(counts[1], 400);
    assert_int_equal(counts[2], 200);
    assert_int_equal(counts[3], 300);
}

/* ---- a vocabulary in slices ---- */

enum { RANKS_MAX = 8 };

/* Draws rows from what each of `ranks` slices has found; returns how many did not fit. */
static int check_slices(struct dip_stream *s, struct dip_tensor logits, struct dip_draw *draws,
                        int ranks, int64_t room)
{
    int64_t rows = dip_tensor_rows(logits);
    int64_t vocab = dip_tensor_columns(logits);
    int64_t columns = 1 + 2 * room;
    int misfits = 0;
    int64_t gap = prop_int(0, 3); /* something else between the ranks' messages */
    struct dip_tensor found = prop_view(DIP_I32, ranks, rows * columns, gap);
    struct dip_tensor whole = prop_view(DIP_I32, 1, rows, 0);
    struct dip_tensor sliced = prop_view(DIP_I32, 1, rows, 0);
    int64_t most[64] = {0}; /* candidates of a slice, by row */
    assert_true(rows <= 64);
    for (int r = 0; r < ranks; r++) {
        int64_t first = vocab * r / ranks;
        int32_t *mine = (int32_t *)found.data + r * found.row_stride;
        struct dip_sample_select_args a = {
            .found = dip_rows(mine, DIP_I32, rows, columns),
            .logits = dip_columns_slice(logits, first, vocab * (r + 1) / ranks - first),
            .draws = draws,
            .first_id = (int32_t)first};
        prop_ok(dip_sample_select(s, &a));
        for (int64_t i = 0; i < rows; i++)
            most[i] = mine[i * columns] > most[i] ? mine[i * columns] : most[i];
    }
    draw(s, whole, logits, draws);
    prop_ok(dip_sample_merge(
        s, &(struct dip_sample_merge_args){.ids = sliced, .found = found, .draws = draws}));
    for (int64_t i = 0; i < rows; i++) {
        int32_t expected = most[i] > room ? -1 : ((int32_t *)whole.data)[i];
        assert_int_equal(((int32_t *)sliced.data)[i], expected);
        misfits += expected < 0;
    }
    return misfits;
}

/* Any cut gives the id of the whole row, to the last bit of every value; when a slice had too
 * little room, that is said. */
static void test_slices(void **state)
{
    (void)state;
    int rows_done = 0;
    int misfits = 0;
    for (int i = 0; i < 1500; i++) {
        int ranks = (int)PROP_PICK(1, 2, 3, 4, 8);
        int64_t rows = PROP_PICK(1, 1, 3, 7);
        int64_t vocab = PROP_PICK(8, 9, 31, 64, 127, 395, 1000, 4000, 20011);
        struct dip_tensor logits = prop_view(DIP_F32, rows, vocab, prop_int(0, 9));
        struct dip_draw *draws = prop_bytes((size_t)rows * sizeof *draws);
        int64_t room = 1;
        for (int64_t r = 0; r < rows; r++) {
            draws[r] = random_draw(vocab);
            for (int64_t c = 0; c < vocab; c++)
                *prop_at(logits, r, c) = i % 6 == 5 ? odd[prop_int(0, 10)] : random_logit(i % 6, c);
            room = draws[r].top_k > room ? draws[r].top_k : room;
        }
        room = prop_int(0, 1) ? vocab : room + prop_int(0, 40);
        struct dip_stream *s = prop_int(0, 3) ? prop_streams[prop_int(0, 4)] : prop_plain;
        misfits += check_slices(s, logits, draws, ranks, room);
        rows_done += (int)rows;
        prop_reset();
    }
    assert_true(misfits > rows_done / 50); /* both ends were seen */
    assert_true(misfits < rows_done / 2);
}

/* Ties across slices go to the lower id, and greedy needs no room for them. */
static void test_slices_of_ties(void **state)
{
    (void)state;
    float logits[64];
    for (int i = 0; i < 64; i++)
        logits[i] = i == 9 || i == 40 ? 2.0f : 1.0f;
    struct dip_draw greedy = {.temperature = 1.0f, .top_k = 1, .top_p = 1.0f, .uniform = 0.9f};
    struct dip_draw two = {.temperature = 1.0f, .top_k = 2, .top_p = 1.0f, .uniform = 0.9f};
    struct dip_draw three = {.temperature = 1.0f, .top_k = 3, .top_p = 1.0f, .uniform = 0.9f};
    struct dip_tensor row = dip_rows(logits, DIP_F32, 1, 64);
    for (int ranks = 1; ranks <= RANKS_MAX; ranks *= 2) {
        assert_int_equal(check_slices(prop_streams[0], row, &greedy, ranks, 1), 0);
        assert_int_equal(check_slices(prop_streams[0], row, &two, ranks, 64), 0);
        assert_int_equal(check_slices(prop_streams[0], row, &three, ranks, 64), 0);
        assert_int_equal(check_slices(prop_streams[0], row, &three, ranks, 4), 1);
    }
    prop_reset();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_sort), cmocka_unit_test(test_odd_values),
        cmocka_unit_test(test_greedy),       cmocka_unit_test(test_proportions),
        cmocka_unit_test(test_slices),       cmocka_unit_test(test_slices_of_ties),
    };
    return cmocka_run_group_tests(tests, prop_start, prop_stop);
}
