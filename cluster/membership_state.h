/* cluster/membership_state.h - what membership remembers; private to cluster/.
 *
 * membership.c is the frame, membership_lease.c holds keys under leases (the member's, the
 * leader's), membership_view.c keeps the copy of the store's keys. Owner thread: the owner's loop.
 */
#pragma once

#include "cluster/membership.h"

enum {
    MEMBERSHIP_WRITES_MAX = 16,
    MEMBERSHIP_PREFIX_BYTES = 101,
    MEMBERSHIP_ACTIONS_BESIDE = 64, /* an event asks for few things beside news of the view */
    MEMBERSHIP_ACTIONS_PER_KEY = 8, /* news of one key, and what follows from it */
};

enum lease_stage {
    LEASE_NONE,
    LEASE_GRANTED, /* the key is not ours yet, or not any more */
    LEASE_HELD,
};

/* A key that this process wants to hold under a lease of its own. */
struct lease_key {
    bool is_wanted;
    bool is_exclusive; /* the leader's: who finds it taken lets its lease go and waits */
    enum lease_stage stage;
    char key[DIP_KV_KEY_BYTES];
    char value[DIP_MEMBER_VALUE_BYTES];
    uint64_t value_serial, written_serial; /* they differ: the value must be written */
    int ttl_s;

    int64_t lease; /* 0 = none */
    int64_t ttl_ns;
    int64_t renewed_ns;    /* when the last renewal that succeeded was sent */
    int64_t incarnation;   /* of the key when it was last ours */
    int64_t revision;      /* of the key as we know it */
    int64_t swap_revision; /* GRANTED: 0 = create the key; else take over this revision of it */

    uint64_t pending_id; /* 0 = none */
    enum dip_kv_kind pending_kind;
    int64_t pending_ns; /* when it was sent */
    uint64_t pending_serial;
    int64_t next_ns; /* no grant and no write before */
    int64_t beat_ns; /* the next renewal */
    int failures;
    bool is_taken; /* somebody else holds the key */
};

enum view_kind { VIEW_FREE, VIEW_MEMBER, VIEW_DRAIN, VIEW_GROUP, VIEW_LEADER };

struct view_entry {
    enum view_kind kind;
    bool is_dead; /* gone, but an action of this event still points here */
    bool is_seen; /* by the list at hand */
    char id[DIP_MEMBER_ID_BYTES];
    char value[DIP_MEMBER_VALUE_BYTES];
    int64_t create_revision, mod_revision;
};

struct view {
    struct view_entry *entries; /* [entry_count_max] */
    int used;                   /* no entry at or above was ever used */
    int dead_count;
    bool is_listed;
    int64_t revision; /* all changes up to here are in the view */
    uint64_t list_id; /* 0 = no list is on its way */
    int64_t list_sent_ns, list_sent_revision;
    int64_t next_ns; /* of the next list */
    int failures;
    uint64_t watch_id;     /* 0 = none */
    int64_t watch_down_ns; /* since when it is interrupted; 0 = it is not */
    uint64_t lists, left_out;
};

struct write {
    uint64_t id; /* 0 = free */
    bool is_group;
    int64_t sent_ns;
    char key[DIP_KV_KEY_BYTES];
    char value[DIP_MEMBER_VALUE_BYTES];
    char name[DIP_MEMBER_ID_BYTES];
};

struct dip_membership {
    struct dip_membership_options options;
    char prefix[MEMBERSHIP_PREFIX_BYTES];
    char list_key[DIP_KV_KEY_BYTES]; /* prefix and a slash */
    int64_t now_ns;                  /* of the event being fed */
    uint64_t serial, draws;
    struct lease_key member, leader;
    struct view view;
    struct write writes[MEMBERSHIP_WRITES_MAX];
    /* Replies in a row that say that the store is out of reach or refuses us: one that refuses our
     * keys renews leases all the same, so that neither speaks for the other. */
    int lease_failure_run, key_failure_run;
    char why[DIP_KV_TEXT_BYTES];
    int64_t told_incarnation, told_epoch; /* 0 = told that there is none */
    bool told_degraded;
    struct dip_membership_action *actions; /* [action_count_max], those of the last event */
    int action_count, action_count_max, action_index;
};

/* ---- membership.c ---- */

struct dip_membership_action *dip__membership_push(struct dip_membership *m,
                                                   enum dip_membership_action_kind kind);
/* Gives the request an id and asks for it to be sent. */
uint64_t dip__membership_send(struct dip_membership *m, struct dip_kv_request request);
/* Anything from 0 to below ceiling_ns. */
int64_t dip__membership_jitter(struct dip_membership *m, int64_t ceiling_ns);
/* Full jitter under a ceiling that doubles from 0.1 s up to longest_ns. */
int64_t dip__membership_backoff(struct dip_membership *m, int failures, int64_t longest_ns);
/* Counts what a reply says about the store's health. */
void dip__membership_note(struct dip_membership *m, enum dip_kv_kind kind, enum dip_status status,
                          const char *text);

/* ---- membership_lease.c ---- */

/* Asks for what is due. */
void dip__lease_step(struct dip_membership *m, struct lease_key *k);
void dip__lease_reply(struct dip_membership *m, struct lease_key *k,
                      const struct dip_kv_reply *reply);
/* The store has told that the key is now this (NULL: gone) since `revision`. */
void dip__lease_seen(struct dip_membership *m, struct lease_key *k, const struct view_entry *entry,
                     int64_t revision);
/* Lets the key and the lease go. */
void dip__lease_release(struct dip_membership *m, struct lease_key *k);
int64_t dip__lease_wake_ns(const struct dip_membership *m, const struct lease_key *k);
/* When the lease ends, unless it is renewed; 0 = there is none. */
int64_t dip__lease_end_ns(const struct lease_key *k);
/* When leading ends by our own clock, unless it is renewed. */
int64_t dip__lease_fence_ns(const struct dip_membership *m);

/* ---- membership_view.c ---- */

void dip__view_begin(struct dip_membership *m); /* of an event: what was dead is free */
void dip__view_step(struct dip_membership *m);
/* Whether the reply was for the view. */
bool dip__view_reply(struct dip_membership *m, const struct dip_kv_reply *reply);
int64_t dip__view_wake_ns(const struct dip_membership *m);
const struct view_entry *dip__view_find(const struct dip_membership *m, enum view_kind kind,
                                        const char *id);
bool dip__membership_is_id(const char *id);
