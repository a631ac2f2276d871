/* net/spoke_send.c - hinges to other workers: in chunks, again where they broke off, until somebody
 * says that nobody wants them.
 *
 *     HINGE ─► SENDING ──► acknowledged: forgotten here (the worker keeps its copy until RELEASE)
 *                │  ▲
 *      lost,busy ▼  │ what is held there
 *             WAITING ─► ASKING (GetOffset) ... until hinge_timeout_ns: FAILED UNREACHABLE
 *
 * A hinge is dropped in silence when its AR job is released or handed over to somebody else, and
 * when the receiver says that the job is none of its own any more. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/sha256.h"
#include "net/spoke_private.h"

enum { CHUNK_BYTES = 256 << 10 };
#define PAUSE_NS_MIN (INT64_C(20) * DIP_MS_NS)
#define PAUSE_NS_MAX DIP_SECOND_NS
#define PEER_IDLE_NS (60 * DIP_SECOND_NS)

static void put_begin(struct put *put);

/* ---- whom to send to ---- */

uint32_t dip__spoke_hand_over(struct dip_spoke *spoke, const struct dip_message *message,
                              const char *target)
{
    dip__spoke_put_drop(spoke, message->job_id); /* the receiver before this one is gone */
    if (spoke->address_last < ADDRESS_FIRST || spoke->address_last == UINT32_MAX)
        spoke->address_last = ADDRESS_FIRST - 1;
    uint32_t address = ++spoke->address_last;
    struct hand_over *entry = &spoke->hand_overs[address % HAND_OVERS_MAX];
    *entry = (struct hand_over){.address = address,
                                .ar_job_id = message->job_id,
                                .to_job_id = message->as.hand_over.to_job_id};
    size_t bytes = strlen(target) + 1;
    dip_assert(bytes <= sizeof entry->target); /* as long as in the envelope that it comes from */
    memcpy(entry->target, target, bytes);
    return address;
}

/* A place for one more, from those that are not in use; NULL when all are. */
static struct peer *peer_take(struct dip_spoke *spoke)
{
    struct peer *oldest = NULL;
    for (int i = 0; i < PEERS_MAX; i++) {
        struct peer *peer = &spoke->peers[i];
        if (!peer->target[0])
            return peer;
        if (peer->put_count == 0 && (!oldest || peer->used_ns < oldest->used_ns))
            oldest = peer;
    }
    if (oldest) {
        dip_rpc_channel_close(oldest->channel);
        *oldest = (struct peer){0};
    }
    return oldest;
}

static struct peer *peer_open(struct dip_spoke *spoke, const char *target)
{
    for (int i = 0; i < PEERS_MAX; i++)
        if (strcmp(spoke->peers[i].target, target) == 0)
            return &spoke->peers[i];
    struct peer *peer = peer_take(spoke);
    struct dip_rpc_channel_options options = {.loop = spoke->options.loop,
                                              .target = target,
                                              .tls = spoke->options.tls,
                                              .tls_name = spoke->options.tls_name,
                                              .keepalive_timeout_ns = 5 * DIP_SECOND_NS,
                                              .backoff_ns_min = PAUSE_NS_MIN,
                                              .backoff_ns_max = PAUSE_NS_MAX};
    if (!peer || dip_rpc_channel_open(&options, NULL, &peer->channel))
        return NULL;
    memcpy(peer->target, target, strlen(target) + 1);
    return peer;
}

void dip__spoke_peers_tick(struct dip_spoke *spoke, int64_t now_ns)
{
    for (int i = 0; i < PEERS_MAX; i++) {
        struct peer *peer = &spoke->peers[i];
        if (!peer->target[0] || peer->put_count > 0 || now_ns - peer->used_ns < PEER_IDLE_NS)
            continue;
        dip_rpc_channel_close(peer->channel);
        *peer = (struct peer){0};
    }
}

void dip__spoke_peers_close(struct dip_spoke *spoke)
{
    for (int i = 0; i < PEERS_MAX; i++)
        if (spoke->peers[i].target[0])
            dip_rpc_channel_close(spoke->peers[i].channel);
    memset(spoke->peers, 0, sizeof spoke->peers);
}

/* ---- one hinge ---- */

static void put_free(struct put *put)
{
    dip_assert(!put->call);
    dip_rpc_timer_clear(put->spoke->options.loop, &put->timer);
    free(put->hidden.data);
    put->peer->put_count--;
    put->peer->used_ns = dip_clock_now_ns();
    *put = (struct put){0};
}

static void put_fail(struct put *put, enum dip_status status, const char *text)
{
    dip__spoke_log(put->spoke, "a hinge did not reach %s: %s", put->peer->target, text);
    dip__spoke_say_failed(put->spoke, put->ar_job_id, status, text);
    put_free(put);
}

static void put_again(void *context)
{
    struct put *put = context;
    put->state = PUT_ASKING;
    put_begin(put);
}

static void put_wait(struct put *put, const char *text)
{
    int64_t now_ns = dip_clock_now_ns();
    int64_t pause_ns = dip__spoke_pause(put->attempt++, PAUSE_NS_MIN, PAUSE_NS_MAX);
    put->state = PUT_WAITING;
    if (now_ns + pause_ns >= put->deadline_ns ||
        dip_rpc_timer_set(put->spoke->options.loop, &put->timer, now_ns + pause_ns))
        put_fail(put, DIP_UNREACHABLE, text);
}

/* ---- what is sent ---- */

static bool send_or_free(struct put *put, void *data, size_t bytes)
{
    if (!dip_rpc_call_send(put->call, data, bytes, 0))
        return true;
    free(data);
    return false;
}

/* As much as the call takes; it says when it takes more. */
static void send_chunks(struct put *put)
{
    while (put->sent_bytes < put->hidden.bytes) {
        size_t left = put->hidden.bytes - put->sent_bytes;
        size_t bytes = left < CHUNK_BYTES ? left : CHUNK_BYTES;
        void *frame = NULL;
        size_t frame_bytes = 0;
        if (dip_wire_encode_put_chunk(put->sent_bytes,
                                      (const unsigned char *)put->hidden.data + put->sent_bytes,
                                      bytes, &frame, &frame_bytes)) {
            dip_rpc_call_cancel(put->call, DIP_RPC_RESOURCE_EXHAUSTED, "no memory for a chunk");
            return;
        }
        if (!send_or_free(put, frame, frame_bytes))
            return;
        put->sent_bytes += bytes;
    }
    dip_rpc_call_half_close(put->call);
}

static void send_first(struct put *put)
{
    void *data = NULL;
    size_t bytes = 0;
    enum dip_status status;
    if (put->state == PUT_ASKING)
        status = dip_wire_encode_offset_request(put->to_job_id, put->header.epoch, &data, &bytes);
    else
        status = dip_wire_encode_put_header(&put->header, &data, &bytes);
    if (status || !send_or_free(put, data, bytes)) {
        dip_rpc_call_cancel(put->call, DIP_RPC_RESOURCE_EXHAUSTED, "no memory for a message");
    } else if (put->state == PUT_ASKING) {
        dip_rpc_call_half_close(put->call);
    } else {
        put->sent_bytes = put->header.offset;
        send_chunks(put);
    }
}

/* ---- what comes back ---- */

static void on_message(void *context, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    (void)call;
    struct put *put = context;
    put->is_answered = dip_wire_read_received(data, bytes, NULL, &put->answer_bytes) == DIP_OK;
}

static void on_writable(void *context, struct dip_rpc_call *call)
{
    (void)call;
    struct put *put = context;
    if (put->state == PUT_SENDING && !put->is_dropped)
        send_chunks(put);
}

static void on_answered(struct put *put)
{
    if (put->state == PUT_ASKING) {
        size_t row_bytes = put->hidden.bytes; /* all or a part of it */
        put->header.offset = put->answer_bytes <= row_bytes ? put->answer_bytes : 0;
        put->state = PUT_SENDING;
        put_begin(put);
    } else if (put->answer_bytes == put->hidden.bytes) {
        put_free(put);
    } else {
        put_wait(put, "the diffusion worker holds less than it was sent");
    }
}

static void on_close(void *context, struct dip_rpc_call *call, const struct dip_rpc_status *status)
{
    (void)call;
    struct put *put = context;
    put->call = NULL;
    if (put->is_dropped) {
        put_free(put);
        return;
    }
    const char *text =
        status->message && status->message[0] ? status->message : dip_rpc_code_name(status->code);
    switch (status->code) {
    case DIP_RPC_OK:
        if (put->is_answered)
            on_answered(put);
        else
            put_wait(put, "the diffusion worker's answer makes no sense");
        break;
    case DIP_RPC_NOT_FOUND: /* released there: the coordinator knows */
        put_free(put);
        break;
    case DIP_RPC_INVALID_ARGUMENT:
    case DIP_RPC_UNIMPLEMENTED:
    case DIP_RPC_PERMISSION_DENIED:
    case DIP_RPC_UNAUTHENTICATED:
        put_fail(put, DIP_INVALID, text);
        break;
    case DIP_RPC_FAILED_PRECONDITION:
        put_fail(put, DIP_STALE, text);
        break;
    default: /* gone, busy, cut, changed on its way: it may go better next time */
        put_wait(put, text);
        break;
    }
}

static const struct dip_rpc_handler handler = {
    .on_message = on_message, .on_writable = on_writable, .on_close = on_close};

static void put_begin(struct put *put)
{
    bool is_asking = put->state == PUT_ASKING;
    struct dip_rpc_pair headers[1];
    struct dip_rpc_call_options options = {
        .path = is_asking ? "/diptych.internal.v1.HingeService/GetOffset"
                          : "/diptych.internal.v1.HingeService/Put",
        .deadline_ns = put->deadline_ns,
        .headers = headers,
        .header_count = dip__spoke_headers(put->spoke, headers),
        .queue_count_max = 4,
        .handler = &handler,
        .context = put};
    put->is_answered = false;
    if (dip_rpc_call_open(put->peer->channel, &options, &put->call)) {
        put->call = NULL;
        put_wait(put, "no memory for a call");
        return;
    }
    send_first(put);
}

/* ---- the worker's side ---- */

static struct put *put_take(struct dip_spoke *spoke)
{
    for (int i = 0; i < PUTS_MAX; i++)
        if (spoke->puts[i].state == PUT_FREE)
            return &spoke->puts[i];
    return NULL;
}

static bool header_make(struct dip_spoke *spoke, struct put *put)
{
    size_t row_bytes = spoke->options.hinge_width * sizeof(float);
    put->header = (struct dip_wire_hinge){
        .job_id = put->to_job_id, .epoch = spoke->epoch, .width = spoke->options.hinge_width};
    if (put->hidden.bytes == 0 || put->hidden.bytes % row_bytes != 0)
        return false;
    put->header.rows = (uint32_t)(put->hidden.bytes / row_bytes);
    return dip_sha256_hex(put->hidden.data, put->hidden.bytes, put->header.sha256) == DIP_OK;
}

void dip__spoke_put(struct dip_spoke *spoke, uint32_t to, struct dip_message *message)
{
    const struct hand_over *entry = &spoke->hand_overs[to % HAND_OVERS_MAX];
    if (entry->address != to || entry->to_job_id != message->job_id) {
        dip_message_release(message); /* of a stream that has ended */
        return;
    }
    struct peer *peer = peer_open(spoke, entry->target);
    struct put *put = peer ? put_take(spoke) : NULL;
    if (!put) {
        dip_message_release(message);
        dip__spoke_say_failed(spoke, entry->ar_job_id, DIP_BUSY,
                              "too many hinges are under way from this worker");
        return;
    }
    int64_t now_ns = dip_clock_now_ns();
    *put = (struct put){.spoke = spoke,
                        .state = PUT_SENDING,
                        .ar_job_id = entry->ar_job_id,
                        .to_job_id = entry->to_job_id,
                        .peer = peer,
                        .hidden = message->as.hinge.hidden,
                        .begun_ns = now_ns,
                        .deadline_ns = now_ns + spoke->options.hinge_timeout_ns};
    put->timer.fire = put_again;
    put->timer.context = put;
    peer->put_count++;
    if (header_make(spoke, put))
        put_begin(put);
    else
        put_fail(put, DIP_INVALID, "the hinge has no whole rows");
}

void dip__spoke_put_drop(struct dip_spoke *spoke, uint64_t ar_job_id)
{
    for (int i = 0; i < HAND_OVERS_MAX; i++)
        if (ar_job_id == 0 || spoke->hand_overs[i].ar_job_id == ar_job_id)
            spoke->hand_overs[i] = (struct hand_over){0};
    for (int i = 0; i < PUTS_MAX; i++) {
        struct put *put = &spoke->puts[i];
        if (put->state == PUT_FREE || (ar_job_id != 0 && put->ar_job_id != ar_job_id))
            continue;
        if (!put->call) {
            put_free(put);
            continue;
        }
        put->is_dropped = true; /* its call ends and takes it along */
        dip_rpc_call_cancel(put->call, DIP_RPC_CANCELLED, "the hinge is not wanted any more");
    }
}
