/* tests/unit/comm.c - collectives between forked ranks: equal bits, lost ranks, nothing left. */
#include <arpa/inet.h>
#include <dirent.h>
#include <pthread.h>
#include <sys/socket.h>

#include "base/rng.h"
#include "tests/ranks.h"

static const char *const backends[] = {"shm", "tcp"};
enum { BACKENDS = 2 };

/* What a rank contributes: any rank can compute it for any other. */
static void fill(float *values, int64_t count, int rank)
{
    struct dip_rng_key key = {.seed = 99, .image_index = (uint32_t)rank, .purpose = DIP_RNG_TEST};
    dip_rng_normals(&key, values, (size_t)count);
}

static struct dip_tensor vector(float *values, int64_t count)
{
    return dip_tensor_1d(values, DIP_F32, count);
}

static float *floats(int64_t count)
{
    float *values = calloc((size_t)count, sizeof *values);
    need(values);
    return values;
}

/* ---- values ---- */

/* The tree by the definition: neighbours, then pairs. */
static void tree(int ranks, int64_t count, float *out)
{
    float *parts[DIP_COMM_RANKS_MAX];
    for (int r = 0; r < ranks; r++) {
        parts[r] = floats(count);
        fill(parts[r], count, r);
    }
    for (int width = 1; width < ranks; width *= 2)
        for (int r = 0; r < ranks; r += 2 * width)
            for (int64_t i = 0; i < count; i++)
                parts[r][i] += parts[r + width][i];
    memcpy(out, parts[0], (size_t)count * sizeof *out);
    for (int r = 0; r < ranks; r++)
        free(parts[r]);
}

/* One element, around the block of the sum, and more than one exchange. */
static const int64_t counts[] = {1, 63, 64, 65, 1024, 70000};

static void sum_all(struct rank_context *c)
{
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        int64_t count = counts[i];
        float *partial = floats(count);
        float *expected = floats(count);
        fill(partial, count, c->rank);
        tree(c->ranks->count, count, expected);
        need_ok(dip_comm_sum(c->comm, c->stream, vector(partial, count)));
        need(memcmp(partial, expected, (size_t)count * sizeof *partial) == 0);
        if (count == 1024)
            memcpy(c->ranks->board->results[c->rank], partial, 1024 * sizeof *partial);
        free(partial);
        free(expected);
    }
}

static void gather_all(struct rank_context *c)
{
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        int64_t count = counts[i];
        float *mine = floats(count);
        float *all = floats(count * c->ranks->count);
        fill(mine, count, c->rank);
        need_ok(dip_comm_gather(c->comm, c->stream, vector(all, count * c->ranks->count),
                                vector(mine, count)));
        for (int r = 0; r < c->ranks->count; r++) {
            fill(mine, count, r);
            need(memcmp(all + r * count, mine, (size_t)count * sizeof *mine) == 0);
        }
        free(mine);
        free(all);
    }
}

static void broadcast_all(struct rank_context *c)
{
    static char data[DIP_COMM_SMALL_BYTES_MAX];
    static const size_t sizes[] = {0, 1, 1000, sizeof data};
    for (int from = 0; from < c->ranks->count; from++) {
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            memset(data, c->rank == from ? 'a' + from : 0, sizeof data);
            need_ok(dip_comm_broadcast(c->comm, from, data, sizes[i]));
            for (size_t at = 0; at < sizes[i]; at++)
                need(data[at] == 'a' + from);
            need(c->rank == from || sizes[i] == sizeof data || data[sizes[i]] == 0);
        }
    }
}

/* Many short ones in a row, so that ranks overtake each other wherever they can. */
static void hurry(struct rank_context *c)
{
    for (int i = 0; i < 500; i++) {
        float value = (float)(i + c->rank);
        need_ok(dip_comm_sum(c->comm, c->stream, vector(&value, 1)));
        int n = c->ranks->count;
        need(value == (float)(i * n + n * (n - 1) / 2));
    }
}

static void run_values(struct rank_context *c)
{
    need(dip_comm_rank(c->comm) == c->rank);
    need(dip_comm_count(c->comm) == c->ranks->count);
    gather_all(c);
    broadcast_all(c);
    if ((c->ranks->count & (c->ranks->count - 1)) == 0) {
        sum_all(c);
        hurry(c);
    }
    need_ok(dip_comm_error(c->comm));
}

static void test_values(void **state)
{
    (void)state;
    static const int group_sizes[] = {2, 3, 4, 8};
    for (int b = 0; b < BACKENDS; b++) {
        for (int i = 0; i < 4; i++) {
            struct ranks ranks = {.backend = backends[b],
                                  .count = group_sizes[i],
                                  .silence_ns_max = 20 * DIP_SECOND_NS};
            ranks_run(&ranks, run_values);
            for (int r = 1; r < ranks.count; r++)
                assert_memory_equal(ranks.board->results[r], ranks.board->results[0],
                                    1024 * sizeof(float));
            ranks_end(&ranks);
        }
    }
}

static void test_alone(void **state)
{
    (void)state;
    struct dip_device_options device_options = {.backend = "cpu", .threads = 1};
    struct dip_device *device = NULL;
    struct dip_stream *stream = NULL;
    struct dip_comm *comm = NULL;
    assert_int_equal(dip_device_open(&device_options, NULL, &device), DIP_OK);
    assert_int_equal(dip_stream_open(device, &stream), DIP_OK);
    assert_int_equal(dip_comm_open(&(struct dip_comm_options){.count = 1}, NULL, &comm), DIP_OK);
    float value = 3;
    float all = 0;
    assert_int_equal(dip_comm_sum(comm, stream, vector(&value, 1)), DIP_OK);
    assert_int_equal(dip_comm_gather(comm, stream, vector(&all, 1), vector(&value, 1)), DIP_OK);
    assert_int_equal(dip_comm_broadcast(comm, 0, &value, sizeof value), DIP_OK);
    assert_true(value == 3 && all == 3);
    dip_comm_abort(comm);
    assert_int_equal(dip_comm_sum(comm, stream, vector(&value, 1)), DIP_CANCELLED);
    dip_comm_close(comm);
    dip_stream_close(stream);
    dip_device_close(device);
}

/* ---- the canonical reduction ---- */

enum { ROWS = 5, OUTS = 70, INS = 8 * 24, CHUNKS = 8 };

/* residual += in weight^T in 8 chunks: by one process, and by the group. */
static void run_linear(struct rank_context *c)
{
    float *in = floats(ROWS * INS);
    float *weight = floats(OUTS * INS);
    float *expected = floats(ROWS * OUTS);
    float *residual = floats(ROWS * OUTS);
    float *partial = floats(ROWS * OUTS);
    fill(in, ROWS * INS, 100);
    fill(weight, OUTS * INS, 101);
    fill(expected, ROWS * OUTS, 102);
    fill(residual, ROWS * OUTS, 102);
    struct dip_linear_args whole = {.out = dip_rows(expected, DIP_F32, ROWS, OUTS),
                                    .in = dip_rows(in, DIP_F32, ROWS, INS),
                                    .weight = dip_rows(weight, DIP_F32, OUTS, INS),
                                    .chunk_count = CHUNKS,
                                    .is_added = true};
    need_ok(dip_linear(c->stream, &whole));

    int64_t share = INS / c->ranks->count;
    struct dip_tensor sums = dip_rows(partial, DIP_F32, ROWS, OUTS);
    struct dip_linear_args part = {.out = sums,
                                   .in = dip_columns_slice(whole.in, c->rank * share, share),
                                   .weight =
                                       dip_columns_slice(whole.weight, c->rank * share, share),
                                   .chunk_count = CHUNKS / c->ranks->count};
    need_ok(dip_linear(c->stream, &part));
    need_ok(dip_comm_sum(c->comm, c->stream, sums));
    struct dip_add_args add = {.sum = dip_rows(residual, DIP_F32, ROWS, OUTS), .x = sums};
    need_ok(dip_add(c->stream, &add));
    need(memcmp(residual, expected, ROWS * OUTS * sizeof *residual) == 0);
    memcpy(c->ranks->board->results[c->rank], residual, ROWS * OUTS * sizeof *residual);
    free(in);
    free(weight);
    free(expected);
    free(residual);
    free(partial);
}

static void test_linear(void **state)
{
    (void)state;
    for (int b = 0; b < BACKENDS; b++) {
        for (int count = 2; count <= CHUNKS; count *= 2) {
            struct ranks ranks = {
                .backend = backends[b], .count = count, .silence_ns_max = 20 * DIP_SECOND_NS};
            ranks_run(&ranks, run_linear);
            for (int r = 1; r < count; r++)
                assert_memory_equal(ranks.board->results[r], ranks.board->results[0],
                                    ROWS * OUTS * sizeof(float));
            ranks_end(&ranks);
        }
    }
}

/* ---- lost ranks ---- */

/* Sums until the group ends; notes when this rank knew. */
static enum dip_status sum_until_error(struct rank_context *c)
{
    static float values[4096];
    enum dip_status status = DIP_OK;
    while (!status)
        status = dip_comm_sum(c->comm, c->stream, vector(values, 4096));
    c->ranks->board->seen_ns[c->rank] = dip_clock_now_ns();
    need(dip_comm_error(c->comm) == status);
    need(dip_comm_sum(c->comm, c->stream, vector(values, 1)) == status);
    need(dip_comm_broadcast(c->comm, 0, values, 4) == status);
    return status;
}

static void lose_self(struct rank_context *c, int sig)
{
    static float values[4096];
    for (int i = 0; i < 100; i++)
        need_ok(dip_comm_sum(c->comm, c->stream, vector(values, 4096)));
    c->ranks->board->lost_ns = dip_clock_now_ns();
    raise(sig);
}

static void run_killed(struct rank_context *c)
{
    if (c->rank == c->ranks->count - 1)
        lose_self(c, SIGKILL);
    need(sum_until_error(c) == DIP_UNREACHABLE);
}

/* Survivors [0, count - 1) knew within the bound. */
static void check_seen(const struct ranks *ranks, int64_t bound_ns)
{
    for (int r = 0; r < ranks->count - 1; r++) {
        int64_t took_ns = ranks->board->seen_ns[r] - ranks->board->lost_ns;
        if (took_ns < 0 || took_ns > bound_ns)
            fail_msg("%s: rank %d of %d knew after %lld us", ranks->backend, r, ranks->count,
                     (long long)(took_ns / 1000));
    }
}

/* The connection ends with the process; the bound is for a loaded machine, and far below the
 * silence that would otherwise tell. */
static void test_killed(void **state)
{
    (void)state;
    for (int b = 0; b < BACKENDS; b++) {
        for (int count = 2; count <= 8; count *= 2) {
            struct ranks ranks = {.backend = backends[b],
                                  .count = count,
                                  .silence_ns_max = 60 * DIP_SECOND_NS,
                                  .wait_ns_max = 60 * DIP_SECOND_NS};
            ranks_start(&ranks, run_killed);
            for (int r = 0; r < count - 1; r++)
                assert_int_equal(ranks_wait(&ranks, r), 0);
            int status = ranks_wait(&ranks, count - 1);
            assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
            check_seen(&ranks, 30 * DIP_SECOND_NS);
            ranks_end(&ranks);
        }
    }
}

/* The stopped rank, too, finds an error when it wakes up. */
static void run_stopped(struct rank_context *c)
{
    bool is_lost = c->rank == c->ranks->count - 1;
    if (is_lost)
        lose_self(c, SIGSTOP);
    enum dip_status status = sum_until_error(c);
    need(is_lost ? status != DIP_OK : status == DIP_TIMEOUT);
}

static void test_stopped(void **state)
{
    (void)state;
    for (int b = 0; b < BACKENDS; b++) {
        for (int count = 2; count <= 4; count *= 2) {
            struct ranks ranks = {.backend = backends[b],
                                  .count = count,
                                  .silence_ns_max = 3 * DIP_SECOND_NS,
                                  .wait_ns_max = 60 * DIP_SECOND_NS};
            ranks_start(&ranks, run_stopped);
            for (int r = 0; r < count - 1; r++)
                assert_int_equal(ranks_wait(&ranks, r), 0);
            check_seen(&ranks, 30 * DIP_SECOND_NS);
            assert_int_equal(kill(ranks.pids[count - 1], SIGCONT), 0);
            assert_int_equal(ranks_wait(&ranks, count - 1), 0);
            ranks_end(&ranks);
        }
    }
}

/* Nobody is in a collective: dip_comm_error tells. */
static void run_idle(struct rank_context *c)
{
    if (c->rank == 1)
        lose_self(c, SIGKILL);
    static float values[4096];
    for (int i = 0; i < 100; i++)
        need_ok(dip_comm_sum(c->comm, c->stream, vector(values, 4096)));
    while (!dip_comm_error(c->comm))
        dip_clock_sleep(DIP_MS_NS);
    need(dip_comm_error(c->comm) == DIP_UNREACHABLE);
}

static void test_idle(void **state)
{
    (void)state;
    for (int b = 0; b < BACKENDS; b++) {
        struct ranks ranks = {
            .backend = backends[b], .count = 2, .silence_ns_max = 60 * DIP_SECOND_NS};
        ranks_start(&ranks, run_idle);
        assert_int_equal(ranks_wait(&ranks, 0), 0);
        assert_true(WIFSIGNALED(ranks_wait(&ranks, 1)));
        ranks_end(&ranks);
    }
}

/* Alive and silent in the wrong place: rank 1 does not come. */
static void run_late(struct rank_context *c)
{
    float value = 1;
    if (c->rank == 0)
        need(dip_comm_sum(c->comm, c->stream, vector(&value, 1)) == DIP_TIMEOUT);
    while (!dip_comm_error(c->comm))
        dip_clock_sleep(DIP_MS_NS);
    need(dip_comm_error(c->comm) == DIP_TIMEOUT);
}

static void test_late(void **state)
{
    (void)state;
    for (int b = 0; b < BACKENDS; b++) {
        struct ranks ranks = {.backend = backends[b],
                              .count = 2,
                              .silence_ns_max = 60 * DIP_SECOND_NS,
                              .wait_ns_max = 100 * DIP_MS_NS};
        ranks_run(&ranks, run_late);
        ranks_end(&ranks);
    }
}

/* ---- orderly and disorderly ends ---- */

static void *abort_soon(void *comm)
{
    dip_clock_sleep(50 * DIP_MS_NS);
    dip_comm_abort(comm);
    return NULL;
}

/* Rank 0's other thread aborts while its device thread waits; rank 1 is elsewhere, the rest wait
 * too. */
static void run_abort(struct rank_context *c)
{
    float value = 1;
    pthread_t thread;
    if (c->rank == 0)
        need(pthread_create(&thread, NULL, abort_soon, c->comm) == 0);
    if (c->rank == 1)
        while (!dip_comm_error(c->comm))
            dip_clock_sleep(DIP_MS_NS);
    need(dip_comm_sum(c->comm, c->stream, vector(&value, 1)) == DIP_CANCELLED);
    if (c->rank == 0)
        pthread_join(thread, NULL);
}

static void test_abort(void **state)
{
    (void)state;
    for (int b = 0; b < BACKENDS; b++) {
        struct ranks ranks = {.backend = backends[b],
                              .count = 4,
                              .silence_ns_max = 60 * DIP_SECOND_NS,
                              .wait_ns_max = 60 * DIP_SECOND_NS};
        ranks_run(&ranks, run_abort);
        ranks_end(&ranks);
    }
}

/* Ranks with nothing to do wait far longer than a rank may be late, hear of work, and of the end.
 */
static void run_await(struct rank_context *c)
{
    float value = 1;
    for (int i = 0; i < 3; i++) {
        if (c->rank == 0) {
            dip_clock_sleep(i == 0 ? 400 * DIP_MS_NS : 0);
        } else {
            enum dip_status status = dip_comm_await(c->comm, 0, 0);
            need(i > 0 || status == DIP_BUSY);
            int waits = 0;
            while ((status = dip_comm_await(c->comm, 0, 20 * DIP_MS_NS)) == DIP_BUSY)
                waits++;
            need_ok(status);
            need(i > 0 || waits > 3);
        }
        int32_t word = c->rank == 0 ? 40 + i : -1;
        need_ok(dip_comm_broadcast(c->comm, 0, &word, sizeof word));
        need(word == 40 + i);
        need_ok(dip_comm_sum(c->comm, c->stream, vector(&value, 1)));
    }
    c->ranks->board->seen_ns[c->rank] = 1;
    for (int r = 0; r < c->ranks->count && c->rank == 0; r++)
        while (c->ranks->board->seen_ns[r] == 0) /* who notices that it left ends it for all */
            dip_clock_sleep(DIP_MS_NS);
    if (c->rank == 0)
        return;
    enum dip_status status;
    while ((status = dip_comm_await(c->comm, 0, DIP_SECOND_NS)) == DIP_BUSY)
        continue;
    need(status == DIP_UNREACHABLE); /* it left, or another rank has seen that before */
}

static void test_await(void **state)
{
    (void)state;
    for (int b = 0; b < BACKENDS; b++) {
        struct ranks ranks = {.backend = backends[b],
                              .count = 4,
                              .silence_ns_max = 60 * DIP_SECOND_NS,
                              .wait_ns_max = 60 * DIP_SECOND_NS};
        ranks_run(&ranks, run_await);
        ranks_end(&ranks);
    }
}

/* Who waits for work learns that a rank died. */
static void run_await_killed(struct rank_context *c)
{
    if (c->rank == 1) {
        dip_clock_sleep(50 * DIP_MS_NS);
        raise(SIGKILL);
    }
    if (c->rank == 0) {
        need(dip_comm_missing(c->comm) == -1);
        while (!dip_comm_error(c->comm))
            dip_clock_sleep(DIP_MS_NS);
        need(dip_comm_missing(c->comm) == 1 || dip_comm_missing(c->comm) == -1);
        return;
    }
    need(dip_comm_await(c->comm, 0, 60 * DIP_SECOND_NS) == DIP_UNREACHABLE);
    int missing = dip_comm_missing(c->comm);
    need(missing == 1 || missing == -1);
}

static void test_await_killed(void **state)
{
    (void)state;
    for (int b = 0; b < BACKENDS; b++) {
        struct ranks ranks = {
            .backend = backends[b], .count = 3, .silence_ns_max = 60 * DIP_SECOND_NS};
        ranks_start(&ranks, run_await_killed);
        assert_int_equal(ranks_wait(&ranks, 0), 0);
        assert_true(WIFSIGNALED(ranks_wait(&ranks, 1)));
        assert_int_equal(ranks_wait(&ranks, 2), 0);
        ranks_end(&ranks);
    }
}

/* Ranks that call different things. */
static void run_mismatch(struct rank_context *c)
{
    float values[8] = {0};
    enum dip_status status = dip_comm_sum(c->comm, c->stream, vector(values, c->rank == 0 ? 8 : 4));
    need(status == DIP_CORRUPT);
}

static void test_mismatch(void **state)
{
    (void)state;
    for (int b = 0; b < BACKENDS; b++) {
        struct ranks ranks = {
            .backend = backends[b], .count = 2, .silence_ns_max = 60 * DIP_SECOND_NS};
        ranks_run(&ranks, run_mismatch);
        ranks_end(&ranks);
    }
}

/* A rank that closes is missed only by those that go on. */
static void run_leave(struct rank_context *c)
{
    float value = 1;
    need_ok(dip_comm_sum(c->comm, c->stream, vector(&value, 1)));
    if (c->rank == 1)
        return;
    dip_clock_sleep(100 * DIP_MS_NS);
    need_ok(dip_comm_error(c->comm));
    need(dip_comm_sum(c->comm, c->stream, vector(&value, 1)) == DIP_UNREACHABLE);
}

static void test_leave(void **state)
{
    (void)state;
    for (int b = 0; b < BACKENDS; b++) {
        struct ranks ranks = {.backend = backends[b],
                              .count = 2,
                              .silence_ns_max = 60 * DIP_SECOND_NS,
                              .wait_ns_max = 60 * DIP_SECOND_NS};
        ranks_run(&ranks, run_leave);
        ranks_end(&ranks);
    }
}

/* ---- joining ---- */

static void open_root(const char *backend, struct dip_comm_root **ret_root)
{
    struct dip_comm_root_options options = {.backend = backend, .address = "127.0.0.1"};
    assert_int_equal(dip_comm_root_open(&options, NULL, ret_root), DIP_OK);
}

/* The third question gets a no. */
static bool asks_twice(void *context)
{
    int *questions = context;
    return ++*questions < 3;
}

/* Joining ends when nobody wants it any more, long before its time is up. */
static void test_unwanted(void **state)
{
    (void)state;
    for (int b = 0; b < BACKENDS; b++) {
        int questions = 0;
        struct dip_comm_root *root = NULL;
        open_root(backends[b], &root);
        struct dip_comm_options options = {.id = dip_comm_root_id(root),
                                           .root = root,
                                           .count = 2,
                                           .join_ns_max = 600 * DIP_SECOND_NS,
                                           .is_wanted = asks_twice,
                                           .context = &questions};
        struct dip_comm *comm = NULL;
        assert_int_equal(dip_comm_open(&options, NULL, &comm), DIP_CANCELLED);
        assert_int_equal(questions, 3);
        dip_comm_root_close(root);
    }
}

static void test_missing(void **state)
{
    (void)state;
    for (int b = 0; b < BACKENDS; b++) {
        struct dip_comm_root *root = NULL;
        open_root(backends[b], &root);
        struct dip_comm_options options = {
            .id = dip_comm_root_id(root), .root = root, .count = 3, .join_ns_max = 50 * DIP_MS_NS};
        struct dip_why why = {0};
        struct dip_comm *comm = NULL;
        assert_int_equal(dip_comm_open(&options, &why, &comm), DIP_TIMEOUT);
        assert_non_null(strstr(why.text, "missing: rank 1 2"));
        assert_null(comm);
        dip_comm_root_close(root);
    }
}

/* Nobody listens where the id says: who it was is known, long before the time is up. */
static void test_unreached(void **state)
{
    (void)state;
    struct dip_comm_root *root = NULL;
    open_root("tcp", &root);
    struct dip_comm_id id = *dip_comm_root_id(root);
    dip_comm_root_close(root);
    int unreached = -1;
    struct dip_comm_options options = {.id = &id,
                                       .rank = 1,
                                       .count = 2,
                                       .join_ns_max = 600 * DIP_SECOND_NS,
                                       .ret_unreached = &unreached};
    struct dip_comm *comm = NULL;
    int64_t begin_ns = dip_clock_now_ns();
    assert_int_equal(dip_comm_open(&options, NULL, &comm), DIP_UNREACHABLE);
    assert_true(dip_clock_now_ns() - begin_ns < 10 * DIP_SECOND_NS);
    assert_int_equal(unreached, 0);
}

static void test_refused(void **state)
{
    (void)state;
    struct dip_why why = {0};
    struct dip_comm_root *root = NULL;
    struct dip_comm_root_options bad = {.backend = "pigeon"};
    assert_int_equal(dip_comm_root_open(&bad, &why, &root), DIP_INVALID);
    assert_non_null(strstr(why.text, "pigeon"));
    bad = (struct dip_comm_root_options){.backend = "tcp", .address = "somewhere"};
    assert_int_equal(dip_comm_root_open(&bad, NULL, &root), DIP_INVALID);
    bad.address = "192.0.2.1"; /* nobody's */
    assert_int_equal(dip_comm_root_open(&bad, NULL, &root), DIP_INVALID);

    struct dip_comm *comm = NULL;
    struct dip_comm_id id = {.bytes = "not an id"};
    struct dip_comm_options options = {.id = &id, .rank = 1, .count = 2};
    assert_int_equal(dip_comm_open(&options, NULL, &comm), DIP_CORRUPT);

    open_root("shm", &root);
    id = *dip_comm_root_id(root);
    dip_comm_root_close(root); /* the id of a root that is gone */
    assert_int_equal(dip_comm_open(&options, NULL, &comm), DIP_UNREACHABLE);
}

/* A stranger with the wrong secret knocks first; the group forms without it. */

static pid_t fork_stranger(const struct dip_comm_root *root)
{
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    alarm(RANK_SECONDS_MAX);
    struct dip_comm_id id = *dip_comm_root_id(root);
    id.bytes[12] ^= 1; /* in the secret */
    struct dip_comm_options options = {.id = &id, .rank = 1, .count = 2};
    struct dip_comm *comm = NULL;
    enum dip_status status = dip_comm_open(&options, NULL, &comm);
    _exit(status == DIP_UNREACHABLE ? 0 : 1);
}

static void test_stranger(void **state)
{
    (void)state;
    for (int b = 0; b < BACKENDS; b++) {
        struct dip_comm_root *root = NULL;
        open_root(backends[b], &root);
        pid_t stranger = fork_stranger(root);
        dip_clock_sleep(50 * DIP_MS_NS);
        pid_t second = fork();
        struct dip_comm_options options = {.id = dip_comm_root_id(root), .count = 2};
        options.rank = second == 0;
        options.root = second == 0 ? NULL : root;
        struct dip_comm *comm = NULL;
        enum dip_status status = dip_comm_open(&options, NULL, &comm);
        if (!status)
            status = dip_comm_broadcast(comm, 0, NULL, 0);
        dip_comm_close(comm);
        if (second == 0)
            _exit(status ? 1 : 0);
        assert_int_equal(status, DIP_OK);
        int exits[2] = {-1, -1};
        assert_int_equal(waitpid(stranger, &exits[0], 0), stranger);
        assert_int_equal(waitpid(second, &exits[1], 0), second);
        assert_int_equal(exits[0], 0);
        assert_int_equal(exits[1], 0);
        dip_comm_root_close(root);
    }
}

/* ---- nothing left ---- */

static int entries(const char *path)
{
    DIR *directory = opendir(path);
    if (!directory)
        return -1;
    int count = 0;
    while (readdir(directory))
        count++;
    closedir(directory);
    return count;
}

static bool is_mapped(const char *name)
{
    char line[512];
    bool is_found = false;
    FILE *maps = fopen("/proc/self/maps", "r");
    while (maps && fgets(line, sizeof line, maps))
        is_found = is_found || strstr(line, name);
    if (maps)
        fclose(maps);
    return is_found;
}

/* In one rank, after others were killed in mid-sum. */
static void run_left(struct rank_context *c)
{
    need(!strcmp(c->ranks->backend, "tcp") || is_mapped("memfd:diptych"));
    run_killed(c);
    int threads = entries("/proc/self/task");
    int fds = entries("/proc/self/fd");
    dip_comm_close(c->comm);
    c->comm = NULL;
    need(entries("/proc/self/task") == threads - 1);
    need(entries("/proc/self/fd") < fds);
    need(!is_mapped("memfd:diptych"));
}

static void test_left(void **state)
{
    (void)state;
    int shared = entries("/dev/shm");
    int fds = entries("/proc/self/fd");
    for (int b = 0; b < BACKENDS; b++) {
        struct ranks ranks = {.backend = backends[b], .count = 4};
        ranks_start(&ranks, run_left);
        for (int r = 0; r < 3; r++)
            assert_int_equal(ranks_wait(&ranks, r), 0);
        assert_true(WIFSIGNALED(ranks_wait(&ranks, 3)));
        ranks_end(&ranks);
    }
    assert_int_equal(entries("/dev/shm"), shared);
    assert_int_equal(entries("/proc/self/fd"), fds);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* no child is left */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alone),        cmocka_unit_test(test_values),
        cmocka_unit_test(test_linear),       cmocka_unit_test(test_killed),
        cmocka_unit_test(test_stopped),      cmocka_unit_test(test_idle),
        cmocka_unit_test(test_late),         cmocka_unit_test(test_abort),
        cmocka_unit_test(test_mismatch),     cmocka_unit_test(test_leave),
        cmocka_unit_test(test_missing),      cmocka_unit_test(test_unreached),
        cmocka_unit_test(test_refused),      cmocka_unit_test(test_stranger),
        cmocka_unit_test(test_left),         cmocka_unit_test(test_await),
        cmocka_unit_test(test_await_killed), cmocka_unit_test(test_unwanted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
