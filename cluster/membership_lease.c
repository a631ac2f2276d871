/* cluster/membership_lease.c - holding a key under a lease: the member's own, and the leader's.
 *
 *     NONE ──GRANT──► GRANTED ──PUT if absent──► HELD ──KEEPALIVE each third of the TTL──► HELD
 *      ▲                 ▲                         │
 *      │                 └── the key is gone ──────┤
 *      └──────────── the lease is gone ────────────┘
 *
 * Only the store's word ends a lease: one that was not renewed in time may well have survived
 * (etcd's next leader grants the full time again), so silence changes nothing but what we dare to
 * do under it. The time of a lease counts from the moment its renewal was sent. */
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "cluster/membership_state.h"

#define SOON_NS            (DIP_SECOND_NS / 10)
#define BACKOFF_NS_LONGEST (30 * DIP_SECOND_NS)

static void send(struct dip_membership *m, struct lease_key *k, struct dip_kv_request request)
{
    dip_assert(k->pending_id == 0);
    k->pending_id = dip__membership_send(m, request);
    k->pending_kind = request.kind;
    k->pending_ns = m->now_ns;
    k->pending_serial = k->value_serial;
}

static void send_put(struct dip_membership *m, struct lease_key *k)
{
    int64_t revision = k->stage == LEASE_HELD ? k->revision : k->swap_revision;
    send(m, k,
         (struct dip_kv_request){
             .kind = DIP_KV_PUT,
             .key = k->key,
             .value = k->value,
             .value_bytes = strlen(k->value),
             .lease = k->lease,
             .condition = revision > 0 ? DIP_KV_IF_REVISION : DIP_KV_IF_ABSENT,
             .revision = revision,
         });
}

static bool has_to_write(const struct lease_key *k)
{
    return k->stage == LEASE_GRANTED || k->value_serial != k->written_serial;
}

/* ---- what goes wrong ---- */

/* The store did not do it, or did not say so. The lease may live on: renewals are tried often
 * enough to save it. */
static void failed(struct dip_membership *m, struct lease_key *k, enum dip_kv_kind kind)
{
    k->failures++;
    if (kind == DIP_KV_KEEPALIVE)
        k->beat_ns = m->now_ns + dip__membership_backoff(m, k->failures, k->ttl_ns / 6);
    else
        k->next_ns = m->now_ns + dip__membership_backoff(m, k->failures, BACKOFF_NS_LONGEST);
}

/* The store says that the lease is gone, and the key with it: begin anew, not all at once. */
static void lost(struct dip_membership *m, struct lease_key *k)
{
    k->lease = 0;
    k->stage = LEASE_NONE;
    k->swap_revision = 0;
    k->next_ns = m->now_ns + dip__membership_jitter(m, k->is_exclusive ? SOON_NS : DIP_SECOND_NS);
}

/* Somebody else holds the key. A member waits for that lease to end; a candidate stands back and
 * looks again after a while even when the view does not tell of a change. */
static void taken(struct dip_membership *m, struct lease_key *k)
{
    k->is_taken = true;
    k->stage = k->lease ? LEASE_GRANTED : LEASE_NONE;
    k->swap_revision = 0;
    if (!k->is_exclusive) {
        k->failures++;
        k->next_ns = m->now_ns + dip__membership_backoff(m, k->failures, k->ttl_ns / 3);
        return;
    }
    int64_t ttl_ns = k->ttl_s * DIP_SECOND_NS;
    dip__lease_release(m, k);
    k->next_ns = m->now_ns + ttl_ns / 2 + dip__membership_jitter(m, ttl_ns / 2);
}

/* ---- replies ---- */

static void on_granted(struct dip_membership *m, struct lease_key *k,
                       const struct dip_kv_reply *reply, int64_t sent_ns)
{
    if (reply->status || reply->lease == 0 || reply->ttl_s <= 0) {
        failed(m, k, DIP_KV_GRANT);
        return;
    }
    k->lease = reply->lease;
    k->ttl_ns = reply->ttl_s * DIP_SECOND_NS;
    k->renewed_ns = sent_ns;
    k->beat_ns = sent_ns + k->ttl_ns / 3;
    k->next_ns = m->now_ns;
    k->stage = LEASE_GRANTED;
    k->swap_revision = 0;
}

static void on_renewed(struct dip_membership *m, struct lease_key *k,
                       const struct dip_kv_reply *reply, int64_t sent_ns)
{
    if (reply->status == DIP_NOT_FOUND) {
        lost(m, k);
    } else if (reply->status) {
        failed(m, k, DIP_KV_KEEPALIVE);
    } else {
        k->failures = 0;
        k->renewed_ns = sent_ns;
        k->beat_ns = sent_ns + k->ttl_ns / 3;
    }
}

static void hold(struct lease_key *k, int64_t create_revision, int64_t mod_revision)
{
    k->stage = LEASE_HELD;
    k->is_taken = false;
    k->failures = 0;
    k->incarnation = create_revision;
    k->revision = mod_revision;
}

/* The condition did not hold: what is there instead? */
static void on_refused(struct dip_membership *m, struct lease_key *k,
                       const struct dip_kv_entry *entry)
{
    if (!entry) { /* it was removed: create it */
        k->stage = LEASE_GRANTED;
        k->swap_revision = 0;
        k->next_ns = m->now_ns;
    } else if (entry->lease == k->lease) { /* we wrote it, and the reply was lost */
        hold(k, entry->create_revision, entry->mod_revision);
        k->written_serial = k->value_serial - 1;           /* what we wrote then may be old */
    } else if (entry->create_revision == k->incarnation) { /* ours, under another lease */
        k->stage = LEASE_GRANTED;
        k->swap_revision = entry->mod_revision;
        k->failures++;
        k->next_ns = m->now_ns + dip__membership_backoff(m, k->failures, BACKOFF_NS_LONGEST);
    } else {
        taken(m, k);
    }
}

static void on_written(struct dip_membership *m, struct lease_key *k,
                       const struct dip_kv_reply *reply)
{
    if (reply->status == DIP_NOT_FOUND) {
        lost(m, k);
    } else if (reply->status) {
        failed(m, k, DIP_KV_PUT);
    } else if (!reply->is_done) {
        on_refused(m, k, reply->entry_count > 0 ? &reply->entries[0] : NULL);
    } else {
        bool is_new = k->stage != LEASE_HELD && k->swap_revision == 0;
        hold(k, is_new ? reply->revision : k->incarnation, reply->revision);
        k->written_serial = k->pending_serial;
        k->next_ns = m->now_ns;
    }
}

void dip__lease_reply(struct dip_membership *m, struct lease_key *k,
                      const struct dip_kv_reply *reply)
{
    int64_t sent_ns = k->pending_ns;
    dip_assert(reply->id == k->pending_id);
    k->pending_id = 0;
    if (k->pending_kind == DIP_KV_GRANT)
        on_granted(m, k, reply, sent_ns);
    else if (k->pending_kind == DIP_KV_KEEPALIVE)
        on_renewed(m, k, reply, sent_ns);
    else
        on_written(m, k, reply);
}

/* ---- the view's word ---- */

void dip__lease_seen(struct dip_membership *m, struct lease_key *k, const struct view_entry *entry,
                     int64_t revision)
{
    bool is_ours = entry && entry->create_revision == k->incarnation;
    if (k->stage == LEASE_HELD && revision > k->revision && !is_ours) {
        if (entry) {
            taken(m, k);
        } else { /* somebody removed it, and the lease lives */
            k->stage = LEASE_GRANTED;
            k->swap_revision = 0;
            k->pending_id = 0; /* a reply on its way speaks of the key that is gone */
            k->next_ns = m->now_ns + dip__membership_jitter(m, SOON_NS);
        }
    } else if (k->stage == LEASE_HELD && is_ours && entry->mod_revision > k->revision) {
        k->revision = entry->mod_revision;
    } else if (k->is_exclusive && k->lease == 0 && k->pending_id == 0) {
        /* A vacancy is taken soon, an incumbent is given time. */
        int64_t wait_ns = k->ttl_s * DIP_SECOND_NS;
        k->next_ns = m->now_ns + (entry ? wait_ns + dip__membership_jitter(m, wait_ns)
                                        : dip__membership_jitter(m, SOON_NS));
    }
}

/* ---- time ---- */

void dip__lease_step(struct dip_membership *m, struct lease_key *k)
{
    if (k->pending_id != 0 && m->now_ns >= k->pending_ns + m->options.reply_ns) {
        k->pending_id = 0; /* its reply is unknown from here on */
        failed(m, k, k->pending_kind);
        dip__membership_note(m, k->pending_kind, DIP_TIMEOUT, "the store did not answer");
    }
    if (k->pending_id != 0 || !k->is_wanted)
        return;
    if (k->lease == 0) {
        if (m->now_ns >= k->next_ns)
            send(m, k, (struct dip_kv_request){.kind = DIP_KV_GRANT, .ttl_s = k->ttl_s});
    } else if (m->now_ns >= k->beat_ns) {
        send(m, k, (struct dip_kv_request){.kind = DIP_KV_KEEPALIVE, .lease = k->lease});
    } else if (m->now_ns >= k->next_ns && has_to_write(k)) {
        send_put(m, k);
    }
}

void dip__lease_release(struct dip_membership *m, struct lease_key *k)
{
    /* Nobody waits for the answer: at worst the lease ends by itself. */
    if (k->lease != 0)
        dip__membership_send(m, (struct dip_kv_request){.kind = DIP_KV_REVOKE, .lease = k->lease});
    k->lease = 0;
    k->stage = LEASE_NONE;
    k->swap_revision = 0;
    k->pending_id = 0;
    k->failures = 0;
}

int64_t dip__lease_wake_ns(const struct dip_membership *m, const struct lease_key *k)
{
    if (k->pending_id != 0)
        return k->pending_ns + m->options.reply_ns;
    if (!k->is_wanted)
        return INT64_MAX;
    if (k->lease == 0)
        return k->next_ns;
    return has_to_write(k) && k->next_ns < k->beat_ns ? k->next_ns : k->beat_ns;
}

int64_t dip__lease_end_ns(const struct lease_key *k)
{
    return k->lease != 0 ? k->renewed_ns + k->ttl_ns : 0;
}

int64_t dip__lease_fence_ns(const struct dip_membership *m)
{
    return m->leader.stage == LEASE_HELD
               ? m->leader.renewed_ns + m->leader.ttl_ns - m->options.margin_ns
               : INT64_MIN;
}
