/* net/rpc_receive.c - messages on their way in.
 *
 * One RECV_MESSAGE is out at a time; the next is asked for after the owner has seen the last, so a
 * peer that sends faster than its messages are used is slowed by HTTP/2's window.
 *
 * A method that takes one request is told of a call only when the request is whole and nothing
 * follows it. Half a request, none and two are answered here, as the protocol's table of statuses
 * says (UNIMPLEMENTED); the service never sees them. */
#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "net/rpc_private.h"

static bool takes_one_request(const struct dip_rpc_call *call)
{
    return call->is_server && call->method &&
           (call->method->kind == DIP_RPC_UNARY || call->method->kind == DIP_RPC_SERVER_STREAM);
}

void dip__rpc_call_receive(struct dip_rpc_call *call)
{
    bool is_answered = call->is_server && call->is_ending; /* what follows is nobody's business */
    if (call->is_receiving || call->is_paused || call->is_all_received || call->is_over ||
        is_answered)
        return;
    grpc_op receive = {.op = GRPC_OP_RECV_MESSAGE};
    receive.data.recv_message.recv_message = &call->received;
    call->is_receiving = true;
    dip__rpc_call_start(call, &receive, 1, &call->receive_op);
}

void dip_rpc_call_pause(struct dip_rpc_call *call)
{
    dip_assert(dip_rpc_loop_is_mine(call->loop));
    call->is_paused = true;
}

void dip_rpc_call_resume(struct dip_rpc_call *call)
{
    dip_assert(dip_rpc_loop_is_mine(call->loop));
    call->is_paused = false;
    dip__rpc_call_receive(call);
}

/* Ends a call whose messages cannot be accepted. */
static void refuse(struct dip_rpc_call *call, int code, const char *message)
{
    call->is_all_received = true;
    if (call->is_server)
        dip_rpc_call_finish(call, &(struct dip_rpc_status){.code = code, .message = message});
    else
        dip_rpc_call_cancel(call, code, message);
}

/* Hands the buffer's bytes to the owner: those of one slice as they lie there, others copied
 * together. */
static void deliver(struct dip_rpc_call *call, grpc_byte_buffer *buffer)
{
    const grpc_slice_buffer *slices = &buffer->data.raw.slice_buffer;
    if (!call->handler->on_message)
        return;
    if (slices->count == 1) {
        call->handler->on_message(call->context, call, GRPC_SLICE_START_PTR(slices->slices[0]),
                                  GRPC_SLICE_LENGTH(slices->slices[0]));
        return;
    }
    grpc_byte_buffer_reader reader;
    int is_ready = grpc_byte_buffer_reader_init(&reader, buffer);
    dip_assert(is_ready); /* fails for compressed buffers only, which have been refused */
    grpc_slice whole = grpc_byte_buffer_reader_readall(&reader);
    call->handler->on_message(call->context, call, GRPC_SLICE_START_PTR(whole),
                              GRPC_SLICE_LENGTH(whole));
    grpc_slice_unref(whole);
    grpc_byte_buffer_reader_destroy(&reader);
}

void dip__rpc_call_open(struct dip_rpc_call *call)
{
    dip_rpc_timer_clear(call->loop, &call->timer);
    call->handler = call->method->handler;
    call->context = call->method->context;
    if (call->handler->on_open)
        call->handler->on_open(call->context, call);
}

static void all_received(struct dip_rpc_call *call)
{
    call->is_all_received = true;
    if (takes_one_request(call)) {
        if (!call->request) {
            refuse(call, DIP_RPC_UNIMPLEMENTED, "the method takes one request, none came");
            return;
        }
        dip__rpc_call_open(call);
        deliver(call, call->request);
        grpc_byte_buffer_destroy(call->request);
        call->request = NULL;
    }
    if (call->is_server && !call->is_ending && call->handler->on_half_close)
        call->handler->on_half_close(call->context, call);
}

static void refuse_large(struct dip_rpc_call *call, size_t bytes)
{
    char text[96];
    if (call->is_server && !call->handler && call->method->refuse) {
        call->is_all_received = true;
        call->method->refuse(call->method->context, call, bytes);
        return;
    }
    snprintf(text, sizeof text, "a message of %zu bytes, at most %zu are taken", bytes,
             call->receive_bytes_max);
    refuse(call, DIP_RPC_RESOURCE_EXHAUSTED, text);
}

static bool is_acceptable(struct dip_rpc_call *call, const grpc_byte_buffer *buffer, size_t bytes)
{
    if (buffer->data.raw.compression != GRPC_COMPRESS_NONE) {
        refuse(call, DIP_RPC_UNIMPLEMENTED, "messages must not be compressed");
        return false;
    }
    if (bytes > call->receive_bytes_max) {
        refuse_large(call, bytes);
        return false;
    }
    if (call->request) {
        refuse(call, DIP_RPC_UNIMPLEMENTED, "the method takes one request, more came");
        return false;
    }
    return true;
}

void dip__rpc_call_received(void *owner, bool is_ok)
{
    struct dip_rpc_call *call = owner;
    grpc_byte_buffer *buffer = call->received;
    call->received = NULL;
    call->is_receiving = false;
    call->op_count--;
    dip__rpc_loop_touch(call->loop, call);
    /* Once the end was asked for by a server, what a client still sends is nobody's business. */
    bool is_wanted = !call->is_over && !call->is_given_up && !(call->is_server && call->is_ending);
    if (!buffer) {
        /* Nothing follows, or the call is lost: then its end is on the way and says more. */
        if (is_ok && is_wanted && !grpc_call_failed_before_recv_message(call->core))
            all_received(call);
        call->is_all_received = true;
        return;
    }
    if (is_wanted && is_acceptable(call, buffer, grpc_byte_buffer_length(buffer))) {
        if (takes_one_request(call)) {
            call->request = buffer;
            buffer = NULL;
        } else {
            deliver(call, buffer);
        }
        dip__rpc_call_receive(call);
    }
    if (buffer)
        grpc_byte_buffer_destroy(buffer);
}
