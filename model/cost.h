/* model/cost.h - the least bytes and operations of each stage of a model, counted from its
 * configuration alone: for planning where nobody has the weights.
 *
 * A multiply-add is two operations; weights are two bytes each and read once per call, activations
 * stay in caches. engine/bench_cost.c counts the same of a model at hand. Pure functions. */
#pragma once

#include "model/config.h"

struct dip_cost {
    double bytes, flops;
};

/* One rank of `degree`: `rows` sequences advance by one token over `keys` keys each; with `draws`
 * of them the head is read, too. Prefill of a prompt is rows = its tokens, keys = half of them. */
struct dip_cost dip_cost_ar(const struct dip_ar_config *config, int degree, int rows, int draws,
                            double keys);
/* Bytes of one rank's keys and values for a sequence of `keys`, in two bytes each. */
double dip_cost_kv_bytes(const struct dip_ar_config *config, int degree, double keys);

/* Connector, caption projection and the keys and values of all blocks, once per image of `rows`
 * hidden states. */
struct dip_cost dip_cost_context(const struct dip_config *config, int rows);
/* One guided step at the model's latent size: what both branches share is done once. */
struct dip_cost dip_cost_dit_step(const struct dip_config *config, int context_rows);
struct dip_cost dip_cost_vae(const struct dip_config *config);

/* Weights that a worker holds: a rank of the AR panel, the diffusion panel. */
double dip_cost_ar_weight_bytes(const struct dip_ar_config *config, int degree);
double dip_cost_diffusion_weight_bytes(const struct dip_config *config);
