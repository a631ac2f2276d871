/* tests/unit/adopt.c - work that outlived its coordinator: the book of it, and how the scheduler
 * takes it up, with the request or after it, within the slots there are. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cluster/cluster.h"

#define DRAWING (1U << DIP_STAGE_PREFILL | 1U << DIP_STAGE_DECODE)

enum { TOKENS = 40, STEPS = 6, ACTIONS_MAX = 64, BOTH = DIP_ROLE_AR | DIP_ROLE_DIFFUSION };

struct world {
    struct dip_scheduler *s;
    int64_t now_ns;
    struct dip_action actions[ACTIONS_MAX]; /* of the last feed */
    int count;
};

static int32_t ids[TOKENS];

static void world_open(struct world *w)
{
    struct dip_scheduler_limits limits = {.request_count_max = 8,
                                          .image_count_max = 8,
                                          .member_count_max = 5,
                                          .token_count_max = TOKENS,
                                          .attempt_count_max = 2};
    *w = (struct world){.now_ns = 1};
    for (int i = 0; i < TOKENS; i++)
        ids[i] = 1000 + i;
    assert_int_equal(dip_scheduler_new(&limits, &w->s), DIP_OK);
}

static void feed(struct world *w, struct dip_message message)
{
    w->now_ns += 10;
    dip_scheduler_feed(w->s, w->now_ns, &message);
    w->count = 0;
    while (dip_scheduler_next(w->s, &w->actions[w->count]))
        assert_true(++w->count < ACTIONS_MAX);
}

static void join(struct world *w, uint32_t from, uint32_t roles, int slots,
                 const struct dip_offer *offers, int offer_count)
{
    feed(w, (struct dip_message){.kind = DIP_MESSAGE_JOINED,
                                 .from = from,
                                 .as.joined = {.roles = roles,
                                               .ar_slots = slots,
                                               .hinge_slots = 2 * slots,
                                               .diffusion_slots = slots,
                                               .offers = offers,
                                               .offer_count = offer_count}});
}

static void submit(struct world *w, uint64_t id, int images, const struct dip_offer *offers,
                   int offer_count)
{
    feed(w, (struct dip_message){.kind = DIP_MESSAGE_SUBMIT,
                                 .request_id = id,
                                 .as.submit = {.image_count = images,
                                               .token_count = TOKENS,
                                               .step_count = STEPS,
                                               .offers = offers,
                                               .offer_count = offer_count}});
}

static void say(struct world *w, enum dip_message_kind kind, uint32_t from, uint64_t job_id)
{
    feed(w, (struct dip_message){.kind = kind, .from = from, .job_id = job_id});
}

static const struct dip_action *find(const struct world *w, enum dip_action_kind kind)
{
    for (int i = 0; i < w->count; i++)
        if (w->actions[i].kind == kind)
            return &w->actions[i];
    return NULL;
}

static struct dip_offer offer_of(uint32_t member, enum dip_held_stage stage, int done)
{
    bool has_ids = stage == DIP_HELD_TOKENS || stage == DIP_HELD_HINGE;
    return (struct dip_offer){.member = member,
                              .request_id = 1,
                              .stage = stage,
                              .done = done,
                              .token_count = stage == DIP_HELD_TOKENS ? 0 : TOKENS,
                              .ids = has_ids ? ids : NULL,
                              .id_count = has_ids ? done : 0,
                              .held_epoch = 3,
                              .held_job_id = 100 + (uint64_t)stage};
}

static void finish(struct world *w, uint32_t member, uint64_t job_id)
{
    say(w, DIP_MESSAGE_DECODED, member, job_id);
    say(w, DIP_MESSAGE_IMAGE, member, job_id);
    assert_int_equal(find(w, DIP_ACTION_IMAGE)->done, TOKENS);
    assert_int_equal(find(w, DIP_ACTION_ENDED)->end, DIP_END_DONE);
    for (uint32_t i = 1; i < 5; i++) {
        struct dip_member_stats stats = dip_scheduler_member(w->s, i);
        assert_int_equal(stats.ar_live + stats.hinges + stats.diffusion_live + stats.jobs, 0);
        assert_int_equal(stats.backlog_steps, 0);
    }
}

static void a_picture_is_asked_for_and_nothing_is_made(void **state)
{
    (void)state;
    struct world w;
    struct dip_offer offer = offer_of(2, DIP_HELD_PICTURE, 0);
    world_open(&w);
    join(&w, 1, BOTH, 1, NULL, 0);
    join(&w, 2, DIP_ROLE_DIFFUSION, 1, NULL, 0);
    submit(&w, 1, 1, &offer, 1);
    assert_int_equal(w.actions[0].kind, DIP_ACTION_ADMITTED);
    const struct dip_action *adopt = find(&w, DIP_ACTION_ADOPT);
    assert_int_equal(adopt->member, 2);
    assert_true(adopt->held_epoch == 3 && adopt->held_job_id == offer.held_job_id);
    assert_null(find(&w, DIP_ACTION_AR));
    assert_null(find(&w, DIP_ACTION_DIFFUSION));
    assert_int_equal(dip_scheduler_member(w.s, 2).diffusion_live, 0); /* needs no slot */
    finish(&w, 2, adopt->job_id);
    assert_int_equal(find(&w, DIP_ACTION_IMAGE)->timings.unknown, DRAWING | 1U << DIP_STAGE_HINGE);
    dip_scheduler_free(w.s);
}

/* Hinge and sampling of one image: both go on, so that a loss costs the sampling alone. */
static void sampling_goes_on_and_its_hinge_is_kept(void **state)
{
    (void)state;
    struct world w;
    struct dip_offer offers[] = {offer_of(1, DIP_HELD_HINGE, TOKENS),
                                 offer_of(2, DIP_HELD_STEPS, 4)};
    world_open(&w);
    join(&w, 1, DIP_ROLE_AR, 1, NULL, 0);
    join(&w, 2, DIP_ROLE_DIFFUSION, 1, NULL, 0);
    join(&w, 3, DIP_ROLE_DIFFUSION, 1, NULL, 0);
    submit(&w, 1, 1, offers, 2);
    assert_null(find(&w, DIP_ACTION_AR));
    assert_null(find(&w, DIP_ACTION_DIFFUSION));
    assert_int_equal(dip_scheduler_member(w.s, 1).hinges, 1);
    assert_int_equal(dip_scheduler_member(w.s, 2).backlog_steps, STEPS - 4);
    say(&w, DIP_MESSAGE_LOST, 2, 0);
    assert_non_null(find(&w, DIP_ACTION_RETRIED));
    const struct dip_action *diffusion = find(&w, DIP_ACTION_DIFFUSION);
    assert_int_equal(diffusion->member, 3);
    assert_int_equal(find(&w, DIP_ACTION_HAND_OVER)->member, 1);
    uint64_t job_id = diffusion->job_id;
    say(&w, DIP_MESSAGE_CONDITIONED, 3, job_id);
    finish(&w, 3, job_id);
    assert_int_equal(find(&w, DIP_ACTION_IMAGE)->timings.unknown, DRAWING | 1U << DIP_STAGE_HINGE);
    dip_scheduler_free(w.s);
}

static void a_hinge_is_handed_over_without_drawing(void **state)
{
    (void)state;
    struct world w;
    struct dip_offer offer = offer_of(1, DIP_HELD_HINGE, TOKENS);
    world_open(&w);
    join(&w, 1, BOTH, 1, NULL, 0);
    submit(&w, 1, 1, &offer, 1);
    assert_null(find(&w, DIP_ACTION_AR));
    const struct dip_action *adopt = find(&w, DIP_ACTION_ADOPT);
    const struct dip_action *hand_over = find(&w, DIP_ACTION_HAND_OVER);
    assert_true(adopt < hand_over); /* it must be the job's before it is handed over */
    assert_true(hand_over->job_id == adopt->job_id);
    uint64_t job_id = hand_over->to_job_id;
    for (int i = 0; i < 2; i++) { /* said again: changes nothing but what is known */
        feed(&w, (struct dip_message){.kind = DIP_MESSAGE_HINGE_READY,
                                      .from = 1,
                                      .job_id = adopt->job_id,
                                      .as.hinge_ready = {TOKENS, 50, 700}});
        assert_int_equal(w.count, 0);
    }
    finish(&w, 1, job_id);
    const struct dip_timings *timings = &find(&w, DIP_ACTION_IMAGE)->timings;
    assert_int_equal(timings->unknown, 0);
    assert_int_equal(timings->stage_ns[DIP_STAGE_PREFILL], 50);
    assert_int_equal(timings->stage_ns[DIP_STAGE_DECODE], 700);
    dip_scheduler_free(w.s);
}

/* Without a slot where it is held, the tokens are where another worker goes on. */
static void tokens_are_good_without_their_worker(void **state)
{
    (void)state;
    struct world w;
    struct dip_offer offer = offer_of(1, DIP_HELD_TOKENS, 25);
    world_open(&w);
    join(&w, 1, BOTH, 1, NULL, 0);
    submit(&w, 2, 1, NULL, 0); /* has the slot */
    assert_int_equal(find(&w, DIP_ACTION_AR)->member, 1);
    join(&w, 2, BOTH, 1, NULL, 0);
    submit(&w, 1, 1, &offer, 1);
    const struct dip_action *ar = find(&w, DIP_ACTION_AR);
    assert_int_equal(ar->member, 2);
    assert_int_equal(ar->forced_count, 25);
    assert_memory_equal(ar->forced_ids, ids, 25 * sizeof ids[0]);
    assert_null(find(&w, DIP_ACTION_ADOPT));
    dip_scheduler_free(w.s);
}

/* The worker comes after the request: whoever is further wins, and what was begun is given up. */
static void a_late_worker_is_followed_when_it_is_further(void **state)
{
    (void)state;
    struct world w;
    world_open(&w);
    join(&w, 1, BOTH, 2, NULL, 0);
    submit(&w, 1, 1, NULL, 0);
    uint64_t begun = find(&w, DIP_ACTION_AR)->job_id;
    struct dip_message tokens = {.kind = DIP_MESSAGE_TOKENS, .from = 1, .job_id = begun};
    tokens.as.tokens.count = 20;
    memcpy(tokens.as.tokens.ids, ids, 20 * sizeof ids[0]);
    feed(&w, tokens);
    struct dip_offer offer = offer_of(2, DIP_HELD_TOKENS, 20);
    join(&w, 2, BOTH, 1, &offer, 1);
    assert_null(find(&w, DIP_ACTION_ADOPT)); /* as far as here: no reason to change */
    offer = offer_of(3, DIP_HELD_TOKENS, 39);
    join(&w, 3, BOTH, 1, &offer, 1);
    assert_int_equal(find(&w, DIP_ACTION_ADOPT)->member, 3);
    assert_true(find(&w, DIP_ACTION_RELEASE)->job_id == begun);
    offer = offer_of(4, DIP_HELD_STEPS, 1);
    join(&w, 4, DIP_ROLE_DIFFUSION, 1, &offer, 1);
    uint64_t job_id = find(&w, DIP_ACTION_ADOPT)->job_id;
    assert_int_equal(find(&w, DIP_ACTION_RELEASE)->member, 3);
    say(&w, DIP_MESSAGE_TOKENS, 3, begun); /* of a job that was given up */
    assert_int_equal(w.count, 0);
    finish(&w, 4, job_id);
    dip_scheduler_free(w.s);
}

/* The worker has dropped it meanwhile: the image goes back, and nothing is lost but time. */
static void what_is_not_there_any_more_is_made(void **state)
{
    (void)state;
    struct world w;
    struct dip_offer offers[] = {offer_of(1, DIP_HELD_HINGE, TOKENS),
                                 offer_of(2, DIP_HELD_PICTURE, 0)};
    world_open(&w);
    join(&w, 1, DIP_ROLE_AR, 1, NULL, 0);
    join(&w, 2, DIP_ROLE_DIFFUSION, 1, NULL, 0);
    join(&w, 3, DIP_ROLE_DIFFUSION, 1, NULL, 0);
    submit(&w, 1, 1, offers, 2);
    uint64_t picture = 0;
    for (int i = 0; i < w.count; i++)
        if (w.actions[i].kind == DIP_ACTION_ADOPT)
            picture = w.actions[i].job_id;
    feed(&w, (struct dip_message){.kind = DIP_MESSAGE_FAILED,
                                  .from = 2,
                                  .job_id = picture,
                                  .as.failed.status = DIP_CANCELLED});
    assert_int_equal(find(&w, DIP_ACTION_RETRIED)->setback, DIP_SETBACK_HANDED_BACK);
    assert_int_equal(find(&w, DIP_ACTION_DIFFUSION)->member, 3); /* from the hinge that was kept */
    finish(&w, 3, find(&w, DIP_ACTION_DIFFUSION)->job_id);
    dip_scheduler_free(w.s);
}

/* Nobody is made to do more than it can hold, whatever is offered, and nonsense changes nothing. */
static void offers_keep_to_the_slots(void **state)
{
    (void)state;
    struct world w;
    struct dip_offer offers[8];
    world_open(&w);
    join(&w, 1, BOTH, 1, NULL, 0);
    for (int i = 0; i < 4; i++) {
        offers[i] = offer_of(1, DIP_HELD_STEPS, 3);
        offers[i].image_index = i;
        offers[4 + i] = offer_of(1, DIP_HELD_PICTURE, 0);
        offers[4 + i].image_index = 9;
    }
    offers[4].member = 77;
    offers[5].stage = DIP_HELD_STAGE_COUNT;
    offers[6].id_count = -1;
    submit(&w, 1, 4, offers, 8);
    int adopted = 0;
    for (int i = 0; i < w.count; i++)
        adopted += w.actions[i].kind == DIP_ACTION_ADOPT;
    assert_int_equal(adopted, 1);
    assert_int_equal(dip_scheduler_member(w.s, 1).diffusion_live, 1);
    assert_int_equal(dip_scheduler_member(w.s, 1).ar_live, 1);
    dip_scheduler_free(w.s);
}

/* ---- the book ---- */

static void the_book_finds_by_digest_and_forgets(void **state)
{
    (void)state;
    struct dip_held_book *book = NULL;
    struct dip_held_entry found[8];
    struct dip_held held[3] = {
        {.epoch = 1, .job_id = 5, .digest = {1}, .stage = DIP_HELD_PICTURE, .left_ns = 100},
        {.epoch = 1, .job_id = 6, .digest = {1}, .stage = DIP_HELD_HINGE, .left_ns = 300},
        {.epoch = 1,
         .job_id = 7,
         .digest = {2},
         .done = 2,
         .id_first = 1,
         .id_count = 2,
         .left_ns = 300},
    };
    int32_t tokens[] = {9, 10, 11};
    struct dip_message_held said = {.entries = {held, sizeof held}, .ids = {tokens, sizeof tokens}};
    assert_int_equal(dip_held_book_new(4, 3, &book), DIP_OK);
    dip_held_book_take(book, 1000, 1, &said);
    assert_int_equal(dip_held_book_count(book), 3);
    assert_int_equal(dip_held_book_find(book, 1000, held[0].digest, found, 8), 2);
    assert_int_equal(found[0].offer.stage, DIP_HELD_HINGE); /* pictures last */
    assert_int_equal(found[1].offer.held_job_id, 5);
    assert_int_equal(dip_held_book_find(book, 1000, held[2].digest, found, 8), 1);
    assert_int_equal(found[0].offer.id_count, 2);
    assert_memory_equal(found[0].offer.ids, tokens + 1, 2 * sizeof tokens[0]);
    dip_held_book_take(book, 1000, 2, &said); /* one place is left */
    assert_int_equal(dip_held_book_count(book), 4);
    assert_int_equal(dip_held_book_of(book, 1000, 2, found, 8), 1);
    assert_int_equal(dip_held_book_of(book, 1150, 1, found, 8), 2); /* the picture's time is over */
    dip_held_book_expire(book, 1150);
    assert_int_equal(dip_held_book_count(book), 2);
    assert_true(dip_held_book_drop(book, 1, 1, 6));
    assert_false(dip_held_book_drop(book, 1, 1, 6));
    dip_held_book_lose(book, 1);
    assert_int_equal(dip_held_book_count(book), 0);
    dip_held_book_free(book);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_picture_is_asked_for_and_nothing_is_made),
        cmocka_unit_test(sampling_goes_on_and_its_hinge_is_kept),
        cmocka_unit_test(a_hinge_is_handed_over_without_drawing),
        cmocka_unit_test(tokens_are_good_without_their_worker),
        cmocka_unit_test(a_late_worker_is_followed_when_it_is_further),
        cmocka_unit_test(what_is_not_there_any_more_is_made),
        cmocka_unit_test(offers_keep_to_the_slots),
        cmocka_unit_test(the_book_finds_by_digest_and_forgets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
