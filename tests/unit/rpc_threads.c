/* tests/unit/rpc_threads.c - a server on two loops, a client on a third, and a worker that answers
 * from a thread of its own. Meant for the thread sanitizer as much as for its asserts. */
#include <pthread.h>

#include "base/mailbox.h"
#include "tests/unit/rpc_harness.h"

enum { LOOPS = 2, CALLS = 64, ROUNDS = 20 };

/* ---- a service whose answers come from another thread ---- */

struct question {
    struct dip_rpc_loop *loop;
    uint64_t call_id;
    char text[32];
};

struct answer {
    struct dip_rpc_loop *loop;
    uint64_t call_id;
    char *text; /* malloc */
};

static struct dip_mailbox *questions;

/* On the loop: hands over what the worker needs, which is not the call but its id. */
static void ask_worker(void *context, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    (void)context;
    struct question question = {dip_rpc_call_loop(call), dip_rpc_call_id(call), ""};
    snprintf(question.text, sizeof question.text, "%.*s", (int)bytes, (const char *)data);
    if (dip_mailbox_push(questions, &question))
        dip_rpc_call_finish(call, &(struct dip_rpc_status){.code = DIP_RPC_RESOURCE_EXHAUSTED});
}

/* On the loop again: the call may be gone by now. */
static void deliver_answer(void *context, void *payload)
{
    (void)context;
    struct answer *answer = payload;
    struct dip_rpc_call *call = dip_rpc_call_find(answer->loop, answer->call_id);
    if (call && dip_rpc_call_send(call, answer->text, strlen(answer->text), 0) == DIP_OK)
        answer->text = NULL; /* the call's */
    if (call)
        finish_ok(call);
    free(answer->text);
    free(answer);
}

static void *work(void *unused)
{
    (void)unused;
    struct question question;
    while (dip_mailbox_pop(questions, -1, &question) == DIP_OK) {
        struct answer *answer = malloc(sizeof *answer);
        *answer = (struct answer){question.loop, question.call_id, malloc(64)};
        snprintf(answer->text, 64, "to %s", question.text);
        while (dip_rpc_loop_post(question.loop, deliver_answer, NULL, answer) == DIP_BUSY)
            continue;
    }
    return NULL;
}

static const struct dip_rpc_handler worker_handler = {.on_message = ask_worker};
static const struct dip_rpc_handler silent_handler = {0};

static const struct dip_rpc_method methods[] = {
    {.path = "/t.T/Work", .kind = DIP_RPC_UNARY, .handler = &worker_handler},
    {.path = "/t.T/Silent", .kind = DIP_RPC_BIDI, .handler = &silent_handler},
};

/* ---- the server's threads ---- */

static struct dip_rpc_loop *loops[LOOPS];
static pthread_t threads[LOOPS];
static struct dip_rpc_server *server;
static char target[64];

static void *run_loop(void *loop)
{
    dip_rpc_loop_run(loop);
    return NULL;
}

static void serve(void)
{
    struct dip_why why = {0};
    for (int i = 0; i < LOOPS; i++)
        assert_int_equal(dip_rpc_loop_new(&(struct dip_rpc_loop_options){0}, &loops[i]), DIP_OK);
    struct dip_rpc_server_options options = {.listen = "127.0.0.1:0",
                                             .loops = loops,
                                             .loop_count = LOOPS,
                                             .methods = methods,
                                             .method_count = 2};
    assert_int_equal(dip_rpc_server_start(&options, &why, &server), DIP_OK);
    snprintf(target, sizeof target, "127.0.0.1:%d", dip_rpc_server_port(server));
    for (int i = 0; i < LOOPS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, run_loop, loops[i]), 0);
}

/* On the home loop. */
static void stop_server(void *context, void *payload)
{
    (void)context, (void)payload;
    dip_rpc_server_stop(server, INT64_C(50) * DIP_MS_NS, NULL, NULL);
}

static void unserve(void)
{
    assert_int_equal(dip_rpc_loop_post(loops[0], stop_server, NULL, NULL), DIP_OK);
    for (int i = 0; i < LOOPS; i++)
        dip_rpc_loop_stop(loops[i]); /* returns once the server has let go of it */
    for (int i = 0; i < LOOPS; i++)
        pthread_join(threads[i], NULL);
    dip_rpc_server_free(server);
    for (int i = 0; i < LOOPS; i++)
        dip_rpc_loop_free(loops[i]);
}

/* ---- tests ---- */

static struct seen seen[CALLS];

static struct dip_rpc_call *call_from(struct dip_rpc_channel *channel, const char *path, int i)
{
    struct dip_rpc_call *call;
    memset(&seen[i], 0, sizeof seen[i]);
    assert_int_equal(dip_rpc_call_open(channel,
                                       &(struct dip_rpc_call_options){.path = path,
                                                                      .handler = &seen_handler,
                                                                      .context = &seen[i]},
                                       &call),
                     DIP_OK);
    return call;
}

static void answers_come_from_another_thread(void **state)
{
    (void)state;
    pthread_t worker;
    struct dip_why why = {0};
    struct dip_rpc_loop *loop;
    struct dip_rpc_channel *channels[4];
    alarm(250);
    assert_int_equal(dip_mailbox_new(sizeof(struct question), CALLS, &questions), DIP_OK);
    assert_int_equal(pthread_create(&worker, NULL, work, NULL), 0);
    serve();
    assert_int_equal(dip_rpc_loop_new(&(struct dip_rpc_loop_options){0}, &loop), DIP_OK);
    for (int i = 0; i < 4; i++)
        assert_int_equal(
            dip_rpc_channel_open(&(struct dip_rpc_channel_options){.loop = loop, .target = target},
                                 &why, &channels[i]),
            DIP_OK);
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < CALLS; i++) {
            char text[32];
            snprintf(text, sizeof text, "%d/%d", round, i);
            struct dip_rpc_call *call = call_from(channels[i % 4], "/t.T/Work", i);
            assert_int_equal(send_text(call, text, 0), DIP_OK);
            dip_rpc_call_half_close(call);
            if (i % 8 == 7) /* gone before the answer comes, or in the middle of it */
                dip_rpc_call_cancel(call, DIP_RPC_CANCELLED, "");
        }
        for (int i = 0; i < CALLS; i++) {
            char text[32];
            snprintf(text, sizeof text, "to %d/%d", round, i);
            WAIT_UNTIL(loop, seen[i].closes);
            assert_int_equal(seen[i].code, i % 8 == 7 ? DIP_RPC_CANCELLED : DIP_RPC_OK);
            if (i % 8 != 7)
                assert_string_equal(seen[i].last, text);
        }
    }
    for (int i = 0; i < 4; i++)
        dip_rpc_channel_close(channels[i]);
    dip_rpc_loop_stop(loop);
    dip_rpc_loop_run(loop);
    dip_rpc_loop_free(loop);
    dip_mailbox_close(questions);
    pthread_join(worker, NULL);
    unserve();
    dip_mailbox_free(questions);
}

/* Live calls on both loops, a stop from outside, clients on a thread of their own. */
static void all_loops_stop_together(void **state)
{
    (void)state;
    struct dip_why why = {0};
    struct dip_rpc_loop *loop;
    struct dip_rpc_channel *channels[4];
    alarm(250);
    for (int round = 0; round < 5; round++) {
        serve();
        assert_int_equal(dip_rpc_loop_new(&(struct dip_rpc_loop_options){0}, &loop), DIP_OK);
        for (int i = 0; i < 4; i++)
            assert_int_equal(dip_rpc_channel_open(
                                 &(struct dip_rpc_channel_options){.loop = loop, .target = target},
                                 &why, &channels[i]),
                             DIP_OK);
        for (int i = 0; i < CALLS; i++)
            assert_int_equal(send_text(call_from(channels[i % 4], "/t.T/Silent", i), "", 0),
                             DIP_OK);
        for (int i = 0; i < 20 * round; i++)
            dip_rpc_loop_turn(loop, DIP_MS_NS);
        unserve();
        for (int i = 0; i < CALLS; i++) {
            WAIT_UNTIL(loop, seen[i].closes);
            assert_true(seen[i].code == DIP_RPC_CANCELLED || seen[i].code == DIP_RPC_UNAVAILABLE);
        }
        for (int i = 0; i < 4; i++)
            dip_rpc_channel_close(channels[i]);
        dip_rpc_loop_stop(loop);
        dip_rpc_loop_run(loop);
        dip_rpc_loop_free(loop);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_come_from_another_thread),
        cmocka_unit_test(all_loops_stop_together),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
