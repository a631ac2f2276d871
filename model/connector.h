/* model/connector.h - the hinge's MLP: hidden states of the AR panel to the context of the
 * diffusion panel.
 *
 * Linear, GELU (tanh), Linear, RMSNorm eps 1e-5; row by row. Published as
 * model.diffusion_connector. Letters: R rows, H hidden size, C caption channels. */
#pragma once

#include "base/arena.h"
#include "model/config.h"
#include "model/weights.h"
#include "ops/ops.h"

struct dip_connector;

DIP_MUST_USE enum dip_status dip_connector_new(const struct dip_config *config,
                                               struct dip_weights *weights, struct dip_why *why,
                                               struct dip_connector **ret_connector);
void dip_connector_free(struct dip_connector *connector);

/* As dip_ar_place. */
DIP_MUST_USE enum dip_status dip_connector_place(struct dip_connector *connector,
                                                 struct dip_stream *s, struct dip_why *why);

/* condition [R, C] f32 from hidden [R, H] f32. scratch: dip_connector_scratch_bytes(connector, R).
 * The unconditional context is this function of a zero row (not a zero context). */
size_t dip_connector_scratch_bytes(const struct dip_connector *connector, int64_t row_count);
DIP_MUST_USE enum dip_status dip_connector_forward(const struct dip_connector *connector,
                                                   struct dip_stream *s,
                                                   struct dip_tensor condition,
                                                   struct dip_tensor hidden,
                                                   struct dip_arena *scratch);
