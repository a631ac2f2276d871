/* model/weights_random.c - weights made in memory, for benchmarks of true shapes without a file.
 *
 * Values are cut from one block of normals at a place that depends on seed and name: filling 1.6
 * billion weights then costs a second instead of a minute, and the block's prime length keeps the
 * rows of a matrix different from each other. Scales are those of model.md section 10, so
 * activations stay of order one through any number of layers. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "model/weights_private.h"

enum { NORMALS = 1048573 }; /* the largest prime below 2^20 */

enum dip_status dip_weights_random(uint64_t seed, struct dip_weights **ret_weights)
{
    enum dip_status status = DIP_NO_MEMORY;
    struct dip_weights *weights = calloc(1, sizeof *weights);
    if (!weights)
        goto out;
    weights->is_random = true;
    weights->seed = seed;
    memcpy(weights->label, "(random)", sizeof "(random)");
    weights->table = calloc(DIP__RANDOM_TENSORS_MAX, sizeof *weights->table);
    weights->by_name = calloc(DIP__RANDOM_TENSORS_MAX, sizeof(struct dip_weight *));
    weights->is_used = calloc(DIP__RANDOM_TENSORS_MAX, sizeof *weights->is_used);
    weights->normals = malloc(NORMALS * sizeof *weights->normals);
    if (!weights->table || !weights->by_name || !weights->is_used || !weights->normals)
        goto out;
    struct dip_rng_key key = {.seed = seed, .purpose = DIP_RNG_TEST};
    dip_rng_normals(&key, weights->normals, NORMALS);
    *ret_weights = weights;
    weights = NULL; /* ownership has moved to the caller */
    status = DIP_OK;
out:
    dip_weights_close(weights);
    return status;
}

void dip__weights_random_free(struct dip_weights *weights)
{
    if (!weights->is_random)
        return;
    for (size_t i = 0; i < weights->count; i++) {
        free((void *)(uintptr_t)weights->table[i].name);
        free((void *)(uintptr_t)weights->table[i].data);
    }
    free(weights->normals);
}

static bool ends_with(const char *name, const char *suffix)
{
    size_t length = strlen(name);
    size_t tail = strlen(suffix);
    return length >= tail && strcmp(name + length - tail, suffix) == 0;
}

/* Standard deviation by shape: 1 / sqrt(fan in) for what multiplies, 1 for the embedding rows. */
static float scale_of(const char *name, int rank, const int64_t *dims)
{
    if (ends_with(name, "embed_tokens.weight"))
        return 1;
    double fan_in = 1;
    for (int i = 1; i < rank; i++)
        fan_in *= (double)dims[i];
    return (float)(1 / sqrt(fan_in));
}

static size_t first_normal(uint64_t seed, const char *name)
{
    uint64_t hash = seed ^ UINT64_C(0xcbf29ce484222325); /* FNV-1a */
    for (const char *at = name; *at; at++)
        hash = (hash ^ (unsigned char)*at) * UINT64_C(0x100000001b3);
    return (size_t)(hash % NORMALS);
}

/* One-dimensional weights are those of norms: 1. Biases are 0. The rest is random. */
static void fill(const struct dip_weights *weights, const char *name, int rank, const int64_t *dims,
                 uint16_t *values, size_t count)
{
    if (rank == 1) {
        uint16_t value = ends_with(name, "bias") ? 0 : dip_bf16_from_f32(1);
        for (size_t i = 0; i < count; i++)
            values[i] = value;
        return;
    }
    float scale = scale_of(name, rank, dims);
    size_t from = first_normal(weights->seed, name);
    size_t fresh = count < NORMALS ? count : NORMALS;
    for (size_t i = 0; i < fresh; i++) {
        values[i] = dip_bf16_from_f32(weights->normals[from] * scale);
        from = from + 1 == NORMALS ? 0 : from + 1;
    }
    /* What follows repeats what is there: no need to convert it again. */
    for (size_t done = fresh; done < count; done += fresh) {
        size_t left = count - done;
        memcpy(values + done, values, (left < fresh ? left : fresh) * sizeof *values);
    }
}

/* Keeps by_name sorted. */
static void insert(struct dip_weights *weights, struct dip_weight *weight)
{
    size_t at = weights->count;
    for (; at > 0 && strcmp(weights->by_name[at - 1]->name, weight->name) > 0; at--)
        weights->by_name[at] = weights->by_name[at - 1];
    weights->by_name[at] = weight;
    weights->bytes += weight->bytes;
    weights->count++;
}

enum dip_status dip__weights_random_make(struct dip_weights *weights, const char *name, int rank,
                                         const int64_t *dims, struct dip_why *why)
{
    if (weights->count == DIP__RANDOM_TENSORS_MAX)
        return dip_fail(why, DIP_LIMIT, "more than %d random tensors", DIP__RANDOM_TENSORS_MAX);
    struct dip_weight *weight = &weights->table[weights->count];
    size_t count = 1;
    for (int i = 0; i < DIP_TENSOR_RANK_MAX; i++) {
        weight->dims[i] = i < rank ? dims[i] : 1;
        count *= (size_t)weight->dims[i];
    }
    size_t bytes = count * sizeof(uint16_t);
    char *copy = strdup(name);
    /* As aligned as a mapped file would be at best. */
    uint16_t *values = aligned_alloc(64, (bytes + 63) & ~(size_t)63);
    if (!copy || !values) {
        free(copy);
        free(values);
        return dip_fail(why, DIP_NO_MEMORY, "no memory for the %zu bytes of %s", bytes, name);
    }
    fill(weights, name, rank, dims, values, count);
    weight->name = copy;
    weight->dtype_name = "BF16";
    weight->file = "(random)";
    weight->rank = rank;
    weight->bytes = bytes;
    weight->data = values;
    insert(weights, weight);
    return DIP_OK;
}
