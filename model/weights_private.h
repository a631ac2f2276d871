/* model/weights_private.h - the table of tensors, shared by opening, binding and random weights. */
#pragma once

#include "base/json.h"
#include "model/safetensors.h"
#include "model/weights.h"

enum { DIP__SHARD_NAME_BYTES = 256, DIP__RANDOM_TENSORS_MAX = 8192 };

struct dip__shard {
    char name[DIP__SHARD_NAME_BYTES]; /* relative to the directory */
    struct dip_safetensors *file;
};

struct dip_weights {
    char label[256];             /* the directory, for messages; cut when long */
    struct dip_weight *table;    /* in file order */
    struct dip_weight **by_name; /* the same, sorted */
    bool *is_used;               /* by position in `table` */
    size_t count;
    size_t bytes;
    bool is_random;
    uint64_t seed;  /* of random weights */
    float *normals; /* random weights are cut from one block of these */
    size_t shard_count;
    struct dip__shard shards[DIP_SHARDS_MAX];
};

/* NULL when absent. */
struct dip_weight *dip__weights_lookup(const struct dip_weights *weights, const char *name);

/* The index of a sharded checkpoint: checks that every shard name is a plain file name. On success
 * the caller closes *ret_json; *ret_map is the view of its weight_map. */
DIP_MUST_USE enum dip_status dip__weights_index_parse(const char *text, size_t bytes,
                                                      const char *name, struct dip_why *why,
                                                      struct dip_json *ret_json,
                                                      struct dip_json *ret_map);

/* Makes the tensor of random weights; the caller has looked that it does not exist yet. */
DIP_MUST_USE enum dip_status dip__weights_random_make(struct dip_weights *weights, const char *name,
                                                      int rank, const int64_t *dims,
                                                      struct dip_why *why);
void dip__weights_random_free(struct dip_weights *weights);
