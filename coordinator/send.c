/* coordinator/send.c - actions become commands, and commands reach their member or wait.
 *
 * The loop never waits for a worker. A command that a full inbox does not take goes to a bounded
 * outbox; a member that lets the outbox fill takes no commands, so it counts as lost. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "coordinator/state.h"

void dip__trouble_note(struct dip_coordinator *c, const struct dip_message *message)
{
    /* Room for one per image and one per member; a repetition adds nothing. */
    for (int i = 0; i < c->trouble_count; i++)
        if (c->troubles[i].kind == message->kind && c->troubles[i].job_id == message->job_id &&
            c->troubles[i].from == message->from)
            return;
    dip_assert(c->trouble_count < c->trouble_count_max);
    c->troubles[c->trouble_count++] = *message;
}

static void note_lost(struct dip_coordinator *c, uint32_t member)
{
    dip__trouble_note(c, &(struct dip_message){.kind = DIP_MESSAGE_LOST, .from = member});
}

static void note_no_memory(struct dip_coordinator *c, const struct dip_action *action)
{
    struct dip_message failed = {.kind = DIP_MESSAGE_FAILED,
                                 .from = action->member,
                                 .job_id = action->job_id,
                                 .as.failed.status = DIP_NO_MEMORY};
    snprintf(failed.as.failed.text, sizeof failed.as.failed.text,
             "the coordinator has no memory for the job");
    dip__trouble_note(c, &failed);
}

static void send_or_keep(struct dip_coordinator *c, uint32_t member, struct dip_message *message)
{
    enum dip_status status = DIP_BUSY;
    if (c->outbox_count == 0) /* else it would overtake */
        status = dip_endpoint_send(c->endpoint, member, message);
    if (!status)
        return;
    if (status == DIP_BUSY && c->outbox_count < OUTBOX_MAX) {
        c->outbox[c->outbox_count++] = (struct outgoing){member, *message};
        return;
    }
    dip_message_release(message);
    note_lost(c, member);
}

void dip__outbox_flush(struct dip_coordinator *c)
{
    int kept = 0;
    for (int i = 0; i < c->outbox_count; i++) {
        struct outgoing *out = &c->outbox[i];
        enum dip_status status = DIP_BUSY;
        if (kept == 0)
            status = dip_endpoint_send(c->endpoint, out->member, &out->message);
        if (status == DIP_BUSY) {
            c->outbox[kept++] = *out;
        } else if (status) {
            dip_message_release(&out->message);
            note_lost(c, out->member);
        }
    }
    c->outbox_count = kept;
}

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

static struct dip_job_params image_params(const struct dip_resolved *resolved, int image_index)
{
    struct dip_job_params params = resolved->params;
    params.image_index = (uint32_t)image_index;
    params.is_traced = params.is_traced && image_index == 0;
    return params;
}

static void send_ar(struct dip_coordinator *c, const struct dip_action *action,
                    const struct dip_resolved *resolved)
{
    struct dip_message message = {
        .kind = DIP_MESSAGE_AR,
        .job_id = action->job_id,
        .as.ar.params = image_params(resolved, action->image_index),
    };
    struct dip_message_ar *ar = &message.as.ar;
    bool is_built =
        payload_copy(resolved->prompt_ids.data, resolved->prompt_ids.bytes, &ar->prompt_ids) &&
        payload_copy(action->forced_ids, (size_t)action->forced_count * sizeof(int32_t),
                     &ar->forced_ids);
    if (is_built) {
        send_or_keep(c, action->member, &message);
    } else {
        dip_message_release(&message);
        note_no_memory(c, action);
    }
}

static void send_diffusion(struct dip_coordinator *c, const struct dip_action *action,
                           const struct dip_resolved *resolved)
{
    struct dip_message message = {
        .kind = DIP_MESSAGE_DIFFUSION,
        .job_id = action->job_id,
        .as.diffusion.params = image_params(resolved, action->image_index),
    };
    struct dip_message_diffusion *diffusion = &message.as.diffusion;
    bool is_built =
        payload_copy(resolved->hidden.data, resolved->hidden.bytes, &diffusion->hidden) &&
        payload_copy(resolved->noise.data, resolved->noise.bytes, &diffusion->noise) &&
        dip__texts_build(resolved, action->image_index, &diffusion->texts) == DIP_OK;
    if (is_built) {
        send_or_keep(c, action->member, &message);
    } else {
        dip_message_release(&message);
        note_no_memory(c, action);
    }
}

void dip__coordinator_send(struct dip_coordinator *c, const struct dip_action *action,
                           const struct client *client)
{
    struct dip_message message = {.job_id = action->job_id};
    switch (action->kind) {
    case DIP_ACTION_AR:
        send_ar(c, action, &client->resolved);
        break;
    case DIP_ACTION_DIFFUSION:
        send_diffusion(c, action, &client->resolved);
        break;
    case DIP_ACTION_HAND_OVER:
        message.kind = DIP_MESSAGE_HAND_OVER;
        message.as.hand_over.to = action->to_member;
        message.as.hand_over.to_job_id = action->to_job_id;
        send_or_keep(c, action->member, &message);
        break;
    case DIP_ACTION_RELEASE:
        message.kind = DIP_MESSAGE_RELEASE;
        send_or_keep(c, action->member, &message);
        break;
    default:
        dip_assert(!"a command");
    }
}
