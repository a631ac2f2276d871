/* coordinator/state.h - what the core remembers; private to coordinator/. */
#pragma once

#include "coordinator/core.h"

/* Where an image's jobs are (0 = nowhere), and how far. */
struct place {
    uint32_t ar, diffusion;
    struct dip_checkpoint checkpoint; /* where another diffusion worker would go on */
};

/* A client's request from SUBMIT to ENDED. */
struct client {
    uint64_t request_id; /* 0 = free */
    struct client *next; /* of the same bucket, or free */
    struct client *next_digest;
    struct dip_job_origin origin;
    struct dip_resolved resolved;
    dip_update_fn update;
    void *context;
    struct place *places;    /* [image_count] */
    enum dip_status failure; /* of the coordinator's own part; told when the request ends */
};

/* Commands that a full inbox did not take, oldest first. A member that lets so many wait takes no
 * commands; others are not held up by it. */
enum { CHECKPOINT_BYTES_MAX = 256 << 20 }; /* of all images together; more are not kept */
enum { OUTBOX_MAX = 4096, OUTBOX_OF_MEMBER_MAX = 256, HELD_OF_ALL_MAX = 8192 };
struct outgoing {
    uint32_t member;
    struct dip_message message;
};

struct dip_core {
    struct dip_core_options options;
    struct dip_endpoint *endpoint;
    struct dip_scheduler *scheduler;
    struct client *clients; /* [client_count_max]: admitted ones, and one that may be refused */
    int client_count_max;
    struct client *free_clients;
    struct client **buckets;                     /* [bucket_count], by request id */
    uint64_t bucket_count;                       /* a power of two */
    char (*fingerprints)[DIP_FINGERPRINT_BYTES]; /* [member_count_max] */
    struct outgoing *outbox;                     /* [OUTBOX_MAX] */
    int outbox_count;
    struct {
        int waiting;         /* in the outbox */
        bool is_stuck;       /* during one flush */
    } * members;             /* [member_count_max] */
    size_t checkpoint_bytes; /* that are kept */
    uint32_t *protocols;     /* [member_count_max], as of their hello */
    uint64_t epoch;
    struct dip_held_book *held;
    struct client **digest_buckets; /* [bucket_count] */
    struct dip_held_entry *found;   /* [DIP_HELD_MAX], of the message being fed */
    struct dip_offer *offers;       /* [DIP_HELD_MAX] */
    int found_count, offer_count;
    struct dip_message *troubles; /* [trouble_count_max] to feed next: LOST, FAILED, CANCEL */
    int trouble_count, trouble_count_max;
};

/* ---- send.c ---- */

/* Builds the command of an action and sends it or keeps it for later. */
void dip__core_send(struct dip_core *core, const struct dip_action *action,
                    const struct client *client);

void dip__core_keep(struct dip_core *core, uint32_t member, struct dip_message *message);

/* Tries again what a full inbox did not take. */
void dip__outbox_flush(struct dip_core *core);
/* Forgets what waits for a member that is gone. */
void dip__outbox_drop(struct dip_core *core, uint32_t member);

/* Something went wrong with a member or a job: the scheduler hears it after the current message. */
void dip__trouble_note(struct dip_core *core, const struct dip_message *message);

/* ---- takeover.c ---- */

void dip__digest_enter(struct dip_core *core, struct client *client);
void dip__digest_remove(struct dip_core *core, const struct client *client);
/* What workers hold is offered with the message that the scheduler is about to be fed. */
void dip__offers_make(struct dip_core *core, int64_t now_ns, struct dip_message *message);
/* Its actions have been carried out: what nobody will take is forgotten where it is. */
void dip__offers_settle(struct dip_core *core);

/* ---- checkpoint.c ---- */

/* Takes a CHECKPOINT's payload, when there is room for it. */
void dip__checkpoint_keep(struct dip_core *core, struct client *client, int image_index,
                          struct dip_message *message);
/* A copy for a worker that can go on from it; none without one, or without memory. */
struct dip_checkpoint dip__checkpoint_copy(const struct dip_core *core, const struct client *client,
                                           int image_index, uint32_t member);
void dip__checkpoint_drop(struct dip_core *core, struct client *client, int image_index);

/* ---- tell.c ---- */

/* Passes one piece of news on. `message` is the one that the scheduler was just fed. */
void dip__core_tell(struct dip_core *core, struct client *client, const struct dip_action *action,
                    struct dip_message *message);

/* ---- texts.c ---- */

/* Prompt and parameters for the file, as key, zero, value, zero, ...; the same for equal requests.
 * Empty when the client wants none. Errors: NO_MEMORY. */
DIP_MUST_USE enum dip_status dip__texts_build(const struct dip_resolved *resolved, int image_index,
                                              struct dip_payload *ret_texts);
