/* tests/unit/worker_group.c - a coordinator, a tensor-parallel group and a diffusion worker in one
 * process: any degree gives the pictures of one AR worker, and a rank that goes away in mid-decode
 * costs a new forming and no byte.
 *
 * Between the workers and the coordinator stands a gate: a thread that runs the forming of groups,
 * as the daemon's loop does, and passes everything else on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <pthread.h>

#include "base/clock.h"
#include "base/mailbox.h"
#include "coordinator/coordinator.h"
#include "worker/worker.h"

enum { MEMBERS_MAX = 8, GATE = 8, IMAGES = 4, STEPS = 6, TOKENS = 120, DIFFUSION = 7 };

static const char *model_path;

struct gate {
    struct dip_endpoint *endpoint;
    pthread_t thread;
    int degree;
    struct dip_groups *groups; /* NULL with degree 1: the gate forms that one group itself */
    uint32_t leader;           /* rank 0 of the group that stands, or 0 */
    int formings, losses;
    uint64_t epoch; /* of the last forming */
    bool is_over;
};

struct mark {
    bool is_end;
    int tokens;
    enum dip_status status;
};

/* Written by the coordinator's thread, read by the test after the end. */
struct run {
    struct dip_local_net *net;
    struct dip_coordinator *coordinator;
    struct dip_worker *workers[MEMBERS_MAX];
    struct gate gate;
    struct dip_mailbox *marks;
    char sha256[IMAGES][DIP_SHA256_HEX_BYTES];
    int pictures, retries;
};

/* ---- the gate ---- */

static void pass_on(struct gate *gate, uint32_t to, struct dip_message *message)
{
    enum dip_status status;
    while ((status = dip_endpoint_send(gate->endpoint, to, message)) == DIP_BUSY)
        dip_clock_sleep(DIP_MS_NS);
    if (status)
        dip_message_release(message);
}

static void ask(struct gate *gate, uint32_t member, enum dip_message_kind kind,
                const struct dip_message_group *group)
{
    struct dip_message message = {.kind = kind, .as.group = *group};
    if (kind == DIP_MESSAGE_FORM_GROUP && group->rank == 0) {
        gate->leader = member;
        gate->formings++;
        if (group->epoch <= gate->epoch)
            abort(); /* every forming has a larger epoch */
        gate->epoch = group->epoch;
    }
    pass_on(gate, member, &message);
}

/* One rank is a group, too. */
static void form_alone(struct gate *gate, const struct dip_message *message)
{
    if (message->kind == DIP_MESSAGE_APPEARED)
        ask(gate, message->from, DIP_MESSAGE_PREPARE_GROUP,
            &(struct dip_message_group){.id = "g", .epoch = 5, .size = 1});
    if (message->kind == DIP_MESSAGE_GROUP_PREPARED)
        ask(gate, message->from, DIP_MESSAGE_FORM_GROUP, &message->as.group);
}

static void form(struct gate *gate, const struct dip_message *message)
{
    struct dip_group_action action;
    if (!gate->groups) {
        form_alone(gate, message);
        return;
    }
    dip_groups_feed(gate->groups, dip_clock_now_ns(), message);
    while (dip_groups_next(gate->groups, &action))
        if (action.kind == DIP_GROUP_ACTION_SEND)
            ask(gate, action.member, action.message, &action.group);
}

static void *gate_main(void *argument)
{
    struct gate *gate = argument;
    while (!gate->is_over) {
        struct dip_message message = {.kind = DIP_MESSAGE_TICK};
        enum dip_status status = dip_endpoint_receive(gate->endpoint, 5 * DIP_MS_NS, &message);
        if (status && status != DIP_TIMEOUT)
            break;
        gate->is_over = message.kind == DIP_MESSAGE_STOP;
        form(gate, &message);
        if (message.kind == DIP_MESSAGE_GROUP_LOST && message.from == gate->leader) {
            gate->losses++;
            pass_on(gate, 0, &(struct dip_message){.kind = DIP_MESSAGE_LOST, .from = message.from});
        }
        switch (message.kind) {
        case DIP_MESSAGE_STOP:
        case DIP_MESSAGE_TICK:
        case DIP_MESSAGE_APPEARED:
        case DIP_MESSAGE_GROUP_PREPARED:
        case DIP_MESSAGE_GROUP_FORMED:
        case DIP_MESSAGE_GROUP_LOST:
            dip_message_release(&message);
            break;
        default:
            pass_on(gate, 0, &message);
        }
    }
    return NULL;
}

/* ---- parties ---- */

static void on_update(void *context, const struct dip_update *update)
{
    struct run *run = context;
    struct mark mark = {.tokens = update->done, .status = update->status};
    if (update->kind == DIP_UPDATE_IMAGE) {
        run->pictures++;
        memcpy(run->sha256[update->image_index], update->picture->sha256, DIP_SHA256_HEX_BYTES);
    }
    run->retries += update->kind == DIP_UPDATE_RETRIED;
    mark.is_end = update->kind == DIP_UPDATE_ENDED;
    bool is_decode =
        update->kind == DIP_UPDATE_PROGRESS && update->stage == DIP_STAGE_DECODE && mark.tokens > 0;
    if ((mark.is_end || is_decode) && dip_mailbox_push(run->marks, &mark))
        abort(); /* the box is larger than what one run says */
}

static void worker_add(struct run *run, uint32_t address, uint32_t roles, bool is_group)
{
    struct dip_why why = {0};
    struct dip_model *model = NULL;
    assert_int_equal(dip_model_open(model_path, &why, &model), DIP_OK);
    struct dip_worker_options options = {.endpoint = dip_local_net_endpoint(run->net, address),
                                         .coordinator = GATE,
                                         .model = model,
                                         .device = {.backend = "cpu", .threads = 1},
                                         .roles = roles,
                                         .ar_slots = 3,
                                         .hinge_slots = 6,
                                         .diffusion_slots = 1,
                                         .diffusion_batch_max = 1,
                                         .prompt_tokens_max = 100,
                                         .image_tokens_max = TOKENS,
                                         .latent_height_max = 8,
                                         .latent_width_max = 8,
                                         .ar_group = is_group};
    if (dip_worker_start(&options, &why, &run->workers[address]))
        fail_msg("%s", why.text);
    struct dip_member_facts *facts = calloc(1, sizeof *facts);
    assert_non_null(facts);
    facts->roles = is_group ? DIP_ROLE_AR : 0; /* groups are formed of those only */
    struct dip_message appeared = {
        .kind = DIP_MESSAGE_APPEARED, .from = address, .as.appeared.facts = {facts, sizeof *facts}};
    pass_on(&run->gate, GATE, &appeared);
}

static void worker_lose(struct run *run, uint32_t address)
{
    dip_worker_stop(run->workers[address]);
    run->workers[address] = NULL;
    pass_on(&run->gate, GATE, &(struct dip_message){.kind = DIP_MESSAGE_LOST, .from = address});
}

static void run_begin(struct run *run, int degree)
{
    *run = (struct run){.gate.degree = degree};
    assert_int_equal(dip_mailbox_new(sizeof(struct mark), 1 << 14, &run->marks), DIP_OK);
    assert_int_equal(dip_local_net_new(sizeof(struct dip_message), 64, GATE + 1, &run->net),
                     DIP_OK);
    struct dip_coordinator_options options = {.endpoint = dip_local_net_endpoint(run->net, 0),
                                              .limits = {.request_count_max = 2,
                                                         .image_count_max = 8,
                                                         .member_count_max = MEMBERS_MAX,
                                                         .token_count_max = TOKENS,
                                                         .attempt_count_max = 8}};
    assert_int_equal(dip_coordinator_start(&options, NULL, &run->coordinator), DIP_OK);
    run->gate.endpoint = dip_local_net_endpoint(run->net, GATE);
    struct dip_groups_options groups = {.member_count_max = MEMBERS_MAX,
                                        .degree = degree,
                                        .group_count = 1,
                                        .form_timeout_ns = 60 * DIP_SECOND_NS};
    if (degree > 1)
        assert_int_equal(dip_groups_new(&groups, &run->gate.groups), DIP_OK);
    assert_int_equal(pthread_create(&run->gate.thread, NULL, gate_main, &run->gate), 0);
    worker_add(run, DIFFUSION, DIP_ROLE_DIFFUSION, false);
}

static void run_end(struct run *run)
{
    dip_coordinator_stop(run->coordinator);
    for (int i = 0; i < MEMBERS_MAX; i++)
        dip_worker_stop(run->workers[i]);
    pass_on(&run->gate, GATE, &(struct dip_message){.kind = DIP_MESSAGE_STOP});
    pthread_join(run->gate.thread, NULL);
    dip_groups_free(run->gate.groups);
    dip_local_net_free(run->net);
    dip_mailbox_free(run->marks);
}

/* More tokens than the model's grid, so that there is a middle to lose ranks in. Asked again while
 * nobody has joined yet. */
static void submit(struct run *run, uint64_t *ret_id)
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
    resolved.params.token_count = TOKENS;
    dip_model_close(model);
    assert_int_equal(dip_coordinator_submit(run->coordinator, &resolved, on_update, run, ret_id),
                     DIP_OK);
}

static struct mark next_mark(struct run *run)
{
    struct mark mark;
    assert_int_equal(dip_mailbox_pop(run->marks, 120 * DIP_SECOND_NS, &mark), DIP_OK);
    return mark;
}

/* The first words about tokens; the request must not be over. Refusals while the group is being
 * formed are answered by asking again. */
static void until_tokens(struct run *run)
{
    for (int tries = 0; tries < 2000; tries++) {
        uint64_t id;
        submit(run, &id);
        struct mark mark = next_mark(run);
        if (!mark.is_end)
            return;
        assert_int_equal(mark.status, DIP_BUSY);
        dip_clock_sleep(10 * DIP_MS_NS);
    }
    fail_msg("no group was ever formed");
}

static void until_end(struct run *run)
{
    struct mark mark = next_mark(run);
    while (!mark.is_end)
        mark = next_mark(run);
    assert_int_equal(mark.status, DIP_OK);
    assert_int_equal(run->pictures, IMAGES);
}

/* ---- what must hold ---- */

static char expected[IMAGES][DIP_SHA256_HEX_BYTES]; /* of one AR worker without a group */

static void make_expected(const char *path)
{
    struct run run;
    model_path = path;
    run_begin(&run, 1);
    worker_add(&run, 1, DIP_ROLE_AR, false);
    until_tokens(&run);
    until_end(&run);
    assert_int_equal(run.gate.formings, 0);
    run_end(&run);
    memcpy(expected, run.sha256, sizeof expected);
    assert_string_not_equal(expected[0], expected[1]);
}

static void check_degree(int degree)
{
    struct run run;
    run_begin(&run, degree);
    for (int i = 1; i <= degree; i++)
        worker_add(&run, (uint32_t)i, DIP_ROLE_AR, true);
    until_tokens(&run);
    until_end(&run);
    assert_int_equal(run.gate.formings, 1);
    assert_int_equal(run.gate.losses, 0);
    assert_int_equal(run.retries, 0);
    run_end(&run);
    assert_memory_equal(run.sha256, expected, sizeof expected);
}

static void any_degree_gives_the_same_pictures(void **state)
{
    (void)state;
    make_expected("tests/golden/tiny-b/model");
    check_degree(1);
    check_degree(2);
    check_degree(4);
}

/* Rank `address` - 1 goes in mid-decode; worker 3 takes its place. */
static void check_lost(uint32_t address)
{
    struct run run;
    run_begin(&run, 2);
    for (uint32_t i = 1; i <= 3; i++)
        worker_add(&run, i, DIP_ROLE_AR, true);
    until_tokens(&run);
    worker_lose(&run, address);
    until_end(&run);
    assert_true(run.retries > 0);
    assert_true(run.gate.formings >= 2);
    run_end(&run);
    assert_memory_equal(run.sha256, expected, sizeof expected);
}

static void a_lost_rank_costs_no_byte(void **state)
{
    (void)state;
    make_expected("tests/golden/tiny-a/model");
    check_lost(2);
    check_lost(1);
}

/* ---- commands, one by one ---- */

/* The test is the coordinator itself. */
struct talk {
    struct dip_local_net *net;
    struct dip_worker *workers[4];
};

static void talk_begin(struct talk *talk, int workers)
{
    *talk = (struct talk){0};
    model_path = "tests/golden/tiny-a/model";
    assert_int_equal(dip_local_net_new(sizeof(struct dip_message), 64, 4, &talk->net), DIP_OK);
    for (int i = 1; i <= workers; i++) {
        struct dip_model *model = NULL;
        assert_int_equal(dip_model_open(model_path, NULL, &model), DIP_OK);
        struct dip_worker_options options = {.endpoint =
                                                 dip_local_net_endpoint(talk->net, (uint32_t)i),
                                             .model = model,
                                             .device = {.backend = "cpu", .threads = 1},
                                             .roles = DIP_ROLE_AR,
                                             .ar_slots = 1,
                                             .hinge_slots = 2,
                                             .diffusion_slots = 1,
                                             .diffusion_batch_max = 1,
                                             .prompt_tokens_max = 20,
                                             .image_tokens_max = 16,
                                             .latent_height_max = 4,
                                             .latent_width_max = 4,
                                             .ar_group = true};
        assert_int_equal(dip_worker_start(&options, NULL, &talk->workers[i]), DIP_OK);
    }
}

static void talk_end(struct talk *talk)
{
    for (int i = 1; i < 4; i++)
        dip_worker_stop(talk->workers[i]);
    dip_local_net_free(talk->net);
}

static void tell(struct talk *talk, uint32_t to, enum dip_message_kind kind, uint64_t epoch,
                 const struct dip_message_group *group)
{
    struct dip_message message = {.kind = kind};
    if (group)
        message.as.group = *group;
    if (kind == DIP_MESSAGE_PREPARE_GROUP || kind == DIP_MESSAGE_DISSOLVE_GROUP)
        message.as.group.size = 2;
    if (kind != DIP_MESSAGE_RESET)
        message.as.group.epoch = epoch;
    assert_int_equal(dip_endpoint_send(dip_local_net_endpoint(talk->net, 0), to, &message), DIP_OK);
}

static struct dip_message heard(struct talk *talk, enum dip_message_kind kind)
{
    struct dip_message message;
    struct dip_endpoint *endpoint = dip_local_net_endpoint(talk->net, 0);
    assert_int_equal(dip_endpoint_receive(endpoint, 60 * DIP_SECOND_NS, &message), DIP_OK);
    assert_string_equal(dip_message_name(message.kind), dip_message_name(kind));
    return message;
}

static void heard_nothing(struct talk *talk)
{
    struct dip_message message;
    struct dip_endpoint *endpoint = dip_local_net_endpoint(talk->net, 0);
    assert_int_equal(dip_endpoint_receive(endpoint, 100 * DIP_MS_NS, &message), DIP_TIMEOUT);
}

/* Two ranks form; GROUP_FORMED of both and JOINED of the first come in any order. */
static void form_two(struct talk *talk, uint64_t epoch, uint32_t other)
{
    tell(talk, 1, DIP_MESSAGE_PREPARE_GROUP, epoch, NULL);
    struct dip_message_group form = heard(talk, DIP_MESSAGE_GROUP_PREPARED).as.group;
    assert_int_equal(form.epoch, epoch);
    form.timeout_ns = 60 * DIP_SECOND_NS;
    form.size = 2;
    form.rank = 0;
    tell(talk, 1, DIP_MESSAGE_FORM_GROUP, epoch, &form);
    form.rank = 1;
    tell(talk, other, DIP_MESSAGE_FORM_GROUP, epoch, &form);
    int formed = 0;
    int joined = 0;
    for (int i = 0; i < 3; i++) {
        struct dip_message message;
        struct dip_endpoint *endpoint = dip_local_net_endpoint(talk->net, 0);
        assert_int_equal(dip_endpoint_receive(endpoint, 60 * DIP_SECOND_NS, &message), DIP_OK);
        formed += message.kind == DIP_MESSAGE_GROUP_FORMED;
        joined += message.kind == DIP_MESSAGE_JOINED && message.from == 1;
    }
    assert_int_equal(formed, 2);
    assert_int_equal(joined, 1);
}

static void old_versions_change_nothing(void **state)
{
    (void)state;
    struct talk talk;
    talk_begin(&talk, 3);
    heard_nothing(&talk); /* nobody joins by itself */
    form_two(&talk, 7, 2);
    tell(&talk, 1, DIP_MESSAGE_PREPARE_GROUP, 6, NULL);
    tell(&talk, 1, DIP_MESSAGE_DISSOLVE_GROUP, 6, NULL);
    tell(&talk, 2, DIP_MESSAGE_FORM_GROUP, 3, &(struct dip_message_group){.size = 2, .rank = 1});
    heard_nothing(&talk);
    tell(&talk, 1, DIP_MESSAGE_DISSOLVE_GROUP, 7, NULL);
    assert_int_equal(heard(&talk, DIP_MESSAGE_GROUP_LOST).as.group.epoch, 7);
    assert_int_equal(heard(&talk, DIP_MESSAGE_GROUP_LOST).as.group.epoch, 7); /* the other rank */
    form_two(&talk, 9, 3);
    talk_end(&talk);
}

/* A rank that waits for others which never come can be told otherwise, and be stopped. */
static void forming_can_be_called_off(void **state)
{
    (void)state;
    struct talk talk;
    talk_begin(&talk, 2);
    tell(&talk, 1, DIP_MESSAGE_PREPARE_GROUP, 1, NULL);
    struct dip_message_group form = heard(&talk, DIP_MESSAGE_GROUP_PREPARED).as.group;
    form.timeout_ns = 600 * DIP_SECOND_NS;
    form.size = 2;
    tell(&talk, 1, DIP_MESSAGE_FORM_GROUP, 1, &form);
    heard_nothing(&talk);
    tell(&talk, 1, DIP_MESSAGE_DISSOLVE_GROUP, 1, NULL);
    assert_int_equal(heard(&talk, DIP_MESSAGE_GROUP_LOST).as.group.epoch, 1);
    form_two(&talk, 2, 2);                              /* 1 is free again */
    tell(&talk, 1, DIP_MESSAGE_PREPARE_GROUP, 3, NULL); /* a larger epoch ends the older */
    assert_int_equal(heard(&talk, DIP_MESSAGE_GROUP_LOST).as.group.epoch, 2);
    form = (struct dip_message_group){0};
    for (int i = 0; i < 2; i++) { /* and the other rank's word */
        struct dip_message message;
        struct dip_endpoint *endpoint = dip_local_net_endpoint(talk.net, 0);
        assert_int_equal(dip_endpoint_receive(endpoint, 60 * DIP_SECOND_NS, &message), DIP_OK);
        if (message.kind == DIP_MESSAGE_GROUP_PREPARED)
            form = message.as.group;
        else
            assert_int_equal(message.as.group.epoch, 2);
    }
    assert_int_equal(form.epoch, 3);
    form.timeout_ns = 600 * DIP_SECOND_NS;
    form.size = 2;
    tell(&talk, 1, DIP_MESSAGE_FORM_GROUP, 3, &form);
    talk_end(&talk); /* stops while it waits */
}

/* RESET: the coordinator is another one; groups and their versions begin anew. */
static void a_reset_ends_the_group(void **state)
{
    (void)state;
    struct talk talk;
    talk_begin(&talk, 2);
    form_two(&talk, 50, 2);
    tell(&talk, 1, DIP_MESSAGE_RESET, 0, NULL);
    tell(&talk, 2, DIP_MESSAGE_RESET, 0, NULL);
    int resets = 0;
    while (resets < 2) {
        struct dip_message message;
        struct dip_endpoint *endpoint = dip_local_net_endpoint(talk.net, 0);
        assert_int_equal(dip_endpoint_receive(endpoint, 60 * DIP_SECOND_NS, &message), DIP_OK);
        assert_true(message.kind != DIP_MESSAGE_JOINED);
        resets += message.kind == DIP_MESSAGE_RESET;
        dip_message_release(&message); /* a RESET brings the list of what is held */
    }
    form_two(&talk, 4, 2);
    talk_end(&talk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_degree_gives_the_same_pictures),
        cmocka_unit_test(a_lost_rank_costs_no_byte),
        cmocka_unit_test(old_versions_change_nothing),
        cmocka_unit_test(forming_can_be_called_off),
        cmocka_unit_test(a_reset_ends_the_group),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
