/* cluster/job.c - what a message is called and what it owns. */
#include "cluster/job.h"

#include <stdlib.h>

const char *dip_message_name(enum dip_message_kind kind)
{
    static const char *const names[] = {
#define DIP_MESSAGE_NAME(name) #name,
        DIP_MESSAGE_LIST(DIP_MESSAGE_NAME)
#undef DIP_MESSAGE_NAME
    };
    return (unsigned)kind < DIP_MESSAGE_COUNT ? names[kind] : "?";
}

const char *dip_stage_name(enum dip_stage stage)
{
    static const char *const names[] = {
#define DIP_STAGE_NAME(name, text) text,
        DIP_STAGE_LIST(DIP_STAGE_NAME)
#undef DIP_STAGE_NAME
    };
    return (unsigned)stage < DIP_STAGE_COUNT ? names[stage] : "?";
}

const char *dip_held_stage_name(enum dip_held_stage stage)
{
    static const char *const names[] = {
#define DIP_HELD_STAGE_NAME(name, text) text,
        DIP_HELD_STAGE_LIST(DIP_HELD_STAGE_NAME)
#undef DIP_HELD_STAGE_NAME
    };
    return (unsigned)stage < DIP_HELD_STAGE_COUNT ? names[stage] : "?";
}

static void payload_free(struct dip_payload *payload)
{
    free(payload->data);
    *payload = (struct dip_payload){0};
}

void dip_checkpoint_free(struct dip_checkpoint *checkpoint)
{
    payload_free(&checkpoint->latent);
    payload_free(&checkpoint->history);
    checkpoint->steps_done = 0;
}

static void held_free(struct dip_message_held *held)
{
    payload_free(&held->entries);
    payload_free(&held->ids);
}

void dip_message_release(struct dip_message *message)
{
    switch (message->kind) {
    case DIP_MESSAGE_AR:
        payload_free(&message->as.ar.prompt_ids);
        payload_free(&message->as.ar.forced_ids);
        break;
    case DIP_MESSAGE_DIFFUSION:
        payload_free(&message->as.diffusion.hidden);
        payload_free(&message->as.diffusion.noise);
        dip_checkpoint_free(&message->as.diffusion.resume);
        break;
    case DIP_MESSAGE_HINGE:
        payload_free(&message->as.hinge.hidden);
        break;
    case DIP_MESSAGE_APPEARED:
        payload_free(&message->as.appeared.facts);
        held_free(&message->as.appeared.held);
        break;
    case DIP_MESSAGE_HELD:
        held_free(&message->as.held);
        break;
    case DIP_MESSAGE_RESET:
        held_free(&message->as.reset.held);
        break;
    case DIP_MESSAGE_CHECKPOINT:
        dip_checkpoint_free(&message->as.checkpoint);
        break;
    case DIP_MESSAGE_PREVIEW:
    case DIP_MESSAGE_IMAGE:
        payload_free(&message->as.picture.png);
        break;
    case DIP_MESSAGE_TRACE:
        payload_free(&message->as.trace.data);
        break;
    default: /* the others own nothing */
        break;
    }
}
