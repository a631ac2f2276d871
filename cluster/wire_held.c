/* cluster/wire_held.c - where work can go on, as bytes and back: what a worker holds from before,
 * as part of its hello, and latent checkpoints. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "cluster/wire_private.h"

/* ---- encoding ---- */

static void entry_encode(const struct dip_held *held, const int32_t *ids, Pb_(HeldJob) * out)
{
    *out = (Pb_(HeldJob))PB_(HELD_JOB__INIT);
    out->epoch = held->epoch;
    out->job_id = held->job_id;
    out->request_id = (char *)held->request_id;
    out->image_index = held->image_index;
    out->request_digest = (ProtobufCBinaryData){DIP_DIGEST_BYTES, (uint8_t *)held->digest};
    out->token_count = dip__wire_u32(held->token_count);
    out->left_ns = dip__wire_u64(held->left_ns);
    out->n_image_ids = dip__wire_u32(held->id_count);
    if (held->id_count > 0)
        out->image_ids = (uint32_t *)ids + held->id_first;
    out->has_hinge = held->stage == DIP_HELD_HINGE;
    switch (held->stage) {
    case DIP_HELD_STEPS:
        out->stage_case = PB_(HELD_JOB__STAGE_STEPS_DONE);
        out->steps_done = dip__wire_u32(held->done);
        break;
    case DIP_HELD_PICTURE:
        out->stage_case = PB_(HELD_JOB__STAGE_IMAGE_SHA256);
        break;
    default:
        out->stage_case = PB_(HELD_JOB__STAGE_TOKENS_DONE);
        out->tokens_done = dip__wire_u32(held->done);
        break;
    }
}

enum dip_status dip__wire_held_encode(const struct dip_message_held *held, struct wire_held *ret)
{
    const struct dip_held *entries = held->entries.data;
    size_t count = held->entries.bytes / sizeof *entries;
    dip_assert(count <= DIP_HELD_MAX);
    *ret = (struct wire_held){0};
    if (count == 0)
        return DIP_OK;
    ret->jobs = calloc(count, sizeof *ret->jobs);
    ret->list = calloc(count, sizeof(Pb_(HeldJob) *));
    if (!ret->jobs || !ret->list) {
        dip__wire_held_free(ret);
        return DIP_NO_MEMORY;
    }
    for (size_t i = 0; i < count; i++) {
        entry_encode(&entries[i], held->ids.data, &ret->jobs[i]);
        ret->list[i] = &ret->jobs[i];
    }
    ret->count = count;
    return DIP_OK;
}

void dip__wire_held_free(struct wire_held *held)
{
    free(held->jobs);
    free(held->list);
    *held = (struct wire_held){0};
}

/* ---- reading ---- */

static enum dip_status stage_read(const Pb_(HeldJob) * in, struct dip_why *why,
                                  struct dip_held *held)
{
    switch (in->stage_case) {
    case PB_(HELD_JOB__STAGE_TOKENS_DONE):
        DIP_TRY(dip__wire_range(why, "tokens_done", in->tokens_done, 0, DIP_IMAGE_TOKENS_MAX));
        held->stage = in->has_hinge ? DIP_HELD_HINGE : DIP_HELD_TOKENS;
        held->done = (int32_t)in->tokens_done;
        return DIP_OK;
    case PB_(HELD_JOB__STAGE_STEPS_DONE):
        DIP_TRY(dip__wire_range(why, "steps_done", in->steps_done, 0, DIP_STEPS_MAX));
        held->stage = DIP_HELD_STEPS;
        held->done = (int32_t)in->steps_done;
        return DIP_OK;
    case PB_(HELD_JOB__STAGE_IMAGE_SHA256):
        held->stage = DIP_HELD_PICTURE;
        return DIP_OK;
    default:
        return DIP_TIMEOUT; /* a later version's: nothing for this one */
    }
}

static enum dip_status entry_read(const Pb_(HeldJob) * in, struct dip_why *why,
                                  struct dip_held *ret_held)
{
    struct dip_held held = {.epoch = in->epoch, .job_id = in->job_id};
    if (in->request_digest.len != DIP_DIGEST_BYTES)
        return DIP_TIMEOUT; /* it cannot be known again */
    memcpy(held.digest, in->request_digest.data, DIP_DIGEST_BYTES);
    DIP_TRY(dip__wire_range(why, "held.job_id", in->job_id, 1, UINT64_MAX));
    DIP_TRY(dip__wire_range(why, "held.image_index", in->image_index, 0, DIP_IMAGES_MAX - 1));
    DIP_TRY(dip__wire_range(why, "held.token_count", in->token_count, 0, DIP_IMAGE_TOKENS_MAX));
    DIP_TRY(dip__wire_text(why, "held.request_id", in->request_id, held.request_id,
                           sizeof held.request_id));
    DIP_TRY(dip__wire_ns(why, "held.left_ns", in->left_ns, &held.left_ns));
    DIP_TRY(stage_read(in, why, &held));
    held.image_index = in->image_index;
    held.token_count = (int32_t)in->token_count;
    *ret_held = held;
    return DIP_OK;
}

static enum dip_status ids_read(const Pb_(HeldJob) * in, struct dip_why *why, struct dip_held *held,
                                int32_t *ids, int32_t first)
{
    for (size_t i = 0; i < in->n_image_ids; i++) {
        DIP_TRY(dip__wire_range(why, "held.image_ids", in->image_ids[i], 0, DIP_VOCAB_MAX - 1));
        ids[first + (int32_t)i] = (int32_t)in->image_ids[i];
    }
    held->id_first = first;
    held->id_count = (int32_t)in->n_image_ids;
    return DIP_OK;
}

enum dip_status dip__wire_held_read(Pb_(HeldJob) * *list, size_t count, struct dip_why *why,
                                    struct dip_message_held *ret_held)
{
    size_t id_count = 0, kept = 0;
    int32_t id_first = 0;
    for (size_t i = 0; i < count; i++)
        id_count += list[i]->n_image_ids;
    if (count == 0)
        return DIP_OK;
    DIP_TRY(dip__wire_range(why, "count of held image_ids", id_count, 0, DIP_HELD_IDS_MAX));
    struct dip_held *entries = calloc(count, sizeof *entries);
    int32_t *ids = calloc(id_count + 1, sizeof *ids);
    ret_held->entries.data = entries; /* the message's to free, also when the rest is wrong */
    ret_held->ids = (struct dip_payload){ids, id_count * sizeof *ids};
    if (!entries || !ids)
        return dip_fail(why, DIP_NO_MEMORY, "no memory for %zu held jobs", count);
    for (size_t i = 0; i < count; i++) {
        enum dip_status status = entry_read(list[i], why, &entries[kept]);
        if (status == DIP_TIMEOUT)
            continue;
        DIP_TRY(status);
        DIP_TRY(ids_read(list[i], why, &entries[kept], ids, id_first));
        id_first += entries[kept++].id_count;
    }
    ret_held->entries.bytes = kept * sizeof *entries;
    return DIP_OK;
}

/* ---- latent checkpoints ---- */

void dip__wire_checkpoint_encode(const struct dip_checkpoint *checkpoint,
                                 Pb_(LatentCheckpoint) * out)
{
    *out = (Pb_(LatentCheckpoint))PB_(LATENT_CHECKPOINT__INIT);
    out->steps_done = dip__wire_u32(checkpoint->steps_done);
    out->latent = (ProtobufCBinaryData){checkpoint->latent.bytes, checkpoint->latent.data};
    out->history = (ProtobufCBinaryData){checkpoint->history.bytes, checkpoint->history.data};
}

static enum dip_status floats_read(const ProtobufCBinaryData *in, struct dip_why *why,
                                   struct dip_payload *ret_payload)
{
    *ret_payload = (struct dip_payload){malloc(in->len), in->len};
    if (!ret_payload->data)
        return dip_fail(why, DIP_NO_MEMORY, "no memory for a checkpoint of %zu bytes", in->len);
    memcpy(ret_payload->data, in->data, in->len);
    return DIP_OK;
}

enum dip_status dip__wire_checkpoint_read(const Pb_(LatentCheckpoint) * in, struct dip_why *why,
                                          struct dip_checkpoint *ret_checkpoint)
{
    size_t bytes = in->latent.len + in->history.len;
    DIP_TRY(dip__wire_range(why, "checkpoint.steps_done", in->steps_done, 1, DIP_STEPS_MAX));
    DIP_TRY(dip__wire_range(why, "bytes of a checkpoint", bytes, 1, DIP_CHECKPOINT_BYTES_MAX));
    if (in->latent.len % sizeof(float) != 0 || in->latent.len == 0 ||
        in->history.len != in->latent.len)
        return dip_fail(why, DIP_INVALID, "the parts of a checkpoint are no equal latents");
    ret_checkpoint->steps_done = (int32_t)in->steps_done;
    DIP_TRY(floats_read(&in->latent, why, &ret_checkpoint->latent));
    return floats_read(&in->history, why, &ret_checkpoint->history);
}
