/* coordinator/tell.c - actions become news for the client of a request. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/dtype.h"
#include "coordinator/png_text.h"
#include "coordinator/state.h"

/* The ids that the AR panel really starts from belong to the trace. */
static void tell_prompt_ids(const struct client *client, const struct dip_update *base)
{
    struct dip_message_trace trace = {.name = "prompt_ids", .dtype = DIP_I32, .rank = 1};
    trace.dims[0] = (int64_t)(client->resolved.prompt_ids.bytes / sizeof(int32_t));
    trace.data = client->resolved.prompt_ids;
    struct dip_update update = *base;
    update.kind = DIP_UPDATE_TRACE;
    update.trace = &trace;
    client->update(client->context, &update);
}

static void tell_relay(const struct client *client, struct dip_update *update,
                       const struct dip_message *message)
{
    if (message->kind == DIP_MESSAGE_TRACE) {
        update->kind = DIP_UPDATE_TRACE;
        update->trace = &message->as.trace;
    } else {
        update->kind = DIP_UPDATE_PREVIEW;
        update->picture = &message->as.picture;
    }
    client->update(client->context, update);
}

/* The file as the client gets it: the worker that painted it knew neither prompt nor request. */
static enum dip_status finish_picture(const struct client *client, int image_index,
                                      struct dip_message_picture *picture)
{
    struct dip_payload texts = {0}, png = {0};
    enum dip_status status = dip__texts_build(&client->resolved, image_index, &texts);
    if (!status && texts.data)
        status = dip__png_text_insert(&picture->png, &texts, &png);
    free(texts.data);
    if (status)
        return status;
    if (png.data) {
        free(picture->png.data);
        picture->png = png;
    }
    return dip_sha256_hex(picture->png.data ? picture->png.data : "", picture->png.bytes,
                          picture->sha256);
}

static void tell_image(struct dip_core *core, struct client *client, struct dip_update *update,
                       struct dip_message *message)
{
    client->failure = finish_picture(client, update->image_index, &message->as.picture);
    if (client->failure) {
        dip__trouble_note(core, &(struct dip_message){.kind = DIP_MESSAGE_CANCEL,
                                                      .request_id = client->request_id});
        return;
    }
    update->kind = DIP_UPDATE_IMAGE;
    update->picture = &message->as.picture;
    update->fingerprint = core->fingerprints[message->from];
    client->update(client->context, update);
}

static void tell_end(struct client *client, const struct dip_action *action,
                     struct dip_update *update)
{
    update->kind = DIP_UPDATE_ENDED;
    update->status = action->status;
    update->end = action->end;
    if (action->kind == DIP_ACTION_REFUSED) {
        update->status = DIP_BUSY;
        update->is_refused = true;
        update->refusal = action->refusal;
        update->text = dip_refusal_text(action->refusal);
    } else if (client->failure) {
        update->status = client->failure;
        update->end = DIP_END_FAILED;
        update->text = client->failure == DIP_CORRUPT ? "a worker sent a file that is no PNG"
                                                      : "no memory for a finished picture";
    }
    client->update(client->context, update);
}

void dip__core_tell(struct dip_core *core, struct client *client, const struct dip_action *action,
                    struct dip_message *message)
{
    struct dip_update update = {.request_id = action->request_id,
                                .image_index = action->image_index,
                                .stage = action->stage,
                                .done = action->done,
                                .total = action->total,
                                .start_ns = action->start_ns,
                                .finish_ns = action->finish_ns,
                                .retry_ns = action->retry_ns,
                                .setback = action->setback,
                                .resolved = &client->resolved,
                                .timings = &action->timings,
                                .text = action->text};
    switch (action->kind) {
    case DIP_ACTION_ADMITTED:
        update.kind = DIP_UPDATE_ADMITTED;
        client->update(client->context, &update);
        if (client->resolved.params.is_traced && client->resolved.prompt_ids.bytes > 0)
            tell_prompt_ids(client, &update);
        break;
    case DIP_ACTION_RELAY:
        if (message->kind == DIP_MESSAGE_CHECKPOINT) {
            dip__checkpoint_keep(core, client, action->image_index, message);
            break;
        }
        tell_relay(client, &update, message);
        break;
    case DIP_ACTION_QUEUE:
        update.kind = DIP_UPDATE_QUEUE;
        client->update(client->context, &update);
        break;
    case DIP_ACTION_PROGRESS:
        update.kind = DIP_UPDATE_PROGRESS;
        client->update(client->context, &update);
        break;
    case DIP_ACTION_ADOPT:
        update.kind = DIP_UPDATE_ADOPTED;
        update.held_stage = action->held_stage;
        client->update(client->context, &update);
        break;
    case DIP_ACTION_RETRIED:
        update.kind = DIP_UPDATE_RETRIED;
        client->update(client->context, &update);
        break;
    case DIP_ACTION_IMAGE:
        tell_image(core, client, &update, message);
        break;
    default:
        dip_assert(action->kind == DIP_ACTION_ENDED || action->kind == DIP_ACTION_REFUSED);
        tell_end(client, action, &update);
        break;
    }
}
