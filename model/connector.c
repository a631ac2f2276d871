/* model/connector.c - the hinge: two products with a GELU between them, then a norm. */
#include "model/connector.h"

#include <stdlib.h>

#include "base/assert.h"
#include "model/scratch.h"

static const float CONNECTOR_EPS = 1e-5f;

struct dip_connector {
    int64_t hidden, width;           /* H, C */
    struct dip_tensor in, in_bias;   /* [C, H], [C] */
    struct dip_tensor out, out_bias; /* [C, C], [C] */
    struct dip_tensor norm;          /* [C] */
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
    free(connector);
}

size_t dip_connector_scratch_bytes(const struct dip_connector *connector, int64_t row_count)
{
    struct dip_arena meter = dip__scratch_meter();
    dip__scratch_rows(&meter, row_count, connector->width);
    return meter.peak_bytes;
}

enum dip_status dip_connector_forward(const struct dip_connector *connector, struct dip_stream *s,
                                      struct dip_tensor condition, struct dip_tensor hidden,
                                      struct dip_arena *scratch)
{
    const struct dip_connector *c = connector;
    dip_assert(dip_tensor_columns(hidden) == c->hidden);
    size_t mark = dip_arena_mark(scratch);
    struct dip_tensor inner = dip__scratch_rows(scratch, dip_tensor_rows(hidden), c->width);

    enum dip_status status = dip_linear(s, &(struct dip_linear_args){.out = inner,
                                                                     .in = hidden,
                                                                     .weight = c->in,
                                                                     .bias = &c->in_bias,
                                                                     .act = DIP_ACT_GELU_TANH});
    if (!status)
        status = dip_linear(
            s, &(struct dip_linear_args){
                   .out = condition, .in = inner, .weight = c->out, .bias = &c->out_bias});
    if (!status)
        status = dip_norm_rms(
            s, &(struct dip_norm_rms_args){
                   .out = condition, .in = condition, .weight = c->norm, .eps = CONNECTOR_EPS});
    dip_arena_reset(scratch, mark);
    return status;
}
