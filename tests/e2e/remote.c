/* tests/e2e/remote.c - `diptych generate --server`, `status` and `drain` against a coordinator that
 * the test plays: how the program asks, what it does with each answer, and how it comes back. */
#include <fcntl.h>
#include <setjmp.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/sha256.h"
#include "net/rpc_server.h"
#include "proto/diptych/v1/cluster.pb-c.h"
#include "proto/diptych/v1/image.pb-c.h"
#include "proto/diptych/v1/model.pb-c.h"
#include "proto/error.h"
#include "proto/wire.h"

enum { CHUNK_BYTES = 1 << 20, FILE_BYTES = 3 * CHUNK_BYTES / 2, OUTPUT_BYTES = 1 << 14 };

/* What the coordinator of a test does. */
struct play {
    int refusals;            /* of Generate, before anything else */
    enum dip_reason refusal; /* their reason */
    int64_t pushback_ns;     /* their pushback; 0 = none */
    const char *leader;      /* fact of a refusal */
    int break_after;         /* events of the first Generate; 0 = not at all */
    bool is_forgetful;       /* Watch knows nothing */
    bool is_damaged;         /* the file is not what its hash says */
    /* What it has seen. */
    int generates, watches, drains;
    char request_id[65];
    bool is_id_stable, is_seed_stable;
    uint64_t seed, after_sequence;
    uint32_t n, previews;
    char prompt[64], authorization[64];
};

static struct play play;
static struct dip_rpc_loop *loop;
static char folder[64], target[64];
static unsigned char file[FILE_BYTES]; /* every image's */

/* ---- answers ---- */

static void send_message(struct dip_rpc_call *call, const ProtobufCMessage *message)
{
    void *data = NULL;
    size_t bytes = 0;
    assert_int_equal(dip_proto_encode(message, &data, &bytes), DIP_OK);
    assert_int_equal(dip_rpc_call_send(call, data, bytes, 0), DIP_OK);
}

static void finish(struct dip_rpc_call *call, enum dip_rpc_code code)
{
    dip_rpc_call_finish(call, &(struct dip_rpc_status){.code = (int)code, .message = "over"});
}

static void refuse(struct dip_rpc_call *call, enum dip_reason reason)
{
    struct dip_error error;
    void *data = NULL;
    size_t bytes = 0;
    dip_error_set(&error, reason, "the test says %s", dip_reason_name(reason));
    if (play.leader)
        dip_error_fact(&error, "leader", "%s", play.leader);
    if (reason == DIP_REASON_BAD_FIELD)
        dip_error_field(&error, "prompt", "is not liked");
    assert_int_equal(dip_error_encode(&error, &data, &bytes), DIP_OK);
    dip_rpc_call_finish(call, &(struct dip_rpc_status){.code = dip_reason_code(reason),
                                                       .message = error.message,
                                                       .details = data,
                                                       .details_bytes = bytes,
                                                       .has_pushback = play.pushback_ns != 0,
                                                       .pushback_ns = play.pushback_ns});
    free(data);
}

/* Events 1 .. 5 n + 2: Admitted; for each image tokens, steps, two chunks, the end; Completed. */
static void send_event(struct dip_rpc_call *call, uint64_t sequence, uint32_t n)
{
    Diptych__V1__GenerateResponse response = DIPTYCH__V1__GENERATE_RESPONSE__INIT;
    Diptych__V1__Event event = DIPTYCH__V1__EVENT__INIT;
    Diptych__V1__Admitted admitted = DIPTYCH__V1__ADMITTED__INIT;
    Diptych__V1__TokenProgress tokens = DIPTYCH__V1__TOKEN_PROGRESS__INIT;
    Diptych__V1__StepProgress steps = DIPTYCH__V1__STEP_PROGRESS__INIT;
    Diptych__V1__ImageChunk chunk = DIPTYCH__V1__IMAGE_CHUNK__INIT;
    Diptych__V1__FinalImage final = DIPTYCH__V1__FINAL_IMAGE__INIT;
    Diptych__V1__Completed completed = DIPTYCH__V1__COMPLETED__INIT;
    char hex[DIP_SHA256_HEX_BYTES];
    unsigned char hash[32];
    uint32_t image = (uint32_t)(sequence - 2) / 5;
    response.event = &event;
    event.request_id = play.request_id;
    event.sequence = sequence;
    if (sequence == 1) {
        event.kind_case = DIPTYCH__V1__EVENT__KIND_ADMITTED;
        event.admitted = &admitted;
        admitted.seed = play.seed;
    } else if (sequence == 5 * n + 2) {
        event.kind_case = DIPTYCH__V1__EVENT__KIND_COMPLETED;
        event.completed = &completed;
    } else if ((sequence - 2) % 5 == 0) {
        event.kind_case = DIPTYCH__V1__EVENT__KIND_TOKENS;
        event.tokens = &tokens;
        tokens.image_index = image;
        tokens.tokens_done = tokens.tokens_total = 9;
    } else if ((sequence - 2) % 5 == 1) {
        event.kind_case = DIPTYCH__V1__EVENT__KIND_STEPS;
        event.steps = &steps;
        steps.image_index = image;
        steps.steps_done = steps.steps_total = 4;
    } else if ((sequence - 2) % 5 < 4) {
        bool is_second = (sequence - 2) % 5 == 3;
        event.kind_case = DIPTYCH__V1__EVENT__KIND_CHUNK;
        event.chunk = &chunk;
        chunk.image_index = image;
        chunk.offset = is_second ? CHUNK_BYTES : 0;
        chunk.data.data = file + chunk.offset;
        chunk.data.len = is_second ? FILE_BYTES - CHUNK_BYTES : CHUNK_BYTES;
    } else {
        event.kind_case = DIPTYCH__V1__EVENT__KIND_FINAL_IMAGE;
        event.final_image = &final;
        final.image_index = image;
        final.width = final.height = 64;
        final.size_bytes = FILE_BYTES;
        assert_int_equal(dip_sha256_hex(file, FILE_BYTES, hex), DIP_OK);
        for (int i = 0; i < 32; i++) {
            char pair[3] = {hex[2 * i], hex[2 * i + 1], '\0'};
            hash[i] = (unsigned char)(strtoul(pair, NULL, 16) ^ (play.is_damaged ? 1 : 0));
        }
        final.sha256.data = hash;
        final.sha256.len = 32;
    }
    send_message(call, &response.base);
}

static void send_events(struct dip_rpc_call *call, uint64_t first, uint64_t last)
{
    for (uint64_t sequence = first; sequence <= last; sequence++)
        send_event(call, sequence, play.n);
}

static void note_request(const Diptych__V1__GenerateRequest *request)
{
    bool is_first = play.generates++ == 0;
    play.is_id_stable = is_first || strcmp(play.request_id, request->request_id) == 0;
    play.is_seed_stable = is_first || play.seed == request->sampling->seed;
    snprintf(play.request_id, sizeof play.request_id, "%s", request->request_id);
    snprintf(play.prompt, sizeof play.prompt, "%s", request->prompt);
    play.seed = request->sampling->seed;
    play.n = request->n;
    play.previews = request->progress->previews;
}

static void on_generate(void *context, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    (void)context;
    ProtobufCMessage *message = NULL;
    const char *value = NULL;
    size_t value_bytes = 0;
    assert_int_equal(
        dip_proto_decode(&diptych__v1__generate_request__descriptor, data, bytes, NULL, &message),
        DIP_OK);
    note_request((const Diptych__V1__GenerateRequest *)message);
    dip_proto_free(message);
    if (dip_rpc_call_metadata(call, "authorization", &value, &value_bytes))
        snprintf(play.authorization, sizeof play.authorization, "%.*s", (int)value_bytes, value);
    if (play.refusals > 0) {
        play.refusals--;
        refuse(call, play.refusal);
    } else if (play.break_after > 0) {
        send_events(call, 1, (uint64_t)play.break_after);
        play.break_after = 0;
        finish(call, DIP_RPC_UNAVAILABLE);
    } else {
        send_events(call, 1, 5 * play.n + 2);
        finish(call, DIP_RPC_OK);
    }
}

static void on_watch(void *context, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    (void)context;
    ProtobufCMessage *message = NULL;
    assert_int_equal(
        dip_proto_decode(&diptych__v1__watch_request__descriptor, data, bytes, NULL, &message),
        DIP_OK);
    const Diptych__V1__WatchRequest *request = (const Diptych__V1__WatchRequest *)message;
    play.watches++;
    play.after_sequence = request->after_sequence;
    assert_string_equal(request->request_id, play.request_id);
    dip_proto_free(message);
    if (play.is_forgetful) {
        refuse(call, DIP_REASON_REQUEST_UNKNOWN);
        return;
    }
    send_events(call, play.after_sequence + 1, 5 * play.n + 2);
    finish(call, DIP_RPC_OK);
}

static void on_model(void *context, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    (void)context;
    (void)data;
    (void)bytes;
    char name[] = "demo", digest[] = "00ff";
    Diptych__V1__GetModelResponse response = DIPTYCH__V1__GET_MODEL_RESPONSE__INIT;
    Diptych__V1__Model model = DIPTYCH__V1__MODEL__INIT;
    response.model = &model;
    model.name = name;
    model.weights_digest = digest;
    model.default_steps = 4;
    model.image_tokens = 9;
    send_message(call, &response.base);
    finish(call, DIP_RPC_OK);
}

static void on_drain(void *context, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    (void)context;
    ProtobufCMessage *message = NULL;
    assert_int_equal(
        dip_proto_decode(&diptych__v1__drain_request__descriptor, data, bytes, NULL, &message),
        DIP_OK);
    bool is_known = strcmp(((Diptych__V1__DrainRequest *)message)->worker, "ar-0") == 0;
    dip_proto_free(message);
    play.drains++;
    if (!is_known) {
        refuse(call, DIP_REASON_WORKER_UNKNOWN);
        return;
    }
    Diptych__V1__DrainResponse response = DIPTYCH__V1__DRAIN_RESPONSE__INIT;
    Diptych__V1__Worker worker = DIPTYCH__V1__WORKER__INIT;
    worker.state = DIPTYCH__V1__WORKER_STATE__WORKER_STATE_DRAINING;
    response.worker = &worker;
    response.jobs_left = 2;
    send_message(call, &response.base);
    finish(call, DIP_RPC_OK);
}

static void on_cluster(void *context, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    (void)context;
    (void)data;
    (void)bytes;
    char id[] = "test", leader[] = "here:1";
    Diptych__V1__GetClusterResponse response = DIPTYCH__V1__GET_CLUSTER_RESPONSE__INIT;
    Diptych__V1__Pool pool = DIPTYCH__V1__POOL__INIT, *pools[] = {&pool};
    pool.role = DIPTYCH__V1__ROLE__ROLE_AR;
    response.pools = pools; /* as who leads has */
    response.n_pools = 1;
    response.cluster_id = id;
    response.leader = leader;
    response.epoch = 7;
    send_message(call, &response.base);
    finish(call, DIP_RPC_OK);
}

static void on_workers(void *context, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    (void)context;
    (void)data;
    (void)bytes;
    char name[] = "ar-0", detail[] = "well\033[2J";
    Diptych__V1__ListWorkersResponse response = DIPTYCH__V1__LIST_WORKERS_RESPONSE__INIT;
    Diptych__V1__Worker worker = DIPTYCH__V1__WORKER__INIT, *list[] = {&worker};
    worker.name = name;
    worker.detail = detail;
    worker.role = DIPTYCH__V1__ROLE__ROLE_AR;
    worker.state = DIPTYCH__V1__WORKER_STATE__WORKER_STATE_READY;
    response.n_workers = 1;
    response.workers = list;
    send_message(call, &response.base);
    finish(call, DIP_RPC_OK);
}

/* ---- running the program ---- */

static char said[OUTPUT_BYTES]; /* both streams of the last run */

extern char **environ;

/* Runs the program while the coordinator answers; the exit status. */
static int run(const char *const *words)
{
    char *argv[24] = {strdup(DIP_PROGRAM)};
    int argc = 1, status = 0;
    char path[96];
    for (; *words; words++)
        argv[argc++] = strdup(*words);
    snprintf(path, sizeof path, "%s/said", folder);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, path, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    posix_spawn_file_actions_adddup2(&actions, 1, 2);
    pid_t child = -1;
    assert_int_equal(posix_spawn(&child, DIP_PROGRAM, &actions, NULL, argv, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    while (waitpid(child, &status, WNOHANG) == 0)
        dip_rpc_loop_turn(loop, 10 * DIP_MS_NS);
    for (int i = 0; i < argc; i++)
        free(argv[i]);
    char *text = NULL;
    size_t bytes = 0;
    assert_int_equal(dip_file_read(path, sizeof said - 1, NULL, &text, &bytes), DIP_OK);
    snprintf(said, sizeof said, "%s", text);
    free(text);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
}

#define run(...) run((const char *const[]){__VA_ARGS__, NULL})

static void assert_says(const char *words)
{
    if (!strstr(said, words))
        print_error("said \"%s\", expected \"%s\"\n", said, words);
    assert_non_null(strstr(said, words));
}

static char output[96];

static int generate(void)
{
    return run("generate", "--server", target, "--progress", "always", "-o", output, "a dog");
}

static void assert_file(const char *path)
{
    char *data = NULL;
    size_t bytes = 0;
    assert_int_equal(dip_file_read(path, 2 * FILE_BYTES, NULL, &data, &bytes), DIP_OK);
    assert_int_equal(bytes, FILE_BYTES);
    assert_memory_equal(data, file, bytes);
    free(data);
    unlink(path);
}

static int set_up(void **state)
{
    (void)state;
    play = (struct play){0};
    unlink(output);
    return 0;
}

/* ---- tests ---- */

static void pictures_arrive_in_chunks(void **state)
{
    (void)state;
    char first[96], second[96];
    assert_int_equal(run("generate", "--server", target, "--token", "secret", "-n", "2", "--seed",
                         "7", "--json", "-o", output, "a dog"),
                     0);
    snprintf(first, sizeof first, "%s/out-0.png", folder);
    snprintf(second, sizeof second, "%s/out-1.png", folder);
    assert_file(first);
    assert_file(second);
    assert_string_equal(play.prompt, "a dog");
    assert_string_equal(play.authorization, "Bearer secret");
    assert_int_equal(play.seed, 7);
    assert_int_equal(play.previews, 0);
    assert_says("\"tokens\": 9");
    assert_says(play.request_id);
    assert_int_equal(strlen(play.request_id), 36);
}

static void a_refusal_with_pushback_is_waited_for(void **state)
{
    (void)state;
    play.refusals = 2;
    play.refusal = DIP_REASON_OVERLOADED;
    play.pushback_ns = 400 * (int64_t)DIP_MS_NS;
    int64_t begin_ns = dip_clock_now_ns();
    assert_int_equal(generate(), 0);
    assert_true(dip_clock_now_ns() - begin_ns >= 800 * (int64_t)DIP_MS_NS);
    assert_int_equal(play.generates, 3);
    assert_true(play.is_id_stable && play.is_seed_stable);
    assert_file(output);
}

static void a_final_refusal_is_not_repeated(void **state)
{
    (void)state;
    play.refusals = 9;
    play.refusal = DIP_REASON_OVERLOADED;
    play.pushback_ns = -DIP_MS_NS;
    assert_int_equal(generate(), 3);
    assert_int_equal(play.generates, 1);
    assert_says("error: the test says OVERLOADED (OVERLOADED)");
    assert_says("fix: try again later");
    play.refusal = DIP_REASON_BAD_FIELD;
    assert_int_equal(generate(), 2);
    assert_says("  prompt: is not liked");
    play.refusal = DIP_REASON_NO_CREDENTIAL;
    assert_int_equal(generate(), 3);
    assert_says("DIPTYCH_TOKEN");
    play.refusal = DIP_REASON_NO_WORKERS; /* temporary, but not for ever */
    play.pushback_ns = 0;
    play.generates = 0;
    assert_int_equal(generate(), 3);
    assert_int_equal(play.generates, 4);
}

/* Whatever was seen last: in the middle of a file, and after nothing but Admitted. */
static void a_broken_stream_is_taken_up_again(void **state)
{
    for (int seen = 1; seen <= 6; seen++) {
        set_up(state);
        play.break_after = seen;
        assert_int_equal(generate(), 0);
        assert_int_equal(play.generates, 1);
        assert_int_equal(play.watches, 1);
        assert_int_equal(play.after_sequence, seen);
        assert_says("the connection broke");
        assert_file(output);
    }
}

static void a_server_that_has_forgotten_is_asked_anew(void **state)
{
    (void)state;
    play.break_after = 4; /* half a file is here already */
    play.is_forgetful = true;
    assert_int_equal(generate(), 0);
    assert_int_equal(play.generates, 2);
    assert_int_equal(play.watches, 1);
    assert_true(play.is_id_stable && play.is_seed_stable);
    assert_file(output);
}

static void the_leader_is_followed(void **state)
{
    (void)state;
    play.refusals = 1;
    play.refusal = DIP_REASON_NOT_LEADER;
    play.leader = target;
    assert_int_equal(generate(), 0);
    assert_int_equal(play.generates, 2);
}

static void damage_is_noticed(void **state)
{
    (void)state;
    play.is_damaged = true;
    assert_int_equal(generate(), 1);
    assert_says("damaged on its way");
    assert_int_not_equal(access(output, F_OK), 0);
}

static void nobody_there_is_status_3(void **state)
{
    (void)state;
    assert_int_equal(run("generate", "--server", "127.0.0.1:1", "-o", output, "x"), 3);
    assert_says("error: cannot reach a coordinator at 127.0.0.1:1");
    assert_says("  fix: ");
    assert_int_equal(run("status", "--server", "127.0.0.1:1"), 3);
    assert_int_equal(run("drain", "--server", "127.0.0.1:1", "ar-0"), 3);
}

static void operators_see_and_drain(void **state)
{
    (void)state;
    assert_int_equal(run("status", "--server", target), 0);
    assert_says("cluster test, leader here:1, epoch 7");
    assert_says("well?[2J"); /* a member's words do nothing to a terminal */
    assert_int_equal(run("status", "--server", target, "--json"), 0);
    assert_says("\"members\": [{\"name\": \"ar-0\", \"role\": \"ar\", \"state\": \"ready\"");
    assert_int_equal(run("drain", "--server", target, "ar-0"), 0);
    assert_says("ar-0: draining, 2 jobs left");
    assert_int_equal(run("drain", "--server", target, "nobody"), 3);
    assert_says("WORKER_UNKNOWN");
    assert_int_equal(play.drains, 2);
}

/* ---- set-up ---- */

static const struct dip_rpc_handler generate_handler = {.on_message = on_generate};
static const struct dip_rpc_handler watch_handler = {.on_message = on_watch};
static const struct dip_rpc_handler model_handler = {.on_message = on_model};
static const struct dip_rpc_handler drain_handler = {.on_message = on_drain};
static const struct dip_rpc_handler cluster_handler = {.on_message = on_cluster};
static const struct dip_rpc_handler workers_handler = {.on_message = on_workers};

static const struct dip_rpc_method methods[] = {
    {.path = "/diptych.v1.ImageService/Generate",
     .kind = DIP_RPC_SERVER_STREAM,
     .handler = &generate_handler,
     .queue_count_max = 64,
     .queue_bytes_max = 64 << 20},
    {.path = "/diptych.v1.ImageService/Watch",
     .kind = DIP_RPC_SERVER_STREAM,
     .handler = &watch_handler,
     .queue_count_max = 64,
     .queue_bytes_max = 64 << 20},
    {.path = "/diptych.v1.ModelService/GetModel", .handler = &model_handler},
    {.path = "/diptych.v1.ClusterService/Drain", .handler = &drain_handler},
    {.path = "/diptych.v1.ClusterService/GetCluster", .handler = &cluster_handler},
    {.path = "/diptych.v1.ClusterService/ListWorkers", .handler = &workers_handler},
};

static struct dip_rpc_server *server;

static int begin(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/diptych-remote-XXXXXX");
    assert_non_null(mkdtemp(folder));
    snprintf(output, sizeof output, "%s/out.png", folder);
    for (size_t i = 0; i < sizeof file; i++)
        file[i] = (unsigned char)(i * 2654435761u >> 13);
    struct dip_why why = {0};
    if (dip_rpc_loop_new(&(struct dip_rpc_loop_options){0}, &loop) ||
        dip_rpc_server_start(
            &(struct dip_rpc_server_options){.listen = "127.0.0.1:0",
                                             .loops = &loop,
                                             .loop_count = 1,
                                             .methods = methods,
                                             .method_count = sizeof methods / sizeof methods[0]},
            &why, &server))
        fail_msg("%s", why.text);
    snprintf(target, sizeof target, "127.0.0.1:%d", dip_rpc_server_port(server));
    return 0;
}

static int end(void **state)
{
    (void)state;
    char path[96];
    snprintf(path, sizeof path, "%s/said", folder);
    unlink(path);
    unlink(output);
    dip_rpc_server_stop(server, 0, NULL, NULL);
    dip_rpc_loop_stop(loop);
    dip_rpc_loop_run(loop);
    dip_rpc_server_free(server);
    dip_rpc_loop_free(loop);
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(pictures_arrive_in_chunks, set_up),
        cmocka_unit_test_setup(a_refusal_with_pushback_is_waited_for, set_up),
        cmocka_unit_test_setup(a_final_refusal_is_not_repeated, set_up),
        cmocka_unit_test_setup(a_broken_stream_is_taken_up_again, set_up),
        cmocka_unit_test_setup(a_server_that_has_forgotten_is_asked_anew, set_up),
        cmocka_unit_test_setup(the_leader_is_followed, set_up),
        cmocka_unit_test_setup(damage_is_noticed, set_up),
        cmocka_unit_test_setup(nobody_there_is_status_3, set_up),
        cmocka_unit_test_setup(operators_see_and_drain, set_up),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
