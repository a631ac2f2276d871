/* coordinator/checkpoint.c - latents on their way to a picture, kept for the case that their worker
 * is lost: the newest of each image, within a bound for all of them. */
#include <stdlib.h>
#include <string.h>

#include "coordinator/state.h"

enum { PROTOCOL_OLD = 1 }; /* cannot go on from one; in one process nobody says a number */

static size_t bytes_of(const struct dip_checkpoint *checkpoint)
{
    return checkpoint->latent.bytes + checkpoint->history.bytes;
}

void dip__checkpoint_drop(struct dip_core *core, struct client *client, int image_index)
{
    struct dip_checkpoint *kept = &client->places[image_index].checkpoint;
    core->checkpoint_bytes -= bytes_of(kept);
    dip_checkpoint_free(kept);
}

void dip__checkpoint_keep(struct dip_core *core, struct client *client, int image_index,
                          struct dip_message *message)
{
    struct dip_checkpoint *said = &message->as.checkpoint;
    dip__checkpoint_drop(core, client, image_index);
    if (core->checkpoint_bytes + bytes_of(said) > CHECKPOINT_BYTES_MAX)
        return;
    core->checkpoint_bytes += bytes_of(said);
    client->places[image_index].checkpoint = *said;
    *said = (struct dip_checkpoint){.steps_done = 0};
}

static bool payload_copy(const struct dip_payload *from, struct dip_payload *ret_copy)
{
    *ret_copy = (struct dip_payload){malloc(from->bytes), from->bytes};
    if (ret_copy->data)
        memcpy(ret_copy->data, from->data, from->bytes);
    return ret_copy->data != NULL;
}

struct dip_checkpoint dip__checkpoint_copy(const struct dip_core *core, const struct client *client,
                                           int image_index, uint32_t member)
{
    const struct dip_checkpoint *kept = &client->places[image_index].checkpoint;
    struct dip_checkpoint copy = {.steps_done = kept->steps_done};
    if (kept->steps_done == 0 || core->protocols[member] == PROTOCOL_OLD)
        return (struct dip_checkpoint){.steps_done = 0};
    if (!payload_copy(&kept->latent, &copy.latent) || !payload_copy(&kept->history, &copy.history))
        dip_checkpoint_free(&copy); /* it begins with noise */
    return copy;
}
