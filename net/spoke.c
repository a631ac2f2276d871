/* net/spoke.c - the endpoint of a worker: mailboxes between its device thread and the loop. */
#include "net/spoke.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "net/spoke_private.h"

enum { INBOX_DEFAULT = 256, OUTBOX_MAX = 256 };

void dip__spoke_log(const struct dip_spoke *spoke, const char *format, ...)
{
    char text[DIP_WHY_BYTES];
    va_list arguments;
    if (!spoke->options.log)
        return;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    spoke->options.log(spoke->options.context, text);
}

int dip__spoke_headers(const struct dip_spoke *spoke, struct dip_rpc_pair ret_headers[1])
{
    ret_headers[0] = (struct dip_rpc_pair){"authorization", spoke->authorization};
    return spoke->authorization[0] ? 1 : 0;
}

/* In a time that depends on the length alone. */
static bool is_equal(const char *a, const char *b, size_t bytes)
{
    unsigned difference = 0;
    for (size_t i = 0; i < bytes; i++)
        difference |= (unsigned)(unsigned char)a[i] ^ (unsigned char)b[i];
    return difference == 0;
}

bool dip__spoke_may_call(const struct dip_spoke *spoke, struct dip_rpc_call *call)
{
    const char *shown = NULL;
    size_t bytes = 0;
    if (!spoke->authorization[0])
        return true;
    if (dip_rpc_call_metadata(call, "authorization", &shown, &bytes) &&
        bytes == strlen(spoke->authorization) && is_equal(shown, spoke->authorization, bytes))
        return true;
    dip_rpc_call_finish(
        call, &(struct dip_rpc_status){.code = DIP_RPC_UNAUTHENTICATED,
                                       .message = "this cluster's workers show their token"});
    return false;
}

int64_t dip__spoke_pause(int attempt, int64_t min_ns, int64_t max_ns)
{
    int64_t pause_ns = min_ns;
    for (int i = 0; i < attempt && pause_ns < max_ns; i++)
        pause_ns *= 2;
    if (pause_ns > max_ns)
        pause_ns = max_ns;
    return pause_ns / 2 + (int64_t)(dip_entropy_seed() % (uint64_t)(pause_ns / 2 + 1));
}

bool dip__spoke_deliver(struct dip_spoke *spoke, struct dip_message *message)
{
    enum dip_status status = dip_mailbox_push(spoke->inbox, message);
    if (status == DIP_BUSY)
        return false;
    if (status)
        dip_message_release(message); /* the worker is going */
    return true;
}

/* ---- the endpoint ---- */

static void pump_posted(void *context, void *payload)
{
    (void)payload;
    dip__spoke_pump(context);
}

static enum dip_status spoke_send(struct dip_endpoint *endpoint, uint32_t to, const void *message)
{
    struct dip_spoke *spoke = (struct dip_spoke *)endpoint;
    if (to == DIP_SPOKE_SELF)
        return dip_mailbox_push(spoke->inbox, message);
    struct spoke_out out = {to, *(const struct dip_message *)message};
    bool is_hinge = out.message.kind == DIP_MESSAGE_HINGE;
    if (is_hinge ? to < ADDRESS_FIRST : to != DIP_SPOKE_COORDINATOR)
        return DIP_UNREACHABLE;
    DIP_TRY(dip_mailbox_push(is_hinge ? spoke->hinges : spoke->outbox, &out));
    /* A loop that is too busy for the post looks at the mailboxes at its next tick. */
    if (dip_flag_raise(&spoke->is_noted) &&
        dip_rpc_loop_post(spoke->options.loop, pump_posted, spoke, NULL))
        dip_flag_lower(&spoke->is_noted);
    return DIP_OK;
}

static enum dip_status spoke_receive(struct dip_endpoint *endpoint, int64_t wait_ns,
                                     void *ret_message)
{
    return dip_mailbox_pop(((struct dip_spoke *)endpoint)->inbox, wait_ns, ret_message);
}

/* The worker is gone: what others still send to it has nobody to go to. */
static void spoke_close(struct dip_endpoint *endpoint)
{
    dip_mailbox_close(((struct dip_spoke *)endpoint)->inbox);
}

static const struct dip_endpoint_ops ops = {spoke_send, spoke_receive, spoke_close};

/* ---- the front door ---- */

static enum dip_status reserve(struct dip_spoke *spoke)
{
    const struct dip_spoke_options *o = &spoke->options;
    int inbox_max = o->inbox_count_max > 0 ? o->inbox_count_max : INBOX_DEFAULT;
    spoke->hand_overs = calloc(HAND_OVERS_MAX, sizeof *spoke->hand_overs);
    if (!spoke->hand_overs)
        return DIP_NO_MEMORY;
    DIP_TRY(dip_wire_reader_new(&spoke->reader));
    DIP_TRY(dip_mailbox_new(sizeof(struct dip_message), (size_t)inbox_max, &spoke->inbox));
    DIP_TRY(dip_mailbox_new(sizeof(struct spoke_out), OUTBOX_MAX, &spoke->outbox));
    return dip_mailbox_new(sizeof(struct spoke_out), OUTBOX_MAX, &spoke->hinges);
}

enum dip_status dip_spoke_new(const struct dip_spoke_options *options, struct dip_spoke **ret_spoke)
{
    dip_assert(options->load != NULL);
    struct dip_spoke *spoke = calloc(1, sizeof *spoke);
    if (!spoke)
        return DIP_NO_MEMORY;
    spoke->endpoint = (struct dip_endpoint){.ops = &ops, .address = DIP_SPOKE_SELF};
    spoke->options = *options;
    spoke->options.tls_name = NULL;
    if (spoke->options.hinge_timeout_ns <= 0)
        spoke->options.hinge_timeout_ns = 30 * DIP_SECOND_NS;
    snprintf(spoke->cluster_id, sizeof spoke->cluster_id, "%s",
             options->cluster_id ? options->cluster_id : "");
    if (options->token && strlen(options->token) + 8 > sizeof spoke->authorization) {
        dip_spoke_free(spoke);
        return DIP_LIMIT;
    }
    if (options->token)
        snprintf(spoke->authorization, sizeof spoke->authorization, "Bearer %s", options->token);
    if (options->tls_name)
        spoke->options.tls_name = spoke->tls_name = strdup(options->tls_name);
    enum dip_status status = options->tls_name && !spoke->tls_name ? DIP_NO_MEMORY : reserve(spoke);
    if (status) {
        dip_spoke_free(spoke);
        return status;
    }
    dip__spoke_stream_init(spoke);
    *ret_spoke = spoke;
    return DIP_OK;
}

void dip_spoke_stop(struct dip_spoke *spoke)
{
    dip_assert(dip_rpc_loop_is_mine(spoke->options.loop));
    if (!spoke->is_closing)
        dip__spoke_stream_close(spoke);
}

static void mailbox_drain(struct dip_mailbox *mailbox)
{
    struct spoke_out out;
    while (mailbox && !dip_mailbox_pop(mailbox, 0, &out))
        dip_message_release(&out.message);
    dip_mailbox_free(mailbox);
}

void dip_spoke_free(struct dip_spoke *spoke)
{
    if (!spoke)
        return;
    struct dip_message message;
    while (spoke->inbox && !dip_mailbox_pop(spoke->inbox, 0, &message))
        dip_message_release(&message);
    dip_mailbox_free(spoke->inbox);
    mailbox_drain(spoke->outbox);
    mailbox_drain(spoke->hinges);
    message = (struct dip_message){.kind = DIP_MESSAGE_HELD, .as.held = spoke->held};
    dip_message_release(&message);
    dip_wire_reader_free(spoke->reader);
    free(spoke->hand_overs);
    free(spoke->frames);
    free(spoke->tls_name);
    free(spoke);
}

struct dip_endpoint *dip_spoke_endpoint(struct dip_spoke *spoke)
{
    return &spoke->endpoint;
}

int dip_spoke_methods(struct dip_spoke *spoke, struct dip_rpc_method ret_methods[2])
{
    return dip__spoke_receive_methods(spoke, ret_methods);
}

void dip_spoke_set_facts(struct dip_spoke *spoke, const struct dip_member_facts *facts)
{
    dip_assert(spoke->state == STREAM_DOWN);
    spoke->options.facts = *facts;
}

uint64_t dip_spoke_fenced(const struct dip_spoke *spoke)
{
    return dip_counter_get(&spoke->fenced);
}

bool dip_spoke_is_connected(struct dip_spoke *spoke)
{
    return dip_flag_is_raised(&spoke->is_connected);
}
