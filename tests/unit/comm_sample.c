/* tests/unit/comm_sample.c - drawing over a group: every rank, whatever the cut, draws what one
 * rank with the whole row would have drawn. */
#include <math.h>

#include "base/rng.h"
#include "tests/ranks.h"

enum { ROWS_MAX = 5, ROUNDS = 36 };

static int64_t vocab; /* for the ranks */

struct source {
    struct dip_rng_key key;
    uint64_t position;
};

static float uniform(struct source *source)
{
    return dip_rng_uniform(&source->key, source->position++);
}

static int below(struct source *source, int count)
{
    int value = (int)(uniform(source) * (float)count);
    return value < count ? value : count - 1;
}

/* Smooth, full of ties, all equal, or odd. */
static float logit(struct source *source, int kind)
{
    static const float odd[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 3.4e38f, -3.4e38f, 1e-45f};
    float x = 12.0f * (uniform(source) - 0.5f);
    switch (kind) {
    case 0:
        return x;
    case 1:
        return rintf(x);
    case 2:
        return 0.5f;
    default:
        return odd[below(source, 8)];
    }
}

static struct dip_draw random_draw(struct source *source)
{
    static const int32_t tops[] = {0, 1, 2, 50, 1200, 3000, INT32_MAX};
    static const float nuclei[] = {0.1f, 0.5f, 0.95f, 1.0f};
    return (struct dip_draw){.temperature = below(source, 2) ? 1.0f : 0.3f + uniform(source),
                             .top_k = tops[below(source, 7)],
                             .top_p = nuclei[below(source, 4)],
                             .uniform = uniform(source)};
}

struct working {
    float *logits; /* [ROWS_MAX, vocab] */
    struct dip_arena scratch;
    void *memory;
};

/* The same by the call that can be recorded: every id, or none where a rank has more candidates
 * than it may send, and none of those that there is room for. */
static void draw_recordable(struct rank_context *c, struct working *w,
                            const struct dip_comm_sample_args *a, int64_t room,
                            const int32_t *expected)
{
    int32_t ids[ROWS_MAX];
    int32_t notes[DIP_COMM_RANKS_MAX];
    int ranks = c->ranks->count;
    struct dip_comm_draw_args draw = {.ids = dip_tensor_1d(ids, DIP_I32, a->row_count),
                                      .logits = a->logits,
                                      .draws = a->draws,
                                      .vocab = vocab,
                                      .room = room,
                                      .note = &a->note,
                                      .notes = notes};
    need_ok(dip_comm_draw(c->comm, c->stream, &draw, &w->scratch));
    for (int r = 0; r < ranks; r++)
        need(notes[r] == a->ret_notes[r]);
    for (int64_t r = 0; r < a->row_count; r++)
        need(ids[r] == expected[r] || (ids[r] == -1 && room < (vocab + ranks - 1) / ranks));
}

static void draw_round(struct rank_context *c, struct working *w, int round)
{
    int ranks = c->ranks->count;
    struct source source = {.key = {.seed = 77, .purpose = DIP_RNG_TEST}};
    source.position = (uint64_t)round << 32;
    int rows = round % (ROWS_MAX + 1);
    struct dip_draw draws[ROWS_MAX];
    int32_t expected[ROWS_MAX];
    int32_t ids[ROWS_MAX];
    int32_t notes[DIP_COMM_RANKS_MAX];
    for (int r = 0; r < rows; r++) {
        draws[r] = random_draw(&source);
        int kind = below(&source, 4);
        for (int64_t v = 0; v < vocab; v++)
            w->logits[r * vocab + v] = logit(&source, kind);
    }
    struct dip_tensor whole = dip_rows(w->logits, DIP_F32, rows ? rows : 1, vocab);
    int64_t first = vocab * c->rank / ranks;
    struct dip_comm_sample_args a = {
        .ids = dip_tensor_1d(ids, DIP_I32, rows),
        .logits = dip_columns_slice(whole, first, vocab * (c->rank + 1) / ranks - first),
        .draws = draws,
        .row_count = rows,
        .vocab = vocab,
        .note = 1000 * round + c->rank,
        .ret_notes = notes,
    };
    need_ok(dip_comm_sample(c->comm, c->stream, &a, &w->scratch));
    for (int r = 0; r < ranks; r++)
        need(notes[r] == 1000 * round + r);
    if (rows > 0)
        need_ok(dip_sample(c->stream,
                           &(struct dip_sample_args){.ids = dip_tensor_1d(expected, DIP_I32, rows),
                                                     .logits = whole,
                                                     .draws = draws}));
    need(memcmp(ids, expected, (size_t)rows * sizeof *ids) == 0);
    if (rows > 0)
        draw_recordable(c, w, &a, 1 + below(&source, 90), expected);
}

static void run_rounds(struct rank_context *c)
{
    struct working w = {.logits = malloc(ROWS_MAX * (size_t)vocab * sizeof *w.logits)};
    size_t bytes = dip_comm_sample_scratch_bytes(c->comm, ROWS_MAX, vocab);
    w.memory = aligned_alloc(DIP_ARENA_ALIGN, dip_arena_round(bytes));
    need(w.logits && w.memory);
    dip_arena_init(&w.scratch, w.memory, bytes);
    for (int round = 0; round < ROUNDS; round++)
        draw_round(c, &w, round);
    need(w.scratch.used_bytes == 0);
    free(w.logits);
    free(w.memory);
}

static void check(const char *backend, int count, int64_t columns)
{
    vocab = columns;
    struct ranks ranks = {.backend = backend,
                          .count = count,
                          .silence_ns_max = 20 * DIP_SECOND_NS,
                          .wait_ns_max = 60 * DIP_SECOND_NS};
    ranks_run(&ranks, run_rounds);
    ranks_end(&ranks);
}

static void any_cut_draws_the_same_ids(void **state)
{
    (void)state;
    static const int64_t columns[] = {8, 61, 4099, 20011};
    for (size_t i = 0; i < sizeof columns / sizeof columns[0]; i++)
        for (int count = 1; count <= 8; count *= 2)
            check("shm", count, columns[i]);
    check("tcp", 2, 4099);
    check("shm", 3, 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(any_cut_draws_the_same_ids)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
