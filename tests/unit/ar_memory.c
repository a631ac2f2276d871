/* tests/unit/ar_memory.c - what a rank of a tensor-parallel group keeps in memory: its part of the
 * weights, measured by the kernel after a pass over all of them. */
#include "base/dtype.h"
#include "model/model.h"
#include "model/safetensors.h"
#include "tests/ranks.h"
#include "tests/scratch.h"

/* 94 MB in bf16, of which 75 in the layers. */
enum { ROWS = 4, TENSORS_MAX = 64, NAME_BYTES = 96, SLACK_BYTES = 6 << 20 };
static const struct dip_ar_config config = {.vocab = 12000,
                                            .hidden = 768,
                                            .layers = 4,
                                            .heads = 12,
                                            .kv_heads = 4,
                                            .head_dim = 64,
                                            .intermediate = 3456,
                                            .position_max = 64,
                                            .norm_eps = 1e-6f,
                                            .rope_theta = 1e6,
                                            .is_tied = true};

static struct scratch directory;

/* ---- the checkpoint ---- */

struct parts {
    struct dip_safetensors_part list[TENSORS_MAX];
    char names[TENSORS_MAX][NAME_BYTES];
    size_t count;
};

static void add(struct parts *parts, int64_t rows, int64_t columns, const char *name, int layer)
{
    assert_true(parts->count < TENSORS_MAX);
    size_t i = parts->count++;
    size_t count = (size_t)rows * (size_t)(columns ? columns : 1);
    uint16_t *values = malloc(count * sizeof *values);
    assert_non_null(values);
    for (size_t v = 0; v < count; v++) /* small and of both signs: sums stay finite */
        values[v] = dip_bf16_from_f32((float)((int)(v * 2654435761u >> 20 & 255) - 128) / 4096.0f);
    if (layer < 0)
        snprintf(parts->names[i], NAME_BYTES, "%s", name);
    else
        snprintf(parts->names[i], NAME_BYTES, "model.layers.%d.%s", layer, name);
    parts->list[i] = (struct dip_safetensors_part){.name = parts->names[i],
                                                   .dtype = DIP_BF16,
                                                   .rank = columns ? 2 : 1,
                                                   .dims = {rows, columns ? columns : 1, 1, 1},
                                                   .data = values};
}

static void write_model(void)
{
    static struct parts parts;
    const struct dip_ar_config *c = &config;
    int64_t q = (int64_t)c->heads * c->head_dim;
    int64_t kv = (int64_t)c->kv_heads * c->head_dim;
    add(&parts, c->vocab, c->hidden, "model.embed_tokens.weight", -1);
    add(&parts, c->hidden, 0, "model.norm.weight", -1);
    for (int i = 0; i < c->layers; i++) {
        add(&parts, c->hidden, 0, "input_layernorm.weight", i);
        add(&parts, q, c->hidden, "self_attn.q_proj.weight", i);
        add(&parts, kv, c->hidden, "self_attn.k_proj.weight", i);
        add(&parts, kv, c->hidden, "self_attn.v_proj.weight", i);
        add(&parts, c->head_dim, 0, "self_attn.q_norm.weight", i);
        add(&parts, c->head_dim, 0, "self_attn.k_norm.weight", i);
        add(&parts, c->hidden, q, "self_attn.o_proj.weight", i);
        add(&parts, c->hidden, 0, "post_attention_layernorm.weight", i);
        add(&parts, c->intermediate, c->hidden, "mlp.gate_proj.weight", i);
        add(&parts, c->intermediate, c->hidden, "mlp.up_proj.weight", i);
        add(&parts, c->hidden, c->intermediate, "mlp.down_proj.weight", i);
    }
    struct dip_why why = {0};
    const char *path = scratch_path(&directory, "model.safetensors");
    if (dip_safetensors_write(path, parts.list, parts.count, &why))
        fail_msg("%s", why.text);
    for (size_t i = 0; i < parts.count; i++)
        free((void *)(uintptr_t)parts.list[i].data);
}

/* ---- a rank ---- */

static int64_t resident_bytes(void)
{
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    need(file);
    need(fscanf(file, "%*d %ld", &pages) == 1);
    fclose(file);
    return (int64_t)pages * sysconf(_SC_PAGESIZE);
}

static void pass(struct rank_context *c, const struct dip_ar *ar)
{
    int64_t columns = dip_ar_shard(ar)->vocab.count;
    size_t scratch_bytes = dip_ar_scratch_bytes(ar, ROWS);
    float *hidden = calloc(ROWS * (size_t)config.hidden, sizeof *hidden);
    float *logits = calloc(ROWS * (size_t)columns, sizeof *logits);
    void *memory = aligned_alloc(DIP_ARENA_ALIGN, dip_arena_round(scratch_bytes));
    need(hidden && logits && memory);
    struct dip_arena scratch;
    dip_arena_init(&scratch, memory, scratch_bytes);
    struct dip_ar_cache cache;
    need_ok(dip_ar_cache_init(ar, c->device, 1, ROWS, &cache));
    int32_t ids[ROWS] = {1, 2, 3, 4};
    struct dip_row rows[ROWS] = {{0, 0}, {0, 1}, {0, 2}, {0, 3}};
    struct dip_ar_args args = {.hidden = dip_rows(hidden, DIP_F32, ROWS, config.hidden),
                               .ids = dip_tensor_1d(ids, DIP_I32, ROWS),
                               .rows = rows,
                               .cache = &cache,
                               .comm = c->ranks->count > 1 ? c->comm : NULL};
    need_ok(dip_ar_forward(ar, c->stream, &args, &scratch));
    need_ok(dip_ar_logits(ar, c->stream, dip_rows(logits, DIP_F32, ROWS, columns), args.hidden));
    dip_ar_cache_deinit(ar, c->device, &cache);
    free(hidden);
    free(logits);
    free(memory);
}

/* What a rank owns of the matrices; of the embedding table a rank reads its head and a few rows. */
static int64_t owned_bytes(const struct dip_shard *shard)
{
    size_t all = dip_shard_weights_bytes(&config, shard, sizeof(uint16_t));
    return (int64_t)all - (config.vocab - shard->vocab.count) * config.hidden * 2;
}

static void run_measured(struct rank_context *c)
{
    struct dip_why why = {0};
    struct dip_weights *weights = NULL;
    struct dip_ar *ar = NULL;
    struct dip_shard shard = dip_shard_of(&config, c->rank, c->ranks->count);
    int64_t before = resident_bytes();
    need_ok(dip_weights_open(directory.path, &why, &weights));
    if (dip_ar_shard_new(&config, &shard, weights, &why, &ar))
        rank_fail(__FILE__, __LINE__, "dip_ar_shard_new", why.text);
    pass(c, ar);
    int64_t grown = resident_bytes() - before;
    int64_t owned = owned_bytes(&shard);
    fprintf(stderr, "rank %d of %d: owns %.1f MB, resident grew by %.1f MB\n", c->rank,
            c->ranks->count, (double)owned * 1e-6, (double)grown * 1e-6);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    need(grown > owned * 9 / 10); /* the pass did read all of it */
    need(grown < owned + SLACK_BYTES);
#endif
    dip_ar_free(ar);
    dip_weights_close(weights);
}

static void a_rank_keeps_its_part(void **state)
{
    (void)state;
    for (int count = 1; count <= 4; count *= 2) {
        struct ranks ranks = {.backend = "shm",
                              .count = count,
                              .silence_ns_max = 20 * DIP_SECOND_NS,
                              .wait_ns_max = 60 * DIP_SECOND_NS};
        ranks_run(&ranks, run_measured);
        ranks_end(&ranks);
    }
}

int main(void)
{
    directory = scratch_open();
    write_model();
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_rank_keeps_its_part)};
    int failures = cmocka_run_group_tests(tests, NULL, NULL);
    scratch_close(&directory);
    return failures;
}
