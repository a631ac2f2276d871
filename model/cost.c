/* model/cost.c - see model/cost.h. Letters as in docs/glossary.md. */
#include "model/cost.h"

#include "base/assert.h"

enum { WEIGHT_BYTES = 2, KV_BYTES = 2 };

/* ---- the AR panel ---- */

static double layer_elements(const struct dip_ar_config *c)
{
    double q = (double)c->heads * c->head_dim;
    double kv = (double)c->kv_heads * c->head_dim;
    double H = c->hidden;
    return 2 * H * q + 2 * H * kv + 3 * H * c->intermediate;
}

double dip_cost_kv_bytes(const struct dip_ar_config *config, int degree, double keys)
{
    double kv = (double)config->kv_heads * config->head_dim;
    return keys * config->layers * 2 * kv * KV_BYTES / degree;
}

struct dip_cost dip_cost_ar(const struct dip_ar_config *config, int degree, int rows, int draws,
                            double keys)
{
    const struct dip_ar_config *c = config;
    dip_assert(degree > 0);
    double layers = layer_elements(c) * c->layers;
    double head = (double)c->vocab * c->hidden;
    double q = (double)c->heads * c->head_dim;
    struct dip_cost cost = {
        .bytes = layers * WEIGHT_BYTES / degree + rows * dip_cost_kv_bytes(c, degree, keys),
        .flops = (2 * layers * rows + 4 * q * keys * c->layers * rows) / degree};
    if (draws > 0) {
        cost.bytes += head * WEIGHT_BYTES / degree;
        cost.flops += 2 * head * draws / degree;
    }
    return cost;
}

double dip_cost_ar_weight_bytes(const struct dip_ar_config *config, int degree)
{
    double head = (double)config->vocab * config->hidden;
    double table = config->is_tied ? 0 : head; /* beside the head's share, where they differ */
    return WEIGHT_BYTES * ((layer_elements(config) * config->layers + head) / degree + table);
}

/* ---- the diffusion panel ---- */

static double context_elements(const struct dip_config *config)
{
    const struct dip_dit_config *c = &config->dit;
    double D = c->width, C = c->caption_channels, H = config->ar.hidden;
    return H * C + C * C + C * D + D * D + 2 * D * D * c->layers;
}

/* What every step reads: the blocks but for the context's keys and values, and both ends. */
static double step_elements(const struct dip_config *config)
{
    const struct dip_dit_config *c = &config->dit;
    double D = c->width, F = c->ffn;
    double patch = (double)c->patch * c->patch * c->latent_channels;
    double block = 4 * D * D + 2 * D * D + 3 * D * F + 9 * 2 * F;
    return c->layers * block + 2 * D * patch + 256 * D + 7 * D * D;
}

struct dip_cost dip_cost_context(const struct dip_config *config, int rows)
{
    double elements = context_elements(config);
    return (struct dip_cost){.bytes = WEIGHT_BYTES * elements, .flops = 2 * elements * rows};
}

struct dip_cost dip_cost_dit_step(const struct dip_config *config, int context_rows)
{
    const struct dip_dit_config *c = &config->dit;
    int high = config->generation.latent_height / c->patch;
    int wide = config->generation.latent_width / c->patch;
    double tokens = (double)high * wide;
    double D = c->width, F = c->ffn;
    double patch = (double)c->patch * c->patch * c->latent_channels;
    double self = tokens * (8 * D * D + 4 * D * c->head_dim);
    double cross = tokens * (4 * D * D + 4 * D * context_rows);
    double ffn = tokens * (6 * D * F + 18 * 2 * F);
    return (struct dip_cost){.bytes = WEIGHT_BYTES * step_elements(config),
                             .flops = c->layers * (2 * (self + ffn) + cross) - self +
                                      tokens * 2 * D * patch * 3};
}

/* Elements and operations at one position of a block of this stage. */
static double vae_block_elements(const struct dip_vae_config *c, int stage)
{
    double C = c->channels[stage];
    if (c->block[stage] == DIP_VAE_RES)
        return 18 * C * C;
    double kernel = (double)c->scale_kernel[stage] * c->scale_kernel[stage];
    double scales = c->scale_kernel[stage] ? 2 : 1;
    return 3 * C * C + (scales - 1) * 3 * C * (kernel + c->head_dim) + scales * C * C + 12 * C * C +
           9 * 8 * C;
}

static double vae_block_flops(const struct dip_vae_config *c, int stage)
{
    double scales = c->scale_kernel[stage] ? 2 : 1;
    double attention =
        c->block[stage] == DIP_VAE_RES ? 0 : scales * 4 * c->channels[stage] * c->head_dim;
    return 2 * vae_block_elements(c, stage) + attention;
}

struct dip_cost dip_cost_vae(const struct dip_config *config)
{
    const struct dip_vae_config *c = &config->vae;
    double cells = (double)config->generation.latent_height * config->generation.latent_width;
    int last = c->stages - 1;
    dip_assert(c->stages > 0);
    double elements = 9.0 * c->latent_channels * c->channels[last];
    double flops = 2 * elements * cells;
    for (int stage = last; stage >= 0; stage--) {
        if (stage < last) {
            double up = 9.0 * c->channels[stage + 1] * c->channels[stage];
            cells *= 4;
            elements += up;
            flops += 2 * up * cells;
        }
        elements += c->layers[stage] * vae_block_elements(c, stage);
        flops += c->layers[stage] * vae_block_flops(c, stage) * cells;
    }
    double out = 27.0 * c->channels[0];
    return (struct dip_cost){.bytes = WEIGHT_BYTES * (elements + out),
                             .flops = flops + 2 * out * cells};
}

double dip_cost_diffusion_weight_bytes(const struct dip_config *config)
{
    return WEIGHT_BYTES * (context_elements(config) + step_elements(config)) +
           dip_cost_vae(config).bytes;
}
