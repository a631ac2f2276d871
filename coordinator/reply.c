/* coordinator/reply.c - how calls end: single answers, and errors with their details. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/front.h"

void dip__error_bug(struct dip_coordinator_daemon *d, struct dip_error *error, const char *text)
{
    d->bug_serial++;
    dip_error_set(error, DIP_REASON_BUG, "%s; error id %s-%llu", text, d->name,
                  (unsigned long long)d->bug_serial);
    dip_error_fact(error, "error_id", "%s-%llu", d->name, (unsigned long long)d->bug_serial);
}

/* What keeps a client from asking again too soon: gRPC obeys the pushback, people read RetryInfo.
 */
static void put_pushback(const struct dip_error *error, struct dip_rpc_status *status)
{
    switch (dip_reason_retry(error->reason)) {
    case DIP_RETRY_NEVER:
        status->has_pushback = true;
        status->pushback_ns = -1;
        break;
    case DIP_RETRY_LATER:
        status->has_pushback = error->has_retry;
        status->pushback_ns = error->retry_ns;
        break;
    case DIP_RETRY_SOON:
        break;
    }
}

void dip__reply_error(struct dip_coordinator_daemon *d, enum dip_front_method method,
                      struct dip_rpc_call *call, const struct dip_error *error)
{
    void *details = NULL;
    struct dip_rpc_status status = {.code = dip_reason_code(error->reason),
                                    .message = error->message};
    d->stats.calls_failed[method][error->reason]++;
    if (dip_error_encode(error, &details, &status.details_bytes) == DIP_OK)
        status.details = details; /* without memory the code and the message must do */
    put_pushback(error, &status);
    if (error->reason == DIP_REASON_NOT_LEADER && d->leader[0]) {
        enum dip_status put =
            dip_rpc_call_trailer(call, "diptych-leader", d->leader, strlen(d->leader));
        (void)put; /* the details say it, too */
    }
    dip_rpc_call_finish(call, &status);
    free(details);
}

bool dip__reply_part(struct dip_rpc_call *call, const ProtobufCMessage *message, uint32_t key)
{
    void *data;
    size_t bytes;
    if (dip_proto_encode(message, &data, &bytes))
        return false;
    if (dip_rpc_call_send(call, data, bytes, key) == DIP_OK)
        return true;
    free(data);
    return false;
}

void dip__reply(struct dip_coordinator_daemon *d, enum dip_front_method method,
                struct dip_rpc_call *call, const ProtobufCMessage *message)
{
    struct dip_error error;
    if (!dip__reply_part(call, message, 0)) {
        dip__error_bug(d, &error, "no memory for the answer");
        dip__reply_error(d, method, call, &error);
        return;
    }
    d->stats.calls_ok[method]++;
    dip_rpc_call_finish(call, &(struct dip_rpc_status){.code = DIP_RPC_OK});
}

bool dip__error_field(struct dip_error *error, const char *field, const char *format, ...)
{
    char text[DIP_ERROR_TEXT_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    dip_error_set(error, DIP_REASON_BAD_FIELD, "%s: %s", field, text);
    dip_error_fact(error, "field", "%s", field);
    dip_error_field(error, field, "%s", text);
    return false;
}

/* What the decoder found wrong, as an error. */
static void error_fault(struct dip_error *error, enum dip_status status,
                        const struct dip_proto_fault *fault)
{
    if (status == DIP_LIMIT && strcmp(fault->field, "prompt") == 0) {
        dip_error_set(error, DIP_REASON_PROMPT_TOO_LONG, "the prompt is too long: %s", fault->text);
        dip_error_fact(error, "limit", "%d bytes", DIP_PROMPT_BYTES_MAX);
        dip_error_fact(error, "length", "%lu bytes", strtoul(fault->text, NULL, 10));
        dip_error_field(error, "prompt", "%s", fault->text);
    } else if (fault->field[0]) {
        dip__error_field(error, fault->field, "%s", fault->text);
    } else {
        dip_error_set(error, DIP_REASON_MALFORMED, "the message cannot be read: %s", fault->text);
        dip_error_fact(error, "detail", "%s", fault->text);
    }
}

void *dip__reply_decode(struct dip_coordinator_daemon *d, enum dip_front_method method,
                        struct dip_rpc_call *call, const ProtobufCMessageDescriptor *type,
                        const void *data, size_t bytes)
{
    struct dip_error error;
    struct dip_proto_fault fault;
    ProtobufCMessage *message = NULL;
    enum dip_status status = dip_proto_decode(type, data, bytes, &fault, &message);
    if (!status)
        return message;
    if (status == DIP_NO_MEMORY)
        dip__error_bug(d, &error, "no memory for the request");
    else
        error_fault(&error, status, &fault);
    dip__reply_error(d, method, call, &error);
    return NULL;
}

void *dip__reply_read(struct dip_coordinator_daemon *d, enum dip_front_method method,
                      struct dip_rpc_call *call, enum dip_scope scope,
                      const ProtobufCMessageDescriptor *type, const void *data, size_t bytes,
                      struct caller *ret_caller)
{
    struct dip_error error;
    if (dip__caller_read(d, call, scope, ret_caller, &error))
        return dip__reply_decode(d, method, call, type, data, bytes);
    dip__reply_error(d, method, call, &error);
    return NULL;
}
