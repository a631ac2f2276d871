/* tests/unit/coordinator.c - the coordinator's loop against a worker that the test plays: commands
 * that nobody takes, events of a stranger, requests one after the other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/mailbox.h"
#include "coordinator/coordinator.h"

enum { WORKER = 1, INBOX = 8 };

struct ended {
    enum dip_status status;
    bool is_refused;
};

static struct dip_local_net *net;
static struct dip_coordinator *coordinator;
static struct dip_mailbox *ends; /* struct ended */

static void on_update(void *context, const struct dip_update *update)
{
    (void)context;
    struct ended ended = {update->status, update->is_refused};
    if (update->kind == DIP_UPDATE_ENDED && dip_mailbox_push(ends, &ended))
        abort();
}

static uint64_t submit(void)
{
    struct dip_resolved resolved = {.image_count = 1};
    resolved.params.token_count = 4;
    resolved.params.steps = 2;
    resolved.prompt_ids.data = calloc(3, sizeof(int32_t));
    resolved.prompt_ids.bytes = 3 * sizeof(int32_t);
    uint64_t id = 0;
    enum dip_status status;
    while ((status = dip_coordinator_submit(coordinator, &resolved, on_update, NULL, &id)) ==
           DIP_BUSY)
        dip_clock_sleep(DIP_MS_NS); /* the loop is behind: the record is still ours */
    assert_int_equal(status, DIP_OK);
    assert_null(resolved.prompt_ids.data); /* taken over */
    return id;
}

static void cancel(uint64_t id)
{
    while (dip_coordinator_cancel(coordinator, id) == DIP_BUSY)
        dip_clock_sleep(DIP_MS_NS);
}

static struct ended wait_for_end(void)
{
    struct ended ended;
    assert_int_equal(dip_mailbox_pop(ends, 20 * DIP_SECOND_NS, &ended), DIP_OK);
    return ended;
}

static void tell(struct dip_message message)
{
    message.from = WORKER;
    while (dip_endpoint_send(dip_local_net_endpoint(net, WORKER), 0, &message) == DIP_BUSY)
        dip_clock_sleep(DIP_MS_NS);
}

static void join(void)
{
    tell((struct dip_message){.kind = DIP_MESSAGE_JOINED,
                              .as.joined = {.roles = DIP_ROLE_AR | DIP_ROLE_DIFFUSION,
                                            .ar_slots = 1,
                                            .hinge_slots = 2,
                                            .diffusion_slots = 1,
                                            .fingerprint = "abc"}});
}

/* The next command for the worker; its payload is the caller's. */
static struct dip_message hear(void)
{
    struct dip_message message;
    assert_int_equal(
        dip_endpoint_receive(dip_local_net_endpoint(net, WORKER), 20 * DIP_SECOND_NS, &message),
        DIP_OK);
    return message;
}

static int begin(void **state)
{
    (void)state;
    struct dip_coordinator_options options = {.limits = {.request_count_max = 2,
                                                         .image_count_max = 4,
                                                         .member_count_max = 2,
                                                         .token_count_max = 4,
                                                         .attempt_count_max = 2}};
    if (dip_mailbox_new(sizeof(struct ended), 1024, &ends) ||
        dip_local_net_new(sizeof(struct dip_message), INBOX, 2, &net))
        return -1;
    options.endpoint = dip_local_net_endpoint(net, 0);
    return dip_coordinator_start(&options, NULL, &coordinator) ? -1 : 0;
}

static int end(void **state)
{
    (void)state;
    dip_coordinator_stop(coordinator);
    struct dip_message message;
    while (!dip_endpoint_receive(dip_local_net_endpoint(net, WORKER), 0, &message))
        dip_message_release(&message);
    dip_local_net_free(net);
    dip_mailbox_free(ends);
    return 0;
}

static void a_request_runs_through(void **state)
{
    (void)state;
    join();
    submit();
    struct dip_message command = hear();
    assert_int_equal(command.kind, DIP_MESSAGE_AR);
    assert_int_equal(command.as.ar.prompt_ids.bytes, 3 * sizeof(int32_t));
    assert_int_equal(command.as.ar.params.steps, 2);
    dip_message_release(&command);
    tell((struct dip_message){.kind = DIP_MESSAGE_HINGE_READY, .job_id = command.job_id});
    struct dip_message diffusion = hear();
    assert_int_equal(diffusion.kind, DIP_MESSAGE_DIFFUSION);
    struct dip_message hand_over = hear();
    assert_int_equal(hand_over.kind, DIP_MESSAGE_HAND_OVER);
    assert_int_equal(hand_over.as.hand_over.to_job_id, diffusion.job_id);
    tell((struct dip_message){.kind = DIP_MESSAGE_DECODED, .job_id = diffusion.job_id});
    tell((struct dip_message){.kind = DIP_MESSAGE_IMAGE, .job_id = diffusion.job_id});
    assert_int_equal(wait_for_end().status, DIP_OK);
    struct dip_message release = hear();
    assert_int_equal(release.kind, DIP_MESSAGE_RELEASE);
    assert_int_equal(release.job_id, command.job_id);
    dip_message_release(&diffusion);
}

/* What takes a worker away from its work, or brings it back. */
static bool is_about_membership(enum dip_message_kind kind)
{
    return kind == DIP_MESSAGE_LOST || kind == DIP_MESSAGE_JOINED || kind == DIP_MESSAGE_LEAVING ||
           kind == DIP_MESSAGE_DRAIN || kind == DIP_MESSAGE_GROUP_LOST;
}

/* A worker that says what no worker may say, about jobs that are not there. */
static void strangers_are_ignored(void **state)
{
    (void)state;
    join();
    for (int kind = 0; kind < DIP_MESSAGE_COUNT; kind++)
        if (kind != DIP_MESSAGE_STOP && kind != DIP_MESSAGE_SUBMIT &&
            !is_about_membership((enum dip_message_kind)kind))
            tell((struct dip_message){.kind = (enum dip_message_kind)kind,
                                      .job_id = (uint64_t)kind << 20});
    uint64_t id = submit();
    cancel(id);
    assert_int_equal(wait_for_end().status, DIP_CANCELLED);
}

/* A worker that takes no commands fills its inbox and then the outbox; then it counts as lost, and
 * nothing grows any more. */
static void a_worker_that_takes_nothing_is_lost(void **state)
{
    (void)state;
    join();
    int refusal_count = 0;
    for (int i = 0; i < 600 && refusal_count == 0; i++) {
        uint64_t id = submit();
        cancel(id);
        struct ended ended = wait_for_end();
        if (ended.is_refused)
            refusal_count++;
        else
            assert_int_equal(ended.status, DIP_CANCELLED);
    }
    assert_int_equal(refusal_count, 1); /* no workers are left */
    struct dip_message message;
    for (int i = 0; i < INBOX; i++) { /* it wakes up, clears its inbox and joins again */
        message = hear();
        dip_message_release(&message);
    }
    join();
    uint64_t id = submit();
    cancel(id);
    assert_int_equal(wait_for_end().status, DIP_CANCELLED);
}

static void a_failed_job_ends_its_request_with_the_reason(void **state)
{
    (void)state;
    join();
    submit();
    struct dip_message command = hear();
    dip_message_release(&command);
    struct dip_message failed = {.kind = DIP_MESSAGE_FAILED,
                                 .job_id = command.job_id,
                                 .as.failed = {.status = DIP_NO_MEMORY, .text = "full"}};
    tell(failed);
    assert_int_equal(wait_for_end().status, DIP_NO_MEMORY);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_request_runs_through, begin, end),
        cmocka_unit_test_setup_teardown(strangers_are_ignored, begin, end),
        cmocka_unit_test_setup_teardown(a_worker_that_takes_nothing_is_lost, begin, end),
        cmocka_unit_test_setup_teardown(a_failed_job_ends_its_request_with_the_reason, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
