/* model/model.c - a model directory opened, checked and bound; and the constants of load time. */
#include "model/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "model/scratch.h"

/* ---- opening ---- */

static enum dip_status open_tokenizer(const char *directory, struct dip_why *why,
                                      struct dip_tokenizer **ret_tokenizer)
{
    char path[DIP_PATH_BYTES_MAX];
    int length = snprintf(path, sizeof path, "%s/tokenizer.json", directory);
    if (length < 0 || (size_t)length >= sizeof path)
        return dip_fail(why, DIP_LIMIT, "the model directory's path is longer than %d bytes",
                        DIP_PATH_BYTES_MAX - 16);
    return dip_tokenizer_open(path, why, ret_tokenizer);
}

/* Of the networks that the configuration describes (a published directory has all four) those that
 * are asked for. */
static enum dip_status bind_networks(struct dip_model *m, uint32_t parts, struct dip_why *why)
{
    const struct dip_config *c = &m->config;
    bool has_ar = c->ar.layers > 0, has_dit = c->dit.layers > 0;
    if (has_ar && (parts & DIP_MODEL_AR))
        DIP_TRY(dip_ar_new(&c->ar, m->weights, why, &m->ar));
    if (!(parts & DIP_MODEL_DIFFUSION))
        return DIP_OK;
    if (has_ar && has_dit)
        DIP_TRY(dip_connector_new(c, m->weights, why, &m->connector));
    if (has_dit)
        DIP_TRY(dip_dit_new(&c->dit, m->weights, why, &m->dit));
    if (c->vae.stages > 0)
        DIP_TRY(dip_vae_new(&c->vae, m->weights, why, &m->vae));
    return DIP_OK;
}

static enum dip_status open_parts(struct dip_model *m, const char *directory, uint32_t parts,
                                  struct dip_why *why)
{
    uint32_t networks = DIP_MODEL_AR | DIP_MODEL_DIFFUSION;
    DIP_TRY(dip_config_load(directory, why, &m->config));
    DIP_TRY(dip_weights_open(directory, why, &m->weights));
    if (parts & DIP_MODEL_TOKENIZER)
        DIP_TRY(open_tokenizer(directory, why, &m->tokenizer));
    DIP_TRY(bind_networks(m, parts, why));
    if ((parts & networks) == networks)
        DIP_TRY(dip_weights_check_unused(m->weights, why));
    DIP_TRY(dip_weights_digest(m->weights, m->digest));
    if ((parts & networks) != networks)
        dip_weights_keep_used(m->weights);
    return DIP_OK;
}

enum dip_status dip_model_open(const char *directory, struct dip_why *why,
                               struct dip_model **ret_model)
{
    return dip_model_open_parts(directory, DIP_MODEL_ALL, why, ret_model);
}

enum dip_status dip_model_open_parts(const char *directory, uint32_t parts, struct dip_why *why,
                                     struct dip_model **ret_model)
{
    struct dip_model *model = calloc(1, sizeof *model);
    if (!model)
        return dip_fail(why, DIP_NO_MEMORY, "%s: no memory to open it", directory);
    enum dip_status status = open_parts(model, directory, parts, why);
    if (status) {
        dip_model_close(model);
        return dip_fail(why, status, "%s: %s", directory, dip_status_text(status));
    }
    *ret_model = model;
    return DIP_OK;
}

static enum dip_status make_random(struct dip_model *m, const char *shape, uint64_t seed,
                                   struct dip_why *why)
{
    DIP_TRY(dip_config_shape(shape, why, &m->config));
    DIP_TRY(dip_weights_random(seed, &m->weights));
    DIP_TRY(bind_networks(m, DIP_MODEL_ALL, why));
    return dip_weights_digest(m->weights, m->digest);
}

enum dip_status dip_model_random(const char *shape, uint64_t seed, struct dip_why *why,
                                 struct dip_model **ret_model)
{
    struct dip_model *model = calloc(1, sizeof *model);
    if (!model)
        return dip_fail(why, DIP_NO_MEMORY, "no memory for a model of shape %s", shape);
    enum dip_status status = make_random(model, shape, seed, why);
    if (status) {
        dip_model_close(model);
        return dip_fail(why, status, "shape %s: %s", shape, dip_status_text(status));
    }
    *ret_model = model;
    return DIP_OK;
}

void dip_model_close(struct dip_model *model)
{
    if (!model)
        return;
    dip_vae_free(model->vae);
    dip_dit_free(model->dit);
    dip_connector_free(model->connector);
    dip_ar_free(model->ar);
    dip_tokenizer_close(model->tokenizer);
    dip_weights_close(model->weights);
    free(model);
}

/* ---- constants of load time ---- */

/* One zero row and what the connector makes of it; the memory is zeroed when reserved. */
struct null_row {
    struct dip_tensor hidden, context;
};

static struct null_row carve_null(const struct dip_model *m, struct dip_arena *memory)
{
    struct null_row t;
    t.hidden = dip__scratch_rows(memory, 1, m->config.ar.hidden);
    t.context = dip__scratch_rows(memory, 1, m->config.dit.caption_channels);
    return t;
}

static enum dip_status prepare_dit(const struct dip_model *m, struct dip_stream *s,
                                   struct dip_why *why, struct dip_arena *memory)
{
    struct null_row t = carve_null(m, memory);
    if (m->connector)
        DIP_TRY(dip_connector_forward(m->connector, s, t.context, t.hidden, memory));
    return dip_dit_prepare(m->dit, s, t.context, why);
}

enum dip_status dip_model_prepare(struct dip_model *model, struct dip_stream *s,
                                  struct dip_why *why)
{
    if (model->connector)
        DIP_TRY(dip_connector_place(model->connector, s, why));
    if (model->vae)
        DIP_TRY(dip_vae_place(model->vae, s, why));
    if (!model->dit)
        return DIP_OK;
    DIP_TRY(dip_dit_place(model->dit, s, why));
    struct dip_arena meter = dip__scratch_meter();
    carve_null(model, &meter);
    size_t bytes = meter.peak_bytes;
    if (model->connector)
        bytes += dip_connector_scratch_bytes(model->connector, 1);

    struct dip_device *device = dip_stream_device(s);
    struct dip_mem mem = {0};
    enum dip_status status = dip_reserve(device, bytes, &mem);
    if (status)
        return dip_fail(why, status, "no memory for %zu bytes of load-time scratch", bytes);
    struct dip_arena memory;
    dip_arena_init(&memory, mem.base, mem.bytes);
    status = prepare_dit(model, s, why, &memory);
    dip_release(device, &mem);
    return status;
}

/* ---- preview ---- */

static unsigned char to_u8(float unit)
{
    if (!(unit > 0.0f)) /* also NaN */
        return 0;
    return (unsigned char)rintf((unit < 1.0f ? unit : 1.0f) * 255.0f);
}

enum dip_status dip_model_preview(const struct dip_model *model, const float *latent,
                                  int64_t height, int64_t width, unsigned char *ret_rgb)
{
    const struct dip_generation_config *g = &model->config.generation;
    int channels = model->config.dit.latent_channels;
    if (!g->has_preview)
        return DIP_UNSUPPORTED;
    for (int64_t p = 0; p < height * width; p++) {
        for (int color = 0; color < 3; color++) {
            float sum = g->preview_bias[color];
            for (int c = 0; c < channels; c++)
                sum += latent[p * channels + c] * g->preview_rgb[c][color];
            ret_rgb[p * 3 + color] = to_u8(sum);
        }
    }
    return DIP_OK;
}
