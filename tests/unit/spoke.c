/* tests/unit/spoke.c - a worker's end, with the test as its device thread: what is fenced, what
 * waits and how much of it, and hinges that break off, are spoiled, come twice or belong to nobody.
 *
 * One loop holds the coordinator (a hub), the worker's end with its server, and plain calls that
 * play whoever else is needed. */
#include "tests/unit/rpc_harness.h"

#include "base/sha256.h"
#include "cluster/wire.h"
#include "net/hub.h"
#include "net/spoke.h"

enum { WIDTH = 64, ROWS_MAX = 8000, KINDS = DIP_MESSAGE_COUNT };
static const char put_path[] = "/diptych.internal.v1.HingeService/Put";
static const char ask_path[] = "/diptych.internal.v1.HingeService/GetOffset";

struct side {
    struct dip_spoke *spoke;
    struct dip_endpoint *endpoint;
    struct dip_member_load load;
    struct dip_rpc_server *server;
    struct dip_rpc_method methods[2];
    bool is_stopped;
    uint32_t address;
    char target[64];
};

struct world {
    struct dip_rpc_loop *loop;
    struct dip_hub *hub;
    struct dip_rpc_server *server;
    struct dip_rpc_method method;
    bool is_stopped;
    char target[64];
    struct side a, b;
    struct dip_rpc_channel *to_b;
    int heard[8][KINDS];
    uint32_t appeared;       /* the last address */
    struct dip_message last; /* the last event of a job */
    struct dip_held held;    /* the first of the last hello */
    size_t held_count;
};

static void hear(void *context, struct dip_message *message)
{
    struct world *w = context;
    w->heard[message->from][message->kind]++;
    if (message->kind == DIP_MESSAGE_APPEARED) {
        const struct dip_payload *held = &message->as.appeared.held.entries;
        w->appeared = message->from;
        w->held_count = held->bytes / sizeof w->held;
        if (w->held_count > 0)
            w->held = *(const struct dip_held *)held->data;
    }
    if (message->job_id != 0)
        w->last = *message;
    if (message->kind == DIP_MESSAGE_PREVIEW || message->kind == DIP_MESSAGE_IMAGE)
        w->last.as.picture.png = (struct dip_payload){0}; /* the hub releases it */
}

static void stopped(void *context)
{
    *(bool *)context = true;
}

static void side_log(void *context, const char *text)
{
    (void)context;
    if (getenv("DIP_TEST_LOG"))
        print_message("spoke: %s\n", text);
}

static void side_open(struct world *w, struct side *side, const char *name,
                      const struct dip_spoke_options *given)
{
    struct dip_spoke_options options = given ? *given : (struct dip_spoke_options){0};
    options.loop = w->loop;
    options.hinge_width = WIDTH;
    options.hinge_bytes_max = (size_t)ROWS_MAX * WIDTH * sizeof(float);
    options.load = &side->load;
    options.log = side_log;
    snprintf(options.facts.name, sizeof options.facts.name, "%s", name);
    options.facts.roles = DIP_ROLE_AR | DIP_ROLE_DIFFUSION;
    options.facts.incarnation = 1;
    assert_int_equal(dip_spoke_new(&options, &side->spoke), DIP_OK);
    side->endpoint = dip_spoke_endpoint(side->spoke);
    assert_int_equal(dip_spoke_methods(side->spoke, side->methods), 2);
    struct dip_rpc_server_options server = {.listen = "127.0.0.1:0",
                                            .loops = &w->loop,
                                            .loop_count = 1,
                                            .methods = side->methods,
                                            .method_count = 2};
    assert_int_equal(dip_rpc_server_start(&server, NULL, &side->server), DIP_OK);
    snprintf(side->target, sizeof side->target, "127.0.0.1:%d", dip_rpc_server_port(side->server));
    memcpy(options.facts.address, side->target, sizeof side->target);
    dip_spoke_set_facts(side->spoke, &options.facts);
}

/* The next message in the inbox, which must be of this kind. */
static struct dip_message take(struct world *w, struct side *side, enum dip_message_kind kind)
{
    struct dip_message message;
    enum dip_status status;
    int64_t give_up_ns = dip_clock_now_ns() + 60 * DIP_SECOND_NS;
    while ((status = dip_endpoint_receive(side->endpoint, 0, &message)) == DIP_TIMEOUT &&
           dip_clock_now_ns() < give_up_ns)
        dip_rpc_loop_turn(w->loop, INT64_C(2) * DIP_MS_NS);
    assert_int_equal(status, DIP_OK);
    assert_string_equal(dip_message_name(message.kind), dip_message_name(kind));
    return message;
}

/* What a worker's device thread does first. */
static void answer_reset(struct world *w, struct side *side)
{
    struct dip_message reset = take(w, side, DIP_MESSAGE_RESET);
    reset.as.reset.held = (struct dip_message_held){.entries = {0}};
    assert_int_equal(dip_endpoint_send(side->endpoint, DIP_SPOKE_COORDINATOR, &reset), DIP_OK);
}

static void side_connect(struct world *w, struct side *side, const char *target)
{
    answer_reset(w, side);
    w->appeared = 0;
    dip_spoke_set_coordinator(side->spoke, target);
    WAIT_UNTIL(w->loop, dip_spoke_is_connected(side->spoke));
    side->address = w->appeared;
}

static void side_close(struct world *w, struct side *side)
{
    if (!side->spoke)
        return;
    dip_spoke_stop(side->spoke);
    dip_rpc_server_stop(side->server, 0, stopped, &side->is_stopped);
    WAIT_UNTIL(w->loop, side->is_stopped);
    dip_rpc_server_free(side->server);
}

static void serve(struct world *w, const struct dip_rpc_method *method)
{
    w->method = *method;
    struct dip_rpc_server_options server = {.listen = "127.0.0.1:0",
                                            .loops = &w->loop,
                                            .loop_count = 1,
                                            .methods = &w->method,
                                            .method_count = 1,
                                            .window_bytes = 64 << 10};
    assert_int_equal(dip_rpc_server_start(&server, NULL, &w->server), DIP_OK);
    snprintf(w->target, sizeof w->target, "127.0.0.1:%d", dip_rpc_server_port(w->server));
}

static void world_new(struct world *w)
{
    alarm(150);
    memset(w, 0, sizeof *w);
    assert_int_equal(dip_rpc_loop_new(&(struct dip_rpc_loop_options){0}, &w->loop), DIP_OK);
}

static void world_open(struct world *w, const struct dip_spoke_options *options)
{
    world_new(w);
    struct dip_hub_options hub = {.loop = w->loop,
                                  .member_count_max = 7,
                                  .cluster_id = "c",
                                  .silence_ns = 60 * DIP_SECOND_NS,
                                  .heartbeat_ns = INT64_C(20) * DIP_MS_NS,
                                  .on_message = hear,
                                  .context = w};
    assert_int_equal(dip_hub_new(&hub, &w->hub), DIP_OK);
    dip_hub_set_epoch(w->hub, 3);
    struct dip_rpc_method method = dip_hub_method(w->hub);
    serve(w, &method);
    side_open(w, &w->b, "b", options);
    struct dip_rpc_channel_options channel = {.loop = w->loop, .target = w->b.target};
    assert_int_equal(dip_rpc_channel_open(&channel, NULL, &w->to_b), DIP_OK);
}

static void world_close(struct world *w)
{
    if (w->to_b)
        dip_rpc_channel_close(w->to_b);
    side_close(w, &w->a);
    side_close(w, &w->b);
    dip_rpc_server_stop(w->server, 0, stopped, &w->is_stopped);
    WAIT_UNTIL(w->loop, w->is_stopped);
    dip_rpc_server_free(w->server);
    dip_hub_free(w->hub);
    dip_rpc_loop_stop(w->loop);
    dip_rpc_loop_run(w->loop);
    dip_spoke_free(w->a.spoke);
    dip_spoke_free(w->b.spoke);
    dip_rpc_loop_free(w->loop);
}

static void tell(struct world *w, uint32_t to, const struct dip_message *message)
{
    assert_int_equal(dip_endpoint_send(dip_hub_endpoint(w->hub), to, message), DIP_OK);
}

static void turn_for(struct world *w, int64_t ms)
{
    int64_t until_ns = dip_clock_now_ns() + ms * DIP_MS_NS;
    while (dip_clock_now_ns() < until_ns)
        dip_rpc_loop_turn(w->loop, INT64_C(2) * DIP_MS_NS);
}

static enum dip_status post(struct side *side, enum dip_message_kind kind, uint64_t job_id)
{
    struct dip_message message = {.kind = kind, .job_id = job_id};
    if (kind == DIP_MESSAGE_STEP)
        message.as.step.steps_done = 1;
    if (kind == DIP_MESSAGE_JOINED)
        message.as.joined.roles = DIP_ROLE_AR;
    return dip_endpoint_send(side->endpoint, DIP_SPOKE_COORDINATOR, &message);
}

/* ---- the fence ---- */

static void what_was_said_before_the_reset_is_not_heard(void **state)
{
    (void)state;
    struct world w;
    world_open(&w, NULL);
    struct dip_message reset = take(&w, &w.b, DIP_MESSAGE_RESET);
    dip_spoke_set_coordinator(w.b.spoke, w.target);
    turn_for(&w, 200);
    assert_false(dip_spoke_is_connected(w.b.spoke)); /* its hello says what the worker holds */
    assert_int_equal(post(&w.b, DIP_MESSAGE_JOINED, 0), DIP_OK);
    assert_int_equal(post(&w.b, DIP_MESSAGE_STEP, 9), DIP_OK); /* of a job that is long gone */
    struct dip_message wrong = reset;
    wrong.job_id--; /* the answer to an earlier one lifts nothing */
    assert_int_equal(dip_endpoint_send(w.b.endpoint, DIP_SPOKE_COORDINATOR, &wrong), DIP_OK);
    assert_int_equal(post(&w.b, DIP_MESSAGE_STEP, 9), DIP_OK);
    assert_int_equal(dip_endpoint_send(w.b.endpoint, DIP_SPOKE_COORDINATOR, &reset), DIP_OK);
    WAIT_UNTIL(w.loop, w.heard[1][DIP_MESSAGE_HEARTBEAT] > 2);
    assert_int_equal(w.heard[1][DIP_MESSAGE_JOINED] + w.heard[1][DIP_MESSAGE_STEP], 0);
    assert_int_equal(post(&w.b, DIP_MESSAGE_JOINED, 0), DIP_OK);
    assert_int_equal(post(&w.b, DIP_MESSAGE_STEP, 10), DIP_OK);
    WAIT_UNTIL(w.loop, w.heard[1][DIP_MESSAGE_STEP]);
    assert_int_equal(w.heard[1][DIP_MESSAGE_JOINED], 1);
    assert_int_equal(w.last.job_id, 10);
    world_close(&w);
}

/* A list as a worker's device thread makes it. */
static struct dip_message_held held_list(uint64_t job_id, int tokens)
{
    struct dip_held *held = calloc(1, sizeof *held);
    int32_t *ids = calloc((size_t)tokens, sizeof *ids);
    assert_true(held && ids);
    *held = (struct dip_held){.epoch = 3,
                              .job_id = job_id,
                              .request_id = "r",
                              .digest = {7},
                              .done = tokens,
                              .id_count = tokens,
                              .left_ns = DIP_SECOND_NS};
    return (struct dip_message_held){.entries = {held, sizeof *held},
                                     .ids = {ids, (size_t)tokens * sizeof *ids}};
}

/* What is held from before is said with the next hello, as it was last told, and only once. */
static void the_hello_says_what_is_held(void **state)
{
    (void)state;
    struct world w;
    world_open(&w, NULL);
    struct dip_message reset = take(&w, &w.b, DIP_MESSAGE_RESET);
    reset.as.reset.held = held_list(1, 5);
    assert_int_equal(dip_endpoint_send(w.b.endpoint, DIP_SPOKE_COORDINATOR, &reset), DIP_OK);
    struct dip_message newer = {.kind = DIP_MESSAGE_HELD, .as.held = held_list(2, 9)};
    assert_int_equal(dip_endpoint_send(w.b.endpoint, DIP_SPOKE_COORDINATOR, &newer), DIP_OK);
    turn_for(&w, 20);
    dip_spoke_set_coordinator(w.b.spoke, w.target);
    WAIT_UNTIL(w.loop, dip_spoke_is_connected(w.b.spoke));
    assert_int_equal(w.held_count, 1);
    assert_int_equal(w.held.job_id, 2);
    assert_int_equal(w.held.id_count, 9);
    struct dip_message late = {.kind = DIP_MESSAGE_HELD, .as.held = held_list(3, 1)};
    assert_int_equal(dip_endpoint_send(w.b.endpoint, DIP_SPOKE_COORDINATOR, &late), DIP_OK);
    turn_for(&w, 20);
    dip_hub_dismiss(w.hub);
    dip_hub_set_epoch(w.hub, 4);
    WAIT_UNTIL(w.loop, !dip_spoke_is_connected(w.b.spoke));
    answer_reset(&w, &w.b);
    WAIT_UNTIL(w.loop, dip_spoke_is_connected(w.b.spoke));
    assert_int_equal(w.held_count, 0);
    world_close(&w);
}

/* What the worker can hold is said when there is somebody to say it to; what it did meanwhile is
 * not. And the next stream begins with a RESET again. */
static void joined_waits_for_the_stream(void **state)
{
    (void)state;
    struct world w;
    world_open(&w, NULL);
    answer_reset(&w, &w.b);
    assert_int_equal(post(&w.b, DIP_MESSAGE_JOINED, 0), DIP_OK);
    assert_int_equal(post(&w.b, DIP_MESSAGE_STEP, 9), DIP_OK);
    turn_for(&w, 20);
    dip_spoke_set_coordinator(w.b.spoke, w.target);
    WAIT_UNTIL(w.loop, w.heard[1][DIP_MESSAGE_JOINED]);
    dip_hub_dismiss(w.hub);
    WAIT_UNTIL(w.loop, !dip_spoke_is_connected(w.b.spoke));
    dip_hub_set_epoch(w.hub, 4);
    struct dip_message reset = take(&w, &w.b, DIP_MESSAGE_RESET);
    assert_int_equal(reset.as.reset.epoch, 3); /* under which its jobs were given out */
    reset.as.reset.held = (struct dip_message_held){.entries = {0}};
    assert_int_equal(dip_endpoint_send(w.b.endpoint, DIP_SPOKE_COORDINATOR, &reset), DIP_OK);
    WAIT_UNTIL(w.loop, w.heard[2][DIP_MESSAGE_APPEARED]);
    WAIT_UNTIL(w.loop, w.heard[2][DIP_MESSAGE_HEARTBEAT]);
    assert_int_equal(w.heard[2][DIP_MESSAGE_JOINED], 0); /* the worker has not said so anew */
    assert_int_equal(post(&w.b, DIP_MESSAGE_JOINED, 0), DIP_OK);
    WAIT_UNTIL(w.loop, w.heard[2][DIP_MESSAGE_JOINED] == 1);
    assert_int_equal(w.heard[1][DIP_MESSAGE_STEP] + w.heard[2][DIP_MESSAGE_STEP], 0);
    world_close(&w);
}

/* Whoever led may be cut off from the registry: it hears who leads now from those who go there. */
static void who_goes_to_another_leader_says_so(void **state)
{
    (void)state;
    struct world w;
    world_open(&w, NULL);
    side_connect(&w, &w.b, w.target);
    assert_string_equal(dip_hub_successor(w.hub), "");
    dip_spoke_set_coordinator(w.b.spoke, w.a.target); /* where nobody leads */
    WAIT_UNTIL(w.loop, w.heard[1][DIP_MESSAGE_LOST]);
    assert_string_equal(dip_hub_successor(w.hub), w.a.target);
    assert_int_equal(w.heard[1][DIP_MESSAGE_SUPERSEDED], 0); /* the hub's own affair */
    answer_reset(&w, &w.b);
    dip_spoke_set_coordinator(w.b.spoke, w.target); /* back again: a new term */
    dip_hub_set_epoch(w.hub, 4);
    assert_string_equal(dip_hub_successor(w.hub), "");
    WAIT_UNTIL(w.loop, w.heard[2][DIP_MESSAGE_APPEARED]);
    world_close(&w);
}

/* ---- bounds ---- */

static void a_full_inbox_holds_commands_back(void **state)
{
    (void)state;
    struct world w;
    world_open(&w, &(struct dip_spoke_options){.inbox_count_max = 4});
    side_connect(&w, &w.b, w.target);
    for (uint64_t i = 1; i <= 200; i++)
        tell(&w, w.b.address, &(struct dip_message){.kind = DIP_MESSAGE_RELEASE, .job_id = i});
    turn_for(&w, 50);
    for (uint64_t i = 1; i <= 200; i++) /* none lost, none out of order */
    {
        struct dip_message release = take(&w, &w.b, DIP_MESSAGE_RELEASE);
        assert_int_equal(release.job_id, i);
        assert_true(release.as.release.told_ns > 0); /* what waits in the mailbox counts as wait */
        assert_true(release.as.release.told_ns <= dip_clock_now_ns());
    }
    world_close(&w);
}

/* A coordinator of the test's own making: says welcome, and then what it likes. */
struct puppet {
    struct seen seen;
    struct dip_wire_welcome welcome;
    bool is_deaf; /* reads nothing after hello */
    int kinds[KINDS];
    struct dip_message last;
};

static void puppet_message(void *context, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    struct puppet *p = context;
    struct dip_wire_envelope envelope;
    struct dip_message message = {0};
    struct dip_why why = {0};
    assert_int_equal(dip_wire_read_event(NULL, data, bytes, &why, &envelope, &message), DIP_OK);
    p->kinds[message.kind]++;
    if (message.kind == DIP_MESSAGE_APPEARED) {
        void *frame = NULL;
        size_t frame_bytes = 0;
        assert_int_equal(dip_wire_encode_welcome(&p->welcome, &frame, &frame_bytes), DIP_OK);
        assert_int_equal(dip_rpc_call_send(call, frame, frame_bytes, 0), DIP_OK);
        if (p->is_deaf)
            dip_rpc_call_pause(call);
    }
    dip_message_release(&message);
    if (message.kind != DIP_MESSAGE_HEARTBEAT)
        p->last = message;
}

static const struct dip_rpc_handler puppet_handler = {seen_open, puppet_message, seen_half_close,
                                                      seen_writable, seen_close};

static void puppet_open(struct world *w, struct puppet *p)
{
    struct dip_rpc_method method = {.path = "/diptych.internal.v1.WorkerService/Connect",
                                    .kind = DIP_RPC_BIDI,
                                    .handler = &puppet_handler,
                                    .context = p};
    world_new(w);
    p->welcome.heartbeat_ns = 20 * DIP_MS_NS;
    serve(w, &method);
}

static enum dip_status send_frame(void *context, void *data, size_t bytes)
{
    return dip_rpc_call_send(context, data, bytes, 0);
}

static void a_deaf_coordinator_slows_the_device_down(void **state)
{
    (void)state;
    struct world w;
    struct puppet p = {.welcome = {.epoch = 1, .protocol = 1}, .is_deaf = true};
    puppet_open(&w, &p);
    side_open(&w, &w.b, "b", NULL);
    side_connect(&w, &w.b, w.target);
    int sent = 0;
    enum dip_status status = DIP_OK;
    while (!status && sent < 100000) {
        struct dip_message preview = {.kind = DIP_MESSAGE_PREVIEW, .job_id = 1};
        preview.as.picture = (struct dip_message_picture){
            .png = {malloc(100000), 100000}, .steps_done = 1, .width = 8, .height = 8};
        assert_non_null(preview.as.picture.png.data);
        memset(preview.as.picture.png.data, 1, 100000);
        status = dip_endpoint_send(w.b.endpoint, DIP_SPOKE_COORDINATOR, &preview);
        if (status)
            dip_message_release(&preview);
        else
            sent++;
        dip_rpc_loop_turn(w.loop, 0);
    }
    assert_int_equal(status, DIP_BUSY);
    print_message("%d previews of 100 KB were taken before BUSY\n", sent);
    assert_true(sent < 500);
    /* A coordinator that stays deaf is left, and the device thread goes on. */
    WAIT_UNTIL(w.loop, !dip_spoke_is_connected(w.b.spoke));
    turn_for(&w, 10);
    assert_int_equal(post(&w.b, DIP_MESSAGE_STEP, 1), DIP_OK);
    world_close(&w);
}

static void a_command_of_the_past_is_refused(void **state)
{
    (void)state;
    struct world w;
    struct puppet p = {.welcome = {.epoch = 5, .protocol = 1}};
    puppet_open(&w, &p);
    side_open(&w, &w.b, "b", NULL);
    side_connect(&w, &w.b, w.target);
    struct dip_wire_envelope envelope = {.epoch = 4, .hinge_address = "127.0.0.1:1"};
    struct dip_message hand_over = {.kind = DIP_MESSAGE_HAND_OVER, .job_id = 77};
    hand_over.as.hand_over.to_job_id = 78;
    assert_int_equal(dip_wire_encode_command(&hand_over, &envelope, send_frame, p.seen.call),
                     DIP_OK);
    WAIT_UNTIL(w.loop, p.kinds[DIP_MESSAGE_FAILED]);
    assert_int_equal(p.last.job_id, 77);
    assert_int_equal(p.last.as.failed.status, DIP_STALE);
    assert_int_equal(dip_spoke_fenced(w.b.spoke), 1);
    struct dip_message message;
    assert_int_equal(dip_endpoint_receive(w.b.endpoint, 0, &message), DIP_TIMEOUT);
    envelope.epoch = 5;
    assert_int_equal(dip_wire_encode_command(&hand_over, &envelope, send_frame, p.seen.call),
                     DIP_OK);
    message = take(&w, &w.b, DIP_MESSAGE_HAND_OVER);
    assert_true(message.as.hand_over.to > DIP_SPOKE_SELF);
    assert_int_equal(dip_spoke_fenced(w.b.spoke), 1);
    /* Garbage is the end of the stream, not of the worker. */
    assert_int_equal(send_text(p.seen.call, "garbage", 0), DIP_OK);
    WAIT_UNTIL(w.loop, p.seen.closes == 1);
    answer_reset(&w, &w.b);
    WAIT_UNTIL(w.loop, p.kinds[DIP_MESSAGE_APPEARED] == 2);
    world_close(&w);
}

static void a_foreign_cluster_is_left(void **state)
{
    (void)state;
    struct world w;
    struct puppet p = {.welcome = {.protocol = 1, .epoch = 5, .cluster_id = "other"}};
    puppet_open(&w, &p);
    side_open(&w, &w.b, "b", &(struct dip_spoke_options){.cluster_id = "mine"});
    answer_reset(&w, &w.b);
    dip_spoke_set_coordinator(w.b.spoke, w.target);
    WAIT_UNTIL(w.loop, p.seen.closes >= 2);
    assert_false(dip_spoke_is_connected(w.b.spoke));
    memcpy(p.welcome.cluster_id, "mine", 5);
    WAIT_UNTIL(w.loop, dip_spoke_is_connected(w.b.spoke));
    world_close(&w);
}

/* ---- hinges out ---- */

static struct dip_payload any_hinge(int rows)
{
    struct dip_payload hinge = {.bytes = (size_t)rows * WIDTH * sizeof(float)};
    unsigned char *data = malloc(hinge.bytes);
    assert_non_null(data);
    for (size_t i = 0; i < hinge.bytes; i++)
        data[i] = (unsigned char)(i * 7 + i / 251);
    hinge.data = data;
    return hinge;
}

/* HAND_OVER arrives at side a; the member's address that a is to send to. */
static uint32_t hand_over(struct world *w, uint64_t ar_job, uint32_t to, uint64_t to_job)
{
    struct dip_message message = {
        .kind = DIP_MESSAGE_HAND_OVER, .job_id = ar_job, .as.hand_over = {to, to_job}};
    tell(w, w->a.address, &message);
    message = take(w, &w->a, DIP_MESSAGE_HAND_OVER);
    assert_int_equal(message.as.hand_over.to_job_id, to_job);
    return message.as.hand_over.to;
}

static void send_hinge(struct side *side, uint32_t to, uint64_t job_id, int rows)
{
    struct dip_message hinge = {
        .kind = DIP_MESSAGE_HINGE, .job_id = job_id, .as.hinge.hidden = any_hinge(rows)};
    assert_int_equal(dip_endpoint_send(side->endpoint, to, &hinge), DIP_OK);
}

static void assert_hinge(struct dip_message *message, uint64_t job_id, int rows)
{
    struct dip_payload expected = any_hinge(rows);
    assert_int_equal(message->job_id, job_id);
    assert_int_equal(message->as.hinge.hidden.bytes, expected.bytes);
    assert_memory_equal(message->as.hinge.hidden.data, expected.data, expected.bytes);
    free(expected.data);
    dip_message_release(message);
}

static void hinges_of_all_sizes_arrive(void **state)
{
    (void)state;
    static const int rows[] = {1, 17, 1023, 1024, 1025, ROWS_MAX}; /* around a chunk of 256 KiB */
    struct world w;
    world_open(&w, NULL);
    side_connect(&w, &w.b, w.target);
    side_open(&w, &w.a, "a", NULL);
    side_connect(&w, &w.a, w.target);
    for (uint64_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        uint32_t to = hand_over(&w, 10 + i, w.b.address, 20 + i);
        assert_true(to > DIP_SPOKE_SELF);
        send_hinge(&w.a, to, 20 + i, rows[i]);
        struct dip_message hinge = take(&w, &w.b, DIP_MESSAGE_HINGE);
        assert_hinge(&hinge, 20 + i, rows[i]);
    }
    assert_int_equal(hand_over(&w, 30, w.a.address, 31), DIP_SPOKE_SELF);
    assert_int_equal(w.heard[w.a.address][DIP_MESSAGE_FAILED], 0);
    world_close(&w);
}

/* The receiver's inbox is full: the sender waits for its answer, the hinge is not lost. */
static void a_hinge_waits_for_a_place(void **state)
{
    (void)state;
    struct world w;
    world_open(&w, &(struct dip_spoke_options){.inbox_count_max = 2});
    side_connect(&w, &w.b, w.target);
    side_open(&w, &w.a, "a", NULL);
    side_connect(&w, &w.a, w.target);
    for (uint64_t i = 1; i <= 2; i++)
        tell(&w, w.b.address, &(struct dip_message){.kind = DIP_MESSAGE_RELEASE, .job_id = i});
    send_hinge(&w.a, hand_over(&w, 10, w.b.address, 20), 20, 17);
    turn_for(&w, 50);
    take(&w, &w.b, DIP_MESSAGE_RELEASE);
    take(&w, &w.b, DIP_MESSAGE_RELEASE);
    struct dip_message hinge = take(&w, &w.b, DIP_MESSAGE_HINGE);
    assert_hinge(&hinge, 20, 17);
    world_close(&w);
}

/* A receiver that breaks off in the middle, is busy, then takes the rest. */
struct flaky {
    int puts, asks, chunks;
    size_t held_bytes, total_bytes;
    uint64_t resumed_at;
    bool is_done;
};

static void end(struct dip_rpc_call *call, int code)
{
    dip_rpc_call_finish(call, &(struct dip_rpc_status){.code = code, .message = "flaky"});
}

static void flaky_put_open(void *context, struct dip_rpc_call *call)
{
    struct flaky *f = context;
    if (++f->puts == 2)
        end(call, DIP_RPC_RESOURCE_EXHAUSTED);
}

static void flaky_put(void *context, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    struct flaky *f = context;
    struct dip_wire_put put;
    assert_int_equal(dip_wire_read_put(data, bytes, NULL, &put), DIP_OK);
    if (put.is_header) {
        f->total_bytes = (size_t)put.header.rows * put.header.width * sizeof(float);
        f->resumed_at = put.header.offset;
    } else {
        assert_int_equal(put.offset, f->held_bytes);
        f->held_bytes += put.bytes;
        if (++f->chunks == 3)
            end(call, DIP_RPC_UNAVAILABLE);
    }
    dip_wire_put_release(&put);
}

static void flaky_answer(struct dip_rpc_call *call, uint64_t held_bytes)
{
    void *data = NULL;
    size_t bytes = 0;
    assert_int_equal(dip_wire_encode_received(held_bytes, &data, &bytes), DIP_OK);
    assert_int_equal(dip_rpc_call_send(call, data, bytes, 0), DIP_OK);
    finish_ok(call);
}

static void flaky_half_close(void *context, struct dip_rpc_call *call)
{
    struct flaky *f = context;
    f->is_done = f->held_bytes == f->total_bytes;
    flaky_answer(call, f->held_bytes);
}

static void flaky_ask(void *context, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    struct flaky *f = context;
    uint64_t job_id = 0, epoch = 0;
    assert_int_equal(dip_wire_read_offset_request(data, bytes, NULL, &job_id, &epoch), DIP_OK);
    assert_int_equal(job_id, 20);
    assert_int_equal(epoch, 3);
    f->asks++;
    flaky_answer(call, f->held_bytes);
}

static const struct dip_rpc_handler flaky_puts = {
    .on_open = flaky_put_open, .on_message = flaky_put, .on_half_close = flaky_half_close};
static const struct dip_rpc_handler flaky_asks = {.on_message = flaky_ask};

static void a_hinge_goes_on_where_it_broke_off(void **state)
{
    (void)state;
    struct world w;
    struct flaky f = {0};
    struct dip_rpc_method methods[] = {
        {.path = put_path, .kind = DIP_RPC_CLIENT_STREAM, .handler = &flaky_puts, .context = &f},
        {.path = ask_path, .kind = DIP_RPC_UNARY, .handler = &flaky_asks, .context = &f}};
    struct dip_rpc_server *server = NULL;
    bool is_stopped = false;
    world_open(&w, NULL);
    struct dip_rpc_server_options options = {.listen = "127.0.0.1:0",
                                             .loops = &w.loop,
                                             .loop_count = 1,
                                             .methods = methods,
                                             .method_count = 2};
    assert_int_equal(dip_rpc_server_start(&options, NULL, &server), DIP_OK);
    /* Side b says that its hinges are taken over there. */
    struct dip_member_facts facts = {.name = "b", .roles = DIP_ROLE_DIFFUSION, .incarnation = 1};
    snprintf(facts.address, sizeof facts.address, "127.0.0.1:%d", dip_rpc_server_port(server));
    dip_spoke_set_facts(w.b.spoke, &facts);
    side_connect(&w, &w.b, w.target);
    side_open(&w, &w.a, "a", NULL);
    side_connect(&w, &w.a, w.target);
    send_hinge(&w.a, hand_over(&w, 10, w.b.address, 20), 20, ROWS_MAX);
    WAIT_UNTIL(w.loop, f.is_done);
    assert_int_equal(f.puts, 3); /* broken, busy, whole */
    assert_int_equal(f.asks, 2);
    assert_int_equal(f.resumed_at, 3 * 256 << 10);
    turn_for(&w, 50);
    assert_int_equal(f.puts, 3);
    assert_int_equal(w.heard[w.a.address][DIP_MESSAGE_FAILED], 0);
    dip_rpc_server_stop(server, 0, stopped, &is_stopped);
    WAIT_UNTIL(w.loop, is_stopped);
    dip_rpc_server_free(server);
    world_close(&w);
}

/* Nobody there: tried until the time is over, then said by name; released: not even that. */
static void a_hinge_to_nobody_fails_unless_released(void **state)
{
    (void)state;
    struct world w;
    struct dip_member_facts facts = {
        .name = "b", .address = "127.0.0.1:1", .roles = DIP_ROLE_DIFFUSION, .incarnation = 1};
    world_open(&w, NULL);
    dip_spoke_set_facts(w.b.spoke, &facts);
    side_connect(&w, &w.b, w.target);
    side_open(&w, &w.a, "a",
              &(struct dip_spoke_options){.hinge_timeout_ns = INT64_C(1500) * DIP_MS_NS});
    side_connect(&w, &w.a, w.target);
    uint32_t released = hand_over(&w, 12, w.b.address, 22);
    uint32_t wanted = hand_over(&w, 10, w.b.address, 20);
    send_hinge(&w.a, released, 22, 17);
    send_hinge(&w.a, wanted, 20, 17);
    turn_for(&w, 100);
    tell(&w, w.a.address, &(struct dip_message){.kind = DIP_MESSAGE_RELEASE, .job_id = 12});
    WAIT_UNTIL(w.loop, w.heard[w.a.address][DIP_MESSAGE_FAILED]);
    assert_int_equal(w.last.job_id, 10);
    assert_int_equal(w.last.as.failed.status, DIP_UNREACHABLE);
    turn_for(&w, 1000);
    assert_int_equal(w.heard[w.a.address][DIP_MESSAGE_FAILED], 1);
    send_hinge(&w.a, released, 22, 17); /* late: the device thread had it under way */
    turn_for(&w, 50);
    assert_int_equal(w.heard[w.a.address][DIP_MESSAGE_FAILED], 1);
    world_close(&w);
}

/* ---- hinges in: a plain call plays the sender ---- */

static void put_open(struct world *w, struct seen *seen)
{
    struct dip_rpc_call_options options = {
        .path = put_path, .is_patient = true, .handler = &seen_handler, .context = seen};
    memset(seen, 0, sizeof *seen);
    seen->code = -1;
    assert_int_equal(dip_rpc_call_open(w->to_b, &options, &seen->call), DIP_OK);
}

static struct dip_wire_hinge header_of(uint64_t job_id, int rows)
{
    struct dip_payload hinge = any_hinge(rows);
    struct dip_wire_hinge header = {
        .job_id = job_id, .epoch = 3, .rows = (uint32_t)rows, .width = WIDTH};
    assert_int_equal(dip_sha256_hex(hinge.data, hinge.bytes, header.sha256), DIP_OK);
    free(hinge.data);
    return header;
}

static void put_header(struct seen *seen, const struct dip_wire_hinge *header)
{
    void *data = NULL;
    size_t bytes = 0;
    assert_int_equal(dip_wire_encode_put_header(header, &data, &bytes), DIP_OK);
    assert_int_equal(dip_rpc_call_send(seen->call, data, bytes, 0), DIP_OK);
}

/* Rows first .. end of the hinge; `spoil` changes one byte after the checksum was made. */
static void put_rows(struct seen *seen, int first, int end_row, bool spoil)
{
    struct dip_payload hinge = any_hinge(end_row);
    size_t from = (size_t)first * WIDTH * sizeof(float);
    unsigned char *data = NULL;
    size_t bytes = 0;
    assert_int_equal(dip_wire_encode_put_chunk(from, (unsigned char *)hinge.data + from,
                                               hinge.bytes - from, (void **)&data, &bytes),
                     DIP_OK);
    if (spoil)
        data[bytes - 1] ^= 1;
    assert_int_equal(dip_rpc_call_send(seen->call, data, bytes, 0), DIP_OK);
    free(hinge.data);
}

static uint64_t held_at_b(struct world *w, uint64_t job_id)
{
    struct seen seen = {.code = -1};
    struct dip_rpc_call_options options = {
        .path = ask_path, .is_patient = true, .handler = &seen_handler, .context = &seen};
    void *data = NULL;
    size_t bytes = 0;
    uint64_t held = 0;
    assert_int_equal(dip_rpc_call_open(w->to_b, &options, &seen.call), DIP_OK);
    assert_int_equal(dip_wire_encode_offset_request(job_id, 3, &data, &bytes), DIP_OK);
    assert_int_equal(dip_rpc_call_send(seen.call, data, bytes, 0), DIP_OK);
    dip_rpc_call_half_close(seen.call);
    WAIT_UNTIL(w->loop, seen.closes);
    assert_int_equal(seen.code, DIP_RPC_OK);
    assert_int_equal(dip_wire_read_received((unsigned char *)seen.last, seen.bytes, NULL, &held),
                     DIP_OK);
    return held;
}

static void until_refused(struct world *w, struct seen *seen, int code)
{
    WAIT_UNTIL(w->loop, seen->closes);
    assert_string_equal(dip_rpc_code_name(seen->code), dip_rpc_code_name(code));
}

static void a_spoiled_chunk_is_asked_for_again(void **state)
{
    (void)state;
    struct world w;
    struct seen seen;
    struct dip_wire_hinge header = header_of(20, 10);
    enum { ROW = WIDTH * sizeof(float) };
    world_open(&w, NULL);
    side_connect(&w, &w.b, w.target);
    put_open(&w, &seen);
    put_header(&seen, &header);
    put_rows(&seen, 0, 4, false);
    put_rows(&seen, 4, 7, true);
    until_refused(&w, &seen, DIP_RPC_DATA_LOSS);
    assert_int_equal(held_at_b(&w, 20), 4 * ROW);
    assert_int_equal(held_at_b(&w, 21), 0);
    header.offset = 4 * ROW;
    put_open(&w, &seen);
    put_header(&seen, &header);
    put_rows(&seen, 4, 10, false);
    dip_rpc_call_half_close(seen.call);
    until_refused(&w, &seen, DIP_RPC_OK);
    struct dip_message hinge = take(&w, &w.b, DIP_MESSAGE_HINGE);
    assert_hinge(&hinge, 20, 10);
    /* Its answer may have been lost: the same again is answered, and not delivered again. */
    assert_int_equal(held_at_b(&w, 20), 10 * ROW);
    put_open(&w, &seen);
    put_header(&seen, &header);
    until_refused(&w, &seen, DIP_RPC_OK);
    turn_for(&w, 20);
    assert_int_equal(dip_endpoint_receive(w.b.endpoint, 0, &hinge), DIP_TIMEOUT);
    world_close(&w);
}

static void what_does_not_fit_is_refused(void **state)
{
    (void)state;
    struct world w;
    struct seen seen;
    world_open(&w, NULL);
    side_connect(&w, &w.b, w.target);
    struct dip_wire_hinge header = header_of(20, 10);
    header.width = WIDTH + 1;
    put_open(&w, &seen);
    put_header(&seen, &header);
    until_refused(&w, &seen, DIP_RPC_INVALID_ARGUMENT);
    header = header_of(20, 10);
    header.rows = ROWS_MAX + 1;
    put_open(&w, &seen);
    put_header(&seen, &header);
    until_refused(&w, &seen, DIP_RPC_INVALID_ARGUMENT);
    header = header_of(20, 10);
    header.epoch = 2;
    put_open(&w, &seen);
    put_header(&seen, &header);
    until_refused(&w, &seen, DIP_RPC_FAILED_PRECONDITION);
    header.epoch = 4; /* of a leader that this worker has not met yet */
    put_open(&w, &seen);
    put_header(&seen, &header);
    until_refused(&w, &seen, DIP_RPC_UNAVAILABLE);
    header.epoch = 3;
    header.offset = 512; /* of which the first half never came */
    put_open(&w, &seen);
    put_header(&seen, &header);
    until_refused(&w, &seen, DIP_RPC_ABORTED);
    put_open(&w, &seen);
    put_rows(&seen, 0, 4, false); /* no header */
    until_refused(&w, &seen, DIP_RPC_INVALID_ARGUMENT);
    header = header_of(20, 10);
    put_open(&w, &seen);
    put_header(&seen, &header);
    put_rows(&seen, 1, 4, false); /* a hole */
    until_refused(&w, &seen, DIP_RPC_INVALID_ARGUMENT);
    put_open(&w, &seen);
    put_header(&seen, &header);
    put_rows(&seen, 0, 11, false); /* more than announced */
    until_refused(&w, &seen, DIP_RPC_INVALID_ARGUMENT);
    header.sha256[0] ^= 1;
    put_open(&w, &seen);
    put_header(&seen, &header);
    put_rows(&seen, 0, 10, false);
    dip_rpc_call_half_close(seen.call);
    until_refused(&w, &seen, DIP_RPC_DATA_LOSS);
    put_open(&w, &seen);
    assert_int_equal(send_text(seen.call, "garbage", 0), DIP_OK);
    until_refused(&w, &seen, DIP_RPC_DATA_LOSS);
    struct dip_message message;
    assert_int_equal(dip_endpoint_receive(w.b.endpoint, 0, &message), DIP_TIMEOUT);
    world_close(&w);
}

/* With a token: shown to the coordinator and to each other, asked of strangers. */
static void strangers_bring_no_hinges(void **state)
{
    (void)state;
    struct world w;
    struct seen seen;
    struct dip_wire_hinge header = header_of(20, 10);
    struct dip_spoke_options secret = {.token = "secret"}, wrong = {.token = "wrong!"};
    world_open(&w, &secret);
    side_connect(&w, &w.b, w.target);
    put_open(&w, &seen);
    put_header(&seen, &header);
    until_refused(&w, &seen, DIP_RPC_UNAUTHENTICATED);
    side_open(&w, &w.a, "a", &wrong);
    side_connect(&w, &w.a, w.target);
    send_hinge(&w.a, hand_over(&w, 10, w.b.address, 20), 20, 17);
    WAIT_UNTIL(w.loop, w.heard[w.a.address][DIP_MESSAGE_FAILED]);
    side_close(&w, &w.a);
    WAIT_UNTIL(w.loop, w.heard[w.a.address][DIP_MESSAGE_LOST]);
    struct dip_spoke *old = w.a.spoke;
    memset(&w.a, 0, sizeof w.a);
    side_open(&w, &w.a, "a", &secret);
    side_connect(&w, &w.a, w.target);
    send_hinge(&w.a, hand_over(&w, 11, w.b.address, 21), 21, 17);
    struct dip_message hinge = take(&w, &w.b, DIP_MESSAGE_HINGE);
    assert_hinge(&hinge, 21, 17);
    dip_spoke_free(old); /* nothing of it has been on the loop for long */
    world_close(&w);
}

static void the_store_is_bounded(void **state)
{
    (void)state;
    enum { STORE = 16 };
    struct world w;
    struct seen seen[STORE + 1];
    world_open(&w, NULL);
    side_connect(&w, &w.b, w.target);
    for (int i = 0; i <= STORE; i++) {
        struct dip_wire_hinge header = header_of(100 + (uint64_t)i, 10);
        put_open(&w, &seen[i]);
        put_header(&seen[i], &header);
        put_rows(&seen[i], 0, 4, false);
        turn_for(&w, 2);
    }
    until_refused(&w, &seen[STORE], DIP_RPC_RESOURCE_EXHAUSTED);
    /* RELEASE makes room, and the sender is told that nobody waits any more. */
    tell(&w, w.b.address, &(struct dip_message){.kind = DIP_MESSAGE_RELEASE, .job_id = 103});
    until_refused(&w, &seen[3], DIP_RPC_NOT_FOUND);
    struct dip_wire_hinge header = header_of(200, 10);
    put_open(&w, &seen[3]);
    put_header(&seen[3], &header);
    put_rows(&seen[3], 0, 10, false);
    dip_rpc_call_half_close(seen[3].call);
    until_refused(&w, &seen[3], DIP_RPC_OK);
    /* The coordinator goes: what was under way for its jobs goes, too. */
    dip_hub_dismiss(w.hub);
    for (int i = 0; i < STORE; i++)
        if (i != 3)
            until_refused(&w, &seen[i], DIP_RPC_UNAVAILABLE);
    take(&w, &w.b, DIP_MESSAGE_RELEASE);
    struct dip_message hinge = take(&w, &w.b, DIP_MESSAGE_HINGE);
    assert_hinge(&hinge, 200, 10);
    take(&w, &w.b, DIP_MESSAGE_RESET);
    world_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_said_before_the_reset_is_not_heard),
        cmocka_unit_test(the_hello_says_what_is_held),
        cmocka_unit_test(joined_waits_for_the_stream),
        cmocka_unit_test(who_goes_to_another_leader_says_so),
        cmocka_unit_test(a_full_inbox_holds_commands_back),
        cmocka_unit_test(a_deaf_coordinator_slows_the_device_down),
        cmocka_unit_test(a_command_of_the_past_is_refused),
        cmocka_unit_test(a_foreign_cluster_is_left),
        cmocka_unit_test(hinges_of_all_sizes_arrive),
        cmocka_unit_test(a_hinge_waits_for_a_place),
        cmocka_unit_test(a_hinge_goes_on_where_it_broke_off),
        cmocka_unit_test(a_hinge_to_nobody_fails_unless_released),
        cmocka_unit_test(a_spoiled_chunk_is_asked_for_again),
        cmocka_unit_test(what_does_not_fit_is_refused),
        cmocka_unit_test(strangers_bring_no_hinges),
        cmocka_unit_test(the_store_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
