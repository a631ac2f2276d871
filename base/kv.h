/* base/kv.h - the words spoken with a store of keys that has revisions, leases and watches.
 *
 * Words only: cluster/membership writes requests and reads replies, net/kv.h carries them. The
 * meaning is etcd's: every change of the store raises its revision by one; a key remembers the
 * revision that created it and the one that changed it last; a key may hang on a lease and goes
 * when the lease does; a watch tells every change from a revision on, in order, unless that part
 * of the history was compacted. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum {
    DIP_KV_KEY_BYTES = 256,    /* with the terminating zero */
    DIP_KV_VALUE_BYTES = 8192, /* with a terminating zero that is not part of the value */
    DIP_KV_TEXT_BYTES = 200,
};

enum dip_kv_kind {
    DIP_KV_GRANT,     /* ttl_s: a new lease */
    DIP_KV_KEEPALIVE, /* lease: the full time again. NOT_FOUND: the lease is gone */
    DIP_KV_REVOKE,    /* lease: gone now, with its keys. NOT_FOUND */
    DIP_KV_PUT,       /* key, value, lease (0 = none), condition, guard. NOT_FOUND: no such lease */
    DIP_KV_DELETE,    /* key, condition, guard */
    DIP_KV_RANGE,     /* key: every key that begins with it */
    DIP_KV_WATCH,     /* key: changes of every key that begins with it, from `revision` on */
    DIP_KV_KIND_COUNT
};

enum dip_kv_condition {
    DIP_KV_ALWAYS,
    DIP_KV_IF_ABSENT,
    DIP_KV_IF_REVISION, /* the key's mod_revision is `revision` */
};

struct dip_kv_request {
    uint64_t id; /* chosen by the sender, not 0, unique among its live requests */
    enum dip_kv_kind kind;
    const char *key;
    const char *value; /* [value_bytes] */
    size_t value_bytes;
    int64_t lease;
    int64_t ttl_s;
    enum dip_kv_condition condition;
    int64_t revision;
    /* PUT, DELETE: besides the condition, guard_key must have been created at guard_revision. This
     * is how a leader writes only while it is the leader. NULL = no guard. */
    const char *guard_key;
    int64_t guard_revision;
};

struct dip_kv_entry {
    const char *key;
    const char *value; /* [value_bytes] and a terminating zero; empty when is_deleted */
    size_t value_bytes;
    int64_t create_revision; /* 0 when is_deleted */
    int64_t mod_revision;    /* of the deletion when is_deleted */
    int64_t lease;           /* 0 = none */
    bool is_deleted;         /* WATCH only */
};

/* One answer; a watch gives many, the others one.
 *
 * A watch:    OK, is_resumed = false  it stands, or entries changed
 *             OK, is_resumed          it stands again after an interruption and missed nothing;
 *                                     who wants to be sure lists again
 *             UNREACHABLE, not last   interrupted; it is being taken up elsewhere
 *             STALE, is_last          what came after `revision` was compacted: list again
 *             any other, is_last      ended */
struct dip_kv_reply {
    uint64_t id;
    enum dip_kv_kind kind;
    enum dip_status status; /* UNREACHABLE and TIMEOUT: it may have happened all the same */
    bool is_last;           /* nothing more comes under this id */
    bool is_done;           /* PUT, DELETE: the conditions held */
    bool is_resumed;
    int64_t revision; /* of the store when it answered; of the change itself for a PUT that was
                         done; the first one that is not compacted for a watch that is STALE */
    int64_t lease;
    int64_t ttl_s;
    const struct dip_kv_entry *entries; /* RANGE, WATCH; PUT and DELETE not done: the key now */
    int entry_count;
    char text[DIP_KV_TEXT_BYTES]; /* what went wrong, for a person */
};
