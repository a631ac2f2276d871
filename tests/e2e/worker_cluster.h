/* tests/e2e/worker_cluster.h - worker processes over loopback, and a coordinator that is the test
 * itself: a hub on a loop that the test turns, so that each test is a sequence of "tell this member
 * that" and "wait until".
 *
 * The test program is the worker's program, too: `test worker ROLES NAME PORT`, with roles a, d, or
 * g for a rank of a tensor-parallel group, and s for one that holds work for a second only. */
#pragma once

#include <setjmp.h>
#include <signal.h>
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
#include "net/hub.h"
#include "worker/daemon.h"

enum {
    CLUSTER_MEMBERS = 8,
    CLUSTER_JOBS = 32,
    CLUSTER_PROCESSES = 8,
    CLUSTER_GROUPS = 64,
    PROMPT_IDS = 12,
    CLUSTER_TOKENS_MAX = 240
};
static const char cluster_model[] = "tests/golden/tiny-a/model";
#define CLUSTER_PATIENCE_NS (60 * DIP_SECOND_NS)

/* What was heard of one job. */
struct heard_job {
    uint64_t id;
    uint32_t from; /* the last to say something */
    int prefilled, tokens, hinge_ready, conditioned, steps, decoded, images, failed;
    int32_t token_ids[256];
    unsigned char *png;
    size_t png_bytes;
    struct dip_checkpoint checkpoint; /* the last */
    int checkpoints;
    enum dip_status status;
    char text[DIP_FAILURE_BYTES];
};

struct heard_member {
    int appeared, joined, lost, leaving, heartbeats, late; /* late: anything after LOST */
    int64_t lost_ns;
    struct dip_member_facts facts;
    struct dip_message_joined slots;
    struct dip_message_heartbeat beat;
    struct dip_held held[16]; /* of its hello */
    int held_count;
};

/* News of a group, in the order of their coming. */
struct heard_group {
    enum dip_message_kind kind;
    uint32_t from;
    int64_t at_ns;
    struct dip_message_group group;
};

struct cluster {
    struct dip_rpc_loop *loop;
    struct dip_hub *hub;
    struct dip_rpc_server *server;
    struct dip_rpc_method method;
    int port;
    bool is_stopped;
    uint32_t last; /* address of the last that joined */
    int joins;
    struct heard_member members[CLUSTER_MEMBERS + 1];
    struct heard_job jobs[CLUSTER_JOBS];
    struct heard_group groups[CLUSTER_GROUPS];
    int group_count;
    pid_t pids[CLUSTER_PROCESSES];
    unsigned char digest; /* of the requests that jobs are of; 0 = none */
};

/* Turns the loop until the condition holds; fails the test when it never does. */
#define UNTIL(cluster, condition)                                                                  \
    do {                                                                                           \
        int64_t give_up_ns = dip_clock_now_ns() + CLUSTER_PATIENCE_NS;                             \
        while (!(condition) && dip_clock_now_ns() < give_up_ns)                                    \
            dip_rpc_loop_turn((cluster)->loop, INT64_C(100) * DIP_MS_NS);                          \
        if (!(condition))                                                                          \
            fail_msg("never happened: %s", #condition);                                            \
    } while (0)

/* ---- hearing ---- */

static inline struct heard_job *job_of(struct cluster *c, uint64_t id)
{
    for (int i = 0; i < CLUSTER_JOBS; i++) {
        if (c->jobs[i].id == 0)
            c->jobs[i].id = id;
        if (c->jobs[i].id == id)
            return &c->jobs[i];
    }
    fail_msg("more jobs than a test has");
    return NULL;
}

static inline void hear_tokens(struct heard_job *job, const struct dip_message_tokens *tokens)
{
    assert_true(tokens->first + tokens->count <= 256);
    memcpy(job->token_ids + tokens->first, tokens->ids,
           (size_t)tokens->count * sizeof tokens->ids[0]);
    job->tokens = tokens->first + tokens->count;
}

static inline void hear_job(struct cluster *c, struct dip_message *message)
{
    struct heard_job *job = job_of(c, message->job_id);
    job->from = message->from;
    switch (message->kind) {
    case DIP_MESSAGE_PREFILLED:
        job->prefilled++;
        break;
    case DIP_MESSAGE_TOKENS:
        hear_tokens(job, &message->as.tokens);
        break;
    case DIP_MESSAGE_HINGE_READY:
        job->hinge_ready++;
        break;
    case DIP_MESSAGE_CONDITIONED:
        job->conditioned++;
        break;
    case DIP_MESSAGE_STEP:
        job->steps = message->as.step.steps_done;
        break;
    case DIP_MESSAGE_DECODED:
        job->decoded++;
        break;
    case DIP_MESSAGE_IMAGE:
        job->images++;
        free(job->png);
        job->png = message->as.picture.png.data;
        job->png_bytes = message->as.picture.png.bytes;
        message->as.picture.png = (struct dip_payload){0};
        break;
    case DIP_MESSAGE_CHECKPOINT:
        job->checkpoints++;
        dip_checkpoint_free(&job->checkpoint);
        job->checkpoint = message->as.checkpoint;
        message->as.checkpoint = (struct dip_checkpoint){.steps_done = 0};
        break;
    case DIP_MESSAGE_FAILED:
        job->failed++;
        job->status = (enum dip_status)message->as.failed.status;
        memcpy(job->text, message->as.failed.text, sizeof job->text);
        break;
    default:
        fail_msg("%s is no news of a job", dip_message_name(message->kind));
    }
}

static inline void hear_hello(struct heard_member *member, const struct dip_message_appeared *said)
{
    *member = (struct heard_member){.facts = *(struct dip_member_facts *)said->facts.data};
    member->held_count = (int)(said->held.entries.bytes / sizeof member->held[0]);
    assert_in_range(member->held_count, 0, 16);
    if (member->held_count > 0)
        memcpy(member->held, said->held.entries.data, said->held.entries.bytes);
}

static inline void hear(void *context, struct dip_message *message)
{
    struct cluster *c = context;
    assert_in_range(message->from, 1, CLUSTER_MEMBERS);
    struct heard_member *member = &c->members[message->from];
    if (message->kind == DIP_MESSAGE_APPEARED)
        hear_hello(member, &message->as.appeared);
    else
        member->late += member->lost;
    switch (message->kind) {
    case DIP_MESSAGE_APPEARED:
        member->appeared++;
        break;
    case DIP_MESSAGE_JOINED:
        member->joined++;
        member->slots = message->as.joined;
        c->last = message->from;
        c->joins++;
        break;
    case DIP_MESSAGE_HEARTBEAT:
        member->heartbeats++;
        member->beat = message->as.heartbeat;
        break;
    case DIP_MESSAGE_LEAVING:
        member->leaving++;
        break;
    case DIP_MESSAGE_LOST:
        member->lost++;
        member->lost_ns = dip_clock_now_ns();
        break;
    case DIP_MESSAGE_GROUP_PREPARED:
    case DIP_MESSAGE_GROUP_FORMED:
    case DIP_MESSAGE_GROUP_LOST:
        assert_true(c->group_count < CLUSTER_GROUPS);
        c->groups[c->group_count++] = (struct heard_group){message->kind, message->from,
                                                           dip_clock_now_ns(), message->as.group};
        break;
    default:
        hear_job(c, message);
        break;
    }
}

static inline void hear_log(void *context, const char *text)
{
    (void)context;
    if (getenv("DIP_TEST_LOG"))
        print_message("coordinator: %s\n", text);
}

/* ---- the coordinator ---- */

static inline void cluster_serve(struct cluster *c, uint64_t epoch, int64_t silence_ns)
{
    char listen[64];
    struct dip_why why = {0};
    struct dip_hub_options options = {.loop = c->loop,
                                      .member_count_max = CLUSTER_MEMBERS,
                                      .cluster_id = "test",
                                      .heartbeat_ns = INT64_C(50) * DIP_MS_NS,
                                      .silence_ns = silence_ns,
                                      .on_message = hear,
                                      .log = hear_log,
                                      .context = c};
    assert_int_equal(dip_hub_new(&options, &c->hub), DIP_OK);
    dip_hub_set_epoch(c->hub, epoch);
    c->method = dip_hub_method(c->hub);
    snprintf(listen, sizeof listen, "127.0.0.1:%d", c->port);
    struct dip_rpc_server_options server = {.listen = listen,
                                            .loops = &c->loop,
                                            .loop_count = 1,
                                            .methods = &c->method,
                                            .method_count = 1};
    if (dip_rpc_server_start(&server, &why, &c->server))
        fail_msg("%s", why.text);
    c->port = dip_rpc_server_port(c->server);
    c->is_stopped = false;
}

static inline void cluster_stopped(void *context)
{
    ((struct cluster *)context)->is_stopped = true;
}

static inline void cluster_unserve(struct cluster *c)
{
    dip_hub_dismiss(c->hub);
    dip_rpc_server_stop(c->server, 0, cluster_stopped, c);
    UNTIL(c, c->is_stopped);
    dip_rpc_server_free(c->server);
    dip_hub_free(c->hub);
}

static inline void cluster_open(struct cluster *c, int64_t silence_ns)
{
    alarm(280); /* a test that hangs says where by its core, not by the suite's limit */
    memset(c, 0, sizeof *c);
    assert_int_equal(dip_rpc_loop_new(&(struct dip_rpc_loop_options){0}, &c->loop), DIP_OK);
    cluster_serve(c, 1, silence_ns);
}

/* Another coordinator at the same place, which has heard of nothing. */
static inline void cluster_change_leader(struct cluster *c, uint64_t epoch)
{
    cluster_unserve(c);
    memset(c->members, 0, sizeof c->members);
    for (int i = 0; i < CLUSTER_JOBS; i++) {
        free(c->jobs[i].png);
        dip_checkpoint_free(&c->jobs[i].checkpoint);
    }
    memset(c->jobs, 0, sizeof c->jobs);
    memset(c->groups, 0, sizeof c->groups);
    c->joins = c->group_count = 0;
    cluster_serve(c, epoch, 20 * DIP_SECOND_NS);
}

/* The address of who has appeared under this name; 0 = nobody. */
static inline uint32_t cluster_find(const struct cluster *c, const char *name)
{
    for (uint32_t i = 1; i <= CLUSTER_MEMBERS; i++)
        if (c->members[i].appeared && strcmp(c->members[i].facts.name, name) == 0)
            return i;
    return 0;
}

/* A heartbeat that was made after this was called. */
static inline void until_beat(struct cluster *c, uint32_t member)
{
    int beats = c->members[member].heartbeats;
    UNTIL(c, c->members[member].heartbeats > beats + 1);
}

static inline void cluster_kill(struct cluster *c, int process)
{
    if (c->pids[process] <= 0)
        return;
    kill(c->pids[process], SIGKILL);
    kill(c->pids[process], SIGCONT);
    waitpid(c->pids[process], NULL, 0);
    c->pids[process] = 0;
}

static inline void cluster_close(struct cluster *c)
{
    for (int i = 0; i < CLUSTER_PROCESSES; i++)
        cluster_kill(c, i);
    cluster_unserve(c);
    for (int i = 0; i < CLUSTER_JOBS; i++) {
        free(c->jobs[i].png);
        dip_checkpoint_free(&c->jobs[i].checkpoint);
    }
    dip_rpc_loop_stop(c->loop);
    dip_rpc_loop_run(c->loop);
    dip_rpc_loop_free(c->loop);
}

/* ---- workers ---- */

/* Starts a process and does not wait for it; which one. */
static inline int cluster_spawn(struct cluster *c, const char *roles, const char *name)
{
    char port[16], program[256];
    int process = 0;
    while (process < CLUSTER_PROCESSES && c->pids[process] > 0)
        process++;
    assert_true(process < CLUSTER_PROCESSES);
    ssize_t bytes = readlink("/proc/self/exe", program, sizeof program - 1);
    assert_true(bytes > 0);
    program[bytes] = '\0';
    snprintf(port, sizeof port, "%d", c->port);
    char *arguments[] = {program, "worker", (char *)roles, (char *)name, port, NULL};
    extern char **environ;
    assert_int_equal(posix_spawn(&c->pids[process], program, NULL, NULL, arguments, environ), 0);
    return process;
}

/* The same, and its address when it has joined. */
static inline uint32_t cluster_start(struct cluster *c, const char *roles, const char *name,
                                     int *ret_process)
{
    int joins = c->joins;
    int process = cluster_spawn(c, roles, name);
    UNTIL(c, c->joins > joins);
    if (ret_process)
        *ret_process = process;
    assert_string_equal(c->members[c->last].facts.name, name);
    return c->last;
}

static volatile sig_atomic_t worker_is_told;

static inline void worker_signal(int number)
{
    (void)number;
    worker_is_told = 1;
}

static inline void worker_log(void *context, const char *text)
{
    if (getenv("DIP_TEST_LOG"))
        fprintf(stderr, "%s: %s\n", (const char *)context, text);
}

/* The process of a worker: leaves at SIGTERM. */
static inline int worker_main(char **arguments)
{
    char target[64];
    struct dip_why why = {0};
    struct dip_worker_daemon *daemon = NULL;
    snprintf(target, sizeof target, "127.0.0.1:%s", arguments[4]);
    signal(SIGTERM, worker_signal);
    struct dip_worker_daemon_options options = {
        .model = cluster_model,
        .device = {.backend = "cpu", .threads = 1},
        .roles = (strpbrk(arguments[2], "ag") ? DIP_ROLE_AR : 0u) |
                 (strchr(arguments[2], 'd') ? DIP_ROLE_DIFFUSION : 0u),
        .name = arguments[3],
        .cluster_id = "test",
        .coordinator = target,
        .ar_group = strchr(arguments[2], 'g') != NULL,
        .ar_slots = 2,
        .diffusion_slots = 2,
        .image_tokens_max = CLUSTER_TOKENS_MAX,
        .hold_ns = (strchr(arguments[2], 's') ? 1 : 60) * DIP_SECOND_NS,
        .log = worker_log,
        .log_context = arguments[3]};
    if (dip_worker_daemon_start(&options, &why, &daemon)) {
        fprintf(stderr, "%s\n", why.text);
        return 1;
    }
    bool is_draining = false;
    enum dip_worker_daemon_end end;
    while (!(end = dip_worker_daemon_wait(daemon, INT64_C(20) * DIP_MS_NS))) {
        if (worker_is_told && !is_draining)
            dip_worker_daemon_drain(daemon, 60 * DIP_SECOND_NS);
        is_draining = worker_is_told;
        if (getppid() == 1)
            _exit(3); /* the test is gone */
    }
    dip_worker_daemon_stop(daemon);
    return end == DIP_WORKER_DRAINED ? 0 : 2;
}

/* ---- commands ---- */

static inline void tell(struct cluster *c, uint32_t to, struct dip_message *message)
{
    assert_int_equal(dip_endpoint_send(dip_hub_endpoint(c->hub), to, message), DIP_OK);
}

static inline struct dip_job_params job_params(int steps)
{
    return (struct dip_job_params){.seed = 42,
                                   .token_count = 16,
                                   .temperature = 1,
                                   .top_k = 50,
                                   .top_p = 0.9f,
                                   .steps = steps,
                                   .guidance = 2,
                                   .latent_height = 4,
                                   .latent_width = 4};
}

static inline void tell_ar(struct cluster *c, uint32_t to, uint64_t job_id, int steps)
{
    struct dip_message message = {
        .kind = DIP_MESSAGE_AR, .job_id = job_id, .as.ar.params = job_params(steps)};
    message.as.ar.origin.digest[0] = c->digest;
    int32_t *ids = malloc(PROMPT_IDS * sizeof *ids);
    assert_non_null(ids);
    for (int i = 0; i < PROMPT_IDS; i++)
        ids[i] = 3 + i;
    message.as.ar.prompt_ids = (struct dip_payload){ids, PROMPT_IDS * sizeof *ids};
    tell(c, to, &message);
}

static inline void tell_diffusion(struct cluster *c, uint32_t to, uint64_t job_id, int steps)
{
    struct dip_message message = {
        .kind = DIP_MESSAGE_DIFFUSION, .job_id = job_id, .as.diffusion.params = job_params(steps)};
    message.as.diffusion.origin.digest[0] = c->digest;
    tell(c, to, &message);
}

static inline void tell_hand_over(struct cluster *c, uint32_t ar, uint64_t ar_job, uint32_t to,
                                  uint64_t to_job)
{
    struct dip_message message = {
        .kind = DIP_MESSAGE_HAND_OVER, .job_id = ar_job, .as.hand_over = {to, to_job}};
    tell(c, ar, &message);
}

static inline void tell_adopt(struct cluster *c, uint32_t to, const struct dip_held *held,
                              uint64_t job_id)
{
    struct dip_message message = {
        .kind = DIP_MESSAGE_ADOPT,
        .job_id = job_id,
        .as.adopt = {.held_epoch = held->epoch, .held_job_id = held->job_id}};
    tell(c, to, &message);
}

static inline void tell_release(struct cluster *c, uint32_t to, uint64_t job_id)
{
    struct dip_message message = {.kind = DIP_MESSAGE_RELEASE, .job_id = job_id};
    tell(c, to, &message);
}
