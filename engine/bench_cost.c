/* engine/bench_cost.c - the least bytes and operations of each stage, counted from the shapes.
 *
 * The counts are those of model.md 3.3, 5.7 and 7.3, which tests/unit/bench.c holds them to: a
 * multiply-add is two operations; weights are read once per call, activations stay in caches. */
#include <string.h>

#include "base/assert.h"
#include "engine/bench_private.h"

double dip__cost_s(const struct dip__bench *bench, struct dip__cost cost)
{
    double memory_s = cost.bytes / bench->machine.read_bytes_s;
    double compute_s = cost.flops / bench->machine.fma_flops_s;
    return memory_s > compute_s ? memory_s : compute_s;
}

/* Bytes and elements of all tensors whose names start with prefix. */
static void weights_sum(const struct dip_model *model, const char *prefix, double *bytes,
                        double *elements)
{
    for (size_t i = 0; i < dip_weights_count(model->weights); i++) {
        const struct dip_weight *weight = dip_weights_at(model->weights, i);
        if (strncmp(weight->name, prefix, strlen(prefix)) != 0)
            continue;
        double count = 1;
        for (int d = 0; d < weight->rank; d++)
            count *= (double)weight->dims[d];
        *bytes += (double)weight->bytes;
        *elements += count;
    }
}

double dip__cost_kv_bytes(const struct dip__bench *bench)
{
    return (double)dip_dtype_bytes(dip_device_activation(bench->device));
}

struct dip__cost dip__cost_ar(const struct dip_model *model, int rows, int draws, int keys,
                              double kv_bytes)
{
    const struct dip_ar_config *c = &model->config.ar;
    double layer_bytes = 0;
    double layer_elements = 0;
    double head_bytes = 0;
    double head_elements = 0;
    weights_sum(model, "model.layers.", &layer_bytes, &layer_elements);
    weights_sum(model, c->is_tied ? "model.embed_tokens." : "lm_head.", &head_bytes,
                &head_elements);
    double kv_width = (double)c->kv_heads * c->head_dim;
    double q_width = (double)c->heads * c->head_dim;
    double pairs = (double)rows * keys * c->layers; /* of a row and a key */
    struct dip__cost cost = {.bytes = layer_bytes + pairs * 2 * kv_width * kv_bytes,
                             .flops = 2 * layer_elements * rows + pairs * 4 * q_width};
    if (draws > 0) {
        cost.bytes += head_bytes;
        cost.flops += 2 * head_elements * draws;
    }
    return cost;
}

struct dip__cost dip__cost_context(const struct dip_model *model, int rows)
{
    const struct dip_dit_config *c = &model->config.dit;
    double D = c->width;
    double C = c->caption_channels;
    double H = model->config.ar.hidden;
    double elements = H * C + C * C + C * D + D * D + 2 * D * D * c->layers;
    return (struct dip__cost){.bytes = 2 * elements, .flops = 2 * elements * rows};
}

/* Both branches; the first block's self-attention is shared, and the unconditional branch's
 * cross-attention is a constant. */
struct dip__cost dip__cost_dit_step(const struct dip_model *model, int batch, int height, int width,
                                    int context_rows)
{
    const struct dip_dit_config *c = &model->config.dit;
    int token_count = height / c->patch * (width / c->patch);
    double tokens = token_count;
    double D = c->width;
    double F = c->ffn;
    double patch_width = (double)c->patch * c->patch * c->latent_channels;
    double self = tokens * (8 * D * D + 4 * D * c->head_dim);
    double cross = tokens * (4 * D * D + 4 * D * context_rows);
    double ffn = tokens * (6 * D * F + 18 * 2 * F);
    double blocks = c->layers * (2 * (self + ffn) + cross) - self;
    double ends = tokens * 2 * D * patch_width * 3;
    struct dip__cost cost = {.flops = batch * (blocks + ends)};
    double elements = 0;
    weights_sum(model, "model.sana.", &cost.bytes, &elements);
    return cost;
}

static double vae_block_flops(const struct dip_vae_config *c, int stage, double pixels)
{
    double C = c->channels[stage];
    if (c->block[stage] == DIP_VAE_RES)
        return pixels * 2 * 18 * C * C;
    double scales = c->scale_kernel[stage] ? 2 : 1;
    double kernel = (double)c->scale_kernel[stage] * c->scale_kernel[stage];
    double qkv = 6 * C * C + (scales - 1) * 3 * C * (2 * kernel + 2 * c->head_dim);
    double attention = scales * (4 * C * c->head_dim + 2 * C * C);
    double ffn = 24 * C * C + 18 * 8 * C;
    return pixels * (qkv + attention + ffn);
}

struct dip__cost dip__cost_vae(const struct dip_model *model, int height, int width)
{
    const struct dip_vae_config *c = &model->config.vae;
    dip_assert(c->stages > 0);
    double pixels = (double)height * width;
    int last = c->stages - 1;
    struct dip__cost cost = {.flops = pixels * 18 * c->latent_channels * c->channels[last]};
    for (int stage = last; stage >= 0; stage--) {
        double C = c->channels[stage];
        if (stage < last) { /* up: either way one 3x3 convolution of four outputs per input pixel */
            cost.flops += pixels * 4 * 18 * c->channels[stage + 1] * C;
            pixels *= 4;
        }
        cost.flops += c->layers[stage] * vae_block_flops(c, stage, pixels);
    }
    cost.flops += pixels * 18 * c->channels[0] * 3;
    double elements = 0;
    weights_sum(model, "model.sana_vae.decoder.", &cost.bytes, &elements);
    return cost;
}
