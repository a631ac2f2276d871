/* coordinator/state.h - what the loop remembers; private to coordinator/. */
#pragma once

#include <pthread.h>

#include "coordinator/coordinator.h"

/* A client's request from SUBMIT to ENDED. Owner: the submitting thread, then the loop thread. */
struct client {
    uint64_t request_id; /* 0 = free */
    struct dip_resolved resolved;
    dip_update_fn update;
    void *context;
};

/* Commands that a full inbox did not take, oldest first. */
enum { OUTBOX_MAX = 256 };
struct outgoing {
    uint32_t member;
    struct dip_message message;
};

struct dip_coordinator {
    struct dip_coordinator_options options;
    struct dip_endpoint *endpoint;
    pthread_t loop_thread;
    uint64_t request_serial; /* of the submitting thread */

    /* Of the loop thread. */
    bool is_stopping;
    struct dip_scheduler *scheduler;
    struct client *clients; /* [client_count_max]: admitted ones, and one that may be refused */
    int client_count_max;
    char (*fingerprints)[DIP_FINGERPRINT_BYTES]; /* [member_count_max] */
    struct outgoing *outbox;                     /* [OUTBOX_MAX] */
    int outbox_count;
    struct dip_message *troubles; /* [trouble_count_max] to feed next: LOST, FAILED */
    int trouble_count, trouble_count_max;
};

/* ---- send.c ---- */

/* Builds the command of an action and sends it or keeps it for later. */
void dip__coordinator_send(struct dip_coordinator *c, const struct dip_action *action,
                           const struct client *client);

/* Tries again what a full inbox did not take. */
void dip__outbox_flush(struct dip_coordinator *c);

/* Something went wrong with a member or a job: the scheduler hears it after the current message. */
void dip__trouble_note(struct dip_coordinator *c, const struct dip_message *message);

/* ---- texts.c ---- */

/* Prompt and parameters for the file, as key, zero, value, zero, ...; the same for equal requests.
 * Empty when the client wants none. Errors: NO_MEMORY. */
DIP_MUST_USE enum dip_status dip__texts_build(const struct dip_resolved *resolved, int image_index,
                                              struct dip_payload *ret_texts);
