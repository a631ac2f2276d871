/* tests/ranks.h - a group of ranks, each a process forked by the test. */
#pragma once

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "ops/comm.h"
#include "tests/device.h"

/* In a rank: says what is wrong and ends the process. */
#define need(condition)                                                                            \
    ((condition) ? (void)0 : rank_fail(__FILE__, __LINE__, #condition, (const char *)NULL))
#define need_ok(status)                                                                            \
    ((status) == DIP_OK ? (void)0 : rank_fail(__FILE__, __LINE__, #status, "not ok"))

static inline void rank_fail(const char *file, int line, const char *what, const char *more)
{
    fprintf(stderr, "%s:%d: process %d: %s%s%s\n", file, line, (int)getpid(), what,
            more ? ": " : "", more ? more : "");
    _exit(1);
}

/* Memory that all ranks and the test see. */
struct ranks_board {
    volatile int64_t lost_ns;                     /* when a rank was lost on purpose */
    volatile int64_t seen_ns[DIP_COMM_RANKS_MAX]; /* when each rank knew */
    volatile int32_t flag;
    float results[DIP_COMM_RANKS_MAX][1 << 16];
};

struct ranks {
    const char *backend;
    int count;
    int threads; /* of a rank; 0 = 1 */
    int64_t silence_ns_max, wait_ns_max, join_ns_max;
    struct ranks_board *board;
    pid_t pids[DIP_COMM_RANKS_MAX];
};

/* One rank's view. */
struct rank_context {
    struct ranks *ranks;
    int rank;
    struct dip_comm *comm;
    struct dip_device *device;
    struct dip_stream *stream;
};
typedef void (*rank_fn)(struct rank_context *context);

enum { RANK_SECONDS_MAX = 120 };

static inline void rank_main(struct ranks *ranks, int rank, struct dip_comm_root *root, rank_fn run)
{
    alarm(RANK_SECONDS_MAX); /* a hang is a failure, not a wait */
    struct rank_context c = {.ranks = ranks, .rank = rank};
    struct dip_device_options device = test_device_options(ranks->threads ? ranks->threads : 1);
    struct dip_why why = {0};
    need_ok(dip_device_open(&device, &why, &c.device));
    need_ok(dip_stream_open(c.device, &c.stream));
    struct dip_comm_options options = {.id = dip_comm_root_id(root),
                                       .root = rank == 0 ? root : NULL,
                                       .rank = rank,
                                       .count = ranks->count,
                                       .join_ns_max = ranks->join_ns_max,
                                       .silence_ns_max = ranks->silence_ns_max,
                                       .wait_ns_max = ranks->wait_ns_max};
    if (dip_comm_open(&options, &why, &c.comm))
        rank_fail(__FILE__, __LINE__, "dip_comm_open", why.text);
    run(&c);
    dip_comm_close(c.comm);
    dip_comm_root_close(root);
    dip_stream_close(c.stream);
    dip_device_close(c.device);
}

static inline void ranks_start(struct ranks *ranks, rank_fn run)
{
    struct dip_why why = {0};
    struct dip_comm_root *root = NULL;
    struct dip_comm_root_options options = {.backend = ranks->backend, .address = "127.0.0.1"};
    if (dip_comm_root_open(&options, &why, &root))
        fail_msg("%s", why.text);
    ranks->board =
        mmap(NULL, sizeof *ranks->board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(ranks->board != MAP_FAILED);
    fflush(NULL);
    for (int r = 0; r < ranks->count; r++) {
        ranks->pids[r] = fork();
        assert_true(ranks->pids[r] >= 0);
        if (ranks->pids[r] == 0) {
            rank_main(ranks, r, root, run);
            exit(0); /* not _exit: a leak checker looks on the way out */
        }
    }
    dip_comm_root_close(root);
}

/* The exit status as waitpid tells it; the rank must end. */
static inline int ranks_wait(struct ranks *ranks, int rank)
{
    int status = -1;
    assert_int_equal(waitpid(ranks->pids[rank], &status, 0), ranks->pids[rank]);
    return status;
}

static inline void ranks_end(struct ranks *ranks)
{
    munmap(ranks->board, sizeof *ranks->board);
    ranks->board = NULL;
}

/* All ranks run to their end and find nothing wrong. */
static inline void ranks_run(struct ranks *ranks, rank_fn run)
{
    ranks_start(ranks, run);
    for (int r = 0; r < ranks->count; r++)
        assert_int_equal(ranks_wait(ranks, r), 0);
}
