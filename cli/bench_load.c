/* cli/bench_load.c - see cli/bench_load.h.
 *
 * Overload: the loop is open, that is, requests come by the clock and not because others have
 * ended. Eight slots of fake workers paint 100 images a second; 1,000 are asked for, each with a
 * deadline two seconds away. A warm-up lets the coordinator measure how long an image takes.
 *
 * Connections: a child process, which needs file descriptors of its own, opens all of them at once
 * and speaks as much HTTP/2 as keeps them: preface, SETTINGS and its acknowledgement, PING. */
#include "cli/bench_load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "cli/daemon.h"

enum {
    SLOTS = 8,
    STEPS = 4,
    IMAGE_MS = 81, /* of diffusion; the AR panel takes half of it */
    CAPACITY = SLOTS * 1000 / IMAGE_MS,
    ASKED = 10 * CAPACITY,
    OVERLOAD_S = 60,
    WARM_S = 3,
    QUEUE = 2048,
    RESULTS = 256, /* kept; full before memory is looked at */
    SHOTS_MAX = (OVERLOAD_S + WARM_S + 1) * ASKED,
    CONNECTIONS = 10000,
    HOLD_S = 20,
};
#define DEADLINE_NS (2 * DIP_SECOND_NS)

/* ---- overload ---- */

/* A refusal that has not come by the deadline counts as one that took so long. */
struct load {
    struct bench_front front;
    int64_t *refusals; /* [SHOTS_MAX] ns */
    int refusal_count;
    uint64_t done, late, failed;
    int live;
};

struct shot {
    struct load *load;
    int64_t begin_ns;
    bool is_admitted;
};

static void on_message(void *context, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    (void)call;
    (void)data;
    (void)bytes;
    ((struct shot *)context)->is_admitted = true;
}

static void on_close(void *context, struct dip_rpc_call *call, const struct dip_rpc_status *status)
{
    (void)call;
    struct shot *shot = context;
    struct load *load = shot->load;
    load->live--;
    if (status->code == DIP_RPC_OK)
        load->done++;
    else if (shot->is_admitted)
        load->late++;
    else if (status->code == DIP_RPC_DEADLINE_EXCEEDED || status->code == DIP_RPC_UNAVAILABLE)
        load->refusals[load->refusal_count++] = dip_clock_now_ns() - shot->begin_ns;
    else
        load->failed++;
    free(shot);
}

static void shoot(struct load *load, int number)
{
    static const struct dip_rpc_handler handler = {.on_message = on_message, .on_close = on_close};
    struct shot *shot = calloc(1, sizeof *shot);
    dip_assert(shot);
    *shot = (struct shot){.load = load, .begin_ns = dip_clock_now_ns()};
    load->live++;
    dip__bench_front_ask(&load->front, number, shot->begin_ns + DEADLINE_NS, &handler, shot);
}

/* Resident memory of this process: the second number, in pages. */
static double resident_kib(void)
{
    char text[128] = "";
    FILE *file = fopen("/proc/self/statm", "r");
    size_t bytes = file ? fread(text, 1, sizeof text - 1, file) : 0;
    text[bytes] = '\0';
    if (file)
        fclose(file);
    const char *second = strchr(text, ' ');
    return second ? strtod(second, NULL) * (double)sysconf(_SC_PAGESIZE) / 1024 : 0;
}

/* So many a second for a while, by the clock. ret_slope (may be NULL): KiB a minute that the
 * process grows by, as the least squares have it, the first quarter left out. */
static void fire(struct load *load, int rate, int seconds, double *ret_slope)
{
    int64_t begin_ns = dip_clock_now_ns(), now_ns = begin_ns, end_ns = seconds * DIP_SECOND_NS;
    double n = 0, t = 0, y = 0, tt = 0, ty = 0;
    int64_t sample_ns = end_ns / 4;
    for (int shot = 0; now_ns - begin_ns < end_ns; now_ns = dip_clock_now_ns()) {
        int64_t due = (now_ns - begin_ns) * rate / DIP_SECOND_NS;
        for (int burst = 0; shot < due && burst < 16; burst++)
            shoot(load, shot++);
        dip_rpc_loop_turn(load->front.client_loop, shot < due ? 0 : DIP_MS_NS);
        if (now_ns - begin_ns < sample_ns)
            continue;
        double at = (double)(now_ns - begin_ns) / 60e9, kib = resident_kib();
        n++, t += at, y += kib, tt += at * at, ty += at * kib;
        sample_ns += DIP_SECOND_NS / 4;
    }
    if (ret_slope)
        *ret_slope = (n * ty - t * y) / (n * tt - t * t);
}

static void settle(struct load *load)
{
    while (load->live > 0)
        dip_rpc_loop_turn(load->front.client_loop, DIP_SECOND_NS);
}

/* done: images within the time, without those that came when nothing more was asked. */
static void say_overload(struct load *load, uint64_t done, double slope, bench_row_fn on_row,
                         void *context)
{
    char note[128];
    double p99 = dip__bench_percentile_ms(load->refusals, load->refusal_count, 99);
    double p50 = dip__bench_percentile_ms(load->refusals, load->refusal_count, 50);
    uint64_t admitted = load->done + load->late;
    double late = admitted > 0 ? 100 * (double)load->late / (double)admitted : 100;
    double rate = (double)done / OVERLOAD_S;
    snprintf(note, sizeof note, "p99 of %d in %d s, %d asked a second; bound: the aim",
             load->refusal_count, OVERLOAD_S, ASKED);
    on_row(context, &(struct dip_bench_row){"control.overload.refusal", p99, "ms", 50, 50 / p99,
                                            p50, 1, note});
    snprintf(note, sizeof note, "%llu of %llu admitted; share: in time",
             (unsigned long long)load->late, (unsigned long long)admitted);
    on_row(context, &(struct dip_bench_row){"control.overload.late", late, "%", 0, 1 - late / 100,
                                            late, 1, note});
    on_row(context, &(struct dip_bench_row){"control.overload.done", rate, "img/s", CAPACITY,
                                            rate / CAPACITY, rate, 1,
                                            "bound: what the fake workers can do"});
    on_row(context,
           &(struct dip_bench_row){"control.overload.memory", slope, "KiB/min", 1024,
                                   1024 / (slope > 1024 ? slope : 1024), slope, 1,
                                   "slope of the resident size, both ends; bound: the aim"});
}

static enum dip_status overload(const char *directory, bench_row_fn on_row, void *context,
                                struct dip_why *why)
{
    struct bench_front_options options = {.directory = directory,
                                          .stub = {.member_count = SLOTS / 4,
                                                   .slots = 4,
                                                   .ar_ns = IMAGE_MS / 2 * DIP_MS_NS,
                                                   .step_ns = IMAGE_MS / (STEPS - 1) * DIP_MS_NS},
                                          .queue = QUEUE,
                                          .results = RESULTS,
                                          .steps = STEPS};
    struct load load = {.refusals = calloc(SHOTS_MAX, sizeof *load.refusals)};
    if (!load.refusals)
        return dip_fail(why, DIP_NO_MEMORY, "no memory to measure");
    enum dip_status status = dip__bench_front_open(&options, why, &load.front);
    if (!status) {
        double slope = 0;
        fire(&load, CAPACITY / 2, WARM_S, NULL);
        settle(&load);
        load.done = load.late = load.failed = 0;
        load.refusal_count = 0;
        fire(&load, ASKED, OVERLOAD_S, &slope);
        uint64_t done = load.done;
        settle(&load);
        say_overload(&load, done, slope, on_row, context);
        if (load.failed > 0)
            status = dip_fail(why, DIP_IO, "%llu requests failed", (unsigned long long)load.failed);
        dip__bench_front_close(&load.front);
    }
    free(load.refusals);
    return status;
}

/* ---- connections: the child ---- */

struct found {
    int served, closed;
    int64_t last_ns; /* when the last one was served, from the beginning on */
};

enum line_state { LINE_CONNECTING, LINE_WAITING, LINE_SERVED, LINE_CLOSED };

struct line {
    int fd;
    enum line_state state;
    unsigned char data[512]; /* of a frame that is not whole */
    size_t bytes;
};

static bool line_say(const struct line *line, const void *data, size_t bytes)
{
    return send(line->fd, data, bytes, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)bytes;
}

/* Answers what must be answered: SETTINGS (4) and PING (6), each unless it is itself an answer. */
static bool line_frame(struct line *line, const unsigned char *frame, size_t payload)
{
    static const unsigned char settled[] = {0, 0, 0, 4, 1, 0, 0, 0, 0};
    unsigned char pong[17] = {0, 0, 8, 6, 1, 0, 0, 0, 0};
    if (frame[4] & 1)
        return true;
    if (frame[3] == 4) {
        line->state = LINE_SERVED;
        return line_say(line, settled, sizeof settled);
    }
    if (frame[3] != 6 || payload != 8)
        return true;
    memcpy(pong + 9, frame + 9, 8);
    return line_say(line, pong, sizeof pong);
}

static bool line_read(struct line *line)
{
    ssize_t got = recv(line->fd, line->data + line->bytes, sizeof line->data - line->bytes, 0);
    if (got <= 0)
        return got < 0 && (errno == EAGAIN || errno == EINTR);
    line->bytes += (size_t)got;
    size_t at = 0;
    while (line->bytes - at >= 9) {
        const unsigned char *frame = line->data + at;
        size_t payload = (size_t)frame[0] << 16 | (size_t)frame[1] << 8 | frame[2];
        if (9 + payload > sizeof line->data)
            return false; /* nothing so long is sent to one that asks for nothing */
        if (line->bytes - at < 9 + payload)
            break;
        if (!line_frame(line, frame, payload))
            return false;
        at += 9 + payload;
    }
    memmove(line->data, line->data + at, line->bytes - at);
    line->bytes -= at;
    return true;
}

static bool line_open(struct line *line, int epoll, const struct sockaddr_in *to)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = line};
    line->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    return line->fd >= 0 &&
           (connect(line->fd, (const struct sockaddr *)to, sizeof *to) == 0 ||
            errno == EINPROGRESS) &&
           epoll_ctl(epoll, EPOLL_CTL_ADD, line->fd, &event) == 0;
}

static bool line_turn(struct line *line, int epoll, uint32_t events)
{
    static const char hello[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0";
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = line};
    if (line->state == LINE_CONNECTING && events & EPOLLOUT) {
        line->state = LINE_WAITING;
        return epoll_ctl(epoll, EPOLL_CTL_MOD, line->fd, &event) == 0 &&
               line_say(line, hello, sizeof hello - 1);
    }
    return line_read(line);
}

static struct found open_all(struct line *lines, int count, int port)
{
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct epoll_event events[256];
    struct found found = {0};
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    int64_t begin_ns = dip_clock_now_ns();
    for (int i = 0; i < count; i++)
        if (!line_open(&lines[i], epoll, &to)) {
            lines[i].state = LINE_CLOSED;
            found.closed++;
        }
    while (dip_clock_now_ns() - begin_ns < HOLD_S * DIP_SECOND_NS) {
        int ready = epoll_wait(epoll, events, 256, 100);
        for (int i = 0; i < ready; i++) {
            struct line *line = events[i].data.ptr;
            bool was_served = line->state == LINE_SERVED;
            if (!line_turn(line, epoll, events[i].events)) {
                found.served -= was_served;
                found.closed++;
                line->state = LINE_CLOSED;
                close(line->fd);
            } else if (!was_served && line->state == LINE_SERVED) {
                found.served++;
                found.last_ns = dip_clock_now_ns() - begin_ns;
            }
        }
    }
    return found;
}

/* ---- connections: the parent ---- */

/* The child says once how it went, and stays until it is told to go. */
static pid_t connect_all(int count, int port, int *ret_fd)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC))
        return -1;
    pid_t child = fork();
    if (child == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        struct line *lines = calloc((size_t)count, sizeof *lines);
        struct found found = {0};
        if (lines)
            found = open_all(lines, count, port);
        ssize_t written = write(ends[1], &found, sizeof found);
        while (written == sizeof found)
            pause();
        _exit(1);
    }
    close(ends[1]);
    if (child < 0)
        close(ends[0]);
    *ret_fd = ends[0];
    return child;
}

static void say_connections(const struct found *found, int count, double kib, bench_row_fn on_row,
                            void *context)
{
    char note[96];
    double share = (double)found->served / CONNECTIONS, open_s = (double)found->last_ns / 1e9;
    snprintf(note, sizeof note, "%d opened at once and held for %d s; %d closed", count, HOLD_S,
             found->closed);
    on_row(context, &(struct dip_bench_row){"control.connections", found->served, "", CONNECTIONS,
                                            share, found->served, 1, note});
    on_row(context, &(struct dip_bench_row){"control.connections.open", open_s, "s", open_s, 1,
                                            open_s, 1, "until the last of them was served"});
    on_row(context, &(struct dip_bench_row){"control.connections.each", kib, "KiB", kib, 1, kib, 1,
                                            "of the coordinator's resident memory"});
}

static enum dip_status connections(const char *directory, bench_row_fn on_row, void *context,
                                   struct dip_why *why)
{
    struct bench_front_options options = {
        .directory = directory, .stub = {.member_count = 1, .slots = 4}, .queue = 64};
    struct bench_front front;
    struct found found = {0};
    int64_t files = dip__daemon_files();
    int count = files - 512 < CONNECTIONS ? (int)files - 512 : CONNECTIONS;
    int fd = -1;
    if (count <= 0)
        return dip_fail(why, DIP_LIMIT, "only %lld files may be open at a time", (long long)files);
    DIP_TRY(dip__bench_front_open(&options, why, &front));
    double before = resident_kib();
    pid_t child = connect_all(count, dip_coordinator_daemon_port(front.daemon), &fd);
    bool is_heard = child > 0 && read(fd, &found, sizeof found) == sizeof found;
    double after = resident_kib();
    if (child > 0) {
        close(fd);
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
    dip__bench_front_close(&front);
    if (!is_heard)
        return dip_fail(why, DIP_IO, "the process that opens connections did not come to its end");
    say_connections(&found, count, found.served ? (after - before) / found.served : 0, on_row,
                    context);
    return DIP_OK;
}

enum dip_status dip__bench_load(const char *directory, bench_row_fn on_row, void *context,
                                struct dip_why *why)
{
    DIP_TRY(overload(directory, on_row, context, why));
    return connections(directory, on_row, context, why);
}
