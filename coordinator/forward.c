/* coordinator/forward.c - calls that a follower passes on to the leader, as bytes.
 *
 * Behind one name for several coordinators a client cannot choose the one that leads. So a follower
 * takes its call, makes the same call to the leader with the client's own credential and remaining
 * time, and passes messages and the end through; whoever leads answers, here as there. A call is
 * passed on once at most: a leader that has just ceased to be one says so. Nothing is kept and
 * nothing is understood: a stream that breaks with the follower is asked for again by its client,
 * as with a leader that breaks.
 *
 *     client ══ in ══► follower ══ out ══► leader
 *
 * Flow control goes through: what the client does not take stops the leader's sending. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "coordinator/front.h"
#include "net/rpc_client.h"

static const char mark[] = "diptych-forwarded";

enum { PENDING_MAX = 4, HEADERS_MAX = 4, HEADER_BYTES_MAX = 8192 };

struct passed {
    struct dip_coordinator_daemon *daemon;
    bool is_image;                 /* a request's stream: a drain waits for its end */
    struct dip_rpc_call *in, *out; /* NULL = over */
    struct {
        void *data;
        size_t bytes;
    } pending[PENDING_MAX]; /* what `in` did not take yet; `out` is paused meanwhile */
    int pending_count;
    bool is_ended; /* by the leader, and the client is told when it has taken what is pending */
    struct dip_rpc_status end;
    char *end_text;
    void *end_details;
};

static void settle(struct passed *p)
{
    if (p->in || p->out)
        return;
    for (int i = 0; i < p->pending_count; i++)
        free(p->pending[i].data);
    free(p->end_text);
    free(p->end_details);
    free(p);
}

static void *copy_of(const void *data, size_t bytes)
{
    void *copy = malloc(bytes > 0 ? bytes : 1);
    if (copy && bytes > 0)
        memcpy(copy, data, bytes);
    return copy;
}

static void give_up(struct passed *p, const char *text)
{
    if (p->in)
        dip_rpc_call_cancel(p->in, DIP_RPC_UNAVAILABLE, text);
    if (p->out)
        dip_rpc_call_cancel(p->out, DIP_RPC_CANCELLED, text);
}

/* ---- from the leader ---- */

static void out_on_message(void *context, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    struct passed *p = context;
    if (!p->in)
        return;
    void *copy = copy_of(data, bytes);
    if (!copy || p->pending_count == PENDING_MAX) {
        free(copy);
        give_up(p, "no memory to pass a message on");
        return;
    }
    enum dip_status status = DIP_BUSY;
    if (p->pending_count == 0)
        status = dip_rpc_call_send(p->in, copy, bytes, 0);
    if (status == DIP_BUSY) {
        p->pending[p->pending_count].data = copy;
        p->pending[p->pending_count++].bytes = bytes;
        dip_rpc_call_pause(call);
    } else if (status) {
        free(copy); /* the client has gone: in_on_close comes */
    }
}

static void out_on_close(void *context, struct dip_rpc_call *call,
                         const struct dip_rpc_status *status)
{
    /* Nobody has cancelled it who would say why: the leader is gone, or another one leads. */
    static const struct dip_rpc_status gone = {.code = DIP_RPC_UNAVAILABLE,
                                               .message = "the coordinator that led is gone"};
    struct passed *p = context;
    (void)call;
    p->out = NULL;
    if (status->code == DIP_RPC_CANCELLED && status->details_bytes == 0)
        status = &gone;
    if (p->in && p->pending_count == 0) {
        dip_rpc_call_finish(p->in, status);
    } else if (p->in) {
        p->is_ended = true;
        p->end = *status;
        p->end_text = status->message ? strdup(status->message) : NULL;
        p->end_details = copy_of(status->details, status->details ? status->details_bytes : 0);
        p->end.message = p->end_text;
        p->end.details = status->details ? p->end_details : NULL;
    }
    settle(p);
}

/* ---- from the client ---- */

static void in_on_message(void *context, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    struct passed *p = context;
    (void)call;
    if (!p->out)
        return;
    void *copy = copy_of(data, bytes);
    if (!copy || dip_rpc_call_send(p->out, copy, bytes, 0)) {
        free(copy);
        give_up(p, "the request could not be passed on");
        return;
    }
    dip_rpc_call_half_close(p->out); /* all that is passed on has one request */
}

static void in_on_writable(void *context, struct dip_rpc_call *call)
{
    struct passed *p = context;
    int sent = 0;
    if (p->pending_count == 0)
        return;
    while (sent < p->pending_count &&
           dip_rpc_call_send(call, p->pending[sent].data, p->pending[sent].bytes, 0) == DIP_OK)
        sent++;
    p->pending_count -= sent;
    memmove(p->pending, p->pending + sent, (size_t)p->pending_count * sizeof p->pending[0]);
    if (p->pending_count > 0)
        return;
    if (p->out)
        dip_rpc_call_resume(p->out);
    else if (p->is_ended)
        dip_rpc_call_finish(call, &p->end);
}

static void in_on_close(void *context, struct dip_rpc_call *call,
                        const struct dip_rpc_status *status)
{
    struct passed *p = context;
    (void)call;
    (void)status;
    p->in = NULL;
    p->daemon->forward_count -= p->is_image;
    dip__front_settle(p->daemon);
    if (p->out) {
        dip_rpc_call_resume(p->out); /* or its end would not be told */
        dip_rpc_call_cancel(p->out, DIP_RPC_CANCELLED, "the client has left");
    }
    settle(p);
}

/* ---- beginning ---- */

/* The channel to whoever leads now; NULL when it cannot be had. */
static struct dip_rpc_channel *channel_of(struct dip_coordinator_daemon *d)
{
    if (d->leader_channel && strcmp(d->leader_target, d->leader) == 0)
        return d->leader_channel;
    dip__forward_close(d);
    snprintf(d->leader_target, sizeof d->leader_target, "%s", d->leader);
    struct dip_rpc_channel_options options = {.loop = d->loop,
                                              .target = d->leader_target,
                                              .tls = d->options.tls,
                                              .tls_name = d->options.tls_name,
                                              .message_bytes_max = (size_t)16 << 20};
    if (dip_rpc_channel_open(&options, NULL, &d->leader_channel))
        d->leader_channel = NULL;
    return d->leader_channel;
}

void dip__forward_close(struct dip_coordinator_daemon *d)
{
    if (d->leader_channel)
        dip_rpc_channel_close(d->leader_channel);
    d->leader_channel = NULL;
}

/* What the leader must know of the client: who it is, and its trace. Values are copied into text.
 */
static int copy_headers(const struct dip_rpc_call *call, char text[HEADER_BYTES_MAX],
                        struct dip_rpc_pair pairs[HEADERS_MAX])
{
    static const char *const keys[] = {"authorization", "traceparent", "tracestate"};
    int count = 0;
    size_t used = 0;
    pairs[count++] = (struct dip_rpc_pair){mark, "1"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        const char *value;
        size_t bytes;
        if (!dip_rpc_call_metadata(call, keys[i], &value, &bytes) ||
            bytes >= HEADER_BYTES_MAX - used)
            continue;
        memcpy(text + used, value, bytes);
        text[used + bytes] = '\0';
        pairs[count++] = (struct dip_rpc_pair){keys[i], text + used};
        used += bytes + 1;
    }
    return count;
}

/* Who leads is known here, too, and is wanted most when the leader does not answer: that question
 * goes on only while the leader is known to be there. */
static bool is_known_here(const struct dip_coordinator_daemon *d, const struct dip_rpc_call *call)
{
    bool is_reachable = d->leader_channel && strcmp(d->leader_target, d->leader) == 0 &&
                        dip_rpc_channel_state(d->leader_channel) == DIP_RPC_CHANNEL_READY;
    return !is_reachable &&
           strcmp(dip_rpc_call_path(call), "/diptych.v1.ClusterService/GetCluster") == 0;
}

static bool is_for_leader(const struct dip_coordinator_daemon *d, const struct dip_rpc_call *call)
{
    const char *value;
    size_t bytes;
    return d->options.is_forwarding && !d->is_leading && d->leader[0] &&
           strcmp(d->leader, d->address) != 0 && !is_known_here(d, call) &&
           !dip_rpc_call_metadata(call, mark, &value, &bytes);
}

bool dip__forward_begin(struct dip_coordinator_daemon *d, struct dip_rpc_call *call)
{
    static const struct dip_rpc_handler in_handler = {
        .on_message = in_on_message, .on_writable = in_on_writable, .on_close = in_on_close};
    static const struct dip_rpc_handler out_handler = {.on_message = out_on_message,
                                                       .on_close = out_on_close};
    char text[HEADER_BYTES_MAX];
    struct dip_rpc_pair pairs[HEADERS_MAX];
    if (!is_for_leader(d, call))
        return false;
    struct dip_rpc_channel *channel = channel_of(d);
    struct passed *p = channel ? calloc(1, sizeof *p) : NULL;
    if (!p)
        return false; /* the client hears who leads */
    int64_t deadline_ns = dip_rpc_call_deadline_ns(call);
    struct dip_rpc_call_options options = {.path = dip_rpc_call_path(call),
                                           .deadline_ns =
                                               deadline_ns == INT64_MAX ? 0 : deadline_ns,
                                           .headers = pairs,
                                           .header_count = copy_headers(call, text, pairs),
                                           .queue_bytes_max = (size_t)16 << 20,
                                           .handler = &out_handler,
                                           .context = p};
    if (dip_rpc_call_open(channel, &options, &p->out)) {
        free(p);
        return false;
    }
    p->in = call;
    p->daemon = d;
    p->is_image = strncmp(options.path, "/diptych.v1.ImageService/", 25) == 0;
    d->forward_count += p->is_image;
    d->stats.forwarded++;
    dip_rpc_call_hand_over(call, &in_handler, p);
    return true;
}
