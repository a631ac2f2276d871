/* tests/unit/embedded_cluster.c - a real coordinator and real workers in one process, joined by the
 * in-process transport: one worker with both panels, or an AR worker and a diffusion pool, or
 * workers that are taken away in mid-image. The pictures are the same bytes every time.
 *
 * The engines' steps are wrapped by the linker, so that a device can die at a chosen step. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/mailbox.h"
#include "coordinator/coordinator.h"
#include "engine/engine.h"
#include "worker/worker.h"

/* ---- a device that dies ---- */

static atomic_int steps_left;       /* of the panel under test; 0 = nobody dies */
static _Atomic(const void *) dying; /* the engine whose device it was */

static bool is_dead(const void *engine)
{
    if (atomic_load(&steps_left) > 0 && atomic_fetch_sub(&steps_left, 1) == 1)
        atomic_store(&dying, engine);
    return atomic_load(&dying) == engine;
}

static bool is_ar_dying; /* set while nothing runs */

/* NOLINTBEGIN(bugprone-reserved-identifier): the linker wants these names */
enum dip_status __real_dip_ar_engine_step(struct dip_ar_engine *engine, struct dip_ar_event *events,
                                          int event_count_max, int *ret_event_count);
enum dip_status __wrap_dip_ar_engine_step(struct dip_ar_engine *engine, struct dip_ar_event *events,
                                          int event_count_max, int *ret_event_count);
enum dip_status __real_dip_diffusion_engine_step(struct dip_diffusion_engine *engine,
                                                 struct dip_diffusion_event *events,
                                                 int event_count_max, int *ret_event_count);
enum dip_status __wrap_dip_diffusion_engine_step(struct dip_diffusion_engine *engine,
                                                 struct dip_diffusion_event *events,
                                                 int event_count_max, int *ret_event_count);

enum dip_status __wrap_dip_ar_engine_step(struct dip_ar_engine *engine, struct dip_ar_event *events,
                                          int event_count_max, int *ret_event_count)
{
    if (is_ar_dying && is_dead(engine))
        return DIP_DEVICE;
    return __real_dip_ar_engine_step(engine, events, event_count_max, ret_event_count);
}

enum dip_status __wrap_dip_diffusion_engine_step(struct dip_diffusion_engine *engine,
                                                 struct dip_diffusion_event *events,
                                                 int event_count_max, int *ret_event_count)
{
    if (!is_ar_dying && is_dead(engine))
        return DIP_DEVICE;
    return __real_dip_diffusion_engine_step(engine, events, event_count_max, ret_event_count);
}
/* NOLINTEND(bugprone-reserved-identifier) */

enum { MEMBERS_MAX = 5, IMAGES = 6, STEPS = 40 };

static const char model_path[] = "tests/golden/tiny-a/model";

struct picture {
    int count; /* how often it came: once is right */
    char sha256[DIP_SHA256_HEX_BYTES];
};

/* What the loop thread saw; read by the test after ENDED. */
struct run {
    struct dip_local_net *net;
    struct dip_coordinator *coordinator;
    struct dip_worker *workers[MEMBERS_MAX]; /* by address */
    struct dip_mailbox *marks;               /* struct mark: places to act at */
    struct picture pictures[IMAGES];
    int retries, device_failures;
    int steps_after_loss; /* the first that is told after an image went back: one more than was kept
                           */
};

enum mark_kind { MARK_TOKENS, MARK_STEPS, MARK_RETRIED, MARK_ENDED };
struct mark {
    enum mark_kind kind;
    enum dip_status status;
};

static void mark(struct run *run, enum mark_kind kind, enum dip_status status)
{
    struct mark m = {kind, status};
    if (dip_mailbox_push(run->marks, &m))
        abort(); /* the box is larger than what one run says */
}

static void on_update(void *context, const struct dip_update *update)
{
    struct run *run = context;
    switch (update->kind) {
    case DIP_UPDATE_PROGRESS:
        if (update->stage == DIP_STAGE_DECODE && update->done > 0)
            mark(run, MARK_TOKENS, DIP_OK);
        if (update->stage == DIP_STAGE_DIFFUSION && update->done > STEPS / 2)
            mark(run, MARK_STEPS, DIP_OK);
        if (update->stage == DIP_STAGE_DIFFUSION && update->done > 0 && run->retries > 0 &&
            run->steps_after_loss == 0)
            run->steps_after_loss = update->done;
        break;
    case DIP_UPDATE_IMAGE:
        run->pictures[update->image_index].count++;
        memcpy(run->pictures[update->image_index].sha256, update->picture->sha256,
               DIP_SHA256_HEX_BYTES);
        break;
    case DIP_UPDATE_RETRIED:
        run->retries++;
        run->device_failures += update->setback == DIP_SETBACK_DEVICE;
        mark(run, MARK_RETRIED, DIP_OK);
        break;
    case DIP_UPDATE_ENDED:
        mark(run, MARK_ENDED, update->status);
        break;
    default:
        break;
    }
}

/* ---- parties ---- */

static void worker_add(struct run *run, uint32_t address, uint32_t roles, int slots)
{
    struct dip_why why = {0};
    struct dip_model *model = NULL;
    assert_int_equal(dip_model_open(model_path, &why, &model), DIP_OK);
    struct dip_worker_options options = {.endpoint = dip_local_net_endpoint(run->net, address),
                                         .coordinator = 0,
                                         .model = model,
                                         .device = {.backend = "cpu", .threads = 1},
                                         .roles = roles,
                                         .ar_slots = slots,
                                         .hinge_slots = 2 * slots,
                                         .diffusion_slots = slots,
                                         .diffusion_batch_max = slots > 1 ? 2 : 1,
                                         .prompt_tokens_max = 100,
                                         .image_tokens_max = 16,
                                         .latent_height_max = 4,
                                         .latent_width_max = 4};
    enum dip_status status = dip_worker_start(&options, &why, &run->workers[address]);
    if (status)
        print_error("%s\n", why.text);
    assert_int_equal(status, DIP_OK);
}

/* The worker is gone, and the transport says so. */
static void worker_lose(struct run *run, uint32_t address)
{
    dip_worker_stop(run->workers[address]);
    run->workers[address] = NULL;
    struct dip_message lost = {.kind = DIP_MESSAGE_LOST, .from = address};
    assert_int_equal(dip_endpoint_send(dip_local_net_endpoint(run->net, 0), 0, &lost), DIP_OK);
}

static void run_begin_with(struct run *run, int checkpoint_every)
{
    *run = (struct run){0};
    assert_int_equal(dip_mailbox_new(sizeof(struct mark), 1 << 14, &run->marks), DIP_OK);
    assert_int_equal(dip_local_net_new(sizeof(struct dip_message), 64, MEMBERS_MAX, &run->net),
                     DIP_OK);
    struct dip_coordinator_options options = {.endpoint = dip_local_net_endpoint(run->net, 0),
                                              .limits = {.request_count_max = 2,
                                                         .image_count_max = 8,
                                                         .member_count_max = MEMBERS_MAX,
                                                         .token_count_max = 16,
                                                         .attempt_count_max = 8},
                                              .checkpoint_every = checkpoint_every};
    assert_int_equal(dip_coordinator_start(&options, NULL, &run->coordinator), DIP_OK);
}

static void run_begin(struct run *run)
{
    run_begin_with(run, 0);
}

static void submit(struct run *run, uint64_t *ret_request_id)
{
    static const char prompt[] = "a red circle";
    struct dip_model *model = NULL;
    assert_int_equal(dip_model_open(model_path, NULL, &model), DIP_OK);
    struct dip_served_model served = {&model->config, model->tokenizer, model->digest};
    struct dip_request request = {.prompt = prompt,
                                  .prompt_bytes = sizeof prompt - 1,
                                  .image_count = IMAGES,
                                  .given = DIP_GIVEN_SEED | DIP_GIVEN_STEPS,
                                  .seed = 42,
                                  .steps = STEPS,
                                  .has_metadata = true};
    struct dip_resolved resolved;
    assert_int_equal(dip_request_resolve(&request, &served, NULL, &resolved), DIP_OK);
    dip_model_close(model); /* nothing of it is needed any more */
    assert_int_equal(
        dip_coordinator_submit(run->coordinator, &resolved, on_update, run, ret_request_id),
        DIP_OK);
}

static enum dip_status wait_for(struct run *run, enum mark_kind kind)
{
    struct mark m;
    do
        assert_int_equal(dip_mailbox_pop(run->marks, 60 * DIP_SECOND_NS, &m), DIP_OK);
    while (m.kind != kind && m.kind != MARK_ENDED);
    assert_int_equal(m.kind, kind); /* ending before the mark would test nothing */
    return m.status;
}

static void run_end(struct run *run)
{
    dip_coordinator_stop(run->coordinator);
    for (int i = 0; i < MEMBERS_MAX; i++)
        dip_worker_stop(run->workers[i]);
    dip_local_net_free(run->net);
    dip_mailbox_free(run->marks);
}

/* ---- what must hold ---- */

static struct picture expected[IMAGES]; /* of one worker with both panels */

static void assert_expected(const struct run *run)
{
    for (int i = 0; i < IMAGES; i++) {
        assert_int_equal(run->pictures[i].count, 1);
        assert_string_equal(run->pictures[i].sha256, expected[i].sha256);
    }
}

static int make_expected(void **state)
{
    (void)state;
    struct run run;
    uint64_t id;
    run_begin(&run);
    worker_add(&run, 1, DIP_ROLE_AR | DIP_ROLE_DIFFUSION, 1);
    submit(&run, &id);
    assert_int_equal(wait_for(&run, MARK_ENDED), DIP_OK);
    run_end(&run);
    memcpy(expected, run.pictures, sizeof expected);
    for (int i = 0; i < IMAGES; i++)
        for (int j = 0; j < i; j++)
            if (strcmp(expected[i].sha256, expected[j].sha256) == 0)
                return -1; /* then the comparisons below would say little */
    return 0;
}

static void many_slots_give_the_same_bytes(void **state)
{
    (void)state;
    struct run run;
    uint64_t id;
    run_begin(&run);
    worker_add(&run, 1, DIP_ROLE_AR | DIP_ROLE_DIFFUSION, 6);
    submit(&run, &id);
    assert_int_equal(wait_for(&run, MARK_ENDED), DIP_OK);
    assert_int_equal(run.retries, 0);
    run_end(&run);
    assert_expected(&run);
}

/* Hidden states travel from worker to worker. */
static void a_diffusion_pool_gives_the_same_bytes(void **state)
{
    (void)state;
    struct run run;
    uint64_t id;
    run_begin(&run);
    worker_add(&run, 1, DIP_ROLE_AR, 3);
    worker_add(&run, 2, DIP_ROLE_DIFFUSION, 1);
    worker_add(&run, 3, DIP_ROLE_DIFFUSION, 2);
    submit(&run, &id);
    assert_int_equal(wait_for(&run, MARK_ENDED), DIP_OK);
    run_end(&run);
    assert_expected(&run);
}

static void a_lost_ar_worker_changes_no_byte(void **state)
{
    (void)state;
    struct run run;
    uint64_t id;
    run_begin(&run);
    worker_add(&run, 1, DIP_ROLE_AR, 2);
    worker_add(&run, 2, DIP_ROLE_AR, 1);
    worker_add(&run, 3, DIP_ROLE_DIFFUSION, 1);
    submit(&run, &id);
    wait_for(&run, MARK_TOKENS);
    worker_lose(&run, 1);
    assert_int_equal(wait_for(&run, MARK_ENDED), DIP_OK);
    run_end(&run);
    assert_true(run.retries > 0);
    assert_expected(&run);
}

static void a_lost_diffusion_worker_changes_no_byte(void **state)
{
    (void)state;
    struct run run;
    uint64_t id;
    run_begin(&run);
    worker_add(&run, 1, DIP_ROLE_AR, 2);
    worker_add(&run, 2, DIP_ROLE_DIFFUSION, 1);
    submit(&run, &id);
    wait_for(&run, MARK_STEPS);
    worker_lose(&run, 2); /* the only one: the rest waits for another */
    worker_add(&run, 3, DIP_ROLE_DIFFUSION, 1);
    assert_int_equal(wait_for(&run, MARK_ENDED), DIP_OK);
    run_end(&run);
    assert_true(run.retries > 0);
    assert_expected(&run);
}

/* The sampler goes on where it was last check-pointed, not from the noise. */
static void a_checkpoint_spares_the_steps_before_it(void **state)
{
    (void)state;
    struct run run;
    uint64_t id;
    run_begin_with(&run, 3);
    worker_add(&run, 1, DIP_ROLE_AR, 2);
    worker_add(&run, 2, DIP_ROLE_DIFFUSION, 1);
    submit(&run, &id);
    wait_for(&run, MARK_STEPS);
    worker_lose(&run, 2);
    worker_add(&run, 3, DIP_ROLE_DIFFUSION, 1);
    assert_int_equal(wait_for(&run, MARK_ENDED), DIP_OK);
    run_end(&run);
    assert_true(run.retries > 0);
    assert_true(run.steps_after_loss > STEPS / 2 - 3);
    assert_int_equal(run.steps_after_loss % 3, 1);
    assert_expected(&run);
}

/* The process of a worker whose device has died ends; the transport says so. */
static void device_loss(bool is_ar)
{
    struct run run;
    uint64_t id;
    run_begin(&run);
    worker_add(&run, 1, is_ar ? DIP_ROLE_AR : DIP_ROLE_DIFFUSION, 2);
    worker_add(&run, 2, is_ar ? DIP_ROLE_AR : DIP_ROLE_DIFFUSION, 2);
    worker_add(&run, 3, is_ar ? DIP_ROLE_DIFFUSION : DIP_ROLE_AR, 2);
    is_ar_dying = is_ar;
    atomic_store(&dying, NULL);
    atomic_store(&steps_left, 9);
    submit(&run, &id);
    wait_for(&run, MARK_RETRIED);
    bool is_first = dip_worker_is_failed(run.workers[1]);
    assert_true(is_first != dip_worker_is_failed(run.workers[2]));
    assert_false(dip_worker_is_failed(run.workers[3]));
    worker_lose(&run, is_first ? 1 : 2);
    assert_int_equal(wait_for(&run, MARK_ENDED), DIP_OK);
    run_end(&run);
    assert_in_range(run.device_failures, 1, 3); /* its own two, and one that was on its way */
    assert_expected(&run);
}

static void a_dead_device_of_the_ar_panel_changes_no_byte(void **state)
{
    (void)state;
    device_loss(true);
}

static void a_dead_device_of_the_diffusion_panel_changes_no_byte(void **state)
{
    (void)state;
    device_loss(false);
}

static void a_cancelled_request_ends_once_and_frees_its_slots(void **state)
{
    (void)state;
    struct run run;
    uint64_t id;
    run_begin(&run);
    worker_add(&run, 1, DIP_ROLE_AR | DIP_ROLE_DIFFUSION, 2);
    submit(&run, &id);
    wait_for(&run, MARK_STEPS);
    assert_int_equal(dip_coordinator_cancel(run.coordinator, id), DIP_OK);
    assert_int_equal(wait_for(&run, MARK_ENDED), DIP_CANCELLED);
    memset(run.pictures, 0, sizeof run.pictures); /* of the ended request: nobody else writes */
    submit(&run, &id);
    assert_int_equal(wait_for(&run, MARK_ENDED), DIP_OK);
    run_end(&run);
    assert_expected(&run);
}

/* Stopping with work under way leaves nothing running and nothing unsaid. */
static void stopping_ends_what_is_live(void **state)
{
    (void)state;
    struct run run;
    uint64_t id;
    run_begin(&run);
    worker_add(&run, 1, DIP_ROLE_AR | DIP_ROLE_DIFFUSION, 2);
    submit(&run, &id);
    wait_for(&run, MARK_TOKENS);
    dip_coordinator_stop(run.coordinator);
    run.coordinator = NULL;
    assert_int_equal(wait_for(&run, MARK_ENDED), DIP_CANCELLED);
    run_end(&run);
}

/* Nobody to do it: refused before anything is promised. */
static void without_workers_requests_are_refused(void **state)
{
    (void)state;
    struct run run;
    uint64_t id;
    run_begin(&run);
    submit(&run, &id);
    assert_int_equal(wait_for(&run, MARK_ENDED), DIP_BUSY);
    run_end(&run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(many_slots_give_the_same_bytes),
        cmocka_unit_test(a_diffusion_pool_gives_the_same_bytes),
        cmocka_unit_test(a_lost_ar_worker_changes_no_byte),
        cmocka_unit_test(a_lost_diffusion_worker_changes_no_byte),
        cmocka_unit_test(a_checkpoint_spares_the_steps_before_it),
        cmocka_unit_test(a_dead_device_of_the_ar_panel_changes_no_byte),
        cmocka_unit_test(a_dead_device_of_the_diffusion_panel_changes_no_byte),
        cmocka_unit_test(a_cancelled_request_ends_once_and_frees_its_slots),
        cmocka_unit_test(stopping_ends_what_is_live),
        cmocka_unit_test(without_workers_requests_are_refused),
    };
    return cmocka_run_group_tests(tests, make_expected, NULL);
}
