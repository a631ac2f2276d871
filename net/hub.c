/* net/hub.c - streams of workers in, messages out; who is heard of and who is not.
 *
 * A link is one stream. It becomes a member with its hello and stops being one when it is lost; the
 * stream itself may end later, and what still comes on it then is nobody's. Clocks are compared
 * once a tick over all links. A tick that comes late says that this process stood still (stopped,
 * starved), and that workers were silent only because nobody listened: it counts as no time. */
#include "net/hub.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "cluster/wire.h"

enum {
    GUESTS_MAX = 64, /* streams beside the members: before hello, or lost and not yet closed */
    COMMANDS_QUEUED_MAX = 256,
    COMMAND_BYTES_QUEUED_MAX = 8 << 20,
    FRAME_BYTES_MAX = 2 << 20, /* a chunk of a picture and a little */
};
#define HELLO_NS (5 * DIP_SECOND_NS)

struct link {
    struct dip_hub *hub;
    struct dip_rpc_call *call;
    struct dip_wire_reader *reader;
    uint32_t address; /* 0 = no member: not yet, or not any more */
    bool is_over;     /* refused or lost: what still comes is dropped */
    bool is_replaced; /* by a later start of the same worker */
    struct dip_member_facts facts;
    int64_t heard_ns;    /* when something came last */
    int64_t progress_ns; /* when its steps moved last, or it was idle */
    uint64_t steps_total;
};

struct dip_hub {
    struct dip_endpoint endpoint; /* first, so that one pointer is both */
    struct dip_hub_options options;
    char cluster_id[129];
    uint64_t epoch;       /* 0 = does not lead */
    uint64_t later_epoch; /* the largest that a worker was refused for */
    char successor[256];  /* that a worker has gone to; "" = none did */
    struct dip_rpc_timer tick;
    int64_t tick_ns, ticked_ns;
    uint32_t address_last; /* addresses go round, so that one is given again as late as possible */
    struct link **members; /* [member_count_max + 1], by address */
    struct link **links;   /* [link_count_max], all streams */
    int link_count, link_count_max;
    struct dip_hub_stats stats;
};

static void log_link(const struct link *link, const char *what, const char *text)
{
    char line[DIP_WHY_BYTES + 256];
    const struct dip_hub_options *o = &link->hub->options;
    if (!o->log)
        return;
    snprintf(line, sizeof line, "worker %s at %s %s: %s",
             link->facts.name[0] ? link->facts.name : "(unnamed)", dip_rpc_call_peer(link->call),
             what, text);
    o->log(o->context, line);
}

/* ---- losing ---- */

/* The member is gone: from here on nothing comes from its address. */
static void member_leave(struct link *link)
{
    struct dip_hub *hub = link->hub;
    struct dip_message lost = {.kind = DIP_MESSAGE_LOST, .from = link->address};
    hub->members[link->address] = NULL;
    link->address = 0;
    hub->options.on_message(hub->options.context, &lost);
}

/* Ends the stream from this side, and the membership with it. */
static void link_end(struct link *link, int code, const char *text)
{
    if (link->is_over)
        return;
    link->is_over = true;
    if (code != DIP_RPC_OK) /* who hangs up has said so before */
        log_link(link, link->address ? "lost" : "refused", text);
    dip_rpc_call_finish(link->call, &(struct dip_rpc_status){.code = code, .message = text});
    if (link->address)
        member_leave(link);
}

/* Nobody reads there, so a status would wait behind what is queued. */
static void link_cut(struct link *link, const char *text)
{
    if (link->is_over)
        return;
    link->is_over = true;
    log_link(link, link->address ? "lost" : "refused", text);
    dip_rpc_call_cancel(link->call, DIP_RPC_DEADLINE_EXCEEDED, text);
    if (link->address)
        member_leave(link);
}

/* ---- joining ---- */

/* 0 when every address is taken. */
static uint32_t address_take(struct dip_hub *hub)
{
    for (uint32_t i = 0; i < hub->options.member_count_max; i++) {
        hub->address_last = hub->address_last % hub->options.member_count_max + 1;
        if (!hub->members[hub->address_last])
            return hub->address_last;
    }
    return 0;
}

static struct link *find_name(struct dip_hub *hub, const char *name)
{
    for (uint32_t i = 1; i <= hub->options.member_count_max; i++)
        if (hub->members[i] && strcmp(hub->members[i]->facts.name, name) == 0)
            return hub->members[i];
    return NULL;
}

static enum dip_status send_welcome(struct link *link)
{
    const struct dip_hub *hub = link->hub;
    struct dip_wire_welcome welcome = {.epoch = hub->epoch,
                                       .protocol = link->facts.protocol,
                                       .heartbeat_ns = hub->options.heartbeat_ns};
    memcpy(welcome.cluster_id, hub->cluster_id, sizeof welcome.cluster_id);
    void *data = NULL;
    size_t bytes = 0;
    DIP_TRY(dip_wire_encode_welcome(&welcome, &data, &bytes));
    enum dip_status status = dip_rpc_call_send(link->call, data, bytes, 0);
    if (status)
        free(data);
    return status;
}

/* Of two processes with one name the younger is the real one: the older has been given up by
 * whoever started the younger. The same process again has lost its stream before we noticed. */
static bool make_way(struct link *link, const struct dip_member_facts *facts)
{
    struct link *other = find_name(link->hub, facts->name);
    if (!other)
        return true;
    if (other->facts.incarnation > facts->incarnation) {
        link->hub->stats.fenced_incarnations++;
        link_end(link, DIP_RPC_FAILED_PRECONDITION,
                 "a later start of a worker with this name is connected");
        return false;
    }
    other->is_replaced = other->facts.incarnation < facts->incarnation;
    link_end(other, DIP_RPC_ABORTED, "a later start of a worker with this name has come");
    return true;
}

static void hello(struct link *link, uint64_t epoch, struct dip_message *message)
{
    struct dip_hub *hub = link->hub;
    const struct dip_member_facts *facts = message->as.appeared.facts.data;
    memcpy(link->facts.name, facts->name, sizeof link->facts.name); /* for the log */
    if (epoch > hub->epoch) {
        hub->stats.fenced_epochs++;
        hub->later_epoch = epoch > hub->later_epoch ? epoch : hub->later_epoch;
        link_end(link, DIP_RPC_FAILED_PRECONDITION,
                 "the worker has seen a later leader than this coordinator");
        return;
    }
    struct dip_why why = {0};
    if (hub->options.does_fit && !hub->options.does_fit(hub->options.context, facts, &why)) {
        link_end(link, DIP_RPC_FAILED_PRECONDITION, why.text);
        return;
    }
    if (!make_way(link, facts))
        return;
    uint32_t address = address_take(hub);
    if (!address) {
        link_end(link, DIP_RPC_RESOURCE_EXHAUSTED, "this coordinator has no room for more workers");
        return;
    }
    link->facts = *facts;
    if (send_welcome(link)) {
        link_end(link, DIP_RPC_RESOURCE_EXHAUSTED, "no memory for another worker");
        return;
    }
    link->address = address;
    hub->members[address] = link;
    message->from = address;
    hub->options.on_message(hub->options.context, message);
}

/* ---- what comes ---- */

static void heartbeat(struct link *link, const struct dip_message_heartbeat *beat, int64_t now_ns)
{
    bool is_busy = beat->ar_busy > 0 || beat->diffusion_busy > 0;
    if (!is_busy || beat->steps_total != link->steps_total)
        link->progress_ns = now_ns;
    link->steps_total = beat->steps_total;
}

static void take(struct link *link, uint64_t epoch, struct dip_message *message)
{
    struct dip_hub *hub = link->hub;
    if ((message->kind == DIP_MESSAGE_APPEARED) != (link->address == 0)) {
        link_end(link, DIP_RPC_INVALID_ARGUMENT,
                 "Hello is the first thing that a worker says, and the only time");
        return;
    }
    if (!link->address) {
        hello(link, epoch, message);
        return;
    }
    if (message->kind == DIP_MESSAGE_SUPERSEDED) {
        memcpy(hub->successor, message->as.superseded.leader, sizeof hub->successor);
        link_end(link, DIP_RPC_ABORTED, "another coordinator leads, says the worker");
        return;
    }
    if (message->kind == DIP_MESSAGE_HEARTBEAT)
        heartbeat(link, &message->as.heartbeat, link->heard_ns);
    message->from = link->address;
    hub->options.on_message(hub->options.context, message);
}

static void on_message(void *context, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    (void)call;
    struct link *link = context;
    if (link->is_over) {
        link->hub->stats.fenced_incarnations += link->is_replaced;
        return;
    }
    struct dip_wire_envelope envelope = {0};
    struct dip_message message = {0};
    struct dip_why why = {0};
    enum dip_status status =
        dip_wire_read_event(link->reader, data, bytes, &why, &envelope, &message);
    link->heard_ns = dip_clock_now_ns();
    if (status == DIP_TIMEOUT)
        return; /* a part of something */
    if (status) {
        link_end(link, DIP_RPC_INVALID_ARGUMENT, why.text);
        return;
    }
    take(link, envelope.epoch, &message);
    dip_message_release(&message); /* what the callee has not taken */
}

static void refuse(struct dip_rpc_call *call, int code, const char *text)
{
    dip_rpc_call_bind(call, NULL);
    dip_rpc_call_finish(call, &(struct dip_rpc_status){.code = code, .message = text});
}

static void on_open(void *context, struct dip_rpc_call *call)
{
    struct dip_hub *hub = context;
    if (hub->epoch == 0) {
        refuse(call, DIP_RPC_UNAVAILABLE, "this coordinator does not lead");
        return;
    }
    if (hub->options.may_join && !hub->options.may_join(hub->options.context, call)) {
        refuse(call, DIP_RPC_UNAUTHENTICATED,
               "this cluster's workers show a token of scope worker");
        return;
    }
    struct link *link = NULL;
    if (hub->link_count < hub->link_count_max)
        link = calloc(1, sizeof *link);
    if (link && dip_wire_reader_new(&link->reader)) {
        free(link);
        link = NULL;
    }
    if (!link) {
        refuse(call, DIP_RPC_RESOURCE_EXHAUSTED, "this coordinator has no room for more workers");
        return;
    }
    link->hub = hub;
    link->call = call;
    link->heard_ns = link->progress_ns = dip_clock_now_ns();
    hub->links[hub->link_count++] = link;
    dip_rpc_call_bind(call, link);
}

static void on_half_close(void *context, struct dip_rpc_call *call)
{
    (void)call;
    if (context)
        link_end(context, DIP_RPC_OK, "the worker has hung up");
}

static void on_close(void *context, struct dip_rpc_call *call, const struct dip_rpc_status *status)
{
    (void)call;
    struct link *link = context;
    if (!link)
        return;
    struct dip_hub *hub = link->hub;
    if (!link->is_over) {
        link->is_over = true;
        log_link(link, link->address ? "lost" : "left", status->message ? status->message : "");
    }
    if (link->address)
        member_leave(link);
    int i = 0;
    while (hub->links[i] != link)
        i++;
    hub->links[i] = hub->links[--hub->link_count];
    dip_wire_reader_free(link->reader);
    free(link);
}

/* A refused call has no link. */
static void on_message_or_refused(void *context, struct dip_rpc_call *call, const void *data,
                                  size_t bytes)
{
    if (context)
        on_message(context, call, data, bytes);
}

static const struct dip_rpc_handler handler = {.on_open = on_open,
                                               .on_message = on_message_or_refused,
                                               .on_half_close = on_half_close,
                                               .on_close = on_close};

/* ---- the clock ---- */

static void check_link(struct link *link, int64_t now_ns)
{
    const struct dip_hub_options *o = &link->hub->options;
    char text[96];
    if (!link->address) {
        if (now_ns - link->heard_ns > HELLO_NS)
            link_cut(link, "no hello came");
    } else if (now_ns - link->heard_ns > o->silence_ns) {
        snprintf(text, sizeof text, "nothing was heard for %lld ms",
                 (long long)((now_ns - link->heard_ns) / DIP_MS_NS));
        link->hub->stats.silent++;
        link_cut(link, text);
    } else if (now_ns - link->progress_ns > o->stuck_ns) {
        snprintf(text, sizeof text, "it has jobs, and no step was made for %lld ms",
                 (long long)((now_ns - link->progress_ns) / DIP_MS_NS));
        link->hub->stats.stuck++;
        link_cut(link, text);
    }
}

static void tick(void *context)
{
    struct dip_hub *hub = context;
    int64_t now_ns = dip_clock_now_ns();
    int64_t missed_ns = now_ns - hub->ticked_ns - 2 * hub->tick_ns;
    hub->ticked_ns = now_ns;
    for (int i = 0; i < hub->link_count; i++) {
        struct link *link = hub->links[i];
        if (missed_ns > 0) {
            link->heard_ns += missed_ns;
            link->progress_ns += missed_ns;
        }
        if (!link->is_over)
            check_link(link, now_ns);
    }
    enum dip_status status =
        dip_rpc_timer_set(hub->options.loop, &hub->tick, now_ns + hub->tick_ns);
    dip_assert(status == DIP_OK); /* it had its place a moment ago */
}

/* ---- what goes out ---- */

static enum dip_status push_frame(void *context, void *data, size_t bytes)
{
    enum dip_status status = dip_rpc_call_send(context, data, bytes, 0);
    return status == DIP_CANCELLED ? DIP_UNREACHABLE : status;
}

static struct link *member_at(struct dip_hub *hub, uint32_t address)
{
    return address >= 1 && address <= hub->options.member_count_max ? hub->members[address] : NULL;
}

static enum dip_status hub_send(struct dip_endpoint *endpoint, uint32_t to, const void *message)
{
    struct dip_hub *hub = (struct dip_hub *)endpoint;
    struct dip_message command = *(const struct dip_message *)message;
    struct dip_wire_envelope envelope = {.epoch = hub->epoch};
    struct link *link = member_at(hub, to);
    if (!link)
        return DIP_UNREACHABLE;
    if (command.kind == DIP_MESSAGE_HAND_OVER) {
        const struct link *receiver = member_at(hub, command.as.hand_over.to);
        if (!receiver || receiver->facts.address[0] == '\0')
            return DIP_UNREACHABLE;
        memcpy(envelope.hinge_address, receiver->facts.address, sizeof envelope.hinge_address);
    }
    DIP_TRY(dip_wire_encode_command(&command, &envelope, push_frame, link->call));
    dip_message_release(&command);
    return DIP_OK;
}

static enum dip_status hub_receive(struct dip_endpoint *endpoint, int64_t wait_ns,
                                   void *ret_message)
{
    (void)endpoint;
    (void)wait_ns;
    (void)ret_message;
    return DIP_UNSUPPORTED; /* messages are brought */
}

static void hub_close(struct dip_endpoint *endpoint)
{
    dip_hub_dismiss((struct dip_hub *)endpoint);
}

static const struct dip_endpoint_ops ops = {hub_send, hub_receive, hub_close};

/* ---- the front door ---- */

static int64_t or_default(int64_t ns, int64_t default_ns)
{
    return ns > 0 ? ns : default_ns;
}

static int64_t tick_of(const struct dip_hub_options *o)
{
    int64_t tick_ns = o->silence_ns / 8;
    return tick_ns > 5 * DIP_MS_NS ? tick_ns : 5 * DIP_MS_NS;
}

enum dip_status dip_hub_new(const struct dip_hub_options *options, struct dip_hub **ret_hub)
{
    dip_assert(options->member_count_max > 0);
    enum dip_status status = DIP_NO_MEMORY;
    struct dip_hub *hub = calloc(1, sizeof *hub);
    if (!hub)
        goto out;
    hub->endpoint = (struct dip_endpoint){.ops = &ops, .address = 0};
    hub->options = *options;
    hub->options.heartbeat_ns = or_default(options->heartbeat_ns, INT64_C(200) * DIP_MS_NS);
    hub->options.silence_ns = or_default(options->silence_ns, DIP_SECOND_NS);
    hub->options.stuck_ns = or_default(options->stuck_ns, 30 * DIP_SECOND_NS);
    hub->tick_ns = tick_of(&hub->options);
    snprintf(hub->cluster_id, sizeof hub->cluster_id, "%s",
             options->cluster_id ? options->cluster_id : "");
    hub->link_count_max = (int)options->member_count_max + GUESTS_MAX;
    hub->members = calloc(options->member_count_max + (size_t)1, sizeof(struct link *));
    hub->links = calloc((size_t)hub->link_count_max, sizeof(struct link *));
    if (!hub->members || !hub->links)
        goto out;
    hub->tick.fire = tick;
    hub->tick.context = hub;
    hub->ticked_ns = dip_clock_now_ns();
    status = dip_rpc_timer_set(options->loop, &hub->tick, hub->ticked_ns + hub->tick_ns);
    if (status)
        goto out;
    *ret_hub = hub;
    hub = NULL;
out:
    dip_hub_free(hub);
    return status;
}

void dip_hub_free(struct dip_hub *hub)
{
    if (!hub)
        return;
    dip_assert(hub->link_count == 0);
    dip_rpc_timer_clear(hub->options.loop, &hub->tick);
    free(hub->members);
    free(hub->links);
    free(hub);
}

struct dip_rpc_method dip_hub_method(struct dip_hub *hub)
{
    return (struct dip_rpc_method){.path = "/diptych.internal.v1.WorkerService/Connect",
                                   .kind = DIP_RPC_BIDI,
                                   .handler = &handler,
                                   .context = hub,
                                   .request_bytes_max = FRAME_BYTES_MAX,
                                   .queue_count_max = COMMANDS_QUEUED_MAX,
                                   .queue_bytes_max = COMMAND_BYTES_QUEUED_MAX,
                                   .stall_ns = hub->options.stuck_ns};
}

struct dip_endpoint *dip_hub_endpoint(struct dip_hub *hub)
{
    return &hub->endpoint;
}

void dip_hub_set_epoch(struct dip_hub *hub, uint64_t epoch)
{
    dip_assert(epoch >= hub->epoch);
    hub->epoch = epoch;
    hub->successor[0] = '\0';
}

const char *dip_hub_successor(const struct dip_hub *hub)
{
    return hub->successor;
}

uint64_t dip_hub_later_epoch(const struct dip_hub *hub)
{
    return hub->later_epoch;
}

struct dip_hub_stats dip_hub_stats(const struct dip_hub *hub)
{
    return hub->stats;
}

void dip_hub_dismiss(struct dip_hub *hub)
{
    hub->epoch = 0;
    for (int i = 0; i < hub->link_count; i++) {
        struct link *link = hub->links[i];
        if (link->is_over)
            continue;
        link->is_over = true;
        if (link->address)
            hub->members[link->address] = NULL;
        link->address = 0;
        dip_rpc_call_finish(link->call,
                            &(struct dip_rpc_status){.code = DIP_RPC_UNAVAILABLE,
                                                     .message = "this coordinator leads no more"});
    }
}
