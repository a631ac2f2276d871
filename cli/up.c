/* cli/up.c - `diptych up`: a cluster on this machine, one process for each of its members.
 *
 *     coordinator ──► says where it listens ──► workers, told so ──► all ready
 *
 * The children are the same executable as real daemons; nothing is different from a cluster over
 * machines but who starts them. One that dies is started again, after pauses that grow while it
 * keeps dying; one that never came up ends everything, because then something is wrong that a
 * person must see. SIGTERM or Ctrl-C drains: first the coordinator, while the workers finish what
 * it has promised, then the workers. A second one kills. */
#include "cli/up.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/limits.h"
#include "base/pool.h"
#include "cli/daemon.h"
#include "cli/device.h"
#include "cli/signals.h"

#define LOOK_MS       50
#define AGAIN_NS_MIN  (INT64_C(500) * DIP_MS_NS)
#define AGAIN_NS_MAX  (10 * DIP_SECOND_NS)
#define GRACE_MORE_NS (15 * DIP_SECOND_NS)
enum { ADDRESS_BYTES = 272 };

struct up {
    const struct options *options;
    struct child *children; /* [child_count]; the first is the coordinator */
    int child_count;
    int gpu_count;
    char listen[ADDRESS_BYTES];  /* asked of the coordinator */
    char address[ADDRESS_BYTES]; /* where it listens; empty = not known yet */
    bool was_ready;
    enum exit_code code;
    bool is_over; /* a child could not start: end */
};

/* ---- who ---- */

static void child_name(struct child *child, enum child_role role, const char *name, int index)
{
    child->role = role;
    child->output = -1;
    if (index < 0)
        snprintf(child->name, sizeof child->name, "%s", name);
    else
        snprintf(child->name, sizeof child->name, "%s-%d", name, index);
}

static enum dip_status list_children(struct up *up)
{
    const struct options *o = up->options;
    int ar_count = (int)(o->ar_tp * (o->ar_groups > 0 ? o->ar_groups : 1));
    int diffusion_count = (int)o->diffusion;
    up->children = calloc(1 + (size_t)ar_count + (size_t)diffusion_count, sizeof *up->children);
    if (!up->children)
        return DIP_NO_MEMORY;
    up->gpu_count = dip__gpu_count(o);
    child_name(&up->children[up->child_count++], CHILD_COORDINATOR, "coordinator", -1);
    for (int i = 0; i < ar_count; i++)
        child_name(&up->children[up->child_count++], CHILD_AR, "ar", i);
    for (int i = 0; i < diffusion_count; i++)
        child_name(&up->children[up->child_count++], CHILD_DIFFUSION, "diffusion", i);
    return DIP_OK;
}

/* The panels work at different times; those of one panel share the machine. */
static int threads_of(const struct up *up, const struct child *child)
{
    const struct options *o = up->options;
    if (dip__is_given(o, &o->threads))
        return (int)o->threads;
    int count = 0;
    for (int i = 0; i < up->child_count; i++)
        count += up->children[i].role == child->role;
    int threads = count > 0 ? dip_cpu_count() / count : 1;
    return threads > 1 ? threads : 1;
}

/* Workers take turns on the GPUs, from the one asked for on. */
static int device_of(const struct up *up, const struct child *child)
{
    int first = (int)up->options->device;
    int worker = (int)(child - up->children) - 1; /* the coordinator is the first child */
    return up->gpu_count > 0 ? (first + worker) % up->gpu_count : first;
}

static enum dip_status start_child(struct up *up, struct child *child, struct dip_why *why)
{
    const struct options *o = up->options;
    const char *coordinator[] = {"coordinator", "--listen",    up->listen,
                                 "--name",      "coordinator", o->http ? "--http" : NULL,
                                 o->http,       NULL};
    const char *worker[] = {"worker",    "--role",    child->role == CHILD_AR ? "ar" : "diffusion",
                            "--name",    child->name, "--server",
                            up->address, NULL,        NULL};
    bool is_coordinator = child->role == CHILD_COORDINATOR;
    if (child->role == CHILD_AR && o->ar_tp > 1)
        worker[7] = "--ar-rank";
    static const char *const own[] = {"listen", "http",      "name",   "threads",
                                      "device", "advertise", "server", NULL};
    struct child_start start = {.options = o,
                                .words = is_coordinator ? coordinator : worker,
                                .own = own,
                                .threads = is_coordinator ? 0 : threads_of(up, child),
                                .device = is_coordinator ? 0 : device_of(up, child),
                                .is_quiet = true}; /* `up` itself says what happens */
    return dip__child_start(child, &start, why);
}

/* ---- what they say ---- */

static void on_listening(struct up *up, const char *address)
{
    if (strcmp(up->address, address) == 0)
        return;
    snprintf(up->address, sizeof up->address, "%s", address);
    snprintf(up->listen, sizeof up->listen, "%s", address); /* the same port when it starts again */
    dip__fact("up", FACT_LISTENING, address);
}

static void on_line(struct up *up, struct child *child, const char *line)
{
    const char *fact = strstr(line, ": ");
    fact = fact ? fact + 2 : line;
    bool is_coordinator = child->role == CHILD_COORDINATOR;
    if (is_coordinator && strncmp(fact, FACT_LISTENING, strlen(FACT_LISTENING)) == 0)
        on_listening(up, fact + strlen(FACT_LISTENING));
    else if (strncmp(fact, "metrics on ", 11) == 0)
        printf("up: %s\n", fact);
    else if (strcmp(fact, FACT_READY) == 0)
        child->is_ready = child->has_come_up = child->was_ready = true;
    else if (strcmp(fact, FACT_WAITING) == 0)
        child->is_ready = false;
    fflush(stdout);
}

static void hear(struct up *up)
{
    for (int i = 0; i < up->child_count; i++)
        for (const char *line; (line = dip__child_line(&up->children[i])) != NULL;)
            on_line(up, &up->children[i], line);
}

/* Ready is what the coordinator says, once every worker has been there. */
static void tell_ready(struct up *up)
{
    bool is_ready = true;
    for (int i = 0; i < up->child_count; i++)
        is_ready &= up->children[i].is_ready;
    if (is_ready && !up->was_ready) {
        dip__fact("up", FACT_READY, "");
        printf("try: diptych generate --server %s \"a red circle\"\n", up->address);
        fflush(stdout);
    }
    if (is_ready)
        up->was_ready = true;
}

/* ---- life and death ---- */

static void print_end(const struct child *child, int status, int64_t again_ns)
{
    if (WIFSIGNALED(status))
        printf("up: %s was killed by signal %d", child->name, WTERMSIG(status));
    else
        printf("up: %s ended with status %d", child->name, WEXITSTATUS(status));
    if (again_ns > 0)
        printf("; it starts again in %.1f s", (double)again_ns / (double)DIP_SECOND_NS);
    printf("\n");
    fflush(stdout);
}

static void on_end(struct up *up, struct child *child, int status)
{
    int64_t now_ns = dip_clock_now_ns();
    bool never_came_up = !child->was_ready && !up->was_ready && WIFEXITED(status) &&
                         (child->role != CHILD_COORDINATOR || !up->address[0]);
    if (never_came_up) { /* it has said why */
        print_end(child, status, 0);
        up->code = WEXITSTATUS(status) == EXIT_USAGE ? EXIT_USAGE : EXIT_FAILED;
        up->is_over = true;
        return;
    }
    if (child->has_come_up) /* in this life: the next one may, too */
        child->failures = 0;
    int64_t again_ns = AGAIN_NS_MIN << (child->failures < 5 ? child->failures : 5);
    if (again_ns > AGAIN_NS_MAX)
        again_ns = AGAIN_NS_MAX;
    child->failures++;
    child->begin_again_ns = now_ns + again_ns;
    print_end(child, status, again_ns);
}

static enum dip_status keep_alive(struct up *up, struct dip_why *why)
{
    for (int i = 0; i < up->child_count && !up->is_over; i++) {
        struct child *child = &up->children[i];
        int status = 0;
        if (dip__child_has_ended(child, &status)) {
            on_end(up, child, status);
            continue;
        }
        bool has_what_it_needs = child->role == CHILD_COORDINATOR || up->address[0];
        if (child->pid == 0 && has_what_it_needs && dip_clock_now_ns() >= child->begin_again_ns)
            DIP_TRY(start_child(up, child, why));
    }
    return DIP_OK;
}

static void wait_for_news(const struct up *up)
{
    struct pollfd polled[64];
    nfds_t count = 0;
    for (int i = 0; i < up->child_count && count < 64; i++)
        if (up->children[i].pid > 0 && up->children[i].output >= 0)
            polled[count++] = (struct pollfd){.fd = up->children[i].output, .events = POLLIN};
    poll(polled, count, LOOK_MS);
    /* A pipe whose writer has gone answers at once, until waitpid has seen the end. */
    if (count > 0 && (polled[0].revents & POLLHUP))
        dip_clock_sleep(DIP_MS_NS);
}

/* ---- the end ---- */

static bool is_alive(const struct up *up, bool is_coordinator)
{
    for (int i = 0; i < up->child_count; i++)
        if (up->children[i].pid > 0 &&
            (up->children[i].role == CHILD_COORDINATOR) == is_coordinator)
            return true;
    return false;
}

/* Ends the coordinator or all workers and waits; who does not go in time is killed. */
static void end_some(struct up *up, bool is_coordinator, int64_t grace_ns)
{
    int64_t until_ns = dip_clock_now_ns() + grace_ns;
    int number = SIGTERM;
    for (bool is_told = false; is_alive(up, is_coordinator);) {
        if (number == SIGTERM && dip_clock_now_ns() >= until_ns) {
            number = SIGKILL;
            is_told = false;
        }
        for (int i = 0; i < up->child_count; i++) {
            struct child *child = &up->children[i];
            int status = 0;
            if ((child->role == CHILD_COORDINATOR) != is_coordinator)
                continue;
            if (!is_told)
                dip__child_signal(child, number);
            if (dip__child_has_ended(child, &status) && status != 0 && !up->is_over) {
                print_end(child, status, 0);
                up->code = EXIT_FAILED; /* it was to finish what it had */
            }
        }
        is_told = true;
        hear(up); /* or they would wait for somebody to listen */
        dip_clock_sleep(10 * DIP_MS_NS);
    }
}

static void end_all(struct up *up)
{
    int64_t grace_ns =
        up->is_over ? DIP_SECOND_NS : up->options->grace * DIP_SECOND_NS + GRACE_MORE_NS;
    if (!up->is_over)
        dip__fact("up", "draining", "");
    end_some(up, true, grace_ns);
    end_some(up, false, grace_ns);
}

static enum dip_status prepare(struct up *up, struct dip_why *why)
{
    const struct options *o = up->options;
    char model[DIP_PATH_BYTES_MAX];
    uint64_t degrees = 0;
    DIP_TRY(dip__model_directory(o, why, model, sizeof model));
    DIP_TRY(dip__daemon_degrees(model, (int)o->ar_tp, why, &degrees));
    const char *listen = o->listen ? o->listen : LISTEN_DEFAULT;
    if (strlen(listen) >= sizeof up->listen)
        return dip_fail(why, DIP_LIMIT, "--listen is longer than %zu bytes", sizeof up->listen - 1);
    snprintf(up->listen, sizeof up->listen, "%s", listen);
    if (list_children(up))
        return dip_fail(why, DIP_NO_MEMORY, "no memory to begin");
    return DIP_OK;
}

enum exit_code dip__up(const struct arguments *arguments)
{
    struct up up = {.options = &arguments->options};
    struct dip_why why = {0};
    dip__signals_serve();
    enum dip_status status = prepare(&up, &why);
    while (!status && !up.is_over && !dip__signals_came()) {
        status = keep_alive(&up, &why);
        wait_for_news(&up);
        hear(&up);
        tell_ready(&up);
    }
    if (status) {
        up.is_over = true;
        up.code = dip__fail(status, &why);
    }
    end_all(&up);
    if (!up.is_over)
        dip__fact("up", "stopped", "");
    for (int i = 0; i < up.child_count; i++)
        if (up.children[i].output >= 0)
            close(up.children[i].output);
    free(up.children);
    return up.code;
}
