/* net/spoke_stream.c - the stream to whoever leads: connecting again, commands in, events out.
 *
 *          set_coordinator            hello sent            welcome came
 *     DOWN ───────────────► (pause) ───────────────► HELLO ───────────────► UP
 *      ▲                                               │                     │
 *      └── RESET into the inbox ◄──────────────────────┴── end, silence ◄────┘
 *
 * Events are taken from the outbox one message at a time and only while the call takes their
 * frames, so that what waits is bounded by the outbox and the device thread is slowed in the end. A
 * peer that takes nothing for STALL_NS is left: the device thread must not stand still for it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "net/spoke_private.h"

enum {
    FRAMES_QUEUED_MAX = 64,
    FRAME_BYTES_QUEUED_MAX = 1 << 20, /* what a slow line takes in less than STALL_NS */
    HEARTBEAT_KEY = 1,                /* a newer one takes the place of one that waits */
};
#define TICK_NS      (INT64_C(200) * DIP_MS_NS)
#define INBOX_NS     (INT64_C(2) * DIP_MS_NS)
#define WELCOME_NS   (5 * DIP_SECOND_NS)
#define STALL_NS     (10 * DIP_SECOND_NS)
#define CLOSE_NS     (5 * DIP_SECOND_NS)
#define FAREWELL_NS  (INT64_C(250) * DIP_MS_NS) /* for the old leader to take the last word */
#define SETTLED_NS   (2 * DIP_SECOND_NS)        /* a stream that stood so long was no mistake */
#define PAUSE_NS_MIN (INT64_C(50) * DIP_MS_NS)
#define PAUSE_NS_MAX (2 * DIP_SECOND_NS)

static void connect_now(void *context);
static void connect_later(struct dip_spoke *spoke);
static void target_change(void *context);
static void stream_stop(void *context);
static void stream_end(struct dip_spoke *spoke);

static void set_timer(struct dip_spoke *spoke, struct dip_rpc_timer *timer, int64_t wait_ns)
{
    enum dip_status status =
        dip_rpc_timer_set(spoke->options.loop, timer, dip_clock_now_ns() + wait_ns);
    dip_assert(status == DIP_OK); /* the loop has places for thousands, this process few */
}

/* ---- into the inbox ---- */

void dip__spoke_inbox_later(struct dip_spoke *spoke)
{
    if (!spoke->inbox_timer.heap_rank && !spoke->is_stopping)
        set_timer(spoke, &spoke->inbox_timer, INBOX_NS);
}

/* In order: the RESET, then commands, then hinges. */
static void inbox_fill(void *context)
{
    struct dip_spoke *spoke = context;
    struct dip_message reset = {.kind = DIP_MESSAGE_RESET,
                                .job_id = spoke->reset_serial,
                                .as.reset.epoch = spoke->reset_epoch};
    if (spoke->is_reset_due && dip__spoke_deliver(spoke, &reset))
        spoke->is_reset_due = false;
    int done = 0;
    while (!spoke->is_reset_due && done < spoke->delayed_count &&
           dip__spoke_deliver(spoke, &spoke->delayed[done]))
        done++;
    spoke->delayed_count -= done;
    memmove(spoke->delayed, spoke->delayed + done,
            (size_t)spoke->delayed_count * sizeof spoke->delayed[0]);
    if (spoke->is_reset_due || spoke->delayed_count > 0 || !dip__spoke_receive_deliver(spoke))
        dip__spoke_inbox_later(spoke);
    else if (done > 0 && spoke->call)
        dip_rpc_call_resume(spoke->call);
}

static void inbox_push(struct dip_spoke *spoke, struct dip_message *message)
{
    if (spoke->delayed_count == 0 && !spoke->is_reset_due && dip__spoke_deliver(spoke, message))
        return;
    dip_assert(spoke->delayed_count < DELAYED_MAX); /* one may come after the pause */
    spoke->delayed[spoke->delayed_count++] = *message;
    dip_rpc_call_pause(spoke->call);
    dip__spoke_inbox_later(spoke);
}

/* What was said before is not meant for the next stream. */
static void fence(struct dip_spoke *spoke)
{
    for (int i = 0; i < spoke->delayed_count; i++)
        dip_message_release(&spoke->delayed[i]);
    spoke->delayed_count = 0;
    spoke->has_joined = false;
    spoke->is_fenced = true;
    spoke->is_reset_due = true;
    spoke->reset_serial++;
    spoke->reset_epoch = spoke->epoch;
    inbox_fill(spoke);
}

/* ---- events out ---- */

static void frames_drop(struct dip_spoke *spoke)
{
    for (int i = spoke->frame_first; i < spoke->frame_count; i++)
        free(spoke->frames[i].data);
    spoke->frame_first = spoke->frame_count = 0;
    spoke->blocked_ns = 0;
}

/* True when all of it is with the call. */
static bool frames_send(struct dip_spoke *spoke)
{
    bool is_moving = spoke->blocked_ns == 0;
    while (spoke->frame_first < spoke->frame_count) {
        struct spoke_frame *frame = &spoke->frames[spoke->frame_first];
        enum dip_status status = dip_rpc_call_send(spoke->call, frame->data, frame->bytes, 0);
        if (status == DIP_BUSY) {
            if (is_moving)
                spoke->blocked_ns = dip_clock_now_ns();
            return false;
        }
        is_moving = true;
        if (status)
            free(frame->data); /* the stream is ending */
        spoke->frame_first++;
    }
    spoke->frame_first = spoke->frame_count = 0;
    spoke->blocked_ns = 0;
    return true;
}

static enum dip_status keep_frame(void *context, void *data, size_t bytes)
{
    struct dip_spoke *spoke = context;
    if (spoke->frame_count == spoke->frame_count_max) {
        int count_max = spoke->frame_count_max > 0 ? 2 * spoke->frame_count_max : 16;
        struct spoke_frame *frames =
            realloc(spoke->frames, (size_t)count_max * sizeof spoke->frames[0]);
        if (!frames)
            return DIP_NO_MEMORY;
        spoke->frames = frames;
        spoke->frame_count_max = count_max;
    }
    spoke->frames[spoke->frame_count++] = (struct spoke_frame){data, bytes};
    return DIP_OK;
}

/* Encodes behind what waits; a message that cannot travel is left out whole. */
static void say(struct dip_spoke *spoke, const struct dip_message *message)
{
    struct dip_wire_envelope envelope = {.epoch = spoke->epoch};
    int count = spoke->frame_count;
    enum dip_status status = dip_wire_encode_event(message, &envelope, keep_frame, spoke);
    if (!status)
        return;
    while (spoke->frame_count > count)
        free(spoke->frames[--spoke->frame_count].data);
    if (message->kind == DIP_MESSAGE_PREVIEW || message->kind == DIP_MESSAGE_TRACE ||
        message->kind == DIP_MESSAGE_CHECKPOINT)
        return; /* nobody's result hangs on it */
    dip__spoke_log(spoke, "cannot say %s: %s", dip_message_name(message->kind),
                   dip_status_text(status));
    if (message->kind == DIP_MESSAGE_IMAGE)
        dip__spoke_say_failed(spoke, message->job_id, status, "the picture cannot be sent");
}

void dip__spoke_say_failed(struct dip_spoke *spoke, uint64_t job_id, enum dip_status status,
                           const char *text)
{
    struct dip_message failed = {
        .kind = DIP_MESSAGE_FAILED, .job_id = job_id, .as.failed.status = status};
    snprintf(failed.as.failed.text, sizeof failed.as.failed.text, "%s", text);
    if (spoke->state != STREAM_UP)
        return;
    say(spoke, &failed);
    frames_send(spoke);
}

/* What the next hello tells instead of what it would have told; empties *held. */
static void held_take(struct dip_spoke *spoke, struct dip_message_held *held)
{
    struct dip_message before = {.kind = DIP_MESSAGE_HELD, .as.held = spoke->held};
    dip_message_release(&before);
    spoke->held = *held;
    *held = (struct dip_message_held){0};
}

/* One message of the device thread's. */
static void outgoing(struct dip_spoke *spoke, struct dip_message *message)
{
    bool is_answer = message->kind == DIP_MESSAGE_RESET;
    if (is_answer && message->job_id == spoke->reset_serial) {
        spoke->is_fenced = false;
        held_take(spoke, &message->as.reset.held);
    } else if (message->kind == DIP_MESSAGE_HELD) {
        if (!spoke->is_fenced && spoke->state == STREAM_DOWN)
            held_take(spoke, &message->as.held);
    } else if (!is_answer && !spoke->is_fenced) {
        if (message->kind == DIP_MESSAGE_JOINED) {
            spoke->joined = *message;
            spoke->has_joined = true;
        }
        if (spoke->state == STREAM_UP)
            say(spoke, message);
    }
    dip_message_release(message);
}

void dip__spoke_pump(struct dip_spoke *spoke)
{
    struct spoke_out out;
    dip_flag_lower(&spoke->is_noted);
    while (!dip_mailbox_pop(spoke->hinges, 0, &out))
        dip__spoke_put(spoke, out.to, &out.message);
    /* Without a stream nothing is sent, and nothing waits either. */
    while ((spoke->state != STREAM_UP || frames_send(spoke)) &&
           !dip_mailbox_pop(spoke->outbox, 0, &out))
        outgoing(spoke, &out.message);
    bool is_last_word = spoke->is_closing || spoke->next[0];
    if (is_last_word && spoke->state == STREAM_UP && spoke->frame_count == 0)
        dip_rpc_call_half_close(spoke->call);
}

/* ---- heartbeats, and what time brings ---- */

static void heartbeat(struct dip_spoke *spoke, int64_t now_ns)
{
    const struct dip_member_load *load = spoke->options.load;
    struct dip_message message = {.kind = DIP_MESSAGE_HEARTBEAT};
    struct dip_message_heartbeat *beat = &message.as.heartbeat;
    beat->steps_total = dip_counter_get(&load->steps);
    beat->ar_busy = (int32_t)dip_counter_get(&load->ar_busy);
    beat->hinges_held = (int32_t)dip_counter_get(&load->hinges_held);
    beat->diffusion_busy = (int32_t)dip_counter_get(&load->diffusion_busy);
    bool is_busy = beat->ar_busy > 0 || beat->diffusion_busy > 0;
    if (!is_busy || beat->steps_total != spoke->steps_seen)
        spoke->stepped_ns = now_ns;
    spoke->steps_seen = beat->steps_total;
    beat->last_step_age_ns = now_ns - spoke->stepped_ns;
    struct dip_wire_envelope envelope = {.epoch = spoke->epoch};
    int count = spoke->frame_count;
    if (dip_wire_encode_event(&message, &envelope, keep_frame, spoke))
        return; /* the next one will do */
    struct spoke_frame frame = spoke->frames[--spoke->frame_count];
    dip_assert(spoke->frame_count == count);
    /* Past what waits: a heartbeat that comes late is none. */
    if (dip_rpc_call_send(spoke->call, frame.data, frame.bytes, HEARTBEAT_KEY))
        free(frame.data);
}

static void tick(void *context)
{
    struct dip_spoke *spoke = context;
    int64_t now_ns = dip_clock_now_ns();
    set_timer(spoke, &spoke->tick_timer, spoke->state == STREAM_UP ? spoke->heartbeat_ns : TICK_NS);
    dip__spoke_peers_tick(spoke, now_ns);
    dip__spoke_receive_tick(spoke, now_ns);
    dip__spoke_pump(spoke); /* for a post that the loop had no place for */
    if (spoke->state == STREAM_UP)
        heartbeat(spoke, now_ns);
    if (spoke->state == STREAM_UP && spoke->blocked_ns && now_ns - spoke->blocked_ns > STALL_NS) {
        dip__spoke_log(spoke, "the coordinator at %s takes nothing any more", spoke->target);
        stream_end(spoke);
    } else if (spoke->state == STREAM_HELLO && now_ns - spoke->hello_ns > WELCOME_NS) {
        dip__spoke_log(spoke, "the coordinator at %s does not answer", spoke->target);
        stream_end(spoke);
    }
}

/* ---- commands in ---- */

static void refuse_stale(struct dip_spoke *spoke, const struct dip_message *message)
{
    if (message->kind == DIP_MESSAGE_AR || message->kind == DIP_MESSAGE_DIFFUSION ||
        message->kind == DIP_MESSAGE_HAND_OVER)
        dip__spoke_say_failed(spoke, message->job_id, DIP_STALE,
                              "the command comes from a leader of the past");
}

static void command(struct dip_spoke *spoke, const struct dip_wire_envelope *envelope,
                    struct dip_message *message)
{
    if (envelope->epoch < spoke->epoch) {
        dip_counter_add(&spoke->fenced, 1);
        refuse_stale(spoke, message);
        dip_message_release(message);
        return;
    }
    spoke->epoch = envelope->epoch;
    if (message->kind == DIP_MESSAGE_HAND_OVER) {
        bool is_own = strcmp(envelope->hinge_address, spoke->options.facts.address) == 0;
        message->as.hand_over.to =
            is_own ? DIP_SPOKE_SELF : dip__spoke_hand_over(spoke, message, envelope->hinge_address);
    } else if (message->kind == DIP_MESSAGE_RELEASE) {
        dip__spoke_put_drop(spoke, message->job_id);
        dip__spoke_receive_drop(spoke, message->job_id);
        message->as.release.told_ns = dip_clock_now_ns();
    }
    inbox_push(spoke, message);
}

static void welcome(struct dip_spoke *spoke, const void *data, size_t bytes)
{
    struct dip_wire_welcome said;
    struct dip_why why = {0};
    enum dip_status status = dip_wire_read_welcome(data, bytes, &why, &said);
    if (!status && spoke->cluster_id[0] && strcmp(spoke->cluster_id, said.cluster_id) != 0)
        status = dip_fail(&why, DIP_INVALID, "it leads the cluster \"%s\", not \"%s\"",
                          said.cluster_id, spoke->cluster_id);
    if (!status && said.epoch < spoke->epoch) {
        dip_counter_add(&spoke->fenced, 1);
        status = dip_fail(&why, DIP_STALE, "its epoch %llu has passed, %llu was seen",
                          (unsigned long long)said.epoch, (unsigned long long)spoke->epoch);
    }
    if (status) {
        dip__spoke_log(spoke, "left the coordinator at %s: %s", spoke->target, why.text);
        stream_end(spoke);
        return;
    }
    spoke->epoch = said.epoch;
    spoke->heartbeat_ns = said.heartbeat_ns;
    spoke->state = STREAM_UP;
    spoke->up_ns = spoke->stepped_ns = dip_clock_now_ns();
    dip_flag_raise(&spoke->is_connected);
    dip__spoke_log(spoke, "connected to the coordinator at %s, epoch %llu", spoke->target,
                   (unsigned long long)spoke->epoch);
    held_take(spoke, &(struct dip_message_held){{0}, {0}}); /* it has been told */
    if (spoke->has_joined)
        say(spoke, &spoke->joined);
    tick(spoke);
}

static void on_message(void *context, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    struct dip_spoke *spoke = context;
    if (call != spoke->call)
        return; /* of a stream that was left */
    if (spoke->state == STREAM_HELLO) {
        welcome(spoke, data, bytes);
        return;
    }
    struct dip_wire_envelope envelope;
    struct dip_message message;
    struct dip_why why = {0};
    enum dip_status status =
        dip_wire_read_command(spoke->reader, data, bytes, &why, &envelope, &message);
    if (status == DIP_TIMEOUT)
        return;
    if (!status) {
        command(spoke, &envelope, &message);
        return;
    }
    dip__spoke_log(spoke, "left the coordinator at %s, which said what cannot be: %s",
                   spoke->target, why.text);
    stream_end(spoke);
}

static void on_writable(void *context, struct dip_rpc_call *call)
{
    struct dip_spoke *spoke = context;
    if (call == spoke->call && spoke->state == STREAM_UP)
        dip__spoke_pump(spoke);
}

static void on_close(void *context, struct dip_rpc_call *call, const struct dip_rpc_status *status)
{
    struct dip_spoke *spoke = context;
    if (call != spoke->call)
        return;
    if (spoke->state == STREAM_UP || spoke->attempt == 1) /* not every try in vain */
        dip__spoke_log(spoke, "%s the coordinator at %s: %s %s",
                       spoke->state == STREAM_UP ? "lost" : "no stream to", spoke->target,
                       dip_rpc_code_name(status->code), status->message ? status->message : "");
    spoke->call = NULL;
    stream_end(spoke);
}

static const struct dip_rpc_handler handler = {
    .on_message = on_message, .on_writable = on_writable, .on_close = on_close};

/* ---- opening and ending ---- */

static enum dip_status send_hello(struct dip_spoke *spoke)
{
    struct dip_message hello = {
        .kind = DIP_MESSAGE_APPEARED,
        .as.appeared = {.facts = {&spoke->options.facts, sizeof spoke->options.facts},
                        .held = spoke->held}};
    struct dip_wire_envelope envelope = {.epoch = spoke->epoch};
    DIP_TRY(dip_wire_encode_event(&hello, &envelope, keep_frame, spoke));
    struct spoke_frame frame = spoke->frames[--spoke->frame_count];
    enum dip_status status = dip_rpc_call_send(spoke->call, frame.data, frame.bytes, 0);
    if (status)
        free(frame.data);
    return status;
}

static enum dip_status open_call(struct dip_spoke *spoke, struct dip_why *why)
{
    if (!spoke->channel)
        DIP_TRY(dip_rpc_channel_open(
            &(struct dip_rpc_channel_options){.loop = spoke->options.loop,
                                              .target = spoke->target,
                                              .tls = spoke->options.tls,
                                              .tls_name = spoke->options.tls_name,
                                              .keepalive_timeout_ns = 5 * DIP_SECOND_NS,
                                              .backoff_ns_min = PAUSE_NS_MIN,
                                              .backoff_ns_max = PAUSE_NS_MAX / 2},
            why, &spoke->channel));
    struct dip_rpc_pair headers[1];
    int header_count = dip__spoke_headers(spoke, headers);
    DIP_TRY(dip_rpc_call_open(
        spoke->channel,
        &(struct dip_rpc_call_options){.headers = headers,
                                       .header_count = header_count,
                                       .path = "/diptych.internal.v1.WorkerService/Connect",
                                       .queue_count_max = FRAMES_QUEUED_MAX,
                                       .queue_bytes_max = FRAME_BYTES_QUEUED_MAX,
                                       .handler = &handler,
                                       .context = spoke},
        &spoke->call));
    return send_hello(spoke);
}

static void connect_now(void *context)
{
    struct dip_spoke *spoke = context;
    struct dip_why why = {0};
    if (spoke->is_fenced) { /* the hello says what the worker still holds */
        set_timer(spoke, &spoke->connect_timer, INBOX_NS);
        return;
    }
    enum dip_status status = open_call(spoke, &why);
    if (status) {
        dip__spoke_log(spoke, "cannot call the coordinator at %s: %s", spoke->target,
                       why.text[0] ? why.text : dip_status_text(status));
        stream_end(spoke);
        return;
    }
    spoke->state = STREAM_HELLO;
    spoke->hello_ns = dip_clock_now_ns();
}

static void connect_later(struct dip_spoke *spoke)
{
    if (!spoke->target[0] || spoke->is_closing)
        return;
    /* A pause also before the first: a thousand workers lose one coordinator in one moment. */
    set_timer(spoke, &spoke->connect_timer,
              dip__spoke_pause(spoke->attempt++, PAUSE_NS_MIN, PAUSE_NS_MAX));
}

/* The stream is gone, from whichever side; another follows after a pause. */
static void stream_end(struct dip_spoke *spoke)
{
    struct dip_rpc_call *call = spoke->call;
    bool was_up = spoke->state == STREAM_UP;
    spoke->call = NULL; /* what it still says is not heard */
    spoke->state = STREAM_DOWN;
    dip_flag_lower(&spoke->is_connected);
    if (call)
        dip_rpc_call_cancel(call, DIP_RPC_CANCELLED, "the worker leaves");
    frames_drop(spoke);
    if (was_up) {
        if (dip_clock_now_ns() - spoke->up_ns > SETTLED_NS)
            spoke->attempt = 0;
        dip__spoke_put_drop(spoke, 0);
        dip__spoke_receive_drop(spoke, 0);
        fence(spoke);
        dip__spoke_pump(spoke);
    }
    if (spoke->is_closing && !spoke->is_stopping)
        stream_stop(spoke);
    else if (spoke->next[0])
        target_change(spoke);
    else
        connect_later(spoke);
}

static void channel_close(struct dip_spoke *spoke)
{
    dip_rpc_channel_close(spoke->channel);
    spoke->channel = NULL;
}

static void target_set(struct dip_spoke *spoke, const char *target)
{
    spoke->next[0] = spoke->target[0] = '\0'; /* no connecting by the way */
    stream_end(spoke);
    dip_rpc_timer_clear(spoke->options.loop, &spoke->connect_timer);
    spoke->connect_timer.fire = connect_now;
    channel_close(spoke);
    snprintf(spoke->target, sizeof spoke->target, "%s", target);
    spoke->attempt = 0;
    connect_later(spoke);
}

static void target_change(void *context)
{
    struct dip_spoke *spoke = context;
    char next[sizeof spoke->next];
    memcpy(next, spoke->next, sizeof next);
    target_set(spoke, next);
}

/* The old leader may not know: cut off from the registry it leads on until somebody tells it. The
 * stream ends when it has hung up, or after a moment. */
static void farewell(struct dip_spoke *spoke, const char *target)
{
    struct dip_message superseded = {.kind = DIP_MESSAGE_SUPERSEDED};
    bool is_said = spoke->next[0] != '\0';
    snprintf(superseded.as.superseded.leader, sizeof superseded.as.superseded.leader, "%s", target);
    snprintf(spoke->next, sizeof spoke->next, "%s", target);
    if (is_said)
        return;
    spoke->connect_timer.fire = target_change;
    set_timer(spoke, &spoke->connect_timer, FAREWELL_NS);
    say(spoke, &superseded);
    dip__spoke_pump(spoke);
}

void dip_spoke_set_coordinator(struct dip_spoke *spoke, const char *target)
{
    dip_assert(dip_rpc_loop_is_mine(spoke->options.loop));
    const char *text = target ? target : "";
    if (spoke->is_closing || strcmp(text, spoke->next[0] ? spoke->next : spoke->target) == 0)
        return;
    if (text[0] && spoke->state == STREAM_UP)
        farewell(spoke, text);
    else
        target_set(spoke, text);
}

void dip__spoke_stream_init(struct dip_spoke *spoke)
{
    spoke->connect_timer.fire = connect_now;
    spoke->tick_timer.fire = tick;
    spoke->inbox_timer.fire = inbox_fill;
    spoke->connect_timer.context = spoke->tick_timer.context = spoke->inbox_timer.context = spoke;
    set_timer(spoke, &spoke->tick_timer, TICK_NS);
    fence(spoke);
}

static void stream_stop(void *context)
{
    struct dip_spoke *spoke = context;
    struct dip_rpc_loop *loop = spoke->options.loop;
    spoke->is_stopping = true;
    stream_end(spoke);
    dip_rpc_timer_clear(loop, &spoke->connect_timer);
    dip_rpc_timer_clear(loop, &spoke->tick_timer);
    dip_rpc_timer_clear(loop, &spoke->inbox_timer);
    channel_close(spoke);
    dip__spoke_put_drop(spoke, 0);
    dip__spoke_receive_drop(spoke, 0);
    dip__spoke_peers_close(spoke);
}

void dip__spoke_stream_close(struct dip_spoke *spoke)
{
    spoke->is_closing = true;
    spoke->next[0] = '\0';
    if (spoke->state != STREAM_UP) {
        stream_stop(spoke);
        return;
    }
    spoke->connect_timer.fire = stream_stop;
    set_timer(spoke, &spoke->connect_timer, CLOSE_NS);
    dip__spoke_pump(spoke);
}
