/* tests/golden/ar.c - hidden states and logits of Qwen3ForCausalLM, greedy ids, and the law that a
 * row's bits do not depend on its neighbours. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/golden/golden.h"

static const double LIMIT = 1e-5; /* derivation: tests/golden/tiny-a/golden.md */
enum { SLOTS = 4, CAPACITY = 512 };

struct panel {
    struct golden *g;
    struct dip_ar_cache cache;
};

static struct panel panel_open(struct golden *g)
{
    struct panel p = {.g = g};
    golden_ok(dip_ar_cache_init(g->model->ar, g->device, SLOTS, CAPACITY, &p.cache), "cache");
    return p;
}

static void panel_close(struct panel *p)
{
    dip_ar_cache_deinit(p->g->model->ar, p->g->device, &p->cache);
}

/* Hidden states [count, H] of `count` ids at the given places. */
static struct dip_tensor forward(struct panel *p, const int32_t *ids, const struct dip_row *rows,
                                 int count)
{
    struct golden *g = p->g;
    const struct dip_ar *ar = g->model->ar;
    struct dip_tensor hidden = golden_rows(g, count, dip_ar_config(ar)->hidden);
    struct dip_tensor device_ids = golden_rows(g, 1, count);
    device_ids = dip_tensor_1d(device_ids.data, DIP_I32, count);
    struct dip_tensor host_ids = dip_tensor_1d((void *)(uintptr_t)ids, DIP_I32, count);
    golden_ok(dip_copy(g->s, device_ids, host_ids), "ids");

    size_t mark = dip_arena_mark(&g->memory);
    struct dip_arena scratch = golden_scratch(g, dip_ar_scratch_bytes(ar, count));
    struct dip_ar_args args = {
        .hidden = hidden, .ids = device_ids, .rows = rows, .cache = &p->cache};
    golden_ok(dip_ar_forward(ar, g->s, &args, &scratch), "forward");
    golden_ok(dip_wait(g->s), "wait");
    assert_true(scratch.peak_bytes <= scratch.bytes);
    dip_arena_reset(&g->memory, mark);
    return hidden;
}

/* Consecutive positions of one slot. */
static struct dip_tensor forward_run(struct panel *p, int slot, int first, const int32_t *ids,
                                     int count)
{
    struct dip_row rows[CAPACITY];
    for (int i = 0; i < count; i++)
        rows[i] = (struct dip_row){.slot = slot, .position = first + i};
    return forward(p, ids, rows, count);
}

static struct dip_tensor last_row(struct dip_tensor t)
{
    return dip_rows_slice(t, dip_tensor_rows(t) - 1, 1);
}

static struct dip_tensor logits_of(struct panel *p, struct dip_tensor hidden)
{
    const struct dip_ar *ar = p->g->model->ar;
    struct dip_tensor logits = golden_rows(p->g, dip_tensor_rows(hidden), dip_ar_config(ar)->vocab);
    golden_ok(dip_ar_logits(ar, p->g->s, logits, hidden), "logits");
    return logits;
}

static void check_sequence(struct panel *p, const char *scenario, struct dip_tensor states)
{
    struct golden *g = p->g;
    char key[64];
    float *hidden = golden_read(g, states);
    (void)snprintf(key, sizeof key, "%s/hidden", scenario);
    assert_int_equal(dip_tensor_rows(states), golden_dim(g, key, 0));
    golden_close(g, key, hidden, golden_f32(g, key), (size_t)dip_tensor_count(states), LIMIT);
    free(hidden);

    struct dip_tensor scores = logits_of(p, states);
    float *logits = golden_read(g, scores);
    (void)snprintf(key, sizeof key, "%s/logits", scenario);
    golden_close(g, key, logits, golden_f32(g, key), (size_t)dip_tensor_count(scores), LIMIT);
    free(logits);
}

/* Prefill, then one step per given id; the last id is fed too. */
static void forced_sequence(void **state)
{
    struct golden *g = *state;
    struct panel p = panel_open(g);
    int prompt_count = golden_dim(g, "forced/prompt_ids", 0);
    int count = golden_dim(g, "forced/image_ids", 0);
    struct dip_tensor states = golden_rows(g, count + 1, dip_ar_config(g->model->ar)->hidden);

    struct dip_tensor prefill =
        forward_run(&p, 1, 0, golden_i32(g, "forced/prompt_ids"), prompt_count);
    golden_ok(dip_copy(g->s, dip_rows_slice(states, 0, 1), last_row(prefill)), "copy");
    for (int k = 0; k < count; k++) {
        struct dip_tensor row =
            forward_run(&p, 1, prompt_count + k, golden_i32(g, "forced/image_ids") + k, 1);
        golden_ok(dip_copy(g->s, dip_rows_slice(states, k + 1, 1), row), "copy");
    }
    check_sequence(&p, "forced", states);
    panel_close(&p);
}

static int32_t draw_greedy(struct panel *p, struct dip_tensor hidden)
{
    struct golden *g = p->g;
    struct dip_tensor logits = logits_of(p, hidden);
    struct dip_tensor id = golden_rows(g, 1, 1);
    id = dip_tensor_1d(id.data, DIP_I32, 1);
    struct dip_draw draw = {.temperature = 1.0f, .top_k = 1, .top_p = 1.0f, .uniform = 0.5f};
    golden_ok(
        dip_sample(g->s, &(struct dip_sample_args){.ids = id, .logits = logits, .draws = &draw}),
        "sample");
    int32_t drawn = -1;
    golden_ok(dip_copy(g->s, dip_tensor_1d(&drawn, DIP_I32, 1), id), "copy");
    golden_ok(dip_wait(g->s), "wait");
    return drawn;
}

static void greedy_sequence(void **state)
{
    struct golden *g = *state;
    struct panel p = panel_open(g);
    int prompt_count = golden_dim(g, "greedy/prompt_ids", 0);
    int count = golden_dim(g, "greedy/image_ids", 0);
    struct dip_tensor states = golden_rows(g, count + 1, dip_ar_config(g->model->ar)->hidden);

    struct dip_tensor row =
        last_row(forward_run(&p, 0, 0, golden_i32(g, "greedy/prompt_ids"), prompt_count));
    for (int k = 0; k < count; k++) {
        golden_ok(dip_copy(g->s, dip_rows_slice(states, k, 1), row), "copy");
        int32_t id = draw_greedy(&p, row);
        assert_int_equal(id, golden_i32(g, "greedy/image_ids")[k]);
        row = forward_run(&p, 0, prompt_count + k, &id, 1);
    }
    golden_ok(dip_copy(g->s, dip_rows_slice(states, count, 1), row), "copy");
    check_sequence(&p, "greedy", states);
    panel_close(&p);
}

static void same_bits(struct golden *g, struct dip_tensor a, struct dip_tensor b)
{
    float *x = golden_read(g, a), *y = golden_read(g, b);
    assert_memory_equal(x, y, (size_t)dip_tensor_count(a) * sizeof *x);
    free(x);
    free(y);
}

/* One call, one call per row, or pieces of uneven size. */
static void prefill_in_pieces_gives_the_same_bits(void **state)
{
    struct golden *g = *state;
    struct panel p = panel_open(g);
    const int32_t *ids = golden_i32(g, "forced/prompt_ids");
    int count = golden_dim(g, "forced/prompt_ids", 0);
    struct dip_tensor whole = forward_run(&p, 0, 0, ids, count);

    static const int pieces[] = {1, 7, 64};
    for (int slot = 1; slot <= 3; slot++) {
        int piece = pieces[slot - 1];
        for (int first = 0; first < count; first += piece) {
            int rows = count - first < piece ? count - first : piece;
            size_t mark = dip_arena_mark(&g->memory);
            struct dip_tensor part = forward_run(&p, slot, first, ids + first, rows);
            same_bits(g, part, dip_rows_slice(whole, first, rows));
            dip_arena_reset(&g->memory, mark);
        }
    }
    panel_close(&p);
}

/* Rows of four sequences at different places in one call, in mixed order, against each alone. */
static void neighbours_do_not_change_a_row(void **state)
{
    struct golden *g = *state;
    struct panel alone = panel_open(g), together = panel_open(g);
    const int32_t *ids = golden_i32(g, "forced/prompt_ids");
    static const int lengths[SLOTS] = {3, 17, 40, 90};
    static const int order[SLOTS] = {2, 0, 3, 1};
    struct dip_tensor want[SLOTS];
    struct dip_row rows[SLOTS + 8];
    int32_t batch_ids[SLOTS + 8];

    for (int slot = 0; slot < SLOTS; slot++) {
        (void)forward_run(&alone, slot, 0, ids + slot, lengths[slot]);
        (void)forward_run(&together, slot, 0, ids + slot, lengths[slot]);
        want[slot] = forward_run(&alone, slot, lengths[slot], ids + slot + lengths[slot], 1);
    }
    for (int i = 0; i < SLOTS; i++) {
        rows[i] = (struct dip_row){.slot = order[i], .position = lengths[order[i]]};
        batch_ids[i] = ids[order[i] + lengths[order[i]]];
    }
    for (int i = 0; i < 8; i++) { /* and a prompt being prefilled beside them */
        rows[SLOTS + i] = (struct dip_row){.slot = 0, .position = lengths[0] + 1 + i};
        batch_ids[SLOTS + i] = ids[50 + i];
    }
    struct dip_tensor got = forward(&together, batch_ids, rows, SLOTS + 8);
    for (int i = 0; i < SLOTS; i++)
        same_bits(g, dip_rows_slice(got, i, 1), want[order[i]]);
    panel_close(&alone);
    panel_close(&together);
}

/* Several images from one prefill: a slot that took over another's prompt continues like it. */
static void a_shared_prompt_continues_alike(void **state)
{
    struct golden *g = *state;
    struct panel p = panel_open(g);
    int count = golden_dim(g, "greedy/prompt_ids", 0);
    const int32_t *image_ids = golden_i32(g, "greedy/image_ids");
    (void)forward_run(&p, 2, 0, golden_i32(g, "greedy/prompt_ids"), count);
    golden_ok(dip_ar_cache_share(g->model->ar, g->s, &p.cache, 2, 0, count), "share");
    for (int k = 0; k < 3; k++)
        same_bits(g, forward_run(&p, 0, count + k, image_ids + k, 1),
                  forward_run(&p, 2, count + k, image_ids + k, 1));
    panel_close(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        GOLDEN_TESTS(forced_sequence),
        GOLDEN_TESTS(greedy_sequence),
        GOLDEN_TESTS(prefill_in_pieces_gives_the_same_bits),
        GOLDEN_TESTS(neighbours_do_not_change_a_row),
        GOLDEN_TESTS(a_shared_prompt_continues_alike),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
