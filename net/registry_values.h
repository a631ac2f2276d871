/* net/registry_values.h - what stands under the registry's keys, as JSON: written, and read with
 * distrust.
 *
 * The keys and the forms are those of cluster/membership.h. Anybody with access to etcd may have
 * put anything there: a text of the wrong type, length or alphabet is refused, a newer version's
 * unknown fields are skipped. Pure functions. */
#pragma once

#include <stdint.h>

#include "base/status.h"
#include "cluster/cluster.h"

enum {
    DIP_REGISTRY_ADDRESS_BYTES = 256, /* "host:port" */
    DIP_REGISTRY_TEXT_BYTES = 128,
    DIP_REGISTRY_RANKS_MAX = 16,
};

/* Bits; those of workers are enum dip_role's. */
enum { DIP_ROLE_COORDINATOR = 4, DIP_ROLE_EVERY = DIP_ROLE_AR | DIP_ROLE_DIFFUSION | 4 };

struct dip_registry_member {
    char id[DIP_MEMBER_ID_BYTES]; /* of the key, not in the value */
    char address[DIP_REGISTRY_ADDRESS_BYTES];
    uint32_t roles;
    char device[DIP_REGISTRY_TEXT_BYTES];
    char model[DIP_REGISTRY_TEXT_BYTES];
    int ar_slots, diffusion_slots;
};

struct dip_registry_leader {
    char id[DIP_MEMBER_ID_BYTES];
    char address[DIP_REGISTRY_ADDRESS_BYTES];
};

struct dip_registry_group {
    char id[DIP_MEMBER_ID_BYTES]; /* of the key */
    uint64_t epoch;
    char ranks[DIP_REGISTRY_RANKS_MAX][DIP_MEMBER_ID_BYTES]; /* [rank_count] */
    int rank_count;
};

struct dip_registry_drain {
    int64_t since_s; /* since 1970 */
    char by[DIP_REGISTRY_TEXT_BYTES];
    char why[DIP_REGISTRY_TEXT_BYTES];
};

/* JSON on one line. Errors: INVALID (what decode would refuse), LIMIT, NO_MEMORY. */
DIP_MUST_USE enum dip_status dip_registry_encode_member(const struct dip_registry_member *member,
                                                        char ret_value[DIP_MEMBER_VALUE_BYTES]);
DIP_MUST_USE enum dip_status dip_registry_encode_leader(const struct dip_registry_leader *leader,
                                                        char ret_value[DIP_MEMBER_VALUE_BYTES]);
DIP_MUST_USE enum dip_status dip_registry_encode_group(const struct dip_registry_group *group,
                                                       char ret_value[DIP_MEMBER_VALUE_BYTES]);
DIP_MUST_USE enum dip_status dip_registry_encode_drain(const struct dip_registry_drain *drain,
                                                       char ret_value[DIP_MEMBER_VALUE_BYTES]);

/* `id` is the key's last part. Errors: CORRUPT, INVALID, LIMIT with a sentence; NO_MEMORY. */
DIP_MUST_USE enum dip_status dip_registry_decode_member(const char *id, const char *value,
                                                        struct dip_why *why,
                                                        struct dip_registry_member *ret_member);
DIP_MUST_USE enum dip_status dip_registry_decode_leader(const char *value, struct dip_why *why,
                                                        struct dip_registry_leader *ret_leader);
DIP_MUST_USE enum dip_status dip_registry_decode_group(const char *id, const char *value,
                                                       struct dip_why *why,
                                                       struct dip_registry_group *ret_group);
DIP_MUST_USE enum dip_status dip_registry_decode_drain(const char *value, struct dip_why *why,
                                                       struct dip_registry_drain *ret_drain);
