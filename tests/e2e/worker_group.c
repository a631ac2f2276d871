/* tests/e2e/worker_group.c - a tensor-parallel group of worker processes: ranks are killed and
 * stopped in mid-decode, the group forms anew, and what was drawn before is not drawn again. */
#include "tests/e2e/worker_cluster.h"

enum { TOKENS = 200, STEPS = 8, TRIES = 30 };

static int32_t expected_ids[TOKENS]; /* of one AR worker */
static unsigned char *expected;      /* its picture */
static size_t expected_bytes;

/* ---- commands ---- */

/* forced: tokens that are drawn already. */
static void tell_draw(struct cluster *c, uint32_t to, uint64_t job_id, const int32_t *forced,
                      int forced_count)
{
    struct dip_message message = {
        .kind = DIP_MESSAGE_AR, .job_id = job_id, .as.ar.params = job_params(STEPS)};
    message.as.ar.params.token_count = TOKENS;
    message.as.ar.origin.digest[0] = c->digest;
    int32_t *ids = malloc(PROMPT_IDS * sizeof *ids);
    assert_non_null(ids);
    for (int i = 0; i < PROMPT_IDS; i++)
        ids[i] = 3 + i;
    message.as.ar.prompt_ids = (struct dip_payload){ids, PROMPT_IDS * sizeof *ids};
    if (forced_count > 0) {
        size_t bytes = (size_t)forced_count * sizeof *forced;
        message.as.ar.forced_ids = (struct dip_payload){malloc(bytes), bytes};
        assert_non_null(message.as.ar.forced_ids.data);
        memcpy(message.as.ar.forced_ids.data, forced, bytes);
    }
    tell(c, to, &message);
}

static void check_picture(struct cluster *c, uint32_t ar, uint64_t ar_job, uint32_t diffusion,
                          uint64_t job_id)
{
    struct dip_message message = {
        .kind = DIP_MESSAGE_DIFFUSION, .job_id = job_id, .as.diffusion.params = job_params(STEPS)};
    message.as.diffusion.params.token_count = TOKENS;
    tell(c, diffusion, &message);
    tell_hand_over(c, ar, ar_job, diffusion, job_id);
    UNTIL(c, job_of(c, job_id)->images || job_of(c, job_id)->failed);
    struct heard_job *job = job_of(c, job_id);
    assert_string_equal(job->text, "");
    if (!expected) {
        expected = job->png;
        expected_bytes = job->png_bytes;
        job->png = NULL;
        return;
    }
    assert_int_equal(job->png_bytes, expected_bytes);
    assert_memory_equal(job->png, expected, expected_bytes);
}

/* ---- groups ---- */

static const struct heard_group *find_group(const struct cluster *c, enum dip_message_kind kind,
                                            uint32_t from, uint64_t epoch)
{
    for (int i = 0; i < c->group_count; i++)
        if (c->groups[i].kind == kind && c->groups[i].from == from &&
            c->groups[i].group.epoch == epoch)
            return &c->groups[i];
    return NULL;
}

/* A rank of a group never joins alone: it has only appeared. */
static uint32_t start_rank(struct cluster *c, const char *name, int *ret_process)
{
    uint32_t address = 1;
    while (address <= CLUSTER_MEMBERS && c->members[address].appeared)
        address++;
    *ret_process = cluster_spawn(c, "g", name);
    UNTIL(c, c->members[address].appeared);
    assert_string_equal(c->members[address].facts.name, name);
    return address;
}

static void form(struct cluster *c, uint64_t epoch, const uint32_t *ranks, int size)
{
    int joined = c->members[ranks[0]].joined;
    struct dip_message message = {.kind = DIP_MESSAGE_PREPARE_GROUP,
                                  .as.group = {.id = "g0", .epoch = epoch, .size = size}};
    tell(c, ranks[0], &message);
    UNTIL(c, find_group(c, DIP_MESSAGE_GROUP_PREPARED, ranks[0], epoch));
    message.kind = DIP_MESSAGE_FORM_GROUP;
    message.as.group = find_group(c, DIP_MESSAGE_GROUP_PREPARED, ranks[0], epoch)->group;
    message.as.group.size = size;
    message.as.group.timeout_ns = 60 * DIP_SECOND_NS;
    for (int r = 0; r < size; r++) {
        message.as.group.rank = r;
        tell(c, ranks[r], &message);
    }
    for (int r = 0; r < size; r++)
        UNTIL(c, find_group(c, DIP_MESSAGE_GROUP_FORMED, ranks[r], epoch));
    UNTIL(c, c->members[ranks[0]].joined > joined);
    for (int r = 1; r < size; r++)
        assert_int_equal(c->members[ranks[r]].joined, 0);
}

static int make_expected(void **state)
{
    (void)state;
    struct cluster c;
    cluster_open(&c, 20 * DIP_SECOND_NS);
    uint32_t ar = cluster_start(&c, "a", "ar", NULL);
    uint32_t diffusion = cluster_start(&c, "d", "diffusion", NULL);
    tell_draw(&c, ar, 10, NULL, 0);
    UNTIL(&c, job_of(&c, 10)->hinge_ready);
    memcpy(expected_ids, job_of(&c, 10)->token_ids, sizeof expected_ids);
    check_picture(&c, ar, 10, diffusion, 11);
    cluster_close(&c);
    return expected_bytes > 100 ? 0 : -1;
}

/* ---- what must hold ---- */

static void two_processes_draw_what_one_draws(void **state)
{
    (void)state;
    struct cluster c;
    int process;
    uint32_t ranks[2];
    cluster_open(&c, 20 * DIP_SECOND_NS);
    uint32_t diffusion = cluster_start(&c, "d", "diffusion", NULL);
    ranks[0] = start_rank(&c, "r0", &process);
    ranks[1] = start_rank(&c, "r1", &process);
    form(&c, 1, ranks, 2);
    tell_draw(&c, ranks[0], 20, NULL, 0);
    UNTIL(&c, job_of(&c, 20)->hinge_ready || job_of(&c, 20)->failed);
    assert_memory_equal(job_of(&c, 20)->token_ids, expected_ids, sizeof expected_ids);
    check_picture(&c, ranks[0], 20, diffusion, 21);
    UNTIL(&c, c.members[ranks[1]].beat.steps_total >= TOKENS); /* it shows that it works */
    cluster_close(&c);
}

/* Draws with ranks[0] and ranks[1] until `sig` hits ranks[1] in mid-decode; which job that was. */
static uint64_t strike(struct cluster *c, const uint32_t *ranks, pid_t pid, int sig,
                       int64_t *ret_struck_ns)
{
    for (uint64_t job_id = 100; job_id < 100 + TRIES; job_id++) {
        tell_draw(c, ranks[0], job_id, NULL, 0);
        UNTIL(c, job_of(c, job_id)->tokens > TOKENS / 5);
        if (job_of(c, job_id)->hinge_ready) { /* this process was not fast enough */
            tell_release(c, ranks[0], job_id);
            *job_of(c, job_id) = (struct heard_job){0};
            continue;
        }
        *ret_struck_ns = dip_clock_now_ns();
        kill(pid, sig);
        return job_id;
    }
    fail_msg("every job was done before it could be disturbed");
    return 0;
}

/* Forms two of three ranks, loses one, forms with the spare and goes on where it was. */
static void check_struck(int sig, int64_t bound_ns)
{
    struct cluster c;
    int processes[3];
    uint32_t all[3];
    cluster_open(&c, 20 * DIP_SECOND_NS);
    uint32_t diffusion = cluster_start(&c, "d", "diffusion", NULL);
    for (int i = 0; i < 3; i++) {
        char name[16];
        snprintf(name, sizeof name, "r%d", i);
        all[i] = start_rank(&c, name, &processes[i]);
    }
    form(&c, 1, all, 2);
    int64_t struck_ns = 0;
    uint64_t job_id = strike(&c, all, c.pids[processes[1]], sig, &struck_ns);
    UNTIL(&c, find_group(&c, DIP_MESSAGE_GROUP_LOST, all[0], 1) || job_of(&c, job_id)->hinge_ready);
    if (job_of(&c, job_id)->hinge_ready) {
        print_message("the job was done just before: nothing to see\n");
        cluster_close(&c);
        return;
    }
    const struct heard_group *lost = find_group(&c, DIP_MESSAGE_GROUP_LOST, all[0], 1);
    print_message("GROUP_LOST %lld ms after signal %d, %d of %d tokens drawn\n",
                  (long long)((lost->at_ns - struck_ns) / DIP_MS_NS), sig,
                  job_of(&c, job_id)->tokens, TOKENS);
    assert_true(lost->at_ns - struck_ns < bound_ns);
    assert_int_equal(lost->group.missing_rank, 1);
    assert_int_equal(job_of(&c, job_id)->failed, 0);

    uint32_t ranks[2] = {all[0], all[2]};
    form(&c, 2, ranks, 2);
    struct dip_message old = {.kind = DIP_MESSAGE_DISSOLVE_GROUP,
                              .as.group = {.id = "g0", .epoch = 1, .size = 2}};
    tell(&c, all[0], &old);
    int drawn = job_of(&c, job_id)->tokens;
    tell_draw(&c, ranks[0], 30, job_of(&c, job_id)->token_ids, drawn);
    UNTIL(&c, job_of(&c, 30)->hinge_ready || job_of(&c, 30)->failed);
    assert_string_equal(job_of(&c, 30)->text, "");
    assert_memory_equal(job_of(&c, 30)->token_ids, expected_ids, sizeof expected_ids);
    check_picture(&c, ranks[0], 30, diffusion, 31);
    assert_null(find_group(&c, DIP_MESSAGE_GROUP_LOST, all[0], 2));
    cluster_close(&c);
}

/* Alone it is milliseconds, and a second for one that is only stopped; bounds for a busy machine.
 */
static void a_killed_rank_is_replaced(void **state)
{
    (void)state;
    check_struck(SIGKILL, 5 * DIP_SECOND_NS);
}

static void a_stopped_rank_is_replaced(void **state)
{
    (void)state;
    check_struck(SIGSTOP, 6 * DIP_SECOND_NS);
}

/* The one that has the jobs dies: nobody says GROUP_LOST for it but the other rank. */
static void without_rank_0_there_is_no_group(void **state)
{
    (void)state;
    struct cluster c;
    int processes[2];
    uint32_t ranks[2];
    cluster_open(&c, 20 * DIP_SECOND_NS);
    ranks[0] = start_rank(&c, "r0", &processes[0]);
    ranks[1] = start_rank(&c, "r1", &processes[1]);
    form(&c, 1, ranks, 2); /* idle: no step can fail */
    int64_t killed_ns = dip_clock_now_ns();
    cluster_kill(&c, processes[0]);
    UNTIL(&c, find_group(&c, DIP_MESSAGE_GROUP_LOST, ranks[1], 1));
    assert_true(c.groups[c.group_count - 1].at_ns - killed_ns < 5 * DIP_SECOND_NS);
    UNTIL(&c, c.members[ranks[0]].lost);
    form(&c, 2, &ranks[1], 1); /* what is left is a group, too */
    tell_draw(&c, ranks[1], 40, NULL, 0);
    UNTIL(&c, job_of(&c, 40)->hinge_ready || job_of(&c, 40)->failed);
    assert_memory_equal(job_of(&c, 40)->token_ids, expected_ids, sizeof expected_ids);
    cluster_close(&c);
}

/* The coordinator goes while a group draws, one rank of which stands still so that it is not done
 * before the next one leads. That one forms the group again and adopts what rank 0 has: no token of
 * it is drawn again, which the steps of rank 0 show. */
static void the_next_leader_takes_over_a_group(void **state)
{
    (void)state;
    struct cluster c;
    int processes[2];
    uint32_t ranks[2];
    cluster_open(&c, 20 * DIP_SECOND_NS);
    c.digest = 7;
    (void)cluster_start(&c, "d", "diffusion", NULL);
    ranks[0] = start_rank(&c, "r0", &processes[0]);
    ranks[1] = start_rank(&c, "r1", &processes[1]);
    form(&c, 1, ranks, 2);
    int64_t struck_ns = 0;
    uint64_t job_id = strike(&c, ranks, c.pids[processes[1]], SIGSTOP, &struck_ns);
    int heard = job_of(&c, job_id)->tokens;
    bool is_done = job_of(&c, job_id)->hinge_ready;
    cluster_change_leader(&c, 2);
    UNTIL(&c, cluster_find(&c, "r0") && cluster_find(&c, "diffusion"));
    kill(c.pids[processes[1]], SIGCONT);
    UNTIL(&c, cluster_find(&c, "r1"));
    ranks[0] = cluster_find(&c, "r0");
    ranks[1] = cluster_find(&c, "r1");
    uint32_t diffusion = cluster_find(&c, "diffusion");
    assert_int_equal(c.members[ranks[0]].held_count, 1);
    const struct dip_held held = c.members[ranks[0]].held[0];
    assert_true(held.epoch == 1 && held.job_id == job_id && held.digest[0] == 7);
    assert_true(held.done >= heard && held.id_count == held.done);
    if (!is_done && held.stage == DIP_HELD_TOKENS)
        assert_in_range(held.done, 1, TOKENS - 1);
    print_message("%d of %d tokens drawn when the coordinator went\n", held.done, TOKENS);

    form(&c, 1, ranks, 2); /* it counts its versions anew */
    until_beat(&c, ranks[0]);
    uint64_t steps_before = c.members[ranks[0]].beat.steps_total;
    tell_adopt(&c, ranks[0], &held, 50);
    UNTIL(&c, job_of(&c, 50)->hinge_ready || job_of(&c, 50)->failed);
    assert_string_equal(job_of(&c, 50)->text, "");
    assert_int_equal(job_of(&c, 50)->tokens, TOKENS);
    assert_memory_equal(job_of(&c, 50)->token_ids, expected_ids, sizeof expected_ids);
    until_beat(&c, ranks[0]);
    uint64_t steps = c.members[ranks[0]].beat.steps_total - steps_before;
    assert_in_range(steps, 0,
                    TOKENS - held.done + 4); /* and the prompt, and what is known, as rows */
    check_picture(&c, ranks[0], 50, diffusion, 51);
    cluster_close(&c);
}

int main(int argc, char **argv)
{
    if (argc == 5 && strcmp(argv[1], "worker") == 0)
        return worker_main(argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_processes_draw_what_one_draws),
        cmocka_unit_test(a_killed_rank_is_replaced),
        cmocka_unit_test(a_stopped_rank_is_replaced),
        cmocka_unit_test(without_rank_0_there_is_no_group),
        cmocka_unit_test(the_next_leader_takes_over_a_group),
    };
    return cmocka_run_group_tests(tests, make_expected, NULL);
}
