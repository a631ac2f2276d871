/* tests/unit/rpc_loop.c - posts from other threads, timers, and servers that stop while calls live.
 */
#include <pthread.h>

#include "base/rng.h"
#include "tests/unit/rpc_harness.h"

/* ---- posts ---- */

enum { POSTERS = 4, POSTS = 5000 };

struct poster {
    struct dip_rpc_loop *loop;
    int next; /* owner: the loop */
    int busy; /* owner: the poster */
};

static void take_post(void *context, void *payload)
{
    struct poster *poster = context;
    assert_int_equal((intptr_t)payload, poster->next); /* each poster's own order is kept */
    poster->next++;
}

static void *post_all(void *context)
{
    struct poster *poster = context;
    for (intptr_t i = 0; i < POSTS; i++)
        while (dip_rpc_loop_post(poster->loop, take_post, poster, (void *)i) == DIP_BUSY)
            poster->busy++;
    return NULL;
}

static void posts_arrive_once_and_in_order(void **state)
{
    (void)state;
    struct dip_rpc_loop *loop;
    struct poster posters[POSTERS] = {{0}};
    pthread_t threads[POSTERS];
    assert_int_equal(dip_rpc_loop_new(&(struct dip_rpc_loop_options){.post_count_max = 64}, &loop),
                     DIP_OK);
    for (int i = 0; i < POSTERS; i++) {
        posters[i].loop = loop;
        assert_int_equal(pthread_create(&threads[i], NULL, post_all, &posters[i]), 0);
    }
    for (int i = 0; i < POSTERS; i++)
        WAIT_UNTIL(loop, posters[i].next == POSTS);
    for (int i = 0; i < POSTERS; i++)
        pthread_join(threads[i], NULL);
    dip_rpc_loop_free(loop);
}

static void count_post(void *context, void *payload)
{
    (void)payload;
    ++*(int *)context;
}

static void a_full_mailbox_says_busy(void **state)
{
    (void)state;
    struct dip_rpc_loop *loop;
    int taken = 0;
    assert_int_equal(dip_rpc_loop_new(&(struct dip_rpc_loop_options){.post_count_max = 3}, &loop),
                     DIP_OK);
    for (int i = 0; i < 3; i++)
        assert_int_equal(dip_rpc_loop_post(loop, count_post, &taken, NULL), DIP_OK);
    assert_int_equal(dip_rpc_loop_post(loop, count_post, &taken, NULL), DIP_BUSY);
    WAIT_UNTIL(loop, taken == 3);
    assert_int_equal(dip_rpc_loop_post(loop, count_post, &taken, NULL), DIP_OK);
    WAIT_UNTIL(loop, taken == 4);
    /* One that nobody takes any more. */
    assert_int_equal(dip_rpc_loop_post(loop, count_post, &taken, NULL), DIP_OK);
    dip_rpc_loop_free(loop);
    assert_int_equal(taken, 4);
}

/* ---- timers ---- */

enum { TIMERS = 200 };

struct clock_test {
    struct dip_rpc_loop *loop;
    struct dip_rpc_timer timers[TIMERS];
    bool is_wanted[TIMERS];
    int fired, wanted;
    int64_t last_ns;
};

static struct clock_test ct;

static void on_time(void *context)
{
    struct dip_rpc_timer *timer = context;
    assert_true(ct.is_wanted[timer - ct.timers]);
    ct.is_wanted[timer - ct.timers] = false;
    assert_true(timer->at_ns >= ct.last_ns);
    assert_true(dip_clock_now_ns() >= timer->at_ns);
    ct.last_ns = timer->at_ns;
    ct.fired++;
}

/* Random times, moved and cleared at random, fire in order. */
static void timers_fire_in_order(void **state)
{
    (void)state;
    struct dip_rng_key key = {.seed = 3, .purpose = DIP_RNG_TEST};
    memset(&ct, 0, sizeof ct);
    assert_int_equal(
        dip_rpc_loop_new(&(struct dip_rpc_loop_options){.timer_count_max = TIMERS}, &ct.loop),
        DIP_OK);
    int64_t start_ns = dip_clock_now_ns() + INT64_C(5) * DIP_MS_NS;
    for (uint64_t i = 0; i < 3000; i++) {
        uint32_t words[4];
        dip_rng_words(&key, i, words);
        int which = (int)(words[0] % TIMERS);
        struct dip_rpc_timer *timer = &ct.timers[which];
        timer->fire = on_time;
        timer->context = timer;
        ct.wanted -= ct.is_wanted[which];
        ct.is_wanted[which] = words[1] % 4 != 0;
        ct.wanted += ct.is_wanted[which];
        if (ct.is_wanted[which])
            assert_int_equal(
                dip_rpc_timer_set(ct.loop, timer, start_ns + words[2] % (20 * DIP_MS_NS)), DIP_OK);
        else
            dip_rpc_timer_clear(ct.loop, timer);
    }
    assert_true(ct.wanted > TIMERS / 2);
    int wanted = ct.wanted;
    WAIT_UNTIL(ct.loop, ct.fired == wanted);
    dip_rpc_loop_turn(ct.loop, INT64_C(20) * DIP_MS_NS);
    assert_int_equal(ct.fired, wanted);
    dip_rpc_loop_free(ct.loop);
}

/* ---- stopping ---- */

static void a_server_stops_when_its_calls_are_done(void **state)
{
    (void)state;
    struct pair p;
    struct seen seen, late;
    pair_open(&p, NULL);
    pair_ask(&p, HANG, &seen, "");
    WAIT_UNTIL(p.loop, p.served[HANG].messages);
    dip_rpc_server_stop(p.server, 200 * DIP_SECOND_NS, pair_on_stopped, &p);
    int64_t until_ns = dip_clock_now_ns() + INT64_C(200) * DIP_MS_NS;
    while (dip_clock_now_ns() < until_ns)
        dip_rpc_loop_turn(p.loop, INT64_C(20) * DIP_MS_NS);
    assert_false(p.is_stopped); /* the call has its grace */
    assert_int_equal(p.served[HANG].closes, 0);
    pair_ask(&p, ECHO, &late, "");
    WAIT_UNTIL(p.loop, late.closes);
    assert_int_equal(late.code, DIP_RPC_UNAVAILABLE); /* nothing new */
    int64_t begun_ns = dip_clock_now_ns();
    assert_int_equal(send_text(p.served[HANG].call, "done", 0), DIP_OK);
    finish_ok(p.served[HANG].call);
    WAIT_UNTIL(p.loop, p.is_stopped && seen.closes);
    assert_int_equal(seen.code, DIP_RPC_OK);
    assert_string_equal(seen.last, "done");
    assert_true(dip_clock_now_ns() - begun_ns < 60 * DIP_SECOND_NS); /* not the whole grace */
    dip_rpc_server_free(p.server);
    p.server = NULL;
    pair_close(&p);
}

static void what_outlives_the_grace_is_cancelled(void **state)
{
    (void)state;
    enum { CALLS = 20 };
    struct pair p;
    static struct seen seen[CALLS];
    pair_open(&p, NULL);
    for (int i = 0; i < CALLS; i++)
        pair_ask(&p, i % 2 ? HANG : HANG_STREAM, &seen[i], "");
    WAIT_UNTIL(p.loop, p.served[HANG].opens + p.served[HANG_STREAM].opens == CALLS);
    p.served[STREAM].send_left = 1 << 20; /* and one that is sending */
    p.served[STREAM].send_bytes = 50000;
    struct seen reader;
    pair_ask(&p, STREAM, &reader, "");
    WAIT_UNTIL(p.loop, reader.messages > 10);
    dip_rpc_server_stop(p.server, INT64_C(100) * DIP_MS_NS, pair_on_stopped, &p);
    WAIT_UNTIL(p.loop, p.is_stopped);
    for (int i = 0; i < CALLS; i++)
        WAIT_UNTIL(p.loop, seen[i].closes);
    WAIT_UNTIL(p.loop, reader.closes);
    assert_int_equal(p.served[HANG].closes + p.served[HANG_STREAM].closes, CALLS);
    assert_int_equal(p.served[STREAM].closes, 1);
    assert_int_equal(p.served[HANG].code, DIP_RPC_CANCELLED);
    dip_rpc_server_free(p.server);
    p.server = NULL;
    pair_close(&p);
}

/* Clients that vanish without a word while they are being served, then a stop at once. */
static void a_stop_survives_clients_that_vanish(void **state)
{
    (void)state;
    for (int round = 0; round < 10; round++) {
        struct pair p;
        static struct seen seen[8];
        pair_open(&p, NULL);
        p.served[STREAM].send_left = 1 << 20;
        p.served[STREAM].send_bytes = 50000;
        for (int i = 0; i < 8; i++)
            pair_ask(&p, i % 2 ? STREAM : HANG, &seen[i], "");
        for (int i = 0; i < 5 * round; i++)
            dip_rpc_loop_turn(p.loop, INT64_C(1) * DIP_MS_NS);
        for (int i = 0; i < 8; i++)
            if (seen[i].call)
                dip_rpc_call_cancel(seen[i].call, DIP_RPC_CANCELLED, "");
        pair_close(&p);
    }
}

static void one_port_serves_one_server(void **state)
{
    (void)state;
    struct pair p;
    struct dip_why why = {0};
    struct dip_rpc_server *other = NULL;
    pair_open(&p, NULL);
    struct dip_rpc_server_options options = {.listen = p.target,
                                             .loops = &p.loop,
                                             .loop_count = 1,
                                             .methods = p.methods,
                                             .method_count = METHODS};
    assert_int_equal(dip_rpc_server_start(&options, &why, &other), DIP_IO);
    assert_non_null(strstr(why.text, p.target));
    assert_null(other);
    /* And its port is free again when it has stopped. */
    pair_unserve(&p, 0);
    assert_int_equal(dip_rpc_server_start(&options, &why, &p.server), DIP_OK);
    p.is_stopped = false;
    pair_close(&p);
}

/* ---- connections ---- */

struct states {
    enum dip_rpc_channel_state last;
    int changes;
};

static void on_state(void *context, enum dip_rpc_channel_state state)
{
    struct states *states = context;
    states->last = state;
    states->changes++;
}

static void a_channel_says_where_it_stands_and_comes_back(void **state)
{
    (void)state;
    struct pair p;
    struct dip_why why = {0};
    struct states states = {0};
    struct dip_rpc_channel *channel;
    pair_open(&p, NULL);
    struct dip_rpc_channel_options options = {.loop = p.loop,
                                              .target = p.target,
                                              .backoff_ns_min = INT64_C(20) * DIP_MS_NS,
                                              .backoff_ns_max = INT64_C(50) * DIP_MS_NS,
                                              .on_state = on_state,
                                              .context = &states};
    assert_int_equal(dip_rpc_channel_open(&options, &why, &channel), DIP_OK);
    WAIT_UNTIL(p.loop, states.last == DIP_RPC_CHANNEL_READY);
    char listen[64];
    snprintf(listen, sizeof listen, "%s", p.target);
    pair_unserve(&p, 0);
    WAIT_UNTIL(p.loop, dip_rpc_channel_failures(channel) > 0);
    assert_int_equal(states.last, DIP_RPC_CHANNEL_WAITING);
    pair_serve(&p, &(struct dip_rpc_server_options){.listen = listen});
    WAIT_UNTIL(p.loop, states.last == DIP_RPC_CHANNEL_READY);
    assert_int_equal(dip_rpc_channel_failures(channel), 0);
    assert_string_equal(dip_rpc_channel_state_name(dip_rpc_channel_state(channel)), "ready");
    dip_rpc_channel_close(channel);
    pair_close(&p);
}

static void a_patient_call_waits_for_the_server(void **state)
{
    (void)state;
    struct pair p;
    struct seen seen = {0};
    struct dip_rpc_call *call;
    pair_open(&p, NULL);
    char listen[64];
    snprintf(listen, sizeof listen, "%s", p.target);
    pair_unserve(&p, 0);
    assert_int_equal(dip_rpc_call_open(p.channel,
                                       &(struct dip_rpc_call_options){.path = "/t.T/Echo",
                                                                      .is_patient = true,
                                                                      .handler = &seen_handler,
                                                                      .context = &seen},
                                       &call),
                     DIP_OK);
    assert_int_equal(send_text(call, "at last", 0), DIP_OK);
    dip_rpc_call_half_close(call);
    for (int i = 0; i < 5; i++)
        dip_rpc_loop_turn(p.loop, INT64_C(20) * DIP_MS_NS);
    assert_int_equal(seen.closes, 0);
    pair_serve(&p, &(struct dip_rpc_server_options){.listen = listen});
    WAIT_UNTIL(p.loop, seen.closes);
    assert_int_equal(seen.code, DIP_RPC_OK);
    assert_string_equal(seen.last, "at last");
    pair_close(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(posts_arrive_once_and_in_order),
        cmocka_unit_test(a_full_mailbox_says_busy),
        cmocka_unit_test(timers_fire_in_order),
        cmocka_unit_test(a_server_stops_when_its_calls_are_done),
        cmocka_unit_test(what_outlives_the_grace_is_cancelled),
        cmocka_unit_test(a_stop_survives_clients_that_vanish),
        cmocka_unit_test(one_port_serves_one_server),
        cmocka_unit_test(a_channel_says_where_it_stands_and_comes_back),
        cmocka_unit_test(a_patient_call_waits_for_the_server),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
