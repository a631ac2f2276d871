/* model/shard.c - the shard plan: ranges of heads, channels and vocabulary. */
#include "model/shard.h"

#include <stdbool.h>

#include "base/assert.h"

int dip_shard_chunks(const struct dip_ar_config *config, int64_t K)
{
    bool is_power_of_two = (config->kv_heads & (config->kv_heads - 1)) == 0;
    int chunks = is_power_of_two ? config->kv_heads : 8;
    while (K % chunks)
        chunks /= 2;
    return chunks;
}

static int64_t attention_width(const struct dip_ar_config *config)
{
    return (int64_t)config->heads * config->head_dim;
}

/* A rank owns whole key/value heads with all queries that read them, and a power of two of whole
 * chunks of both reduced dimensions. */
static bool is_legal(const struct dip_ar_config *config, int degree)
{
    return degree >= 1 && degree <= DIP_SHARD_DEGREE_MAX && (degree & (degree - 1)) == 0 &&
           config->kv_heads % degree == 0 &&
           dip_shard_chunks(config, attention_width(config)) % degree == 0 &&
           dip_shard_chunks(config, config->intermediate) % degree == 0;
}

enum dip_status dip_shard_check(const struct dip_ar_config *config, int degree, struct dip_why *why)
{
    if (is_legal(config, degree))
        return DIP_OK;
    int largest = 1;
    while (is_legal(config, largest * 2)) /* legal degrees are the powers of two up to one */
        largest *= 2;
    if (degree < 1 || (degree & (degree - 1)) != 0)
        return dip_fail(why, DIP_UNSUPPORTED,
                        "tensor parallelism over %d ranks: must be a power of two, at most %d for "
                        "this model",
                        degree, largest);
    return dip_fail(why, DIP_UNSUPPORTED,
                    "tensor parallelism over %d ranks: this model can be cut into at most %d, "
                    "because it has %d key/value heads, and sums its %lld attention and %lld MLP "
                    "channels in %d and %d chunks",
                    degree, largest, config->kv_heads, (long long)attention_width(config),
                    (long long)config->intermediate,
                    dip_shard_chunks(config, attention_width(config)),
                    dip_shard_chunks(config, config->intermediate));
}

/* The rank's part of `count` things; parts differ by at most one. */
static struct dip_range part(int64_t count, int rank, int degree)
{
    int64_t first = count * rank / degree;
    return (struct dip_range){.first = first, .count = count * (rank + 1) / degree - first};
}

struct dip_shard dip_shard_of(const struct dip_ar_config *config, int rank, int degree)
{
    dip_assert(is_legal(config, degree));
    dip_assert(rank >= 0);
    dip_assert(rank < degree);
    return (struct dip_shard){.rank = rank,
                              .degree = degree,
                              .heads = part(config->heads, rank, degree),
                              .kv_heads = part(config->kv_heads, rank, degree),
                              .intermediate = part(config->intermediate, rank, degree),
                              .vocab = part(config->vocab, rank, degree)};
}

size_t dip_shard_weights_bytes(const struct dip_ar_config *config, const struct dip_shard *shard,
                               size_t element_bytes)
{
    int64_t hidden = config->hidden;
    int64_t heads = 2 * shard->heads.count + 2 * shard->kv_heads.count; /* q, o and k, v */
    int64_t layer = heads * config->head_dim * hidden + 3 * shard->intermediate.count * hidden +
                    2 * hidden + 2 * (int64_t)config->head_dim;
    int64_t head = config->is_tied ? 0 : shard->vocab.count * hidden;
    int64_t all = config->vocab * hidden + head + config->layers * layer + hidden;
    return (size_t)all * element_bytes;
}
