/* cluster/ar.c - PREFILLED, TOKENS, HINGE_READY: the AR panel reports.
 *
 * Rule (design, life of a request, 3): token ids come in small batches, because they are where a
 * replay resumes. */
#include "base/assert.h"
#include "cluster/state.h"

void dip__on_prefilled(struct dip_scheduler *s, const struct dip_message *m)
{
    struct image *image = dip__image_of_ar(s, m);
    if (image && image->state == IMAGE_AR_RUNNING)
        dip__progress(s, image, DIP_STAGE_DECODE, 0, image->request->token_count);
}

/* A batch that leaves a hole is not stored: the replay would resume from ids nobody drew. */
void dip__on_tokens(struct dip_scheduler *s, const struct dip_message *m)
{
    const struct dip_message_tokens *tokens = &m->as.tokens;
    struct image *image = dip__image_of_ar(s, m);
    if (!image || image->state != IMAGE_AR_RUNNING)
        return;
    if (tokens->count < 0 || tokens->count > DIP_TOKEN_BATCH_MAX || tokens->first < 0 ||
        tokens->first > image->token_count ||
        tokens->first > image->request->token_count - tokens->count)
        return;
    for (int i = 0; i < tokens->count; i++)
        image->token_ids[tokens->first + i] = tokens->ids[i];
    if (tokens->first + tokens->count > image->token_count)
        image->token_count = tokens->first + tokens->count;
    dip__progress(s, image, DIP_STAGE_DECODE, tokens->first + tokens->count,
                  image->request->token_count);
}

void dip__on_hinge_ready(struct dip_scheduler *s, const struct dip_message *m)
{
    const struct dip_message_hinge_ready *ready = &m->as.hinge_ready;
    struct image *image = dip__image_of_ar(s, m);
    if (!image || image->state != IMAGE_AR_RUNNING)
        return;
    s->members[image->ar_member].ar_live--;
    dip_assert(s->members[image->ar_member].ar_live >= 0);
    image->state = IMAGE_DIFFUSION_WAITING;
    image->hinge_ready_ns = s->now_ns;
    image->timings.stage_ns[DIP_STAGE_PREFILL] += ready->prefill_ns;
    image->timings.stage_ns[DIP_STAGE_DECODE] += ready->decode_ns;
    dip__queue_insert(&s->diffusion_queue, image);
    dip__progress(s, image, DIP_STAGE_HINGE, 0, 1);
}
