/* cluster/held.h - the book of what workers hold from a coordinator before: who has what of which
 * request, found by the request's digest.
 *
 *     hello: take ──► for each request: find, offer ──► adopted or not: drop
 *                └──► nobody asks while the worker keeps it, or the worker is lost: gone
 *
 * A pure state machine without allocation but for the tokens. Thread: the coordinator's loop. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "cluster/job.h"

struct dip_held_book;

/* Room for so many entries of all members together; what is beyond is forgotten. */
DIP_MUST_USE enum dip_status dip_held_book_new(int entry_count_max, int member_count_max,
                                               struct dip_held_book **ret_book);
void dip_held_book_free(struct dip_held_book *book);

/* What a member has said in its hello; what it said before is forgotten. */
void dip_held_book_take(struct dip_held_book *book, int64_t now_ns, uint32_t member,
                        const struct dip_message_held *held);
void dip_held_book_lose(struct dip_held_book *book, uint32_t member);

/* An entry as it is offered; ids valid until the entry is dropped. */
struct dip_held_entry {
    struct dip_offer offer; /* but for request_id */
    unsigned char digest[DIP_DIGEST_BYTES];
};

/* The entries of one request in the order of their stages: pictures last, so that a hinge is taken
 * up before what was made of it. How many, at most entry_count_max of them. */
int dip_held_book_find(const struct dip_held_book *book, int64_t now_ns,
                       const unsigned char digest[DIP_DIGEST_BYTES],
                       struct dip_held_entry *ret_entries, int entry_count_max);
/* The same of one member. */
int dip_held_book_of(const struct dip_held_book *book, int64_t now_ns, uint32_t member,
                     struct dip_held_entry *ret_entries, int entry_count_max);

/* It has been adopted, or its worker is told to forget it. False: it was not in the book. */
bool dip_held_book_drop(struct dip_held_book *book, uint32_t member, uint64_t held_epoch,
                        uint64_t held_job_id);

/* What no worker keeps any more. */
void dip_held_book_expire(struct dip_held_book *book, int64_t now_ns);

int dip_held_book_count(const struct dip_held_book *book);
