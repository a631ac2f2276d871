/* base/mailbox.h - a bounded queue of fixed-size messages between two threads.
 *
 * Ownership of whatever a message points to moves with the push. A full mailbox answers DIP_BUSY
 * and the sender slows down; nobody blocks on a push. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

struct dip_mailbox;

DIP_MUST_USE enum dip_status dip_mailbox_new(size_t message_bytes, size_t message_count_max,
                                             struct dip_mailbox **ret_mailbox);
void dip_mailbox_free(struct dip_mailbox *mailbox);

/* Errors: BUSY when full, CANCELLED after close. */
DIP_MUST_USE enum dip_status dip_mailbox_push(struct dip_mailbox *mailbox, const void *message);

/* Waits up to wait_ns (0 polls, negative waits for ever). Errors: TIMEOUT, CANCELLED once closed
 * and empty. */
DIP_MUST_USE enum dip_status dip_mailbox_pop(struct dip_mailbox *mailbox, int64_t wait_ns,
                                             void *ret_message);

/* No more pushes; waiting poppers wake. What is inside can still be popped. */
void dip_mailbox_close(struct dip_mailbox *mailbox);
