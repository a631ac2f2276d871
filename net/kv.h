/* net/kv.h - a store of keys, asynchronous: requests in, replies out on the owner's thread.
 *
 * Two implementations mean the same (tests/unit/kv_local.c and tests/e2e/etcd.c hold them to the
 * same script): the registry inside the process (below) and etcd (net/etcd.h). There is no hidden
 * thread: everything happens inside dip_kv_poll and dip_kv_next.
 *
 *     for (;;) {
 *         dip_kv_poll(kv, now_ns, wait_ns);          moves bytes, waits at most so long
 *         while (dip_kv_next(kv, now_ns, &reply))    one reply at a time, until there is none
 *             ...                                    may send and cancel in between
 *     }
 *
 * Every request gets its last reply within the implementation's time limit, unless it was
 * cancelled. Thread: one owner per handle; dip_kv_wake from any. */
#pragma once

#include "base/kv.h"

struct dip_kv;

struct dip_kv_ops {
    enum dip_status (*send)(struct dip_kv *kv, int64_t now_ns,
                            const struct dip_kv_request *request);
    void (*cancel)(struct dip_kv *kv, uint64_t id);
    void (*poll)(struct dip_kv *kv, int64_t now_ns, int64_t wait_ns);
    bool (*next)(struct dip_kv *kv, int64_t now_ns, struct dip_kv_reply *ret_reply);
    void (*wake)(struct dip_kv *kv);
    void (*close)(struct dip_kv *kv);
};

struct dip_kv {
    const struct dip_kv_ops *ops;
};

/* Copies what the request points to. Errors: BUSY (too many live requests), LIMIT (key or value
 * too long), NO_MEMORY; then no reply comes. */
DIP_MUST_USE enum dip_status dip_kv_send(struct dip_kv *kv, int64_t now_ns,
                                         const struct dip_kv_request *request);

/* No reply with this id comes any more; what was asked may happen all the same. An unknown id is
 * fine. */
void dip_kv_cancel(struct dip_kv *kv, uint64_t id);

void dip_kv_poll(struct dip_kv *kv, int64_t now_ns, int64_t wait_ns);

/* What the reply points to lives until the next call with this handle. */
bool dip_kv_next(struct dip_kv *kv, int64_t now_ns, struct dip_kv_reply *ret_reply);

/* Ends the wait inside dip_kv_poll. From any thread. */
void dip_kv_wake(struct dip_kv *kv);

void dip_kv_close(struct dip_kv *kv);

/* ---- the registry inside the process ---- */

/* Holds keys, leases and the recent history in memory; time is what the handles' polls bring.
 * Owner thread: one for the store and all its handles. */
struct dip_kv_store;

struct dip_kv_store_options {
    int key_count_max;   /* 0 = 4096 */
    int lease_count_max; /* 0 = 4096 */
    int event_count_max; /* history kept for watches; older is compacted. 0 = 4096 */
};

/* Errors: NO_MEMORY. */
DIP_MUST_USE enum dip_status dip_kv_store_new(const struct dip_kv_store_options *options,
                                              struct dip_kv_store **ret_store);
/* After its handles were closed. */
void dip_kv_store_free(struct dip_kv_store *store);

/* Expires leases. dip_kv_poll of any handle does it too; time never goes back. */
void dip_kv_store_advance(struct dip_kv_store *store, int64_t now_ns);

/* Forgets the history below `revision`. */
void dip_kv_store_compact(struct dip_kv_store *store, int64_t revision);

int64_t dip_kv_store_revision(const struct dip_kv_store *store);

/* A handle; its poll never waits. Errors: NO_MEMORY. */
DIP_MUST_USE enum dip_status dip_kv_store_open(struct dip_kv_store *store, struct dip_kv **ret_kv);
