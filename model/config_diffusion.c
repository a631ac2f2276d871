/* model/config_diffusion.c - the diffusion panel's part: the transformer, the autoencoder and the
 * scheduler in the layout of the diffusers library.
 *
 * A file that is absent stands for the published values. A file that is there must state its sizes:
 * its library writes all of them, and a silent default would give noise instead of a sentence. */
#include <string.h>

#include "model/config_private.h"

/* ---- transformer ---- */

struct dip_dit_config dip__config_published_dit(void)
{
    return (struct dip_dit_config){.latent_channels = 32,
                                   .patch = 1,
                                   .width = 2240,
                                   .heads = 70,
                                   .head_dim = 32,
                                   .cross_heads = 20,
                                   .cross_head_dim = 112,
                                   .caption_channels = 2304,
                                   .layers = 20,
                                   .ffn = 5600,
                                   .norm_eps = 1e-6f};
}

static enum dip_status check_dit_variant(const struct dip_json *json, struct dip_why *why)
{
    DIP_TRY(dip__config_require(json, "qk_norm", why));
    DIP_TRY(dip__config_only_string(json, "qk_norm", "rms_norm_across_heads", why));
    DIP_TRY(dip__config_only_bool(json, "attention_bias", false, why));
    DIP_TRY(dip__config_only_bool(json, "norm_elementwise_affine", false, why));
    DIP_TRY(dip__config_only_bool(json, "guidance_embeds", false, why));
    DIP_TRY(dip__config_only_number(json, "timestep_scale", 1.0, why));
    return dip__config_only_null(json, "interpolation_scale", why);
}

static enum dip_status read_dit_sizes(const struct dip_json *json, struct dip_why *why,
                                      struct dip_dit_config *d)
{
    DIP_TRY(dip__config_int(json, "in_channels", 1, DIP__LATENT_CHANNELS_MAX, why,
                            &d->latent_channels));
    DIP_TRY(dip__config_int(json, "patch_size", 1, 8, why, &d->patch));
    DIP_TRY(dip__config_int(json, "num_attention_heads", 1, DIP_WIDTH_MAX, why, &d->heads));
    DIP_TRY(dip__config_int(json, "attention_head_dim", 1, DIP__HEAD_DIM_MAX, why, &d->head_dim));
    DIP_TRY(
        dip__config_int(json, "num_cross_attention_heads", 1, DIP_WIDTH_MAX, why, &d->cross_heads));
    DIP_TRY(dip__config_int(json, "cross_attention_head_dim", 1, DIP__HEAD_DIM_MAX, why,
                            &d->cross_head_dim));
    DIP_TRY(dip__config_int(json, "caption_channels", 1, DIP_WIDTH_MAX, why, &d->caption_channels));
    return dip__config_int(json, "num_layers", 1, DIP_LAYERS_MAX, why, &d->layers);
}

static enum dip_status read_dit_widths(const struct dip_json *json, struct dip_why *why,
                                       struct dip_dit_config *d)
{
    double ratio = 2.5;
    double norm_eps = 1e-6;
    d->width = d->heads * d->head_dim;
    if (d->width > DIP_WIDTH_MAX)
        return dip_fail(why, DIP_LIMIT,
                        "%s: num_attention_heads x attention_head_dim is %d, expected at most %d",
                        json->path, d->width, DIP_WIDTH_MAX);
    DIP_TRY(dip_json_double(json, "mlp_ratio", 0.01, 16, why, &ratio));
    DIP_TRY(dip_json_double(json, "norm_eps", 1e-12, 0.1, why, &norm_eps));
    d->ffn = (int)(ratio * d->width);
    d->norm_eps = (float)norm_eps;
    if (d->ffn < 1)
        return dip_fail(why, DIP_INVALID, "%s: mlp_ratio is %g, which leaves no hidden channel",
                        json->path, ratio);
    return DIP_OK;
}

static enum dip_status check_dit(const struct dip_json *json, const struct dip_dit_config *d,
                                 struct dip_why *why)
{
    int out_channels = d->latent_channels;
    int cross_dim = d->width;
    if (dip_json_has(json, "out_channels"))
        DIP_TRY(dip__config_int(json, "out_channels", 1, DIP_WIDTH_MAX, why, &out_channels));
    if (out_channels != d->latent_channels)
        return dip_fail(why, DIP_UNSUPPORTED, "%s: out_channels is %d, expected in_channels (%d)",
                        json->path, out_channels, d->latent_channels);
    if (dip_json_has(json, "cross_attention_dim"))
        DIP_TRY(dip__config_int(json, "cross_attention_dim", 1, DIP_WIDTH_MAX, why, &cross_dim));
    if (cross_dim != d->width)
        return dip_fail(why, DIP_UNSUPPORTED,
                        "%s: cross_attention_dim is %d, expected the width %d "
                        "(num_attention_heads x attention_head_dim)",
                        json->path, cross_dim, d->width);
    if ((int64_t)d->cross_heads * d->cross_head_dim != d->width)
        return dip_fail(why, DIP_UNSUPPORTED,
                        "%s: num_cross_attention_heads x cross_attention_head_dim is %d x %d, "
                        "expected the width %d",
                        json->path, d->cross_heads, d->cross_head_dim, d->width);
    return DIP_OK;
}

enum dip_status dip__config_read_dit(const struct dip_json *json, struct dip_why *why,
                                     struct dip_dit_config *ret_dit)
{
    struct dip_dit_config d = dip__config_published_dit();
    if (!dip__config_is_absent(json)) {
        DIP_TRY(check_dit_variant(json, why));
        DIP_TRY(read_dit_sizes(json, why, &d));
        DIP_TRY(read_dit_widths(json, why, &d));
        DIP_TRY(check_dit(json, &d, why));
    }
    *ret_dit = d;
    return DIP_OK;
}

/* ---- autoencoder ---- */

struct dip_vae_config dip__config_published_vae(void)
{
    return (struct dip_vae_config){
        .stages = 6,
        .latent_channels = 32,
        .head_dim = 32,
        .block = {DIP_VAE_RES, DIP_VAE_RES, DIP_VAE_RES, DIP_VAE_VIT, DIP_VAE_VIT, DIP_VAE_VIT},
        .channels = {128, 256, 512, 512, 1024, 1024},
        .layers = {3, 3, 3, 3, 3, 3},
        .scale_kernel = {0, 0, 0, 5, 5, 5},
        .scaling_factor = 0.41407,
        .factor = 32,
    };
}

/* A string, or a list that says the same string for every stage. */
static enum dip_status only_strings(const struct dip_json *json, const char *key,
                                    const char *expected, struct dip_why *why)
{
    const char *values[DIP_VAE_STAGES_MAX];
    int count = 0;
    DIP_TRY(dip_json_strings(json, key, DIP_VAE_STAGES_MAX, why, values, &count));
    for (int i = 0; i < count; i++)
        if (strcmp(values[i], expected) != 0)
            return dip_fail(why, DIP_UNSUPPORTED, "%s: %s has \"%.60s\", only \"%s\" is supported",
                            json->path, key, values[i], expected);
    return DIP_OK;
}

static enum dip_status check_vae_variant(const struct dip_json *json, struct dip_why *why)
{
    DIP_TRY(dip__config_only_number(json, "in_channels", 3, why));
    DIP_TRY(only_strings(json, "decoder_norm_types", "rms_norm", why));
    DIP_TRY(only_strings(json, "decoder_act_fns", "silu", why));
    DIP_TRY(dip__config_only_bool(json, "decoder_in_shortcut", true, why));
    DIP_TRY(dip__config_only_string(json, "decoder_conv_act_fn", "relu", why));
    return dip__config_only_number(json, "shift_factor", 0, why);
}

static enum dip_status fail_stages(const struct dip_json *json, const char *key, int found,
                                   int stages, struct dip_why *why)
{
    return dip_fail(why, DIP_INVALID,
                    "%s: %s has %d elements, expected %d as decoder_block_out_channels has",
                    json->path, key, found, stages);
}

static enum dip_status read_channels(const struct dip_json *json, struct dip_why *why,
                                     struct dip_vae_config *v)
{
    static const char channels_key[] = "decoder_block_out_channels";
    static const char layers_key[] = "decoder_layers_per_block";
    int64_t values[DIP_VAE_STAGES_MAX];
    int count = 0;
    DIP_TRY(dip__config_require(json, channels_key, why));
    DIP_TRY(dip_json_ints(json, channels_key, 1, DIP_WIDTH_MAX / 8, DIP_VAE_STAGES_MAX, why, values,
                          &v->stages));
    if (v->stages < 1)
        return dip_fail(why, DIP_INVALID, "%s: %s is empty", json->path, channels_key);
    for (int i = 0; i < v->stages; i++)
        v->channels[i] = (int)values[i];
    DIP_TRY(dip__config_require(json, layers_key, why));
    DIP_TRY(dip_json_ints(json, layers_key, 1, DIP_LAYERS_MAX, DIP_VAE_STAGES_MAX, why, values,
                          &count));
    if (count != v->stages)
        return fail_stages(json, layers_key, count, v->stages, why);
    for (int i = 0; i < v->stages; i++)
        v->layers[i] = (int)values[i];
    return DIP_OK;
}

static enum dip_status read_blocks(const struct dip_json *json, struct dip_why *why,
                                   struct dip_vae_config *v)
{
    static const char key[] = "decoder_block_types";
    const char *names[DIP_VAE_STAGES_MAX];
    int count = 0;
    DIP_TRY(dip__config_require(json, key, why));
    DIP_TRY(dip_json_strings(json, key, DIP_VAE_STAGES_MAX, why, names, &count));
    if (count != 1 && count != v->stages)
        return fail_stages(json, key, count, v->stages, why);
    for (int i = 0; i < v->stages; i++) {
        const char *name = names[count == 1 ? 0 : i];
        bool is_vit = strcmp(name, "EfficientViTBlock") == 0;
        if (!is_vit && strcmp(name, "ResBlock") != 0)
            return dip_fail(why, DIP_UNSUPPORTED,
                            "%s: %s has \"%.60s\", expected ResBlock or EfficientViTBlock",
                            json->path, key, name);
        v->block[i] = is_vit ? DIP_VAE_VIT : DIP_VAE_RES;
    }
    return DIP_OK;
}

static enum dip_status read_kernels(const struct dip_json *json, struct dip_why *why,
                                    struct dip_vae_config *v)
{
    static const char key[] = "decoder_qkv_multiscales";
    int rows = 0;
    DIP_TRY(dip__config_require(json, key, why));
    DIP_TRY(dip_json_rows(json, key, DIP_VAE_STAGES_MAX, why, &rows));
    if (rows != v->stages)
        return fail_stages(json, key, rows, v->stages, why);
    for (int i = 0; i < rows; i++) {
        int64_t kernel = 0;
        int count = 0;
        DIP_TRY(dip_json_row_ints(json, key, i, 1, 15, 1, why, &kernel, &count));
        v->scale_kernel[i] = count == 1 && v->block[i] == DIP_VAE_VIT ? (int)kernel : 0;
        if (v->scale_kernel[i] > 0 && kernel % 2 == 0)
            return dip_fail(why, DIP_INVALID, "%s: %s[%d] is %d, expected an odd kernel size",
                            json->path, key, i, (int)kernel);
    }
    return DIP_OK;
}

static enum dip_status read_vae_scalars(const struct dip_json *json, struct dip_why *why,
                                        struct dip_vae_config *v)
{
    const char *up = "";
    DIP_TRY(dip__config_int(json, "latent_channels", 1, DIP__LATENT_CHANNELS_MAX, why,
                            &v->latent_channels));
    DIP_TRY(dip__config_int(json, "attention_head_dim", 1, DIP__HEAD_DIM_MAX, why, &v->head_dim));
    DIP_TRY(dip__config_require(json, "upsample_block_type", why));
    DIP_TRY(dip_json_string(json, "upsample_block_type", why, &up));
    DIP_TRY(dip__config_require(json, "scaling_factor", why));
    DIP_TRY(dip_json_double(json, "scaling_factor", 1e-6, 1e6, why, &v->scaling_factor));
    v->is_pixel_shuffle =
        strcmp(up, "interpolate") != 0; /* anything else, as the reference has it */
    v->factor = 1 << (v->stages - 1);
    return DIP_OK;
}

/* The shortcuts repeat channels a whole number of times; attention cuts channels into heads. */
static enum dip_status check_vae(const struct dip_json *json, const struct dip_vae_config *v,
                                 struct dip_why *why)
{
    static const char key[] = "decoder_block_out_channels";
    for (int i = 0; i + 1 < v->stages; i++) {
        int a = v->channels[i];
        int b = v->channels[i + 1];
        if (4 * a % b != 0 || 4 * b % a != 0)
            return dip_fail(why, DIP_INVALID,
                            "%s: %s[%d] and [%d] are %d and %d, expected four times each to be a "
                            "multiple of the other",
                            json->path, key, i, i + 1, a, b);
    }
    for (int i = 0; i < v->stages; i++)
        if (v->block[i] == DIP_VAE_VIT && v->channels[i] % v->head_dim != 0)
            return dip_fail(why, DIP_INVALID,
                            "%s: %s[%d] is %d, expected a multiple of attention_head_dim (%d)",
                            json->path, key, i, v->channels[i], v->head_dim);
    int last = v->channels[v->stages - 1];
    if (last % v->latent_channels != 0)
        return dip_fail(why, DIP_INVALID,
                        "%s: %s ends with %d, expected a multiple of latent_channels (%d)",
                        json->path, key, last, v->latent_channels);
    return DIP_OK;
}

enum dip_status dip__config_read_vae(const struct dip_json *json, struct dip_why *why,
                                     struct dip_vae_config *ret_vae)
{
    struct dip_vae_config v = {0};
    if (dip__config_is_absent(json)) {
        *ret_vae = dip__config_published_vae();
        return DIP_OK;
    }
    DIP_TRY(check_vae_variant(json, why));
    DIP_TRY(read_channels(json, why, &v));
    DIP_TRY(read_blocks(json, why, &v));
    DIP_TRY(read_kernels(json, why, &v));
    DIP_TRY(read_vae_scalars(json, why, &v));
    DIP_TRY(check_vae(json, &v, why));
    *ret_vae = v;
    return DIP_OK;
}

/* ---- scheduler ---- */

struct dip_scheduler_config dip__config_published_scheduler(void)
{
    return (struct dip_scheduler_config){.train_timesteps = 1000, .shift = 1, .flow_shift = 3};
}

/* Keys that would change the schedule if they were set (model.md 6.1). */
static enum dip_status check_scheduler_variant(const struct dip_json *json, struct dip_why *why)
{
    static const char *const off[] = {"use_dynamic_shifting",   "use_karras_sigmas",
                                      "use_exponential_sigmas", "use_beta_sigmas",
                                      "invert_sigmas",          "stochastic_sampling"};
    for (size_t i = 0; i < sizeof off / sizeof off[0]; i++)
        DIP_TRY(dip__config_only_bool(json, off[i], false, why));
    DIP_TRY(dip__config_only_null(json, "shift_terminal", why));
    return dip__config_only_string(json, "prediction_type", "flow_prediction", why);
}

enum dip_status dip__config_read_scheduler(const struct dip_json *json, struct dip_why *why,
                                           struct dip_scheduler_config *ret_scheduler)
{
    struct dip_scheduler_config s = dip__config_published_scheduler();
    if (!dip__config_is_absent(json)) {
        int64_t train_timesteps = s.train_timesteps;
        DIP_TRY(check_scheduler_variant(json, why));
        DIP_TRY(dip_json_int(json, "num_train_timesteps", 1, 1000000, why, &train_timesteps));
        DIP_TRY(dip_json_double(json, "shift", 0.01, 1000, why, &s.shift));
        DIP_TRY(dip_json_double(json, "flow_shift", 0.01, 1000, why, &s.flow_shift));
        s.train_timesteps = (int)train_timesteps;
    }
    *ret_scheduler = s;
    return DIP_OK;
}
