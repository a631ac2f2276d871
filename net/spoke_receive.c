/* net/spoke_receive.c - hinges from other workers: a bounded store of what has come so far.
 *
 * What a call has brought outlives the call, so that the sender goes on where it broke off. A hinge
 * is taken only while this worker's own stream stands under the epoch that the sender names: what
 * belongs to a leader of the past is refused for good, what belongs to one that this worker has not
 * met yet is refused for now. The sender is answered when the hinge is whole and in the inbox. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/sha256.h"
#include "net/spoke_private.h"

#define PARTIAL_NS (60 * DIP_SECOND_NS) /* nobody goes on with it: forgotten */

enum { PUT_FRAME_BYTES_MAX = (1 << 20) + 4096, ASK_BYTES_MAX = 256 };

static void finish(struct dip_rpc_call *call, int code, const char *text)
{
    dip_rpc_call_finish(call, &(struct dip_rpc_status){.code = code, .message = text});
}

/* ---- the store ---- */

static struct receipt *receipt_find(struct dip_spoke *spoke, uint64_t job_id)
{
    for (int i = 0; i < RECEIPTS_MAX; i++)
        if (spoke->receipts[i].header.job_id == job_id)
            return &spoke->receipts[i];
    return NULL;
}

static void receipt_free(struct receipt *receipt)
{
    free(receipt->data);
    *receipt = (struct receipt){0};
}

/* An empty place, else that of the oldest hinge that nobody is bringing; NULL = busy. */
static struct receipt *receipt_take(struct dip_spoke *spoke)
{
    struct receipt *found = receipt_find(spoke, 0);
    for (int i = 0; i < RECEIPTS_MAX && !(found && found->header.job_id == 0); i++) {
        struct receipt *receipt = &spoke->receipts[i];
        if (!receipt->call && !receipt->is_whole &&
            (!found || receipt->touched_ns < found->touched_ns))
            found = receipt;
    }
    if (found)
        receipt_free(found);
    return found;
}

static const struct received *received_find(const struct dip_spoke *spoke, uint64_t job_id)
{
    for (int i = 0; i < RECEIVED_MAX; i++)
        if (spoke->received[i].job_id == job_id)
            return &spoke->received[i];
    return NULL;
}

/* Ends a call with the number of bytes that are held. */
static void answer(struct dip_rpc_call *call, uint64_t held_bytes)
{
    void *data = NULL;
    size_t bytes = 0;
    enum dip_status status = dip_wire_encode_received(held_bytes, &data, &bytes);
    if (!status)
        status = dip_rpc_call_send(call, data, bytes, 0);
    if (status) {
        free(data);
        finish(call, DIP_RPC_RESOURCE_EXHAUSTED, "no memory for the answer");
        return;
    }
    finish(call, DIP_RPC_OK, "");
}

/* False: the inbox is full. */
static bool receipt_deliver(struct dip_spoke *spoke, struct receipt *receipt)
{
    struct dip_message hinge = {.kind = DIP_MESSAGE_HINGE,
                                .from = DIP_SPOKE_COORDINATOR,
                                .job_id = receipt->header.job_id,
                                .as.hinge.hidden = {receipt->data, receipt->bytes}};
    if (!dip__spoke_deliver(spoke, &hinge))
        return false;
    spoke->received[spoke->received_next] =
        (struct received){receipt->header.job_id, receipt->bytes};
    spoke->received_next = (spoke->received_next + 1) % RECEIVED_MAX;
    if (receipt->call)
        answer(receipt->call, receipt->bytes);
    *receipt = (struct receipt){0}; /* the message has carried the data away */
    return true;
}

bool dip__spoke_receive_deliver(struct dip_spoke *spoke)
{
    for (int i = 0; i < RECEIPTS_MAX; i++)
        if (spoke->receipts[i].is_whole && !receipt_deliver(spoke, &spoke->receipts[i]))
            return false;
    return true;
}

void dip__spoke_receive_drop(struct dip_spoke *spoke, uint64_t job_id)
{
    for (int i = 0; i < RECEIPTS_MAX; i++) {
        struct receipt *receipt = &spoke->receipts[i];
        if (receipt->header.job_id == 0 || (job_id != 0 && receipt->header.job_id != job_id))
            continue;
        if (receipt->call)
            finish(receipt->call, job_id ? DIP_RPC_NOT_FOUND : DIP_RPC_UNAVAILABLE,
                   job_id ? "the job was released" : "the worker has lost its coordinator");
        receipt_free(receipt);
    }
    if (job_id == 0)
        memset(spoke->received, 0, sizeof spoke->received); /* ids may begin again */
}

void dip__spoke_receive_tick(struct dip_spoke *spoke, int64_t now_ns)
{
    for (int i = 0; i < RECEIPTS_MAX; i++) {
        struct receipt *receipt = &spoke->receipts[i];
        if (receipt->header.job_id != 0 && !receipt->call && !receipt->is_whole &&
            now_ns - receipt->touched_ns > PARTIAL_NS)
            receipt_free(receipt);
    }
}

/* ---- Put ---- */

/* The hinge that a call brings, if any: a call is bound to the spoke, because its receipt may go
 * before it does. */
static struct receipt *receipt_of(struct dip_spoke *spoke, const struct dip_rpc_call *call)
{
    for (int i = 0; i < RECEIPTS_MAX; i++)
        if (spoke->receipts[i].call == call)
            return &spoke->receipts[i];
    return NULL;
}

/* Whether a hinge of this epoch is ours to take; ends the call when not. */
static bool is_ours(struct dip_spoke *spoke, struct dip_rpc_call *call, uint64_t epoch)
{
    if (epoch < spoke->epoch) {
        dip_counter_add(&spoke->fenced, 1);
        finish(call, DIP_RPC_FAILED_PRECONDITION, "the hinge comes from a leader of the past");
        return false;
    }
    if (epoch > spoke->epoch || spoke->state != STREAM_UP) {
        finish(call, DIP_RPC_UNAVAILABLE, "this worker is not connected to that leader");
        return false;
    }
    return true;
}

static struct receipt *receipt_begin(struct dip_spoke *spoke, const struct dip_wire_hinge *header)
{
    struct receipt *receipt = receipt_take(spoke);
    size_t bytes = (size_t)header->rows * header->width * sizeof(float);
    if (!receipt)
        return NULL;
    receipt->data = malloc(bytes);
    if (!receipt->data)
        return NULL;
    receipt->bytes = bytes;
    receipt->header = *header;
    return receipt;
}

static bool is_same(const struct dip_wire_hinge *a, const struct dip_wire_hinge *b)
{
    return a->rows == b->rows && a->width == b->width && strcmp(a->sha256, b->sha256) == 0;
}

static void take_header(struct dip_spoke *spoke, struct dip_rpc_call *call,
                        const struct dip_wire_hinge *header)
{
    char text[128];
    size_t bytes = (size_t)header->rows * header->width * sizeof(float);
    if (!is_ours(spoke, call, header->epoch))
        return;
    if (header->width != spoke->options.hinge_width || bytes > spoke->options.hinge_bytes_max) {
        snprintf(text, sizeof text,
                 "a hinge of %u x %u; this worker takes %u wide ones of %zu bytes", header->rows,
                 header->width, spoke->options.hinge_width, spoke->options.hinge_bytes_max);
        finish(call, DIP_RPC_INVALID_ARGUMENT, text);
        return;
    }
    const struct received *received = received_find(spoke, header->job_id);
    if (received) { /* the answer was lost, the hinge was not */
        answer(call, received->bytes);
        return;
    }
    struct receipt *receipt = receipt_find(spoke, header->job_id);
    if (receipt && receipt->call)
        finish(receipt->call, DIP_RPC_ABORTED, "the sender has called again");
    if (receipt && !is_same(&receipt->header, header)) {
        receipt_free(receipt);
        receipt = NULL;
    }
    if (!receipt && header->offset == 0)
        receipt = receipt_begin(spoke, header);
    else if (!receipt || receipt->held_bytes < header->offset) {
        finish(call, DIP_RPC_ABORTED, "less is held than the sender thinks");
        return;
    }
    if (!receipt) {
        finish(call, DIP_RPC_RESOURCE_EXHAUSTED, "too many hinges are on their way here");
        return;
    }
    receipt->held_bytes = header->offset;
    receipt->call = call;
    receipt->touched_ns = dip_clock_now_ns();
}

static void take_chunk(struct dip_rpc_call *call, struct receipt *receipt,
                       const struct dip_wire_put *chunk)
{
    if (chunk->offset != receipt->held_bytes ||
        chunk->bytes > receipt->bytes - receipt->held_bytes) {
        receipt->call = NULL;
        finish(call, DIP_RPC_INVALID_ARGUMENT, "chunks do not follow each other");
        return;
    }
    memcpy(receipt->data + receipt->held_bytes, chunk->data, chunk->bytes);
    receipt->held_bytes += chunk->bytes;
    receipt->touched_ns = dip_clock_now_ns();
}

static void put_message(void *context, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    struct dip_spoke *spoke = context;
    struct dip_wire_put part = {0};
    struct dip_why why = {0};
    struct receipt *receipt = receipt_of(spoke, call);
    enum dip_status status = dip_wire_read_put(data, bytes, &why, &part);
    if (status) {
        if (receipt)
            receipt->call = NULL; /* what came before is good */
        finish(call, status == DIP_CORRUPT ? DIP_RPC_DATA_LOSS : DIP_RPC_INVALID_ARGUMENT,
               why.text);
    } else if (part.is_header && !receipt) {
        take_header(spoke, call, &part.header);
    } else if (!part.is_header && receipt) {
        take_chunk(call, receipt, &part);
    } else {
        finish(call, DIP_RPC_INVALID_ARGUMENT, "one header comes first, then chunks");
    }
    dip_wire_put_release(&part);
}

static void put_half_close(void *context, struct dip_rpc_call *call)
{
    struct dip_spoke *spoke = context;
    struct receipt *receipt = receipt_of(spoke, call);
    char sha256[DIP_SHA256_HEX_BYTES] = "";
    if (!receipt) {
        finish(call, DIP_RPC_INVALID_ARGUMENT, "no header came"); /* unless it has an answer */
        return;
    }
    if (receipt->held_bytes < receipt->bytes) {
        receipt->call = NULL;
        finish(call, DIP_RPC_ABORTED, "the hinge is not whole");
        return;
    }
    if (dip_sha256_hex(receipt->data, receipt->bytes, sha256) ||
        strcmp(sha256, receipt->header.sha256) != 0) {
        receipt_free(receipt);
        finish(call, DIP_RPC_DATA_LOSS, "the hinge is not the one that was announced");
        return;
    }
    receipt->is_whole = true;
    if (!receipt_deliver(spoke, receipt))
        dip__spoke_inbox_later(spoke);
}

static void put_close(void *context, struct dip_rpc_call *call, const struct dip_rpc_status *status)
{
    (void)status;
    struct receipt *receipt = receipt_of(context, call);
    if (receipt)
        receipt->call = NULL;
}

static void put_open(void *context, struct dip_rpc_call *call)
{
    (void)dip__spoke_may_call(context, call);
}

static const struct dip_rpc_handler put_handler = {.on_open = put_open,
                                                   .on_message = put_message,
                                                   .on_half_close = put_half_close,
                                                   .on_close = put_close};

/* ---- GetOffset ---- */

static void ask_message(void *context, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    struct dip_spoke *spoke = context;
    struct dip_why why = {0};
    uint64_t job_id = 0, epoch = 0;
    if (!dip__spoke_may_call(spoke, call))
        return;
    if (dip_wire_read_offset_request(data, bytes, &why, &job_id, &epoch)) {
        finish(call, DIP_RPC_INVALID_ARGUMENT, why.text);
        return;
    }
    if (!is_ours(spoke, call, epoch))
        return;
    const struct receipt *receipt = job_id ? receipt_find(spoke, job_id) : NULL;
    const struct received *received = job_id ? received_find(spoke, job_id) : NULL;
    answer(call, received ? received->bytes : receipt ? receipt->held_bytes : 0);
}

static const struct dip_rpc_handler ask_handler = {.on_message = ask_message};

int dip__spoke_receive_methods(struct dip_spoke *spoke, struct dip_rpc_method ret_methods[2])
{
    ret_methods[0] = (struct dip_rpc_method){.path = "/diptych.internal.v1.HingeService/Put",
                                             .kind = DIP_RPC_CLIENT_STREAM,
                                             .handler = &put_handler,
                                             .context = spoke,
                                             .request_bytes_max = PUT_FRAME_BYTES_MAX};
    ret_methods[1] = (struct dip_rpc_method){.path = "/diptych.internal.v1.HingeService/GetOffset",
                                             .kind = DIP_RPC_UNARY,
                                             .handler = &ask_handler,
                                             .context = spoke,
                                             .request_bytes_max = ASK_BYTES_MAX};
    return 2;
}
