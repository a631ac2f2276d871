/* cli/shard.h - what a tensor costs a rank of the AR panel at a tensor-parallel degree.
 *
 * Megatron's split: q, k, v, gate and up by rows, o and down by columns, the embedding table and
 * the head by vocabulary; norms on every rank (Shoeybi et al. 2019, 1909.08053). */
#pragma once

#include <stdint.h>

#include "model/model.h"

enum component {
    COMPONENT_AR,
    COMPONENT_CONNECTOR,
    COMPONENT_DIFFUSION,
    COMPONENT_DECODER,
    COMPONENT_ENCODER,
    COMPONENT_VISION,
    COMPONENT_OTHER,
    COMPONENT_COUNT
};

/* "ar", "connector", ... */
const char *dip__component_name(enum component component);

/* By the namespaces of a published checkpoint. */
enum component dip__component_of(const char *tensor_name);

/* NULL when a group of `degree` ranks can run this model with the bits of one rank, else why not.
 */
const char *dip__degree_refusal(const struct dip_ar_config *config, int degree);

/* Bytes of the tensor on the fullest rank; 0 when an AR rank does not hold it. */
uint64_t dip__rank_bytes(const struct dip_weight *weight, int degree);
