/* coordinator/send.c - actions become commands, and commands reach their member or wait.
 *
 * Nobody waits for a worker. A command that a full inbox does not take goes to a bounded outbox and
 * holds up only those for the same member; a member that lets too many wait takes no commands, so
 * it counts as lost. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "coordinator/state.h"

void dip__trouble_note(struct dip_core *core, const struct dip_message *message)
{
    /* A repetition adds nothing, so that there is room for all. */
    for (int i = 0; i < core->trouble_count; i++)
        if (core->troubles[i].kind == message->kind &&
            core->troubles[i].job_id == message->job_id &&
            core->troubles[i].request_id == message->request_id &&
            core->troubles[i].from == message->from)
            return;
    dip_assert(core->trouble_count < core->trouble_count_max);
    core->troubles[core->trouble_count++] = *message;
}

static void note_lost(struct dip_core *core, uint32_t member)
{
    dip__trouble_note(core, &(struct dip_message){.kind = DIP_MESSAGE_LOST, .from = member});
}

static void note_no_memory(struct dip_core *core, const struct dip_action *action)
{
    struct dip_message failed = {.kind = DIP_MESSAGE_FAILED,
                                 .from = action->member,
                                 .job_id = action->job_id,
                                 .as.failed.status = DIP_NO_MEMORY};
    snprintf(failed.as.failed.text, sizeof failed.as.failed.text,
             "the coordinator has no memory for the job");
    dip__trouble_note(core, &failed);
}

/* ---- the outbox ---- */

void dip__core_keep(struct dip_core *core, uint32_t member, struct dip_message *message)
{
    enum dip_status status = DIP_BUSY;
    dip_assert(member < (uint32_t)core->options.limits.member_count_max);
    int *waiting = &core->members[member].waiting;
    if (*waiting == 0) /* else it would overtake */
        status = dip_endpoint_send(core->endpoint, member, message);
    if (!status)
        return;
    if (status == DIP_BUSY && *waiting < OUTBOX_OF_MEMBER_MAX && core->outbox_count < OUTBOX_MAX) {
        core->outbox[core->outbox_count++] = (struct outgoing){member, *message};
        (*waiting)++;
        return;
    }
    dip_message_release(message);
    note_lost(core, member);
}

void dip__outbox_flush(struct dip_core *core)
{
    int kept = 0;
    for (int i = 0; i < core->outbox_count; i++)
        core->members[core->outbox[i].member].is_stuck = false;
    for (int i = 0; i < core->outbox_count; i++) {
        struct outgoing *out = &core->outbox[i];
        enum dip_status status = DIP_BUSY;
        if (!core->members[out->member].is_stuck)
            status = dip_endpoint_send(core->endpoint, out->member, &out->message);
        if (status == DIP_BUSY) {
            core->members[out->member].is_stuck = true;
            core->outbox[kept++] = *out;
            continue;
        }
        core->members[out->member].waiting--;
        if (status) {
            dip_message_release(&out->message);
            note_lost(core, out->member);
        }
    }
    core->outbox_count = kept;
}

void dip__outbox_drop(struct dip_core *core, uint32_t member)
{
    int kept = 0;
    for (int i = 0; core->members[member].waiting > 0 && i < core->outbox_count; i++) {
        if (core->outbox[i].member == member)
            dip_message_release(&core->outbox[i].message);
        else
            core->outbox[kept++] = core->outbox[i];
    }
    if (core->members[member].waiting > 0)
        core->outbox_count = kept;
    core->members[member].waiting = 0;
}

/* ---- commands ---- */

/* false without memory; an empty payload needs none. */
static bool payload_copy(const void *data, size_t bytes, struct dip_payload *ret_copy)
{
    *ret_copy = (struct dip_payload){0};
    if (bytes == 0)
        return true;
    void *copy = malloc(bytes);
    if (!copy)
        return false;
    memcpy(copy, data, bytes);
    ret_copy->data = copy;
    ret_copy->bytes = bytes;
    return true;
}

static struct dip_job_params image_params(const struct dip_resolved *resolved, int image_index,
                                          int checkpoint_every)
{
    struct dip_job_params params = resolved->params;
    params.image_index = (uint32_t)image_index;
    params.is_traced = params.is_traced && image_index == 0;
    params.checkpoint_every = checkpoint_every;
    return params;
}

static void send_ar(struct dip_core *core, const struct dip_action *action,
                    const struct client *client)
{
    const struct dip_resolved *resolved = &client->resolved;
    struct dip_message message = {
        .kind = DIP_MESSAGE_AR,
        .job_id = action->job_id,
        .as.ar = {.params = image_params(resolved, action->image_index, 0),
                  .origin = client->origin},
    };
    struct dip_message_ar *ar = &message.as.ar;
    bool is_built =
        payload_copy(resolved->prompt_ids.data, resolved->prompt_ids.bytes, &ar->prompt_ids) &&
        payload_copy(action->forced_ids, (size_t)action->forced_count * sizeof(int32_t),
                     &ar->forced_ids);
    if (is_built) {
        dip__core_keep(core, action->member, &message);
    } else {
        dip_message_release(&message);
        note_no_memory(core, action);
    }
}

static void send_diffusion(struct dip_core *core, const struct dip_action *action,
                           const struct client *client)
{
    const struct dip_resolved *resolved = &client->resolved;
    struct dip_message message = {
        .kind = DIP_MESSAGE_DIFFUSION,
        .job_id = action->job_id,
        .as.diffusion = {.params = image_params(resolved, action->image_index,
                                                core->options.checkpoint_every),
                         .origin = client->origin,
                         .resume = dip__checkpoint_copy(core, client, action->image_index,
                                                        action->member)},
    };
    struct dip_message_diffusion *diffusion = &message.as.diffusion;
    bool is_built =
        payload_copy(resolved->hidden.data, resolved->hidden.bytes, &diffusion->hidden) &&
        payload_copy(resolved->noise.data, resolved->noise.bytes, &diffusion->noise);
    if (is_built) {
        dip__core_keep(core, action->member, &message);
    } else {
        dip_message_release(&message);
        note_no_memory(core, action);
    }
}

void dip__core_send(struct dip_core *core, const struct dip_action *action,
                    const struct client *client)
{
    struct dip_message message = {.job_id = action->job_id};
    switch (action->kind) {
    case DIP_ACTION_AR:
        send_ar(core, action, client);
        break;
    case DIP_ACTION_DIFFUSION:
        send_diffusion(core, action, client);
        break;
    case DIP_ACTION_HAND_OVER:
        message.kind = DIP_MESSAGE_HAND_OVER;
        message.as.hand_over.to = action->to_member;
        message.as.hand_over.to_job_id = action->to_job_id;
        dip__core_keep(core, action->member, &message);
        break;
    case DIP_ACTION_ADOPT:
        message.kind = DIP_MESSAGE_ADOPT;
        message.as.adopt.held_epoch = action->held_epoch;
        message.as.adopt.held_job_id = action->held_job_id;
        (void)dip_held_book_drop(core->held, action->member, action->held_epoch,
                                 action->held_job_id);
        dip__core_keep(core, action->member, &message);
        break;
    case DIP_ACTION_RELEASE:
        message.kind = DIP_MESSAGE_RELEASE;
        dip__core_keep(core, action->member, &message);
        break;
    default:
        dip_assert(!"a command");
    }
}
