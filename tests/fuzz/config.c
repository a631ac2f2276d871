/* tests/fuzz/config.c - any six texts as the configuration of a model: a sentence, or the rules
 * that the forward passes rely on.
 *
 * The input is the texts one after the other, separated by a byte 0x01 (which no JSON contains), in
 * the order of enum dip_config_file; an empty one is an absent file. */
#include <string.h>

#include "base/assert.h"
#include "model/config.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes);

static void check_ar(const struct dip_ar_config *ar)
{
    dip_assert(ar->hidden > 0 && ar->layers > 0 && ar->intermediate > 0);
    dip_assert(ar->kv_heads > 0 && ar->heads % ar->kv_heads == 0);
    dip_assert(ar->head_dim > 0 && ar->head_dim % 2 == 0);
    dip_assert(ar->heads * ar->head_dim <= DIP_WIDTH_MAX);
    dip_assert(ar->image_start_tag_id >= 0 && ar->image_start_tag_id < ar->vocab);
    dip_assert(ar->scale_start_id >= 0 && ar->scale_start_id < ar->vocab);
    dip_assert(ar->image_token_count > 0);
    dip_assert(ar->image_first_id >= 0 && ar->image_first_id + ar->image_token_count <= ar->vocab);
    dip_assert(ar->eos_count >= 0 && ar->eos_count <= 8);
    for (int i = 0; i < ar->eos_count; i++)
        dip_assert(ar->eos_ids[i] >= 0 && ar->eos_ids[i] < ar->vocab);
}

static void check_diffusion(const struct dip_config *config)
{
    const struct dip_dit_config *d = &config->dit;
    const struct dip_vae_config *v = &config->vae;
    dip_assert(d->width == d->heads * d->head_dim && d->width <= DIP_WIDTH_MAX);
    dip_assert(d->width == d->cross_heads * d->cross_head_dim);
    dip_assert(d->latent_channels == v->latent_channels);
    dip_assert(d->ffn > 0 && d->layers > 0 && d->patch > 0);
    dip_assert(v->stages > 0 && v->stages <= DIP_VAE_STAGES_MAX);
    dip_assert(v->factor == 1 << (v->stages - 1));
    dip_assert(v->channels[v->stages - 1] % v->latent_channels == 0);
    for (int i = 0; i < v->stages; i++) {
        dip_assert(v->channels[i] > 0 && v->layers[i] > 0);
        dip_assert(v->scale_kernel[i] == 0 || v->scale_kernel[i] % 2 == 1);
        dip_assert(v->block[i] == DIP_VAE_RES || v->channels[i] % v->head_dim == 0);
        if (i > 0) {
            dip_assert(4 * v->channels[i] % v->channels[i - 1] == 0);
            dip_assert(4 * v->channels[i - 1] % v->channels[i] == 0);
        }
    }
}

static void check_generation(const struct dip_config *config)
{
    const struct dip_generation_config *g = &config->generation;
    dip_assert(g->grid_height > 0 && g->grid_width > 0);
    dip_assert(g->grid_height * g->grid_width < config->ar.position_max);
    dip_assert(g->latent_height % config->dit.patch == 0);
    dip_assert(g->latent_width % config->dit.patch == 0);
    dip_assert(g->latent_height * config->vae.factor <= DIP_IMAGE_EDGE_MAX);
    dip_assert(g->latent_width * config->vae.factor <= DIP_IMAGE_EDGE_MAX);
    dip_assert(g->steps >= 1 && g->steps <= DIP_STEPS_MAX);
    dip_assert(g->top_k >= 0 && g->top_k <= config->ar.vocab);
    dip_assert(g->top_p > 0 && g->top_p <= 1);
    dip_assert(g->temperature > 0);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes)
{
    struct dip_config_text files[DIP_CONFIG_FILE_COUNT] = {0};
    const char *at = (const char *)data;
    const char *end = at + bytes;
    for (int i = 0; i < DIP_CONFIG_FILE_COUNT && at < end; i++) {
        const char *separator = memchr(at, 1, (size_t)(end - at));
        const char *stop = separator ? separator : end;
        if (stop > at)
            files[i] = (struct dip_config_text){at, (size_t)(stop - at)};
        at = separator ? separator + 1 : end;
    }
    struct dip_why why = {0};
    struct dip_config config;
    enum dip_status status = dip_config_parse(files, "fuzz", &why, &config);
    dip_assert((status == DIP_OK) == (why.text[0] == '\0'));
    if (status == DIP_OK) {
        check_ar(&config.ar);
        check_diffusion(&config);
        check_generation(&config);
    }
    return 0;
}
