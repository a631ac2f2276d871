/* net/rpc_call.c - the state of one call: what is queued, what is under way, how it ends.
 *
 * Four things happen to a call independently of each other, each with at most one operation out:
 *
 *     sending     idle ─► batch out ─► idle ...        headers, a message, the end, or all in one
 *     receiving   idle ─► asked ─► message ─► asked ...─► nothing follows
 *     headers     asked ─► here                        (client)
 *     end         asked ─────────────────────► over    RECV_CLOSE (server), RECV_STATUS (client)
 *
 * `op_count` counts the operations that are out. The call is over when the end has come, and ends
 * (on_close, then its memory) when nothing is out any more: gRPC fails whatever is out once a call
 * is over, so the count falls to zero by itself.
 *
 * Functions of the owner only write down what they want and touch the call; at the end of the turn
 * dip__rpc_call_flush starts one batch with as much of it as fits: a server's headers, only message
 * and status leave together. Nothing of an owner is called from a function that the owner calls. */
#include "net/rpc_call.h"

#include <grpc/byte_buffer.h>
#include <grpc/grpc_security.h>
#include <grpc/support/alloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "net/rpc_private.h"

static void on_sent(void *owner, bool is_ok);

struct dip_rpc_call *dip__rpc_call_new(struct dip_rpc_loop *loop, int queue_count_max,
                                       size_t queue_bytes_max)
{
    int count = queue_count_max > 0 ? queue_count_max : RPC_QUEUE_COUNT_DEFAULT;
    struct dip_rpc_call *call = calloc(1, sizeof *call + (size_t)count * sizeof(struct rpc_out));
    if (!call)
        return NULL;
    call->loop = loop;
    call->queue = (struct rpc_out *)(call + 1);
    call->queue_count_max = count;
    call->queue_bytes_max = queue_bytes_max > 0 ? queue_bytes_max : RPC_QUEUE_BYTES_DEFAULT;
    call->deadline_ns = INT64_MAX;
    call->end_text = grpc_empty_slice();
    call->send_op = (struct dip__rpc_op){on_sent, call};
    call->receive_op = (struct dip__rpc_op){dip__rpc_call_received, call};
    call->headers_op = (struct dip__rpc_op){dip__rpc_call_ignored, call};
    call->end_op = (struct dip__rpc_op){dip__rpc_call_ended, call};
    grpc_metadata_array_init(&call->received_headers);
    grpc_metadata_array_init(&call->received_trailers);
    dip__rpc_loop_hold(loop);
    return call;
}

static void drop_queue(struct dip_rpc_call *call)
{
    for (; call->queue_count > 0; call->queue_count--) {
        free(call->queue[call->queue_first].data);
        call->queue_first = (call->queue_first + 1) % call->queue_count_max;
    }
    call->queue_bytes = 0;
}

void dip__rpc_call_free(struct dip_rpc_call *call)
{
    dip_rpc_timer_clear(call->loop, &call->timer);
    dip__rpc_loop_leave(call->loop, call->id);
    dip__rpc_loop_drop(call->loop);
    drop_queue(call);
    if (call->received)
        grpc_byte_buffer_destroy(call->received);
    if (call->request)
        grpc_byte_buffer_destroy(call->request);
    dip__rpc_pairs_clear(&call->headers);
    dip__rpc_pairs_clear(&call->trailers);
    grpc_slice_unref(call->end_text);
    grpc_metadata_array_destroy(&call->received_headers);
    grpc_metadata_array_destroy(&call->received_trailers);
    gpr_free(call->peer);
    if (call->core)
        grpc_call_unref(call->core);
    free(call);
}

void dip__rpc_call_start(struct dip_rpc_call *call, const grpc_op *ops, size_t count,
                         struct dip__rpc_op *op)
{
    grpc_call_error error = grpc_call_start_batch(call->core, ops, count, op, NULL);
    dip_assert(error == GRPC_CALL_OK); /* refused are only batches that break gRPC's contract */
    call->op_count++;
}

/* ---- what the owner asks for ---- */

void dip_rpc_call_bind(struct dip_rpc_call *call, void *context)
{
    call->context = context;
}

void dip_rpc_call_hand_over(struct dip_rpc_call *call, const struct dip_rpc_handler *handler,
                            void *context)
{
    dip_assert(call->is_server && call->handler);
    call->handler = handler;
    call->context = context;
}

static struct rpc_out *queue_at(struct dip_rpc_call *call, int i)
{
    return &call->queue[(call->queue_first + i) % call->queue_count_max];
}

/* The place of the message that waits under this key; NULL when there is none. */
static struct rpc_out *queue_find(struct dip_rpc_call *call, uint32_t key)
{
    for (int i = 0; key && i < call->queue_count; i++)
        if (queue_at(call, i)->key == key)
            return queue_at(call, i);
    return NULL;
}

enum dip_status dip_rpc_call_send(struct dip_rpc_call *call, void *data, size_t bytes, uint32_t key)
{
    dip_assert(dip_rpc_loop_is_mine(call->loop));
    dip_assert(data);
    if (call->is_over || call->is_ending || call->is_broken)
        return DIP_CANCELLED;
    struct rpc_out *place = queue_find(call, key);
    size_t freed = place ? place->bytes : 0;
    /* One message always fits: the ceiling on a message is the peer's to state. */
    if (call->queue_count > 0 && call->queue_bytes - freed + bytes > call->queue_bytes_max)
        return DIP_BUSY;
    if (!place && call->queue_count == call->queue_count_max)
        return DIP_BUSY;
    if (place)
        free(place->data);
    else
        place = queue_at(call, call->queue_count++);
    *place = (struct rpc_out){data, bytes, key};
    call->queue_bytes += bytes - freed;
    dip__rpc_loop_touch(call->loop, call);
    return DIP_OK;
}

enum dip_status dip_rpc_call_header(struct dip_rpc_call *call, const char *key, const void *value,
                                    size_t bytes)
{
    if (call->is_headers_sent)
        return DIP_CANCELLED;
    return dip__rpc_pairs_add(&call->headers, key, value, bytes);
}

enum dip_status dip_rpc_call_trailer(struct dip_rpc_call *call, const char *key, const void *value,
                                     size_t bytes)
{
    if (call->is_ending)
        return DIP_CANCELLED;
    return dip__rpc_pairs_add(&call->trailers, key, value, bytes);
}

void dip_rpc_call_send_headers(struct dip_rpc_call *call)
{
    if (call->is_over)
        return;
    call->is_headers_wanted = true;
    dip__rpc_loop_touch(call->loop, call);
}

void dip_rpc_call_finish(struct dip_rpc_call *call, const struct dip_rpc_status *status)
{
    dip_assert(dip_rpc_loop_is_mine(call->loop));
    dip_assert(call->is_server);
    if (call->is_over || call->is_ending || call->is_given_up)
        return;
    call->is_ending = true;
    call->end_code = (grpc_status_code)status->code;
    call->end_text = grpc_slice_from_copied_string(status->message ? status->message : "");
    dip__rpc_pairs_add_status(&call->trailers, status);
    dip__rpc_loop_touch(call->loop, call);
}

void dip_rpc_call_half_close(struct dip_rpc_call *call)
{
    dip_assert(dip_rpc_loop_is_mine(call->loop));
    dip_assert(!call->is_server);
    if (call->is_over)
        return;
    call->is_ending = true;
    dip__rpc_loop_touch(call->loop, call);
}

void dip_rpc_call_cancel(struct dip_rpc_call *call, int code, const char *message)
{
    dip_assert(dip_rpc_loop_is_mine(call->loop));
    if (call->is_over || call->is_given_up)
        return;
    call->is_given_up = true;
    call->is_broken = true;
    drop_queue(call);
    if (call->is_server) { /* a client gets the status back from gRPC, with its trailers */
        grpc_slice_unref(call->end_text);
        call->end_code = (grpc_status_code)code;
        call->end_text = grpc_slice_from_copied_string(message);
    }
    grpc_call_cancel_with_status(call->core, (grpc_status_code)code, message, NULL);
}

/* ---- sending ---- */

/* The oldest message as gRPC wants it: the slice takes the memory over, nothing is copied. */
static grpc_byte_buffer *queue_pop(struct dip_rpc_call *call)
{
    struct rpc_out out = *queue_at(call, 0);
    call->queue_first = (call->queue_first + 1) % call->queue_count_max;
    call->queue_count--;
    call->queue_bytes -= out.bytes;
    grpc_slice slice = grpc_slice_new_with_user_data(out.data, out.bytes, free, out.data);
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    return buffer;
}

static void put_end(struct dip_rpc_call *call, grpc_op *op)
{
    call->is_end_sent = true;
    if (!call->is_server) {
        op->op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
        return;
    }
    op->op = GRPC_OP_SEND_STATUS_FROM_SERVER;
    op->data.send_status_from_server.status = call->end_code;
    op->data.send_status_from_server.status_details = &call->end_text;
    op->data.send_status_from_server.trailing_metadata = call->trailers.list;
    op->data.send_status_from_server.trailing_metadata_count = call->trailers.count;
}

/* A batch of headers, one message and the end, as far as they are due. */
static void send_some(struct dip_rpc_call *call)
{
    grpc_op ops[3];
    size_t count = 0;
    memset(ops, 0, sizeof ops);
    bool is_message_due = call->queue_count > 0;
    bool is_end_due = call->is_ending && !call->is_end_sent && call->queue_count <= 1;
    bool is_wanted = is_message_due || is_end_due || call->is_headers_wanted;
    if (is_wanted && !call->is_headers_sent) {
        call->is_headers_sent = true;
        ops[count].op = GRPC_OP_SEND_INITIAL_METADATA;
        if (call->is_patient)
            ops[count].flags = GRPC_INITIAL_METADATA_WAIT_FOR_READY |
                               GRPC_INITIAL_METADATA_WAIT_FOR_READY_EXPLICITLY_SET;
        ops[count].data.send_initial_metadata.metadata = call->headers.list;
        ops[count++].data.send_initial_metadata.count = call->headers.count;
    }
    if (is_message_due) {
        call->sending = queue_pop(call);
        ops[count].op = GRPC_OP_SEND_MESSAGE;
        ops[count++].data.send_message.send_message = call->sending;
    }
    if (is_end_due)
        put_end(call, &ops[count++]);
    if (count == 0)
        return;
    call->is_sending = true;
    dip__rpc_call_start(call, ops, count, &call->send_op);
    if (call->is_server && call->method && call->method->stall_ns > 0) {
        int64_t until_ns = dip_clock_now_ns() + call->method->stall_ns;
        enum dip_status status = dip_rpc_timer_set(call->loop, &call->timer, until_ns);
        dip_assert(status == DIP_OK); /* the loop keeps a place for every call */
    }
}

static void on_sent(void *owner, bool is_ok)
{
    struct dip_rpc_call *call = owner;
    call->is_sending = false;
    call->op_count--;
    dip_rpc_timer_clear(call->loop, &call->timer);
    if (call->sending)
        grpc_byte_buffer_destroy(call->sending);
    call->sending = NULL;
    if (!is_ok) {
        call->is_broken = true;
        drop_queue(call);
    } else if (call->queue_count == 0 && !call->is_ending && !call->is_over && call->handler &&
               call->handler->on_writable) {
        call->handler->on_writable(call->context, call);
    }
    dip__rpc_loop_touch(call->loop, call);
}

/* ---- ending ---- */

void dip__rpc_call_ignored(void *owner, bool is_ok)
{
    (void)is_ok;
    struct dip_rpc_call *call = owner;
    call->op_count--;
    dip__rpc_loop_touch(call->loop, call);
}

void dip__rpc_call_ended(void *owner, bool is_ok)
{
    struct dip_rpc_call *call = owner;
    call->is_over = true;
    drop_queue(call);
    dip__rpc_call_ignored(owner, is_ok);
}

static void read_pushback(const grpc_metadata_array *trailers, struct dip_rpc_status *status)
{
    const grpc_metadata *pair = dip__rpc_metadata_find(trailers, "grpc-retry-pushback-ms");
    char text[16] = "";
    if (!pair || GRPC_SLICE_LENGTH(pair->value) >= sizeof text)
        return;
    memcpy(text, GRPC_SLICE_START_PTR(pair->value), GRPC_SLICE_LENGTH(pair->value));
    char *end = text;
    long long ms = strtoll(text, &end, 10);
    status->has_pushback = true;
    /* What is no number means "do not", says the protocol. */
    status->pushback_ns = *end || end == text || ms < 0 ? -1 : ms * DIP_MS_NS;
}

/* How the call ended, for its owner; `text` is what the message points to. */
static struct dip_rpc_status end_status(const struct dip_rpc_call *call, const char *text)
{
    struct dip_rpc_status status = {.code = (int)call->end_code, .message = text};
    if (!call->is_server) {
        const grpc_metadata *details =
            dip__rpc_metadata_find(&call->received_trailers, "grpc-status-details-bin");
        if (details) {
            status.details = GRPC_SLICE_START_PTR(details->value);
            status.details_bytes = GRPC_SLICE_LENGTH(details->value);
        }
        read_pushback(&call->received_trailers, &status);
    } else if (call->is_cancelled && !call->is_given_up) {
        bool is_late = dip_clock_now_ns() >= call->deadline_ns;
        status.code = is_late ? DIP_RPC_DEADLINE_EXCEEDED : DIP_RPC_CANCELLED;
        status.message = is_late ? "the deadline has passed" : "the client has left";
    }
    return status;
}

static void end_call(struct dip_rpc_call *call)
{
    void (*gone)(void *owner) = call->gone;
    void *gone_owner = call->gone_owner;
    if (call->handler && call->handler->on_close) {
        char *text = grpc_slice_to_c_string(call->end_text);
        struct dip_rpc_status status = end_status(call, text);
        call->handler->on_close(call->context, call, &status);
        gpr_free(text);
    }
    dip_assert(!call->is_touched); /* nothing can be asked of a call that is over */
    dip__rpc_call_free(call);
    if (gone)
        gone(gone_owner);
}

void dip__rpc_call_flush(struct dip_rpc_call *call)
{
    if (call->is_over && call->op_count == 0)
        end_call(call);
    else if (!call->is_sending && !call->is_broken && !call->is_over)
        send_some(call);
}

/* ---- facts ---- */

const char *dip_rpc_code_name(int code)
{
    switch (code) {
#define DIP_RPC_CODE_CASE(name, number)                                                            \
    case number:                                                                                   \
        return #name;
        DIP_RPC_CODE_LIST(DIP_RPC_CODE_CASE)
#undef DIP_RPC_CODE_CASE
    default:
        return "UNKNOWN";
    }
}

uint64_t dip_rpc_call_id(const struct dip_rpc_call *call)
{
    return call->id;
}

struct dip_rpc_loop *dip_rpc_call_loop(const struct dip_rpc_call *call)
{
    return call->loop;
}

const char *dip_rpc_call_path(const struct dip_rpc_call *call)
{
    return call->path;
}

const char *dip_rpc_call_peer(const struct dip_rpc_call *call)
{
    return call->peer ? call->peer : "";
}

int64_t dip_rpc_call_deadline_ns(const struct dip_rpc_call *call)
{
    return call->deadline_ns;
}

int dip_rpc_call_queued(const struct dip_rpc_call *call)
{
    return call->queue_count;
}

bool dip_rpc_call_is_cancelled(const struct dip_rpc_call *call)
{
    return call->is_given_up || (call->is_over && call->is_cancelled);
}

bool dip_rpc_call_metadata(const struct dip_rpc_call *call, const char *key, const char **ret_value,
                           size_t *ret_bytes)
{
    const grpc_metadata *pair = dip__rpc_metadata_find(&call->received_trailers, key);
    if (!pair)
        pair = dip__rpc_metadata_find(&call->received_headers, key);
    if (!pair)
        return false;
    *ret_value = (const char *)GRPC_SLICE_START_PTR(pair->value);
    *ret_bytes = GRPC_SLICE_LENGTH(pair->value);
    return true;
}

bool dip_rpc_call_identity(const struct dip_rpc_call *call, char *text, size_t bytes)
{
    static const char *const names[] = {GRPC_X509_SAN_PROPERTY_NAME, GRPC_X509_CN_PROPERTY_NAME};
    grpc_auth_context *context = grpc_call_auth_context(call->core);
    bool is_found = false;
    for (size_t i = 0; i < 2 && context && !is_found; i++) {
        grpc_auth_property_iterator at =
            grpc_auth_context_find_properties_by_name(context, names[i]);
        const grpc_auth_property *property = grpc_auth_property_iterator_next(&at);
        is_found = property != NULL;
        if (property)
            snprintf(text, bytes, "%.*s", (int)property->value_length, property->value);
    }
    if (context)
        grpc_auth_context_release(context);
    return is_found;
}
