/* model/connector.c - the hinge: two products with a GELU between them, then a norm. */
#include "model/connector.h"

#include <stdlib.h>

#include "base/assert.h"
#include "model/place.h"
#include "model/scratch.h"

static const float CONNECTOR_EPS = 1e-5f;

struct dip_connector {
    int64_t hidden, width;           /* H, C */
    struct dip_tensor in, in_bias;   /* [C, H], [C] */
    struct dip_tensor out, out_bias; /* [C, C], [C] */
    struct dip_tensor norm;          /* [C] */
    enum dip_dtype activation;       /* F32 until placed */
    struct dip__placed placed;
};

static enum dip_status bind_all(struct dip_connector *c, struct dip_weights *w, struct dip_why *why)
{
    DIP_TRY(dip_weights_bind_2d(w, why, &c->in, c->width, c->hidden,
                                "model.diffusion_connector.0.weight"));
    DIP_TRY(dip_weights_bind_1d(w, why, &c->in_bias, c->width, "model.diffusion_connector.0.bias"));
    DIP_TRY(dip_weights_bind_2d(w, why, &c->out, c->width, c->width,
                                "model.diffusion_connector.2.weight"));
    DIP_TRY(
        dip_weights_bind_1d(w, why, &c->out_bias, c->width, "model.diffusion_connector.2.bias"));
    return dip_weights_bind_1d(w, why, &c->norm, c->width, "model.diffusion_connector.3.weight");
}

enum dip_status dip_connector_new(const struct dip_config *config, struct dip_weights *weights,
                                  struct dip_why *why, struct dip_connector **ret_connector)
{
    enum dip_status status = DIP_NO_MEMORY;
    struct dip_connector *connector = calloc(1, sizeof *connector);
    if (!connector)
        goto out;
    connector->hidden = config->ar.hidden;
    connector->width = config->dit.caption_channels;
    connector->activation = DIP_F32;
    status = bind_all(connector, weights, why);
    if (status)
        goto out;
    *ret_connector = connector;
    connector = NULL;
out:
    dip_connector_free(connector);
    return status;
}

void dip_connector_free(struct dip_connector *connector)
{
    if (!connector)
        return;
    dip__place_release(&connector->placed);
    free(connector);
}

static enum dip_status list_all(void *network, struct dip__placer *p)
{
    struct dip_connector *c = network;
    struct dip_tensor *list[] = {&c->in, &c->in_bias, &c->out, &c->out_bias, &c->norm};
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++)
        DIP_TRY(dip__place_tensor(p, list[i], DIP_WEIGHT_PLAIN));
    return DIP_OK;
}

enum dip_status dip_connector_place(struct dip_connector *connector, struct dip_stream *s,
                                    struct dip_why *why)
{
    DIP_TRY(dip__place_all(s, list_all, connector, "connector", why, &connector->placed));
    connector->activation = dip_device_activation(dip_stream_device(s));
    return DIP_OK;
}

/* Working tensors of one call. */
struct pass {
    struct dip_tensor cast;  /* [R, H] the states in the dtype of activations */
    struct dip_tensor inner; /* [R, C] */
};

static struct pass carve(const struct dip_connector *c, int64_t rows, struct dip_arena *scratch)
{
    struct pass p;
    p.cast = dip__scratch_cast(scratch, c->activation, rows, c->hidden);
    p.inner = dip__scratch_of(scratch, c->activation, rows, c->width);
    return p;
}

size_t dip_connector_scratch_bytes(const struct dip_connector *connector, int64_t row_count)
{
    struct dip_arena meter = dip__scratch_meter();
    carve(connector, row_count, &meter);
    return meter.peak_bytes;
}

enum dip_status dip_connector_forward(const struct dip_connector *connector, struct dip_stream *s,
                                      struct dip_tensor condition, struct dip_tensor hidden,
                                      struct dip_arena *scratch)
{
    const struct dip_connector *c = connector;
    dip_assert(dip_tensor_columns(hidden) == c->hidden);
    size_t mark = dip_arena_mark(scratch);
    struct pass p = carve(c, dip_tensor_rows(hidden), scratch);

    enum dip_status status = dip__cast(s, p.cast, &hidden);
    if (!status)
        status = dip_linear(s, &(struct dip_linear_args){.out = p.inner,
                                                         .in = hidden,
                                                         .weight = c->in,
                                                         .bias = &c->in_bias,
                                                         .act = DIP_ACT_GELU_TANH});
    if (!status)
        status = dip_linear(
            s, &(struct dip_linear_args){
                   .out = condition, .in = p.inner, .weight = c->out, .bias = &c->out_bias});
    if (!status)
        status = dip_norm_rms(
            s, &(struct dip_norm_rms_args){
                   .out = condition, .in = condition, .weight = c->norm, .eps = CONNECTOR_EPS});
    dip_arena_reset(scratch, mark);
    return status;
}
