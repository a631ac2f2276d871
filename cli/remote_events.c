/* cli/remote_events.c - what `generate --server` does with each event of its stream.
 *
 * After a broken stream events may come a second time, with their first numbers: an image that is
 * whole is not taken again, and of a chunk only what is new. A peer is not trusted with indexes,
 * sizes or offsets. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/sha256.h"
#include "cli/remote_generate.h"
#include "proto/time.h"
#include "proto/wire.h"

enum { FILE_BYTES_MAX = 1 << 28 }; /* 8192 x 8192 pixels, uncompressed, and some */

static struct arrival *arrival_at(struct remote_generation *r, uint32_t image_index)
{
    struct generation *g = r->g;
    if (image_index < (uint32_t)g->image_count)
        return &r->arrivals[image_index];
    dip__generation_problem(g, dip_fail(&g->why, DIP_CORRUPT, "%s sent image %" PRIu32 " of %d",
                                        r->remote.target, image_index, g->image_count));
    return NULL;
}

static void on_admitted(struct remote_generation *r, const Diptych__V1__Admitted *admitted)
{
    struct generation *g = r->g;
    r->is_admitted = true;
    g->params.seed = admitted->seed;
    if (admitted->determinism)
        snprintf(g->fingerprint, sizeof g->fingerprint, "%s", admitted->determinism->fingerprint);
    if (g->ready_ns == 0)
        g->ready_ns = dip_clock_now_ns();
}

static void on_tokens(struct remote_generation *r, const Diptych__V1__TokenProgress *tokens)
{
    struct generation *g = r->g;
    if (!arrival_at(r, tokens->image_index))
        return;
    if (tokens->tokens_done > 0 && g->first_token_ns == 0)
        g->first_token_ns = dip_clock_now_ns();
    r->tokens_total = (int)tokens->tokens_total;
    dip__progress_update(&g->progress, (int)tokens->image_index, DIP_STAGE_DECODE,
                         (int)tokens->tokens_done, (int)tokens->tokens_total);
}

static void on_steps(struct remote_generation *r, const Diptych__V1__StepProgress *steps)
{
    struct arrival *arrival = arrival_at(r, steps->image_index);
    if (!arrival)
        return;
    arrival->stage_steps = (int)steps->steps_done;
    dip__progress_update(&r->g->progress, (int)steps->image_index, DIP_STAGE_DIFFUSION,
                         (int)steps->steps_done, (int)steps->steps_total);
}

/* Preview k of P shows step (k + 1) * floor(steps / (P + 1)): image.proto. */
static void on_preview(struct remote_generation *r, const Diptych__V1__PreviewImage *preview)
{
    struct generation *g = r->g;
    if (!arrival_at(r, preview->image_index) || !g->options->previews || g->has_problem)
        return;
    if (preview->preview_index >= (uint32_t)r->preview_count)
        return;
    dip__generation_preview(g, (int)preview->image_index,
                            (int)(preview->preview_index + 1) * r->preview_every,
                            preview->data.data, preview->data.len);
}

/* ---- the picture's file ---- */

static void fail_image(struct remote_generation *r, uint32_t image_index, const char *what)
{
    struct generation *g = r->g;
    dip__generation_problem(g, dip_fail(&g->why, DIP_CORRUPT, "image %" PRIu32 " from %s: %s",
                                        image_index, r->remote.target, what));
}

static bool arrival_reserve(struct arrival *arrival, size_t bytes)
{
    if (bytes <= arrival->bytes_max)
        return true;
    size_t bytes_max = 2 * arrival->bytes_max > bytes ? 2 * arrival->bytes_max : bytes;
    void *data = realloc(arrival->data, bytes_max);
    if (!data)
        return false;
    arrival->data = data;
    arrival->bytes_max = bytes_max;
    return true;
}

static void arrival_add(struct remote_generation *r, uint32_t image_index, uint64_t offset,
                        const unsigned char *data, size_t bytes)
{
    struct arrival *arrival = arrival_at(r, image_index);
    if (!arrival || arrival->is_whole)
        return;
    if (offset > arrival->bytes) {
        fail_image(r, image_index, "a part of the file is missing");
        return;
    }
    size_t known = arrival->bytes - (size_t)offset;
    if (known >= bytes)
        return;
    if (arrival->bytes + (bytes - known) > FILE_BYTES_MAX) {
        fail_image(r, image_index, "the file is larger than any picture");
        return;
    }
    if (!arrival_reserve(arrival, arrival->bytes + (bytes - known))) {
        fail_image(r, image_index, "no memory for the file");
        return;
    }
    memcpy(arrival->data + arrival->bytes, data + known, bytes - known);
    arrival->bytes += bytes - known;
}

static int64_t duration_of(const Google__Protobuf__Duration *duration)
{
    int64_t ns = 0;
    return dip_duration_decode(duration, &ns) ? ns : 0;
}

static void take_stage(struct dip_timings *timings, enum dip_stage stage,
                       const Google__Protobuf__Duration *duration)
{
    timings->stage_ns[stage] = duration_of(duration);
    timings->unknown |= duration ? 0 : 1U << stage;
}

static struct dip_timings timings_of(const Diptych__V1__Timing *timing)
{
    struct dip_timings timings = {0};
    if (!timing)
        return timings;
    take_stage(&timings, DIP_STAGE_QUEUE, timing->queue);
    take_stage(&timings, DIP_STAGE_PREFILL, timing->prefill);
    take_stage(&timings, DIP_STAGE_DECODE, timing->decode);
    take_stage(&timings, DIP_STAGE_HINGE, timing->hinge);
    take_stage(&timings, DIP_STAGE_DIFFUSION, timing->diffusion);
    take_stage(&timings, DIP_STAGE_VAE, timing->vae);
    take_stage(&timings, DIP_STAGE_ENCODE, timing->encode);
    timings.total_ns = duration_of(timing->total);
    return timings;
}

/* Whether the bytes are those that the server hashed; the hash is kept as hex. */
static bool is_sound(const struct arrival *arrival, const Diptych__V1__FinalImage *final,
                     char ret_hex[DIP_SHA256_HEX_BYTES])
{
    char said[DIP_SHA256_HEX_BYTES] = "";
    if (final->sha256.len != 32 || final->size_bytes != arrival->bytes || arrival->bytes == 0)
        return false;
    for (size_t i = 0; i < 32; i++)
        snprintf(said + 2 * i, 3, "%02x", final->sha256.data[i]);
    return dip_sha256_hex(arrival->data, arrival->bytes, ret_hex) == DIP_OK &&
           strcmp(said, ret_hex) == 0;
}

static void on_final(struct remote_generation *r, const Diptych__V1__FinalImage *final)
{
    struct generation *g = r->g;
    struct arrival *arrival = arrival_at(r, final->image_index);
    if (!arrival || arrival->is_whole || g->has_problem)
        return;
    if (final->data.len > 0)
        arrival_add(r, final->image_index, 0, final->data.data, final->data.len);
    struct generated_image *image = &g->images[final->image_index];
    if (!is_sound(arrival, final, image->sha256)) {
        fail_image(r, final->image_index, "the file was damaged on its way");
        return;
    }
    dip__generation_image(g, (int) final->image_index, arrival->data, arrival->bytes);
    arrival->is_whole = !g->has_problem;
    image->tokens = r->tokens_total;
    image->timings = timings_of(final->timing);
    g->width = (int) final->width;
    g->height = (int) final->height;
    dip__progress_update(&g->progress, (int) final->image_index, DIP_STAGE_ENCODE, 1, 1);
    free(arrival->data);
    arrival->data = NULL;
    arrival->bytes = arrival->bytes_max = 0;
}

static void on_retried(struct remote_generation *r, const Diptych__V1__Retried *retried)
{
    char text[320];
    snprintf(text, sizeof text, "resuming elsewhere: %s",
             retried->reason[0] ? retried->reason : "a worker was lost");
    dip__progress_note(&r->g->progress, text);
}

static void on_event(struct remote_generation *r, const Diptych__V1__Event *event)
{
    if (event->sequence > r->sequence)
        r->sequence = event->sequence;
    switch (event->kind_case) {
    case DIPTYCH__V1__EVENT__KIND_ADMITTED:
        on_admitted(r, event->admitted);
        break;
    case DIPTYCH__V1__EVENT__KIND_TOKENS:
        on_tokens(r, event->tokens);
        break;
    case DIPTYCH__V1__EVENT__KIND_STEPS:
        on_steps(r, event->steps);
        break;
    case DIPTYCH__V1__EVENT__KIND_PREVIEW:
        on_preview(r, event->preview);
        break;
    case DIPTYCH__V1__EVENT__KIND_CHUNK:
        arrival_add(r, event->chunk->image_index, event->chunk->offset, event->chunk->data.data,
                    event->chunk->data.len);
        break;
    case DIPTYCH__V1__EVENT__KIND_FINAL_IMAGE:
        on_final(r, event->final_image);
        break;
    case DIPTYCH__V1__EVENT__KIND_RETRIED:
        on_retried(r, event->retried);
        break;
    case DIPTYCH__V1__EVENT__KIND_COMPLETED:
        r->is_completed = true;
        break;
    default: /* still queued, or a kind that is newer than this program */
        break;
    }
}

void dip__remote_event(void *remote_generation, const void *data, size_t bytes)
{
    struct remote_generation *r = remote_generation;
    struct generation *g = r->g;
    ProtobufCMessage *message = NULL;
    enum dip_status status =
        dip_proto_decode(&diptych__v1__generate_response__descriptor, data, bytes, NULL, &message);
    if (status) {
        dip__generation_problem(g,
                                dip_fail(&g->why, status, "%s sent an event that is no event: %s",
                                         r->remote.target, dip_status_text(status)));
        return;
    }
    const Diptych__V1__GenerateResponse *response = (const Diptych__V1__GenerateResponse *)message;
    r->returns.attempts = 0;
    if (response->event && !g->has_problem)
        on_event(r, response->event);
    dip_proto_free(message);
}
