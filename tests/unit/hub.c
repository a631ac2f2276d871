/* tests/unit/hub.c - what a coordinator's end makes of peers that are no good workers: garbage,
 * silence, jobs that do not move, streams that nobody reads. The peer is a plain call, so that it
 * can say anything. */
#include "tests/unit/rpc_harness.h"

#include "cluster/wire.h"
#include "net/hub.h"

enum { MEMBERS = 3, KINDS = DIP_MESSAGE_COUNT };

struct world {
    struct dip_rpc_loop *loop;
    struct dip_hub *hub;
    struct dip_rpc_server *server;
    struct dip_rpc_channel *channel;
    struct dip_rpc_method method;
    bool is_stopped;
    char target[64];
    int heard[MEMBERS + 2][KINDS]; /* by address */
    char log[512];
};

static void hear(void *context, struct dip_message *message)
{
    struct world *w = context;
    assert_in_range(message->from, 1, MEMBERS);
    w->heard[message->from][message->kind]++;
}

static void hear_log(void *context, const char *text)
{
    struct world *w = context;
    snprintf(w->log, sizeof w->log, "%s", text);
}

static void world_open(struct world *w, const struct dip_hub_options *given, uint64_t epoch)
{
    struct dip_hub_options options = given ? *given : (struct dip_hub_options){0};
    struct dip_why why = {0};
    alarm(100);
    memset(w, 0, sizeof *w);
    assert_int_equal(dip_rpc_loop_new(&(struct dip_rpc_loop_options){0}, &w->loop), DIP_OK);
    options.loop = w->loop;
    options.member_count_max = MEMBERS;
    options.on_message = hear;
    options.log = hear_log;
    options.context = w;
    if (options.silence_ns == 0)
        options.silence_ns = 60 * DIP_SECOND_NS;
    assert_int_equal(dip_hub_new(&options, &w->hub), DIP_OK);
    if (epoch)
        dip_hub_set_epoch(w->hub, epoch);
    w->method = dip_hub_method(w->hub);
    struct dip_rpc_server_options server = {.listen = "127.0.0.1:0",
                                            .loops = &w->loop,
                                            .loop_count = 1,
                                            .methods = &w->method,
                                            .method_count = 1};
    if (dip_rpc_server_start(&server, &why, &w->server))
        fail_msg("%s", why.text);
    snprintf(w->target, sizeof w->target, "127.0.0.1:%d", dip_rpc_server_port(w->server));
    assert_int_equal(dip_rpc_channel_open(
                         &(struct dip_rpc_channel_options){
                             .loop = w->loop, .target = w->target, .window_bytes = 64 << 10},
                         NULL, &w->channel),
                     DIP_OK);
}

static void stopped(void *context)
{
    ((struct world *)context)->is_stopped = true;
}

static void world_close(struct world *w)
{
    dip_rpc_channel_close(w->channel);
    dip_rpc_server_stop(w->server, 0, stopped, w);
    WAIT_UNTIL(w->loop, w->is_stopped);
    dip_rpc_server_free(w->server);
    dip_hub_free(w->hub);
    dip_rpc_loop_stop(w->loop);
    dip_rpc_loop_run(w->loop);
    dip_rpc_loop_free(w->loop);
}

static void dial(struct world *w, struct seen *seen)
{
    struct dip_rpc_call_options options = {
        .path = w->method.path, .is_patient = true, .handler = &seen_handler, .context = seen};
    memset(seen, 0, sizeof *seen);
    seen->code = -1;
    assert_int_equal(dip_rpc_call_open(w->channel, &options, &seen->call), DIP_OK);
}

static enum dip_status send_frame(void *context, void *data, size_t bytes)
{
    return dip_rpc_call_send(context, data, bytes, 0);
}

static void say(struct seen *seen, const struct dip_message *message)
{
    struct dip_wire_envelope envelope = {.epoch = 1};
    assert_int_equal(dip_wire_encode_event(message, &envelope, send_frame, seen->call), DIP_OK);
}

static void say_hello(struct seen *seen, const char *name, uint64_t incarnation)
{
    struct dip_member_facts facts = {
        .address = "127.0.0.1:1", .roles = DIP_ROLE_DIFFUSION, .incarnation = incarnation};
    struct dip_message hello = {.kind = DIP_MESSAGE_APPEARED,
                                .as.appeared.facts = {&facts, sizeof facts}};
    snprintf(facts.name, sizeof facts.name, "%s", name);
    say(seen, &hello);
}

static void say_heartbeat(struct seen *seen, uint64_t steps_total, int busy)
{
    struct dip_message beat = {
        .kind = DIP_MESSAGE_HEARTBEAT,
        .as.heartbeat = {.steps_total = steps_total, .diffusion_busy = busy}};
    say(seen, &beat);
}

/* Dials, says hello and waits for the welcome. */
static void join(struct world *w, struct seen *seen, const char *name, uint64_t incarnation)
{
    dial(w, seen);
    say_hello(seen, name, incarnation);
    WAIT_UNTIL(w->loop, seen->messages == 1 || seen->closes);
    assert_int_equal(seen->closes, 0);
}

static int all(const struct world *w, enum dip_message_kind kind)
{
    int count = 0;
    for (int i = 0; i <= MEMBERS; i++)
        count += w->heard[i][kind];
    return count;
}

/* ---- garbage ---- */

static void garbage_is_refused_with_a_sentence(void **state)
{
    (void)state;
    struct world w;
    struct seen seen;
    world_open(&w, NULL, 1);
    dial(&w, &seen);
    assert_int_equal(send_text(seen.call, "GET / HTTP/1.1", 0), DIP_OK);
    WAIT_UNTIL(w.loop, seen.closes);
    assert_int_equal(seen.code, DIP_RPC_INVALID_ARGUMENT);
    assert_true(strlen(seen.text) > 10);
    assert_non_null(strstr(w.log, "refused"));
    assert_int_equal(all(&w, DIP_MESSAGE_APPEARED), 0);
    /* The same from a member: it is lost, once. */
    join(&w, &seen, "liar", 1);
    assert_int_equal(send_text(seen.call, "\x0a\xff\xff", 0), DIP_OK);
    WAIT_UNTIL(w.loop, seen.closes);
    assert_int_equal(seen.code, DIP_RPC_INVALID_ARGUMENT);
    assert_int_equal(all(&w, DIP_MESSAGE_APPEARED), 1);
    assert_int_equal(all(&w, DIP_MESSAGE_LOST), 1);
    assert_non_null(strstr(w.log, "liar"));
    world_close(&w);
    assert_int_equal(all(&w, DIP_MESSAGE_LOST), 1);
}

static void hello_comes_first_and_once(void **state)
{
    (void)state;
    struct world w;
    struct seen seen;
    world_open(&w, NULL, 1);
    dial(&w, &seen);
    say_heartbeat(&seen, 1, 0);
    WAIT_UNTIL(w.loop, seen.closes);
    assert_int_equal(seen.code, DIP_RPC_INVALID_ARGUMENT);
    assert_non_null(strstr(seen.text, "Hello"));
    join(&w, &seen, "twice", 1);
    say_hello(&seen, "twice", 2);
    WAIT_UNTIL(w.loop, seen.closes);
    assert_int_equal(seen.code, DIP_RPC_INVALID_ARGUMENT);
    assert_int_equal(all(&w, DIP_MESSAGE_LOST), 1);
    world_close(&w);
}

static void there_is_room_for_so_many(void **state)
{
    (void)state;
    struct world w;
    struct seen seen[MEMBERS + 1];
    static const char *const names[] = {"a", "b", "c", "d"};
    world_open(&w, NULL, 1);
    for (int i = 0; i < MEMBERS; i++)
        join(&w, &seen[i], names[i], 1);
    dial(&w, &seen[MEMBERS]);
    say_hello(&seen[MEMBERS], names[MEMBERS], 1);
    WAIT_UNTIL(w.loop, seen[MEMBERS].closes);
    assert_int_equal(seen[MEMBERS].code, DIP_RPC_RESOURCE_EXHAUSTED);
    assert_int_equal(all(&w, DIP_MESSAGE_APPEARED), MEMBERS);
    assert_int_equal(all(&w, DIP_MESSAGE_LOST), 0);
    /* One leaves, and its address is free. */
    dip_rpc_call_half_close(seen[0].call);
    WAIT_UNTIL(w.loop, seen[0].closes && w.heard[1][DIP_MESSAGE_LOST] == 1);
    assert_int_equal(seen[0].code, DIP_RPC_OK);
    join(&w, &seen[MEMBERS], names[MEMBERS], 1);
    assert_int_equal(w.heard[1][DIP_MESSAGE_APPEARED], 2);
    world_close(&w);
}

static void who_has_seen_a_later_leader_is_counted(void **state)
{
    (void)state;
    struct world w;
    struct seen seen;
    struct dip_wire_envelope envelope = {.epoch = 9};
    struct dip_member_facts facts = {
        .name = "far", .address = "127.0.0.1:1", .roles = DIP_ROLE_DIFFUSION, .incarnation = 1};
    struct dip_message hello = {.kind = DIP_MESSAGE_APPEARED,
                                .as.appeared.facts = {&facts, sizeof facts}};
    world_open(&w, NULL, 1);
    dial(&w, &seen);
    assert_int_equal(dip_wire_encode_event(&hello, &envelope, send_frame, seen.call), DIP_OK);
    WAIT_UNTIL(w.loop, seen.closes);
    assert_int_equal(seen.code, DIP_RPC_FAILED_PRECONDITION);
    assert_int_equal(dip_hub_later_epoch(w.hub), 9);
    assert_int_equal(dip_hub_stats(w.hub).fenced_epochs, 1);
    assert_int_equal(dip_hub_stats(w.hub).fenced_incarnations, 0);
    world_close(&w);
}

static void the_older_of_two_is_sent_away(void **state)
{
    (void)state;
    struct world w;
    struct seen old, young, older;
    world_open(&w, NULL, 1);
    join(&w, &old, "twin", 5);
    join(&w, &young, "twin", 6);
    WAIT_UNTIL(w.loop, old.closes);
    assert_int_equal(old.code, DIP_RPC_ABORTED);
    assert_int_equal(w.heard[1][DIP_MESSAGE_LOST], 1);
    assert_int_equal(w.heard[2][DIP_MESSAGE_APPEARED], 1);
    dial(&w, &older);
    say_hello(&older, "twin", 4);
    WAIT_UNTIL(w.loop, older.closes);
    assert_int_equal(older.code, DIP_RPC_FAILED_PRECONDITION);
    assert_int_equal(young.closes, 0);
    assert_int_equal(all(&w, DIP_MESSAGE_LOST), 1);
    assert_true(dip_hub_stats(w.hub).fenced_incarnations >= 1);
    assert_int_equal(dip_hub_stats(w.hub).fenced_epochs, 0);
    world_close(&w);
}

/* ---- time ---- */

static void silence_is_the_end(void **state)
{
    (void)state;
    struct world w;
    struct seen seen;
    world_open(&w, &(struct dip_hub_options){.silence_ns = INT64_C(300) * DIP_MS_NS}, 1);
    join(&w, &seen, "quiet", 1);
    WAIT_UNTIL(w.loop, w.heard[1][DIP_MESSAGE_LOST]);
    assert_non_null(strstr(w.log, "nothing was heard"));
    assert_int_equal(dip_hub_stats(w.hub).silent, 1);
    assert_int_equal(dip_hub_stats(w.hub).stuck, 0);
    WAIT_UNTIL(w.loop, seen.closes);
    world_close(&w);
    assert_int_equal(all(&w, DIP_MESSAGE_LOST), 1);
}

/* Heartbeats come, steps do not: alive in name only. An idle one may rest as long as it likes. */
static void standing_still_is_the_end(void **state)
{
    (void)state;
    struct world w;
    struct seen stuck, idle, moving;
    struct dip_hub_options options = {.silence_ns = 60 * DIP_SECOND_NS,
                                      .stuck_ns = INT64_C(1500) * DIP_MS_NS};
    world_open(&w, &options, 1);
    join(&w, &stuck, "stuck", 1);
    join(&w, &idle, "idle", 1);
    join(&w, &moving, "moving", 1);
    for (uint64_t i = 0; !w.heard[1][DIP_MESSAGE_LOST] && i < 1000; i++) {
        say_heartbeat(&stuck, 7, 1);
        say_heartbeat(&idle, 7, 0);
        say_heartbeat(&moving, i, 1);
        int64_t until_ns = dip_clock_now_ns() + INT64_C(20) * DIP_MS_NS;
        while (dip_clock_now_ns() < until_ns)
            dip_rpc_loop_turn(w.loop, INT64_C(5) * DIP_MS_NS);
    }
    assert_int_equal(w.heard[1][DIP_MESSAGE_LOST], 1);
    assert_non_null(strstr(w.log, "no step"));
    assert_int_equal(dip_hub_stats(w.hub).silent, 0);
    assert_int_equal(dip_hub_stats(w.hub).stuck, 1);
    assert_int_equal(w.heard[2][DIP_MESSAGE_LOST], 0);
    assert_int_equal(w.heard[3][DIP_MESSAGE_LOST], 0);
    world_close(&w);
}

/* The coordinator itself stood still: that is no silence of its workers. */
static void our_own_sleep_does_not_count(void **state)
{
    (void)state;
    struct world w;
    struct seen seen;
    world_open(&w, &(struct dip_hub_options){.silence_ns = INT64_C(800) * DIP_MS_NS}, 1);
    join(&w, &seen, "patient", 1);
    int64_t until_ns = dip_clock_now_ns() + 2 * DIP_SECOND_NS;
    while (dip_clock_now_ns() < until_ns)
        dip_clock_sleep(DIP_MS_NS * 50); /* nobody turns the loop */
    for (int i = 0; i < 3; i++)
        dip_rpc_loop_turn(w.loop, DIP_MS_NS);
    assert_int_equal(w.heard[1][DIP_MESSAGE_LOST], 0);
    WAIT_UNTIL(w.loop, w.heard[1][DIP_MESSAGE_LOST]); /* now it is its silence */
    world_close(&w);
}

/* ---- slow readers ---- */

static struct dip_message big_command(uint64_t job_id)
{
    struct dip_message ar = {.kind = DIP_MESSAGE_AR,
                             .job_id = job_id,
                             .as.ar.params = {.token_count = 16384,
                                              .temperature = 1,
                                              .top_p = 1,
                                              .steps = 1,
                                              .latent_height = 4,
                                              .latent_width = 4}};
    int32_t *ids = malloc(16384 * sizeof *ids);
    assert_non_null(ids);
    for (int i = 0; i < 16384; i++)
        ids[i] = 100000 + i;
    ar.as.ar.forced_ids = (struct dip_payload){ids, 16384 * sizeof *ids};
    ids = malloc(sizeof *ids);
    assert_non_null(ids);
    *ids = 1;
    ar.as.ar.prompt_ids = (struct dip_payload){ids, sizeof *ids};
    return ar;
}

/* What waits is bounded, the sender is told, and in the end the reader is given up. */
static void a_reader_that_reads_not_is_bounded_then_lost(void **state)
{
    (void)state;
    struct world w;
    struct seen seen;
    struct dip_hub_options options = {.silence_ns = 60 * DIP_SECOND_NS,
                                      .stuck_ns = INT64_C(1500) * DIP_MS_NS};
    world_open(&w, &options, 1);
    join(&w, &seen, "slow", 1);
    dip_rpc_call_pause(seen.call);
    struct dip_endpoint *endpoint = dip_hub_endpoint(w.hub);
    enum dip_status status = DIP_OK;
    uint64_t sent = 0;
    while (!status && sent < 5000) {
        struct dip_message command = big_command(sent + 1);
        status = dip_endpoint_send(endpoint, 1, &command);
        if (status)
            dip_message_release(&command);
        else
            sent++;
        dip_rpc_loop_turn(w.loop, 0);
    }
    assert_int_equal(status, DIP_BUSY);
    print_message("%llu commands of 50 KB were taken before BUSY\n", (unsigned long long)sent);
    assert_true(sent < 1000);
    while (!w.heard[1][DIP_MESSAGE_LOST]) { /* heartbeats go on all the while */
        say_heartbeat(&seen, 0, 0);
        int64_t until_ns = dip_clock_now_ns() + INT64_C(50) * DIP_MS_NS;
        while (dip_clock_now_ns() < until_ns)
            dip_rpc_loop_turn(w.loop, INT64_C(10) * DIP_MS_NS);
    }
    struct dip_message late = {.kind = DIP_MESSAGE_RELEASE, .job_id = 1};
    assert_int_equal(dip_endpoint_send(endpoint, 1, &late), DIP_UNREACHABLE);
    world_close(&w);
    assert_int_equal(all(&w, DIP_MESSAGE_LOST), 1);
}

/* ---- who may ---- */

static bool has_word(void *context, const struct dip_rpc_call *call)
{
    (void)context;
    const char *word = NULL;
    size_t bytes = 0;
    return dip_rpc_call_metadata(call, "authorization", &word, &bytes) && bytes == 4 &&
           memcmp(word, "word", 4) == 0;
}

static void a_worker_may_be_asked_for_its_word(void **state)
{
    (void)state;
    struct world w;
    struct seen seen;
    struct dip_rpc_pair header = {"authorization", "word"};
    struct dip_rpc_call_options options = {.is_patient = true,
                                           .headers = &header,
                                           .header_count = 1,
                                           .handler = &seen_handler,
                                           .context = &seen};
    world_open(&w, &(struct dip_hub_options){.may_join = has_word}, 1);
    dial(&w, &seen);
    say_hello(&seen, "mute", 1);
    WAIT_UNTIL(w.loop, seen.closes);
    assert_int_equal(seen.code, DIP_RPC_UNAUTHENTICATED);
    assert_int_equal(all(&w, DIP_MESSAGE_APPEARED), 0);
    memset(&seen, 0, sizeof seen);
    options.path = w.method.path;
    assert_int_equal(dip_rpc_call_open(w.channel, &options, &seen.call), DIP_OK);
    say_hello(&seen, "known", 1);
    WAIT_UNTIL(w.loop, seen.messages == 1);
    assert_int_equal(all(&w, DIP_MESSAGE_APPEARED), 1);
    world_close(&w);
}

static bool has_our_model(void *context, const struct dip_member_facts *facts,
                          struct dip_why *ret_why)
{
    (void)context;
    (void)dip_fail(ret_why, DIP_INVALID, "%s has another model", facts->name);
    return strcmp(facts->name, "ours") == 0;
}

static void who_does_not_fit_is_told_why(void **state)
{
    (void)state;
    struct world w;
    struct seen ours, other;
    world_open(&w, &(struct dip_hub_options){.does_fit = has_our_model}, 1);
    join(&w, &ours, "ours", 1);
    dial(&w, &other);
    say_hello(&other, "other", 2);
    WAIT_UNTIL(w.loop, other.closes);
    assert_int_equal(other.code, DIP_RPC_FAILED_PRECONDITION);
    assert_string_equal(other.text, "other has another model");
    assert_int_equal(ours.closes, 0);
    assert_int_equal(all(&w, DIP_MESSAGE_APPEARED), 1);
    assert_int_equal(all(&w, DIP_MESSAGE_LOST), 0);
    world_close(&w);
}

/* ---- leading ---- */

static void who_does_not_lead_takes_nobody(void **state)
{
    (void)state;
    struct world w;
    struct seen seen;
    world_open(&w, NULL, 0);
    dial(&w, &seen);
    say_hello(&seen, "early", 1);
    WAIT_UNTIL(w.loop, seen.closes);
    assert_int_equal(seen.code, DIP_RPC_UNAVAILABLE);
    dip_hub_set_epoch(w.hub, 4);
    join(&w, &seen, "early", 1);
    dip_hub_dismiss(w.hub);
    WAIT_UNTIL(w.loop, seen.closes);
    assert_int_equal(seen.code, DIP_RPC_UNAVAILABLE);
    assert_int_equal(all(&w, DIP_MESSAGE_LOST), 0); /* its books are closed */
    dial(&w, &seen);
    WAIT_UNTIL(w.loop, seen.closes);
    assert_int_equal(seen.code, DIP_RPC_UNAVAILABLE);
    world_close(&w);
}

static void commands_go_to_members_only(void **state)
{
    (void)state;
    struct world w;
    struct seen seen;
    world_open(&w, NULL, 1);
    struct dip_endpoint *endpoint = dip_hub_endpoint(w.hub);
    struct dip_message release = {.kind = DIP_MESSAGE_RELEASE, .job_id = 1};
    for (uint32_t to = 0; to <= MEMBERS + 1; to++)
        assert_int_equal(dip_endpoint_send(endpoint, to, &release), DIP_UNREACHABLE);
    join(&w, &seen, "one", 1);
    assert_int_equal(dip_endpoint_send(endpoint, 1, &release), DIP_OK);
    WAIT_UNTIL(w.loop, seen.messages == 2);
    struct dip_message hand_over = {
        .kind = DIP_MESSAGE_HAND_OVER, .job_id = 1, .as.hand_over = {2, 5}};
    assert_int_equal(dip_endpoint_send(endpoint, 1, &hand_over), DIP_UNREACHABLE);
    hand_over.as.hand_over.to = 1;
    assert_int_equal(dip_endpoint_send(endpoint, 1, &hand_over), DIP_OK);
    struct dip_message trace = {.kind = DIP_MESSAGE_TRACE, .job_id = 1};
    assert_int_equal(dip_endpoint_send(endpoint, 1, &trace), DIP_UNSUPPORTED);
    assert_int_equal(dip_endpoint_receive(endpoint, 0, &trace), DIP_UNSUPPORTED);
    world_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(garbage_is_refused_with_a_sentence),
        cmocka_unit_test(hello_comes_first_and_once),
        cmocka_unit_test(there_is_room_for_so_many),
        cmocka_unit_test(the_older_of_two_is_sent_away),
        cmocka_unit_test(who_has_seen_a_later_leader_is_counted),
        cmocka_unit_test(silence_is_the_end),
        cmocka_unit_test(standing_still_is_the_end),
        cmocka_unit_test(our_own_sleep_does_not_count),
        cmocka_unit_test(a_reader_that_reads_not_is_bounded_then_lost),
        cmocka_unit_test(a_worker_may_be_asked_for_its_word),
        cmocka_unit_test(who_does_not_fit_is_told_why),
        cmocka_unit_test(who_does_not_lead_takes_nobody),
        cmocka_unit_test(commands_go_to_members_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
