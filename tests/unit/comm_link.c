/* tests/unit/comm_link.c - groups whose devices are linked: a played NCCL between processes with an
 * emulated GPU each. The same bits as through the host; late, dead and absent ranks; a new group on
 * the same device. */
#include "base/rng.h"
#include "tests/cuda_emulator/played.h"
#include "tests/ranks.h"

#include "tests/emulator.h" /* behind cmocka */

enum { COUNT = 40000 }; /* floats: more than a piece of the played NCCL */

/* Operands of one rank in device memory: a partial, and room for the partials of all. */
struct operands {
    struct dip_mem mem;
    struct dip_tensor partial, all;
    float host[COUNT];
};

static struct operands o;

static struct dip_nccl_play *nccl(void)
{
    struct dip_nccl_play *(*get)(void) = NULL;
    *(void **)&get = emulator_symbol("dip_played_nccl");
    return get();
}

static bool have_equal_bits(const void *a, const void *b, size_t bytes)
{
    return memcmp(a, b, bytes) == 0;
}

static void fill(float *values, int rank)
{
    struct dip_rng_key key = {.seed = 7, .image_index = (uint32_t)rank, .purpose = DIP_RNG_TEST};
    dip_rng_normals(&key, values, COUNT);
}

static void operands_open(struct rank_context *c)
{
    int count = c->ranks->count;
    size_t bytes = COUNT * sizeof(float);
    need_ok(dip_reserve(c->device, bytes * (size_t)(count + 1), &o.mem));
    o.partial = dip_rows(o.mem.base, DIP_F32, 1, COUNT);
    o.all = dip_rows((char *)o.mem.base + bytes, DIP_F32, count, COUNT);
    fill(o.host, c->rank);
    need_ok(dip_copy(c->stream, o.partial, dip_rows(o.host, DIP_F32, 1, COUNT)));
    need_ok(dip_wait(c->stream));
}

static void operands_close(struct rank_context *c)
{
    dip_release(c->device, &o.mem);
}

static void fetch(struct rank_context *c, struct dip_tensor t, float *host)
{
    struct dip_tensor to = t;
    to.data = host;
    need_ok(dip_copy(c->stream, to, t));
    need_ok(dip_wait(c->stream));
    need_ok(dip_comm_error(c->comm));
}

/* What the host's collectives make of it, by their definition: neighbours, then pairs. */
static void tree(int ranks, float *out)
{
    static float parts[4][COUNT];
    for (int r = 0; r < ranks; r++)
        fill(parts[r], r);
    for (int width = 1; width < ranks; width *= 2)
        for (int r = 0; r < ranks; r += 2 * width)
            for (int i = 0; i < COUNT; i++)
                parts[r][i] += parts[r + width][i];
    memcpy(out, parts[0], sizeof parts[0]);
}

static void check_sum(struct rank_context *c)
{
    static float expected[COUNT];
    tree(c->ranks->count, expected);
    need_ok(dip_comm_sum(c->comm, c->stream, o.partial));
    fetch(c, o.partial, o.host);
    need(have_equal_bits(o.host, expected, sizeof expected));
}

/* ---- values ---- */

static void run_values(struct rank_context *c)
{
    static float all[4 * COUNT];
    static float one[COUNT];
    operands_open(c);
    need_ok(dip_comm_attach(c->comm, c->stream, COUNT * sizeof(float) / 4)); /* sums in parts */
    need(strcmp(dip_comm_transport(c->comm), "nccl") == 0);
    for (int i = 0; i < 3; i++) {
        need_ok(dip_comm_gather(c->comm, c->stream, o.all, o.partial));
        fetch(c, o.all, all);
        for (int r = 0; r < c->ranks->count; r++) {
            fill(one, r);
            need(have_equal_bits(all + (size_t)r * COUNT, one, sizeof one));
        }
    }
    check_sum(c);
    dip_comm_detach(c->comm);
    need(nccl()->opened == 1 && nccl()->destroyed == 1 && nccl()->aborted == 0);
    operands_close(c);
}

static void test_values(void **state)
{
    (void)state;
    for (int count = 2; count <= 4; count *= 2) {
        struct ranks ranks = {
            .backend = "shm", .count = count, .silence_ns_max = 20 * DIP_SECOND_NS};
        ranks_run(&ranks, run_values);
        ranks_end(&ranks);
    }
}

/* ---- ends ---- */

/* The device thread waits for what will not come; the group's error lets it go. */
static void expect_end(struct rank_context *c, enum dip_status expected)
{
    enum dip_status status = dip_comm_sum(c->comm, c->stream, o.partial);
    if (!status)
        status = dip_wait(c->stream);
    need(dip_comm_error(c->comm) == expected);
    c->ranks->board->seen_ns[c->rank] = dip_clock_now_ns();
    need(dip_comm_sum(c->comm, c->stream, o.partial) == expected);
    (void)status; /* of a wait whose results nobody believes */
}

static void attach(struct rank_context *c)
{
    operands_open(c);
    need_ok(dip_comm_attach(c->comm, c->stream, COUNT * sizeof(float)));
    need(strcmp(dip_comm_transport(c->comm), "nccl") == 0);
    check_sum(c);
}

static void detach(struct rank_context *c, int aborted)
{
    dip_comm_detach(c->comm);
    need(nccl()->aborted == aborted);
    need(nccl()->opened == nccl()->aborted + nccl()->destroyed);
    operands_close(c);
}

/* Rank 1 lives, beats, and does not come. */
static void run_late(struct rank_context *c)
{
    attach(c);
    if (c->rank == 0) {
        c->ranks->board->lost_ns = dip_clock_now_ns();
        expect_end(c, DIP_TIMEOUT);
        need(strstr(dip_device_note(c->device), "a rank lives and is late") != NULL);
    }
    while (!dip_comm_error(c->comm))
        dip_clock_sleep(DIP_MS_NS);
    need(dip_comm_error(c->comm) == DIP_TIMEOUT);
    need(dip_comm_missing(c->comm) == -1);
    detach(c, 1);
    need_ok(dip_wait(c->stream)); /* the device is as good as before */
}

static void test_late(void **state)
{
    (void)state;
    struct ranks ranks = {.backend = "shm",
                          .count = 2,
                          .silence_ns_max = 2 * DIP_SECOND_NS,
                          .wait_ns_max = 300 * DIP_MS_NS};
    ranks_run(&ranks, run_late);
    int64_t took_ns = ranks.board->seen_ns[0] - ranks.board->lost_ns;
    assert_true(took_ns > 300 * DIP_MS_NS);
    assert_true(took_ns <
                20 * DIP_SECOND_NS); /* two heartbeats of half a second, and the machine */
    ranks_end(&ranks);
}

/* Ranks that compute for longer than the deadline between two gathers are not late: nobody waits.
 */
static void run_busy(struct rank_context *c)
{
    attach(c);
    dip_clock_sleep(1600 * DIP_MS_NS);
    fill(o.host, c->rank);
    need_ok(dip_copy(c->stream, o.partial, dip_rows(o.host, DIP_F32, 1, COUNT)));
    check_sum(c);
    detach(c, 0);
}

static void test_busy(void **state)
{
    (void)state;
    struct ranks ranks = {.backend = "shm",
                          .count = 2,
                          .silence_ns_max = 2 * DIP_SECOND_NS,
                          .wait_ns_max = DIP_SECOND_NS};
    ranks_run(&ranks, run_busy);
    ranks_end(&ranks);
}

/* A dead rank is noticed by its connection; the link is aborted behind that. */
static void run_killed(struct rank_context *c)
{
    volatile int64_t *began_ns = &c->ranks->board->lost_ns;
    attach(c);
    if (c->rank == 1) {
        while (*began_ns == 0) /* the other one is through with what both did */
            dip_clock_sleep(DIP_MS_NS);
        kill(getpid(), SIGKILL);
    }
    *began_ns = dip_clock_now_ns();
    expect_end(c, DIP_UNREACHABLE);
    need(dip_comm_missing(c->comm) == 1);
    detach(c, 1);
}

static void test_killed(void **state)
{
    (void)state;
    struct ranks ranks = {.backend = "shm", .count = 2, .silence_ns_max = 20 * DIP_SECOND_NS};
    ranks_start(&ranks, run_killed);
    assert_int_equal(ranks_wait(&ranks, 0), 0);
    assert_true(WIFSIGNALED(ranks_wait(&ranks, 1)));
    ranks_end(&ranks);
}

/* What NCCL itself finds wrong ends the group, too. */
static void run_broken(struct rank_context *c)
{
    attach(c);
    if (c->rank == 1)
        __atomic_store_n(&nccl()->play, DIP_NCCL_BROKEN, __ATOMIC_RELEASE);
    while (!dip_comm_error(c->comm))
        dip_clock_sleep(DIP_MS_NS);
    need(dip_comm_error(c->comm) == DIP_DEVICE);
    detach(c, 1);
}

static void test_broken(void **state)
{
    (void)state;
    struct ranks ranks = {.backend = "shm", .count = 2, .silence_ns_max = 4 * DIP_SECOND_NS};
    ranks_run(&ranks, run_broken);
    ranks_end(&ranks);
}

/* A rank whose communicator never gets through costs a deadline, for all. */
static void run_absent(struct rank_context *c)
{
    if (c->rank == 1)
        __atomic_store_n(&nccl()->play, DIP_NCCL_ABSENT, __ATOMIC_RELEASE);
    operands_open(c);
    enum dip_status status = dip_comm_attach(c->comm, c->stream, COUNT * sizeof(float));
    need(status == DIP_TIMEOUT || status == DIP_CANCELLED);
    need(dip_comm_error(c->comm) == DIP_TIMEOUT);
    detach(c, 1);
}

static void test_absent(void **state)
{
    (void)state;
    struct ranks ranks = {.backend = "shm",
                          .count = 2,
                          .silence_ns_max = 20 * DIP_SECOND_NS,
                          .join_ns_max = 2 * DIP_SECOND_NS};
    ranks_run(&ranks, run_absent);
    ranks_end(&ranks);
}

/* ---- again ---- */

/* The second group's id, from rank 0 through the board. */
static void run_again(struct rank_context *c)
{
    struct dip_comm_root *root = NULL;
    struct dip_comm_id id;
    struct dip_why why = {0};
    volatile struct ranks_board *board = c->ranks->board;
    struct dip_comm_root_options place = {.backend = c->ranks->backend, .address = "127.0.0.1"};
    run_late(c);
    dip_comm_close(c->comm);
    if (c->rank == 0) {
        need_ok(dip_comm_root_open(&place, &why, &root));
        memcpy((void *)(uintptr_t)board->results[0], dip_comm_root_id(root)->bytes, sizeof id);
        board->flag = 1;
    }
    while (!board->flag)
        dip_clock_sleep(DIP_MS_NS);
    memcpy(&id, (const void *)(uintptr_t)board->results[0], sizeof id);
    struct dip_comm_options options = {.id = &id,
                                       .root = root,
                                       .rank = c->rank,
                                       .count = c->ranks->count,
                                       .silence_ns_max = 20 * DIP_SECOND_NS};
    need_ok(dip_comm_open(&options, &why, &c->comm));
    attach(c);
    dip_comm_detach(c->comm);
    need(nccl()->opened == 2 && nccl()->aborted == 1 && nccl()->destroyed == 1);
    operands_close(c);
    dip_comm_root_close(root);
}

/* After a late rank all leave and form a group under another id: same processes, same devices. */
static void test_again(void **state)
{
    (void)state;
    struct ranks ranks = {.backend = "shm",
                          .count = 2,
                          .silence_ns_max = 2 * DIP_SECOND_NS,
                          .wait_ns_max = 300 * DIP_MS_NS};
    ranks_run(&ranks, run_again);
    ranks_end(&ranks);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values), cmocka_unit_test(test_late),   cmocka_unit_test(test_busy),
        cmocka_unit_test(test_killed), cmocka_unit_test(test_broken), cmocka_unit_test(test_absent),
        cmocka_unit_test(test_again),
    };
    setenv("DIPTYCH_TEST_BACKEND", "cuda", 1);
    setenv("DIPTYCH_TEST_PLUGIN", DIP_EMULATED_PLUGIN, 1);
    setenv("DIPTYCH_TEST_PRECISION", "f32", 1);
    setenv("DIPTYCH_EMULATED_APART", "1", 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
