/* tests/unit/groups.c - the forming of tensor-parallel groups: choice of ranks, loss, spares, small
 * groups, bounded retries; and long random histories of workers that come, go, fail and are slow.
 *
 * The random half plays the workers: commands reach them late but in order, answers come late or
 * never, ranks notice losses by themselves. After every command: no worker hears of an older group
 * after a newer one, none is in two groups, no rank is given twice. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "cluster/cluster.h"

#define SECOND_NS INT64_C(1000000000)

enum { MEMBERS = 24, ACTIONS_MAX = 256 };

struct world {
    struct dip_groups *g;
    int64_t now_ns;
    struct dip_group_action actions[ACTIONS_MAX];
    int count;
};

static struct world *world_new(int degree, int count, bool allow_smaller)
{
    struct dip_groups_options options = {.member_count_max = MEMBERS,
                                         .degree = degree,
                                         .group_count = count,
                                         .allow_smaller = allow_smaller,
                                         .epoch_first = 100,
                                         .grace_ns = 5 * SECOND_NS,
                                         .form_timeout_ns = 20 * SECOND_NS};
    struct world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    w->now_ns = SECOND_NS;
    assert_int_equal(dip_groups_new(&options, &w->g), DIP_OK);
    return w;
}

static void world_free(struct world *w)
{
    dip_groups_free(w->g);
    free(w);
}

static void feed(struct world *w, const struct dip_message *message)
{
    dip_groups_feed(w->g, w->now_ns, message);
    w->count = 0;
    while (dip_groups_next(w->g, &w->actions[w->count]))
        assert_true(++w->count < ACTIONS_MAX);
}

static void say(struct world *w, enum dip_message_kind kind, uint32_t from)
{
    feed(w, &(struct dip_message){.kind = kind, .from = from});
}

static void appear(struct world *w, uint32_t from, const char *host)
{
    struct dip_member_facts facts = {.roles = DIP_ROLE_AR};
    snprintf(facts.host_id, sizeof facts.host_id, "%s", host);
    feed(w, &(struct dip_message){.kind = DIP_MESSAGE_APPEARED,
                                  .from = from,
                                  .as.appeared.facts = {&facts, sizeof facts}});
}

static void answer_about(struct world *w, enum dip_message_kind kind, uint32_t from, uint64_t epoch,
                         int missing_rank)
{
    struct dip_message m = {.kind = kind, .from = from};
    m.as.group.epoch = epoch;
    m.as.group.missing_rank = missing_rank;
    m.as.group.comm_id_bytes = 8;
    memcpy(m.as.group.comm_id, &epoch, 8);
    feed(w, &m);
}

static void answer(struct world *w, enum dip_message_kind kind, uint32_t from, uint64_t epoch)
{
    answer_about(w, kind, from, epoch, -1);
}

static int count_of(const struct world *w, enum dip_message_kind message)
{
    int count = 0;
    for (int i = 0; i < w->count; i++)
        count += w->actions[i].kind == DIP_GROUP_ACTION_SEND && w->actions[i].message == message;
    return count;
}

static struct dip_group_view view(const struct world *w, int index)
{
    struct dip_group_view v = {.state = DIP_GROUP_EMPTY};
    assert_true(dip_groups_view(w->g, index, &v));
    return v;
}

/* Lets the group that has just been begun come to stand. */
static void form(struct world *w, int index)
{
    struct dip_group_view v = view(w, index);
    assert_int_equal(v.state, DIP_GROUP_PREPARING);
    answer(w, DIP_MESSAGE_GROUP_PREPARED, v.ranks[0], v.epoch);
    assert_int_equal(count_of(w, DIP_MESSAGE_FORM_GROUP), v.size);
    for (int rank = 0; rank < v.size; rank++)
        answer(w, DIP_MESSAGE_GROUP_FORMED, v.ranks[rank], v.epoch);
    assert_int_equal(view(w, index).state, DIP_GROUP_FORMED);
}

/* Six idle workers on three hosts, and two are wanted: the host that is filled by it. */
static void the_tightest_host_is_chosen(void **state)
{
    (void)state;
    struct world *w = world_new(2, 1, false);
    appear(w, 1, "a");
    assert_int_equal(w->count, 0);
    appear(w, 2, "b"); /* across two hosts is better than not at all */
    for (int i = 0; i < 2; i++) {
        form(w, 0);
        struct dip_group_view v = view(w, 0);
        answer(w, DIP_MESSAGE_GROUP_LOST, v.ranks[1], v.epoch);
    }
    assert_int_equal(view(w, 0).state, DIP_GROUP_EMPTY); /* lost twice: it pauses */
    say(w, DIP_MESSAGE_LOST, 1);
    say(w, DIP_MESSAGE_LOST, 2);
    static const char *const hosts[] = {"c", "d", "d", "e", "e", "e"};
    for (uint32_t i = 0; i < 6; i++)
        appear(w, 3 + i, hosts[i]);
    assert_int_equal(view(w, 0).state, DIP_GROUP_EMPTY);
    w->now_ns = dip_groups_wake_ns(w->g);
    say(w, DIP_MESSAGE_TICK, 0);
    assert_int_equal(view(w, 0).ranks[0], 4);
    assert_int_equal(view(w, 0).ranks[1], 5);
    world_free(w);
}

static void a_spare_takes_the_lost_rank(void **state)
{
    (void)state;
    struct world *w = world_new(4, 1, false);
    for (uint32_t i = 1; i <= 5; i++)
        appear(w, i, "a");
    form(w, 0);
    struct dip_group_view before = view(w, 0);
    assert_true(before.epoch > 100);
    say(w, DIP_MESSAGE_LOST, before.ranks[2]);
    assert_int_equal(count_of(w, DIP_MESSAGE_DISSOLVE_GROUP), 3);
    assert_int_equal(count_of(w, DIP_MESSAGE_PREPARE_GROUP), 1);
    struct dip_group_view after = view(w, 0);
    assert_true(after.epoch > before.epoch);
    for (int rank = 0; rank < 4; rank++)
        assert_int_equal(after.ranks[rank], rank == 2 ? 5 : before.ranks[rank]);
    answer(w, DIP_MESSAGE_GROUP_LOST, after.ranks[1], before.epoch); /* of the old one */
    assert_int_equal(w->count, 0);
    form(w, 0);
    world_free(w);
}

static void it_waits_for_a_worker_without_a_spare(void **state)
{
    (void)state;
    struct world *w = world_new(2, 1, false);
    appear(w, 1, "a");
    appear(w, 2, "a");
    form(w, 0);
    assert_int_equal(dip_groups_rebuilt_ns(w->g), 0); /* the first time is no rebuilding */
    say(w, DIP_MESSAGE_LOST, 2);
    assert_int_equal(view(w, 0).state, DIP_GROUP_EMPTY);
    w->now_ns += 100 * SECOND_NS;
    say(w, DIP_MESSAGE_TICK, 0);
    assert_int_equal(w->count, 0); /* a smaller one was not allowed */
    appear(w, 3, "a");
    form(w, 0);
    assert_int_equal(dip_groups_rebuilt_ns(w->g), 100 * SECOND_NS);
    say(w, DIP_MESSAGE_TICK, 0);
    assert_int_equal(dip_groups_rebuilt_ns(w->g), 0); /* said once */
    world_free(w);
}

static void a_smaller_group_is_better_than_none(void **state)
{
    (void)state;
    struct world *w = world_new(4, 1, true);
    for (uint32_t i = 1; i <= 4; i++)
        appear(w, i, "a");
    form(w, 0);
    say(w, DIP_MESSAGE_LOST, 3);
    assert_int_equal(view(w, 0).state, DIP_GROUP_EMPTY);
    assert_int_equal(dip_groups_wake_ns(w->g), w->now_ns + 5 * SECOND_NS);
    w->now_ns += 5 * SECOND_NS;
    say(w, DIP_MESSAGE_TICK, 0);
    assert_int_equal(view(w, 0).size, 2); /* of three workers: 2 is legal, 3 is not */
    form(w, 0);
    appear(w, 5, "a"); /* a fourth: a full group after the grace */
    assert_int_equal(view(w, 0).size, 2);
    w->now_ns = dip_groups_wake_ns(w->g);
    say(w, DIP_MESSAGE_TICK, 0);
    assert_int_equal(view(w, 0).size, 4);
    form(w, 0);
    world_free(w);
}

static void a_rank_that_leaves_drains_its_group(void **state)
{
    (void)state;
    struct world *w = world_new(2, 1, false);
    appear(w, 1, "a");
    appear(w, 2, "a");
    form(w, 0);
    struct dip_group_view v = view(w, 0);
    say(w, DIP_MESSAGE_LEAVING, v.ranks[1]);
    assert_int_equal(w->count, 1);
    assert_int_equal(w->actions[0].kind, DIP_GROUP_ACTION_DRAIN);
    assert_int_equal(w->actions[0].member, v.ranks[0]);
    say(w, DIP_MESSAGE_UNDRAIN, v.ranks[1]);
    assert_int_equal(w->actions[0].kind, DIP_GROUP_ACTION_UNDRAIN);
    assert_int_equal(view(w, 0).state, DIP_GROUP_FORMED);
    world_free(w);
}

/* Rank 1 never answers; there is nobody else. */
static void tries_are_bounded(void **state)
{
    (void)state;
    struct world *w = world_new(2, 1, false);
    appear(w, 1, "a");
    appear(w, 2, "a");
    int tries = 0;
    int64_t begin_ns = w->now_ns;
    while (view(w, 0).state != DIP_GROUP_GIVEN_UP && tries < 100) {
        struct dip_group_view v = view(w, 0);
        if (v.state == DIP_GROUP_PREPARING) {
            tries++;
            answer(w, DIP_MESSAGE_GROUP_PREPARED, v.ranks[0], v.epoch);
            answer(w, DIP_MESSAGE_GROUP_FORMED, v.ranks[0], v.epoch);
        }
        w->now_ns = dip_groups_wake_ns(w->g);
        say(w, DIP_MESSAGE_TICK, 0);
    }
    assert_int_equal(tries, 8);
    assert_true(w->now_ns - begin_ns > (8 * 20 + 30) * SECOND_NS); /* timeouts and pauses */
    appear(w, 3, "a");
    assert_int_equal(view(w, 0).state, DIP_GROUP_PREPARING);
    world_free(w);
}

/* ---- ranks that do not hear each other ---- */

/* Both say so; the spare takes the place of one of them at once. */
static void a_spare_comes_between_two_that_are_cut(void **state)
{
    (void)state;
    struct world *w = world_new(2, 1, false);
    for (uint32_t i = 1; i <= 3; i++)
        appear(w, i, "a");
    form(w, 0);
    struct dip_group_view cut = view(w, 0);
    answer_about(w, DIP_MESSAGE_GROUP_LOST, cut.ranks[1], cut.epoch, 0);
    answer_about(w, DIP_MESSAGE_GROUP_LOST, cut.ranks[0], cut.epoch, 1);
    struct dip_group_view mended = view(w, 0);
    assert_int_equal(mended.ranks[1], cut.ranks[1]);
    assert_int_equal(mended.ranks[0], 3);
    form(w, 0);
    world_free(w);
}

/* Worker 1 is alone on its side of a cut. Whoever is put beside it, it is the first to complain. */
static void who_hears_nobody_is_left_out(void **state)
{
    (void)state;
    struct world *w = world_new(2, 1, false);
    for (uint32_t i = 1; i <= 3; i++)
        appear(w, i, "a");
    form(w, 0);
    int tries = 0;
    for (struct dip_group_view v = view(w, 0); v.ranks[0] == 1 || v.ranks[1] == 1; v = view(w, 0)) {
        assert_true(tries++ < 4);
        int rank = v.ranks[0] == 1 ? 0 : 1;
        if (v.state == DIP_GROUP_PREPARING)
            answer(w, DIP_MESSAGE_GROUP_PREPARED, v.ranks[0], v.epoch);
        w->now_ns += 2 * SECOND_NS; /* to find out */
        answer_about(w, DIP_MESSAGE_GROUP_LOST, 1, v.epoch, 1 - rank);
        assert_int_equal(view(w, 0).state, DIP_GROUP_PREPARING);
    }
    form(w, 0);
    world_free(w);
}

/* There is nobody else, and the cut lasts for minutes. */
static void two_that_are_cut_are_tried_until_it_heals(void **state)
{
    (void)state;
    struct world *w = world_new(2, 1, false);
    appear(w, 1, "a");
    appear(w, 2, "a");
    for (int i = 0; i < 100; i++) {
        struct dip_group_view v = view(w, 0);
        assert_int_equal(v.state, DIP_GROUP_PREPARING);
        answer(w, DIP_MESSAGE_GROUP_PREPARED, v.ranks[0], v.epoch);
        w->now_ns += 2 * SECOND_NS;
        answer_about(w, DIP_MESSAGE_GROUP_LOST, v.ranks[1], v.epoch, 0);
        assert_true(dip_groups_wake_ns(w->g) <= w->now_ns + SECOND_NS);
        w->now_ns = dip_groups_wake_ns(w->g);
        say(w, DIP_MESSAGE_TICK, 0);
    }
    form(w, 0);
    world_free(w);
}

/* A rank dies every ten seconds: nine seconds of work each time are no reason to wait for long. */
static void what_has_stood_is_formed_again_at_once(void **state)
{
    (void)state;
    struct world *w = world_new(2, 1, false);
    appear(w, 1, "a");
    for (int i = 0; i < 20; i++) {
        appear(w, 2, "a");
        form(w, 0);
        w->now_ns += 9 * SECOND_NS;
        say(w, DIP_MESSAGE_LOST, 2);
        w->now_ns += SECOND_NS;
    }
    world_free(w);
}

/* ---- random histories ---- */

enum { QUEUE = 64, DEGREE = 3, WANTED = 3, WORKERS = 14 };

struct worker {
    bool is_up, is_stuck;
    struct dip_group_action inbox[QUEUE]; /* commands on their way */
    int inbox_count;
    uint64_t epoch_told;  /* the newest that it was sent */
    uint64_t epoch_ended; /* the newest that was dissolved for it, as sent */
    uint64_t in_group;    /* epoch, 0 = none, as the worker sees it */
    bool owes_prepared, owes_formed;
};

struct play {
    struct world *w;
    uint64_t seed, draws;
    struct worker workers[WORKERS];
    int formed_count;
};

static unsigned draw(struct play *p, unsigned below)
{
    struct dip_rng_key key = {.seed = p->seed, .purpose = DIP_RNG_TEST};
    uint32_t words[4];
    dip_rng_words(&key, p->draws++, words);
    return words[0] % below;
}

#define require(p, condition)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            print_error("seed %llu, draw %llu: %s\n", (unsigned long long)(p)->seed,               \
                        (unsigned long long)(p)->draws, #condition);                               \
            fail();                                                                                \
        }                                                                                          \
    } while (0)

/* What may be said to a worker, in the order in which it is said. */
static void check_command(struct play *p, const struct dip_group_action *a)
{
    require(p, a->member > 0 && a->member < WORKERS);
    struct worker *worker = &p->workers[a->member];
    require(p, worker->is_up);
    uint64_t epoch = a->group.epoch;
    switch (a->message) {
    case DIP_MESSAGE_PREPARE_GROUP:
        require(p, a->group.rank == 0);
        require(p, epoch > worker->epoch_told);
        require(p, worker->epoch_ended == worker->epoch_told); /* nothing of an older one is left */
        break;
    case DIP_MESSAGE_FORM_GROUP:
        require(p, a->group.rank < a->group.size && a->group.size <= DEGREE);
        if (a->group.rank == 0) {
            require(p, epoch == worker->epoch_told);
        } else {
            require(p, epoch > worker->epoch_told);
            require(p, worker->epoch_ended == worker->epoch_told);
        }
        require(p, memcmp(a->group.comm_id, &epoch, 8) == 0); /* of this forming */
        break;
    default:
        require(p, a->message == DIP_MESSAGE_DISSOLVE_GROUP);
        /* A rank that was chosen, but not told of it, may be told of the end. */
        require(p, epoch >= worker->epoch_told && epoch > worker->epoch_ended);
        worker->epoch_ended = epoch;
        break;
    }
    worker->epoch_told = epoch;
}

static void check_ranks(struct play *p)
{
    bool has_group[MEMBERS] = {false};
    struct dip_group_view v;
    for (int i = 0; dip_groups_view(p->w->g, i, &v); i++)
        for (int rank = 0; rank < v.size; rank++) {
            int index = -1, place = -1;
            require(p, !has_group[v.ranks[rank]]);
            has_group[v.ranks[rank]] = true;
            require(p, p->workers[v.ranks[rank]].is_up);
            require(p, dip_groups_place(p->w->g, v.ranks[rank], &index, &place));
            require(p, index == i && place == rank);
        }
}

static void take_actions(struct play *p)
{
    for (int i = 0; i < p->w->count; i++) {
        const struct dip_group_action *a = &p->w->actions[i];
        if (a->kind != DIP_GROUP_ACTION_SEND)
            continue;
        check_command(p, a);
        struct worker *worker = &p->workers[a->member];
        require(p, worker->inbox_count < QUEUE);
        worker->inbox[worker->inbox_count++] = *a;
    }
    p->w->count = 0;
    check_ranks(p);
}

static void worker_up(struct play *p, uint32_t i)
{
    static const char *const hosts[] = {"a", "b", "c"};
    p->workers[i] = (struct worker){.is_up = true};
    appear(p->w, i, hosts[i % 3]);
    take_actions(p);
}

static void worker_down(struct play *p, uint32_t i)
{
    p->workers[i] = (struct worker){0};
    say(p->w, DIP_MESSAGE_LOST, i);
    take_actions(p);
}

/* One worker takes one command, or gives one answer that it owes. */
static void worker_turn(struct play *p, uint32_t i)
{
    struct worker *worker = &p->workers[i];
    if (!worker->is_up || worker->is_stuck)
        return;
    if (worker->inbox_count > 0) {
        struct dip_group_action a = worker->inbox[0];
        memmove(worker->inbox, worker->inbox + 1,
                (size_t)--worker->inbox_count * sizeof worker->inbox[0]);
        worker->owes_prepared = a.message == DIP_MESSAGE_PREPARE_GROUP;
        worker->owes_formed = a.message == DIP_MESSAGE_FORM_GROUP;
        worker->in_group = a.message == DIP_MESSAGE_DISSOLVE_GROUP ? 0 : a.group.epoch;
    } else if (worker->owes_prepared) {
        worker->owes_prepared = false;
        answer(p->w, DIP_MESSAGE_GROUP_PREPARED, i, worker->in_group);
    } else if (worker->owes_formed) {
        worker->owes_formed = false;
        answer(p->w, DIP_MESSAGE_GROUP_FORMED, i, worker->in_group);
    }
    take_actions(p);
}

static void time_passes(struct play *p, int64_t most_ns)
{
    int64_t wake_ns = dip_groups_wake_ns(p->w->g);
    int64_t step_ns = 1 + (int64_t)draw(p, 1000) * most_ns / 1000;
    p->w->now_ns = wake_ns < p->w->now_ns + step_ns && wake_ns > p->w->now_ns
                       ? wake_ns
                       : p->w->now_ns + step_ns;
    say(p->w, DIP_MESSAGE_TICK, 0);
    take_actions(p);
}

static void trouble(struct play *p, uint32_t i)
{
    struct worker *worker = &p->workers[i];
    switch (draw(p, 6)) {
    case 0:
        worker_down(p, i);
        break;
    case 1:
        worker->is_stuck = true;
        break;
    case 2: /* the communicator broke */
        answer(p->w, DIP_MESSAGE_GROUP_LOST, i, worker->in_group);
        break;
    case 3: /* an answer of a group that is no more, or never was */
        answer(p->w, draw(p, 2) ? DIP_MESSAGE_GROUP_FORMED : DIP_MESSAGE_GROUP_LOST, i,
               100 + draw(p, 50));
        break;
    case 4:
        say(p->w, DIP_MESSAGE_LEAVING, i);
        break;
    default:
        worker->is_stuck = false;
        say(p->w, DIP_MESSAGE_UNDRAIN, i);
        break;
    }
    take_actions(p);
}

static int count_formed(const struct play *p)
{
    int count = 0;
    struct dip_group_view v;
    for (int i = 0; dip_groups_view(p->w->g, i, &v); i++)
        count += v.state == DIP_GROUP_FORMED;
    return count;
}

static void history(uint64_t seed)
{
    struct play p = {.w = world_new(DEGREE, WANTED, seed % 2 == 0), .seed = seed};
    int formed_turns = 0;
    for (int turn = 0; turn < 3000; turn++) {
        unsigned dice = draw(&p, 100);
        uint32_t i = 1 + draw(&p, WORKERS - 1);
        if (dice < 3)
            trouble(&p, i);
        else if (dice < 10 && !p.workers[i].is_up)
            worker_up(&p, i);
        else if (dice < 14)
            time_passes(&p, 2 * SECOND_NS);
        else
            worker_turn(&p, i);
        formed_turns += count_formed(&p) > 0;
    }
    require(&p, formed_turns > 100);         /* the history was not all trouble */
    for (uint32_t i = 1; i < WORKERS; i++) { /* from here on the world is kind */
        p.workers[i].is_stuck = false;
        say(p.w, DIP_MESSAGE_UNDRAIN, i);
        take_actions(&p);
        if (!p.workers[i].is_up)
            worker_up(&p, i);
    }
    for (int turn = 0; turn < 20000 && count_formed(&p) < WANTED; turn++) {
        for (uint32_t i = 1; i < WORKERS; i++)
            worker_turn(&p, i);
        if (turn % 4 == 0)
            time_passes(&p, 5 * SECOND_NS);
    }
    require(&p, count_formed(&p) == WANTED);
    world_free(p.w);
}

static void random_histories_end_in_groups(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 100; seed++)
        history(seed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_tightest_host_is_chosen),
        cmocka_unit_test(a_spare_takes_the_lost_rank),
        cmocka_unit_test(it_waits_for_a_worker_without_a_spare),
        cmocka_unit_test(a_smaller_group_is_better_than_none),
        cmocka_unit_test(a_rank_that_leaves_drains_its_group),
        cmocka_unit_test(tries_are_bounded),
        cmocka_unit_test(a_spare_comes_between_two_that_are_cut),
        cmocka_unit_test(who_hears_nobody_is_left_out),
        cmocka_unit_test(two_that_are_cut_are_tried_until_it_heals),
        cmocka_unit_test(what_has_stood_is_formed_again_at_once),
        cmocka_unit_test(random_histories_end_in_groups),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
