/* tests/e2e/etcd_registry.c - registries in processes of their own over real etcd: the leading one
 * is killed, and one is stopped and goes on; all of etcd goes and comes back.
 *
 * Each process runs a loop and a registry and says on a pipe what it is told; the test reads, and
 * waits for conditions with ceilings for a busy machine. */
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "net/registry.h"
#include "tests/e2e/etcd_cluster.h"

enum { PROCESSES = 3, CANDIDATES = 2, LEADER_TTL_S = 4, MEMBER_TTL_S = 12, PATIENCE_S = 90 };

/* ---- the process ---- */

struct node {
    struct dip_rpc_loop *loop;
    struct dip_registry *registry;
    struct dip_rpc_timer timer;
    int out;
    bool is_believing; /* what dip_registry_is_leading said last */
    bool is_registered;
};

/* What one line says; fixed size, written whole. */
struct line {
    int64_t at_ns;
    char what; /* 'l' leading, 'k' known leader, 'm' members, 'h' health, 'b' believes, 'r'
                  registered, 'q' left */
    uint64_t number;
    char id[DIP_MEMBER_ID_BYTES];
};

static void say(struct node *n, char what, uint64_t number, const char *id)
{
    struct line line = {.at_ns = dip_clock_now_ns(), .what = what, .number = number};
    snprintf(line.id, sizeof line.id, "%s", id);
    if (write(n->out, &line, sizeof line) != sizeof line)
        _exit(0); /* the test is over */
}

static void on_leading(void *context, uint64_t epoch)
{
    say(context, 'l', epoch, "");
}

static void on_leader(void *context, const struct dip_registry_leader *leader, uint64_t epoch)
{
    say(context, 'k', epoch, leader ? leader->id : "");
}

static void on_members(void *context)
{
    struct node *n = context;
    say(n, 'm', (uint64_t)dip_registry_facts(n->registry)->member_count, "");
}

static void on_health(void *context, bool is_degraded, const char *why)
{
    (void)why;
    say(context, 'h', is_degraded, "");
}

static void on_left(void *context)
{
    struct node *n = context;
    say(n, 'q', 0, "");
    dip_registry_free(n->registry);
    dip_rpc_timer_clear(n->loop, &n->timer);
    dip_rpc_loop_stop(n->loop);
}

static volatile sig_atomic_t is_asked_to_leave;

static void on_term(int number)
{
    (void)number;
    is_asked_to_leave = 1;
}

/* Fifty times a second: does it lead by its own clock, and is it a member? */
static void on_time(void *context)
{
    struct node *n = context;
    bool is_leading = dip_registry_is_leading(n->registry, dip_clock_now_ns());
    if (is_leading != n->is_believing)
        say(n, 'b', is_leading, "");
    n->is_believing = is_leading;
    bool is_registered = dip_registry_facts(n->registry)->is_registered;
    if (is_registered != n->is_registered)
        say(n, 'r', is_registered, "");
    n->is_registered = is_registered;
    if (is_asked_to_leave)
        dip_registry_leave(n->registry, 5 * DIP_SECOND_NS);
    if (dip_rpc_timer_set(n->loop, &n->timer, dip_clock_now_ns() + 20 * DIP_MS_NS))
        _exit(3);
}

static void run_node(int index, const char *endpoints, int out)
{
    static const struct dip_registry_handler handler = {.on_leading = on_leading,
                                                        .on_leader = on_leader,
                                                        .on_members = on_members,
                                                        .on_health = on_health,
                                                        .on_left = on_left};
    struct node node = {.out = out};
    char id[16];
    struct dip_registry_member member = {.roles = index < CANDIDATES ? DIP_ROLE_COORDINATOR
                                                                     : DIP_ROLE_AR};
    snprintf(id, sizeof id, "n%d", index);
    snprintf(member.address, sizeof member.address, "127.0.0.1:%d", 7000 + index);
    signal(SIGTERM, on_term);
    if (dip_rpc_loop_new(&(struct dip_rpc_loop_options){0}, &node.loop))
        _exit(1);
    struct dip_registry_options options = {.loop = node.loop,
                                           .cluster_id = "test",
                                           .id = id,
                                           .endpoints = endpoints,
                                           .member_ttl_s = MEMBER_TTL_S,
                                           .leader_ttl_s = LEADER_TTL_S,
                                           .handler = &handler,
                                           .context = &node};
    if (dip_registry_open(&options, NULL, &node.registry) ||
        dip_registry_register(node.registry, &member))
        _exit(2);
    if (index < CANDIDATES && dip_registry_campaign(node.registry, member.address))
        _exit(2);
    node.timer = (struct dip_rpc_timer){.fire = on_time, .context = &node};
    if (dip_rpc_timer_set(node.loop, &node.timer, dip_clock_now_ns()))
        _exit(3);
    dip_rpc_loop_run(node.loop);
    dip_rpc_loop_free(node.loop);
    _exit(0);
}

/* ---- what the test knows of it ---- */

struct seen {
    pid_t pid;
    int in;
    uint64_t epoch, leader_epoch; /* as told: 0 = none */
    char leader[DIP_MEMBER_ID_BYTES];
    int members, members_min; /* the least since it was reset */
    bool is_degraded, is_believing, is_registered, has_left;
    int64_t leading_ns, believing_ns; /* when that last changed */
};

static void node_start(struct seen *seen, int index, const char *endpoints)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    *seen = (struct seen){.in = ends[0]};
    seen->pid = fork();
    assert_true(seen->pid >= 0);
    if (seen->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(ends[0]);
        run_node(index, endpoints, ends[1]);
    }
    close(ends[1]);
}

static void node_end(struct seen *seen)
{
    if (seen->pid > 0) {
        kill(seen->pid, SIGKILL);
        waitpid(seen->pid, NULL, 0);
        close(seen->in);
    }
    *seen = (struct seen){.in = -1};
}

static void take(struct seen *s, const struct line *line)
{
    switch (line->what) {
    case 'l':
        s->epoch = line->number;
        s->leading_ns = line->at_ns;
        break;
    case 'k':
        s->leader_epoch = line->number;
        snprintf(s->leader, sizeof s->leader, "%s", line->id);
        break;
    case 'm':
        s->members = (int)line->number;
        if (s->members < s->members_min)
            s->members_min = s->members;
        break;
    case 'h':
        s->is_degraded = line->number != 0;
        break;
    case 'b':
        s->is_believing = line->number != 0;
        s->believing_ns = line->at_ns;
        break;
    case 'r':
        s->is_registered = line->number != 0;
        break;
    default:
        s->has_left = true;
    }
}

static void read_all(struct seen seen[PROCESSES])
{
    struct pollfd polls[PROCESSES];
    for (int i = 0; i < PROCESSES; i++)
        polls[i] = (struct pollfd){.fd = seen[i].in, .events = POLLIN};
    if (poll(polls, PROCESSES, 20) <= 0)
        return;
    for (int i = 0; i < PROCESSES; i++) {
        struct line line;
        if ((polls[i].revents & POLLIN) && read(seen[i].in, &line, sizeof line) == sizeof line)
            take(&seen[i], &line);
    }
}

#define WAIT_UNTIL(seen, condition)                                                                \
    do {                                                                                           \
        int64_t end_ns = dip_clock_now_ns() + PATIENCE_S * DIP_SECOND_NS;                          \
        while (!(condition)) {                                                                     \
            read_all(seen);                                                                        \
            if (dip_clock_now_ns() > end_ns)                                                       \
                fail_msg("did not happen: %s", #condition);                                        \
        }                                                                                          \
    } while (0)

/* Exactly one candidate leads, everybody is a member and knows it all. Who was killed and comes
 * back under its name first has to wait for its old lease to end. */
static bool is_settled(const struct seen seen[PROCESSES], int members)
{
    int leader = seen[0].epoch != 0 ? 0 : 1;
    char id[16];
    snprintf(id, sizeof id, "n%d", leader);
    if (seen[leader].epoch == 0 || seen[1 - leader].epoch != 0 || !seen[leader].is_believing)
        return false;
    for (int i = 0; i < PROCESSES; i++)
        if (seen[i].pid > 0 &&
            (seen[i].members != members || seen[i].is_degraded || !seen[i].is_registered ||
             strcmp(seen[i].leader, id) != 0 || seen[i].leader_epoch != seen[leader].epoch))
            return false;
    return true;
}

static void run_for(struct seen seen[PROCESSES], int64_t wait_ns)
{
    for (int64_t end_ns = dip_clock_now_ns() + wait_ns; dip_clock_now_ns() < end_ns;)
        read_all(seen);
}

static void leaders_come_and_go(void **state)
{
    (void)state;
    struct cluster c = {0};
    struct seen seen[PROCESSES];
    char endpoints[300];
    cluster_open(&c, 3);
    cluster_start(&c);
    cluster_endpoints(&c, endpoints);
    for (int i = 0; i < PROCESSES; i++)
        node_start(&seen[i], i, endpoints);
    WAIT_UNTIL(seen, is_settled(seen, PROCESSES));

    /* the leading process is killed: the other leads, under a larger epoch */
    int old = seen[0].epoch != 0 ? 0 : 1;
    uint64_t epoch = seen[old].epoch;
    int64_t begin_ns = dip_clock_now_ns();
    node_end(&seen[old]);
    WAIT_UNTIL(seen, seen[1 - old].epoch != 0);
    assert_true(seen[1 - old].epoch > epoch);
    int64_t killed_ms = (seen[1 - old].leading_ns - begin_ns) / DIP_MS_NS;
    node_start(&seen[old], old, endpoints);
    WAIT_UNTIL(seen, is_settled(seen, PROCESSES));

    /* the leading process is stopped for longer than its lease: when it goes on it knows */
    old = seen[0].epoch != 0 ? 0 : 1;
    epoch = seen[old].epoch;
    kill(seen[old].pid, SIGSTOP);
    WAIT_UNTIL(seen, seen[1 - old].epoch != 0);
    assert_true(seen[1 - old].epoch > epoch);
    int64_t next_ns = seen[1 - old].leading_ns;
    kill(seen[old].pid, SIGCONT);
    WAIT_UNTIL(seen, seen[old].epoch == 0 && !seen[old].is_believing);
    assert_true(seen[old].believing_ns > next_ns); /* it was asleep, not wise */
    WAIT_UNTIL(seen, is_settled(seen, PROCESSES));

    /* all of etcd is gone for longer than every lease: nobody leaves the view, nobody leads */
    old = seen[0].epoch != 0 ? 0 : 1;
    epoch = seen[old].epoch;
    for (int i = 0; i < PROCESSES; i++)
        seen[i].members_min = seen[i].members;
    for (int i = 0; i < 3; i++)
        cluster_kill(&c, i);
    WAIT_UNTIL(seen, seen[0].is_degraded && seen[1].is_degraded && seen[2].is_degraded);
    WAIT_UNTIL(seen, seen[old].epoch == 0 && !seen[old].is_believing);
    run_for(seen, (MEMBER_TTL_S + 3) * DIP_SECOND_NS);
    for (int i = 0; i < PROCESSES; i++) {
        assert_int_equal(seen[i].members_min, PROCESSES);
        assert_true(seen[i].is_degraded);
        assert_int_equal(seen[i].epoch, 0);
        assert_true(seen[i].leader_epoch == epoch); /* the last that was known */
    }
    begin_ns = dip_clock_now_ns();
    cluster_start(&c);
    WAIT_UNTIL(seen, is_settled(seen, PROCESSES));
    int64_t back_ms = (dip_clock_now_ns() - begin_ns) / DIP_MS_NS;

    /* a clean exit: its keys are gone at once, and the next need not wait */
    old = seen[0].epoch != 0 ? 0 : 1;
    begin_ns = dip_clock_now_ns();
    kill(seen[old].pid, SIGTERM);
    WAIT_UNTIL(seen, seen[1 - old].epoch != 0 && seen[2].members == PROCESSES - 1);
    int64_t left_ms = (dip_clock_now_ns() - begin_ns) / DIP_MS_NS;
    assert_true(left_ms < 2 * MEMBER_TTL_S * 1000 / 3); /* what was left of the lease */
    WAIT_UNTIL(seen, seen[old].has_left);
    printf("next leader after a kill %lld ms (lease %d s), after etcd's return %lld ms, after a "
           "clean exit %lld ms\n",
           (long long)killed_ms, LEADER_TTL_S, (long long)back_ms, (long long)left_ms);
    for (int i = 0; i < PROCESSES; i++)
        node_end(&seen[i]);
    cluster_close(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(leaders_come_and_go),
    };
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
