/* tests/unit/ar_shard.c - the panel cut over ranks: bit for bit the panel in one process.
 *
 * Every rank, a process of its own, holds the whole panel beside its shard and gives both the same
 * calls: a prompt for each of two sequences in one batch, then single tokens. Hidden states are
 * compared in all bits, and the shard's logits with its columns of the whole's. */
#include <sys/stat.h>

#include "model/model.h"
#include "tests/ranks.h"

enum { SLOTS = 2, CAPACITY = 32, ROWS_MAX = 16, STEPS = 6, SCRATCH_BYTES = 16 << 20 };

static const char *directory; /* of the model, for the ranks */

/* A panel with its cache and working memory. */
struct side {
    const struct dip_ar *ar;
    struct dip_comm *comm;
    struct dip_ar_cache cache;
    struct dip_arena scratch;
    void *memory;
    float *hidden; /* [ROWS_MAX, H] */
    float *logits; /* [ROWS_MAX, V] */
};

static void *bytes(size_t count)
{
    void *memory = aligned_alloc(64, (count + 63) / 64 * 64);
    need(memory);
    memset(memory, 0, count);
    return memory;
}

static void side_init(struct side *side, struct rank_context *c, const struct dip_ar *ar,
                      struct dip_comm *comm)
{
    const struct dip_ar_config *config = dip_ar_config(ar);
    *side = (struct side){.ar = ar, .comm = comm, .memory = bytes(SCRATCH_BYTES)};
    side->hidden = bytes(ROWS_MAX * (size_t)config->hidden * sizeof(float));
    side->logits = bytes(ROWS_MAX * (size_t)config->vocab * sizeof(float));
    need(dip_ar_scratch_bytes(ar, ROWS_MAX) <= SCRATCH_BYTES);
    dip_arena_init(&side->scratch, side->memory, SCRATCH_BYTES);
    need_ok(dip_ar_cache_init(ar, c->device, SLOTS, CAPACITY, &side->cache));
}

static void side_deinit(struct side *side, struct rank_context *c)
{
    dip_ar_cache_deinit(side->ar, c->device, &side->cache);
    free(side->memory);
    free(side->hidden);
    free(side->logits);
}

static void forward(struct side *side, struct rank_context *c, int32_t *ids,
                    const struct dip_row *rows, int count)
{
    const struct dip_ar_config *config = dip_ar_config(side->ar);
    int64_t vocab = dip_ar_shard(side->ar)->vocab.count;
    struct dip_ar_args args = {.hidden = dip_rows(side->hidden, DIP_F32, count, config->hidden),
                               .ids = dip_tensor_1d(ids, DIP_I32, count),
                               .rows = rows,
                               .cache = &side->cache,
                               .comm = side->comm};
    need_ok(dip_ar_forward(side->ar, c->stream, &args, &side->scratch));
    need_ok(dip_ar_logits(side->ar, c->stream, dip_rows(side->logits, DIP_F32, count, vocab),
                          args.hidden));
}

static void check_call(struct side *whole, struct side *shard, struct rank_context *c, int32_t *ids,
                       const struct dip_row *rows, int count)
{
    const struct dip_ar_config *config = dip_ar_config(whole->ar);
    struct dip_range vocab = dip_ar_shard(shard->ar)->vocab;
    forward(whole, c, ids, rows, count);
    forward(shard, c, ids, rows, count);
    size_t width = (size_t)config->hidden;
    need(memcmp(whole->hidden, shard->hidden, (size_t)count * width * sizeof(float)) == 0);
    for (int r = 0; r < count; r++)
        need(memcmp(whole->logits + (int64_t)r * config->vocab + vocab.first,
                    shard->logits + r * vocab.count, (size_t)vocab.count * sizeof(float)) == 0);
    need(count == 0 || whole->hidden[0] != whole->hidden[1]); /* and they are something */
}

static void compare(struct side *whole, struct side *shard, struct rank_context *c)
{
    int32_t ids[ROWS_MAX];
    struct dip_row rows[ROWS_MAX];
    static const int prompts[SLOTS] = {9, 5};
    int count = 0;
    for (int slot = 0; slot < SLOTS; slot++) {
        for (int i = 0; i < prompts[slot]; i++, count++) {
            ids[count] = 7 + 31 * slot + 5 * i;
            rows[count] = (struct dip_row){.slot = slot, .position = i};
        }
    }
    check_call(whole, shard, c, ids, rows, count);
    for (int step = 0; step < STEPS; step++) { /* one sequence, then both in a batch */
        int live = 1 + step % 2;
        for (int slot = 0; slot < live; slot++) {
            int behind = slot == 0 ? step : step / 2;
            ids[slot] = 40 + 11 * step + slot;
            rows[slot] = (struct dip_row){.slot = slot, .position = prompts[slot] + behind};
        }
        check_call(whole, shard, c, ids, rows, live);
    }
}

static void run_shard(struct rank_context *c)
{
    struct dip_why why = {0};
    struct dip_model *model = NULL;
    struct dip_ar *ar = NULL;
    if (dip_model_open(directory, &why, &model))
        rank_fail(__FILE__, __LINE__, directory, why.text);
    const struct dip_ar_config *config = &model->config.ar;
    struct dip_shard plan = dip_shard_of(config, c->rank, c->ranks->count);
    if (dip_ar_shard_new(config, &plan, model->weights, &why, &ar))
        rank_fail(__FILE__, __LINE__, directory, why.text);
    struct side whole;
    struct side shard;
    side_init(&whole, c, model->ar, NULL);
    side_init(&shard, c, ar, c->comm);
    need(shard.cache.mem.bytes * (size_t)c->ranks->count == whole.cache.mem.bytes);
    compare(&whole, &shard, c);
    side_deinit(&whole, c);
    side_deinit(&shard, c);
    dip_ar_free(ar);
    dip_model_close(model);
}

static void check_degree(const char *model, int degree, const char *backend)
{
    directory = model;
    struct ranks ranks = {.backend = backend,
                          .count = degree,
                          .silence_ns_max = 20 * DIP_SECOND_NS,
                          .wait_ns_max = 60 * DIP_SECOND_NS};
    ranks_run(&ranks, run_shard);
    ranks_end(&ranks);
}

static void test_tiny(void **state)
{
    (void)state;
    check_degree("tests/golden/tiny-a/model", 2, "shm");
    check_degree("tests/golden/tiny-b/model", 2, "shm");
    check_degree("tests/golden/tiny-b/model", 4, "shm");
    check_degree("tests/golden/tiny-b/model", 4, "tcp");
}

/* The trained model, at every degree it can have. */
static void test_demo(void **state)
{
    (void)state;
    struct dip_why why = {0};
    struct dip_model *model = NULL;
    struct stat about;
    if (stat("models/demo/config.json", &about))
        skip();
    if (dip_model_open("models/demo", &why, &model))
        fail_msg("%s", why.text);
    struct dip_ar_config config = model->config.ar;
    dip_model_close(model);
    for (int degree = 2; dip_shard_check(&config, degree, NULL) == DIP_OK; degree *= 2)
        check_degree("models/demo", degree, "shm");
}

/* One key/value head cannot be shared. */
static void test_refused(void **state)
{
    (void)state;
    struct dip_why why = {0};
    struct dip_model *model = NULL;
    if (dip_model_open("tests/golden/tiny-c/model", &why, &model))
        fail_msg("%s", why.text);
    assert_int_equal(dip_shard_check(&model->config.ar, 2, &why), DIP_UNSUPPORTED);
    assert_non_null(strstr(why.text, "1 key/value heads"));
    dip_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tiny),
        cmocka_unit_test(test_demo),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
