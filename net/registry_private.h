/* net/registry_private.h - between the two sides of a registry: the loop's (registry.c) and the
 * thread that asks the store (registry_thread.c).
 *
 *     loop ── wishes: a bounded mailbox ──► thread
 *     loop ◄── news: one at a time, is_posted says whose they are ── thread */
#pragma once

#include <pthread.h>

#include "base/counter.h"
#include "base/flag.h"
#include "base/mailbox.h"
#include "net/kv.h"
#include "net/registry.h"

enum {
    REGISTRY_WISHES_MAX = 64,
    REGISTRY_WRITTEN_MAX = 64,
    REGISTRY_FAILED_MAX = 128,
    REGISTRY_SENT_MAX = 128, /* ids go round; a power of two */
};

enum registry_wish_kind {
    WISH_FEED,  /* an event for the membership */
    WISH_LOOK,  /* the news were taken: there may be more */
    WISH_LEAVE, /* until_ns */
    WISH_QUIT,
};

struct registry_wish {
    enum registry_wish_kind kind;
    enum dip_membership_event_kind event;
    char id[DIP_MEMBER_ID_BYTES];
    char *value; /* malloc, moves with the wish; NULL = none */
    int64_t until_ns;
};

struct registry_written {
    char id[DIP_MEMBER_ID_BYTES];
    enum dip_status status;
};

struct registry_members {
    int count;
    struct dip_registry_entry entries[]; /* [count] */
};

struct registry_news {
    struct dip_registry_facts facts;
    struct registry_members *members; /* NULL = as before */
    struct registry_written written[REGISTRY_WRITTEN_MAX];
    int written_count;
    bool has_left;
};

struct dip_registry {
    /* set by open, read by both */
    struct dip_rpc_loop *loop;
    const struct dip_registry_handler *handler;
    void *context;
    char id[DIP_MEMBER_ID_BYTES];
    pthread_t thread;
    bool is_local;
    struct dip_mailbox *wishes;
    struct dip_flag is_posted; /* up: `posted` belongs to the loop */
    struct registry_news posted;

    struct dip_times times[DIP_KV_KIND_COUNT]; /* the thread's; any thread reads */

    /* the loop's */
    struct dip_registry_facts facts;
    struct registry_members *members;
    bool is_leaving, is_started;
    uint64_t told_epoch;

    /* the thread's */
    struct dip_kv *kv;
    struct dip_kv_store *store; /* local only */
    struct dip_membership *membership;
    struct registry_news next; /* collected for the next post */
    struct dip_registry_facts last;
    bool is_news, is_members_news;
    uint64_t failed_ids[REGISTRY_FAILED_MAX]; /* sends that the store's handle did not take */
    int failed_count;
    struct {
        uint64_t id; /* 0 = none */
        int64_t at_ns;
    } sent[REGISTRY_SENT_MAX]; /* by id, until it is answered or its place is taken */
    bool is_quitting, is_left;
    int64_t leave_until_ns;
    uint64_t revoke_ids[2]; /* that leaving waits for; 0 = none */
};

/* The thread's body. */
void *dip__registry_main(void *registry);

/* On the loop: takes `posted`. */
void dip__registry_take(void *registry, void *unused);
