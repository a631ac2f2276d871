/* engine/preview.c - pictures of a latent: the true decode, the cheap sketch, and traces of it.
 *
 * All three read the latent and write elsewhere, so that showing a job's progress cannot change it.
 * A sketch costs one product per latent cell (model.h: dip_model_preview) and is enlarged on the
 * host to where a person can see it. */
#include <string.h>

#include "base/assert.h"
#include "engine/diffusion_engine.h"
#include "engine/place.h"

enum {
    SKETCH_EDGE_MIN = 128
}; /* pixels on the shorter side, unless the picture itself is smaller */

static int64_t slot_cells(const struct dip__diffusion_slot *slot)
{
    return (int64_t)slot->params.latent_height * slot->params.latent_width;
}

struct dip_tensor dip__diffusion_rows(const struct dip_diffusion_engine *engine,
                                      const struct dip__diffusion_slot *slot, float *data)
{
    return dip_rows(data, DIP_F32, slot_cells(slot), engine->model->config.dit.latent_channels);
}

enum dip_status dip__diffusion_decode(struct dip_diffusion_engine *engine,
                                      struct dip__diffusion_slot *slot, float *latent,
                                      int *ret_width, int *ret_height)
{
    struct dip_stream *s = engine->stream;
    int factor = engine->model->config.vae.factor;
    int height = slot->params.latent_height * factor;
    int width = slot->params.latent_width * factor;
    int64_t pixels = (int64_t)height * width;
    struct dip_tensor cells = dip__diffusion_rows(engine, slot, latent);
    struct dip_tensor latent_image = cells;
    latent_image.rank = 3;
    latent_image.dims[0] = slot->params.latent_height;
    latent_image.dims[1] = slot->params.latent_width;
    latent_image.dims[2] = dip_tensor_columns(cells);

    dip_arena_reset(&engine->work, 0);
    struct dip_tensor image = dip__place_rows(&engine->work, pixels, 3);
    struct dip_tensor rgb =
        dip_rows(dip__place(&engine->work, (size_t)pixels * 3), DIP_U8, pixels, 3);
    DIP_TRY(dip_vae_decode(engine->model->vae, s, image, latent_image, &engine->work));
    DIP_TRY(dip_check_finite(s, image, &slot->is_finite));
    DIP_TRY(dip_rgb8(s, &(struct dip_rgb8_args){.out = rgb, .in = image}));
    DIP_TRY(dip_copy(s, dip_rows(slot->rgb, DIP_U8, pixels, 3), rgb));
    DIP_TRY(dip_wait(s));
    *ret_width = width;
    *ret_height = height;
    return DIP_OK;
}

/* One axis of a bilinear enlargement: output i lies between inputs `low` and `high`, `weight` of
 * 2 * factor parts towards high. */
struct tap {
    int low, high, weight;
};

static struct tap tap_at(int i, int factor, int count)
{
    int parts = 2 * factor;
    int at = 2 * i + 1 - factor + parts; /* + parts: at least 1, so that / rounds down */
    struct tap tap = {.low = at / parts - 1, .weight = at % parts};
    tap.high = tap.low + 1 < count ? tap.low + 1 : count - 1;
    tap.low = tap.low > 0 ? tap.low : 0;
    return tap;
}

static void enlarge(const unsigned char *in, int height, int width, int factor, unsigned char *out)
{
    int parts = 2 * factor;
    for (int y = 0; y < height * factor; y++) {
        struct tap v = tap_at(y, factor, height);
        const unsigned char *above = in + (size_t)v.low * (size_t)width * 3;
        const unsigned char *below = in + (size_t)v.high * (size_t)width * 3;
        for (int x = 0; x < width * factor; x++) {
            struct tap h = tap_at(x, factor, width);
            for (int c = 0; c < 3; c++) {
                int left =
                    above[3 * h.low + c] * (parts - v.weight) + below[3 * h.low + c] * v.weight;
                int right =
                    above[3 * h.high + c] * (parts - v.weight) + below[3 * h.high + c] * v.weight;
                int sum = left * (parts - h.weight) + right * h.weight;
                *out++ = (unsigned char)((sum + parts * parts / 2) / (parts * parts));
            }
        }
    }
}

enum dip_status dip__diffusion_sketch(struct dip_diffusion_engine *engine,
                                      struct dip__diffusion_slot *slot, float *latent,
                                      int *ret_width, int *ret_height)
{
    struct dip_stream *s = engine->stream;
    int height = slot->params.latent_height;
    int width = slot->params.latent_width;
    int edge = height < width ? height : width;
    int factor = (SKETCH_EDGE_MIN + edge - 1) / edge;
    int factor_max = engine->model->config.vae.factor;
    factor = factor < factor_max ? factor : factor_max;

    struct dip_tensor cells = dip__diffusion_rows(engine, slot, latent);
    struct dip_tensor host = dip__diffusion_rows(engine, slot, engine->staging);
    DIP_TRY(dip_copy(s, host, cells));
    DIP_TRY(dip_wait(s));
    DIP_TRY(dip_model_preview(engine->model, engine->staging, height, width, engine->cells));
    enlarge(engine->cells, height, width, factor, slot->rgb);
    *ret_width = width * factor;
    *ret_height = height * factor;
    return DIP_OK;
}

enum dip_status dip__diffusion_planes(struct dip_diffusion_engine *engine,
                                      const struct dip__diffusion_slot *slot, float *data,
                                      float *ret_planes)
{
    struct dip_stream *s = engine->stream;
    int64_t h = slot->params.latent_height;
    int64_t w = slot->params.latent_width;
    int64_t c = engine->model->config.dit.latent_channels;
    dip_arena_reset(&engine->work, 0);
    struct dip_tensor planes =
        dip_image(dip__place(&engine->work, dip__rows_bytes(c, h * w)), DIP_F32, 1, c, h, w);
    DIP_TRY(dip_layout(s, &(struct dip_layout_args){.out = planes,
                                                    .in = dip_image(data, DIP_F32, 1, h, w, c),
                                                    .is_to_nchw = true}));
    DIP_TRY(dip_copy(s, dip_image(ret_planes, DIP_F32, 1, c, h, w), planes));
    return dip_wait(s);
}

enum dip_status dip__diffusion_trace(struct dip_diffusion_engine *engine,
                                     struct dip__diffusion_slot *slot, const char *name,
                                     float *data)
{
    if (!slot->trace)
        return DIP_OK;
    const int64_t dims[] = {engine->model->config.dit.latent_channels, slot->params.latent_height,
                            slot->params.latent_width};
    DIP_TRY(dip__diffusion_planes(engine, slot, data, engine->staging));
    slot->trace(slot->trace_context, slot->id, name, engine->staging, dims, 3);
    return DIP_OK;
}
