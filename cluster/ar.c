/* cluster/ar.c - PREFILLED, TOKENS, HINGE_READY: the AR panel reports.
 *
 * Rule (design, life of a request, 3): token ids come in small batches, because they are where a
 * replay resumes. */
#include "cluster/state.h"

enum { BIND_SHARE = 16 }; /* a diffusion slot is kept from this part of the tokens to the end */

void dip__on_prefilled(struct dip_scheduler *s, const struct dip_message *m)
{
    struct image *image = dip__image_of_ar(s, m);
    if (!image || image->state != IMAGE_AR_RUNNING || image->is_prefilled)
        return;
    dip__rate_prefilled(s, image);
    dip__progress(s, image, DIP_STAGE_DECODE, 0, image->request->token_count);
}

/* Near the end of its tokens an image looks for the worker that will finish it first, and a slot is
 * kept there. Not while others wait for one: they go first; nor a slot of a slow one when a fast
 * one will be free in time. */
static void bind_diffusion(struct dip_scheduler *s, struct image *image)
{
    int left = image->request->token_count - image->token_count;
    if (image->is_bound || left * BIND_SHARE > image->request->token_count ||
        s->diffusion_lane.count > 0)
        return;
    int64_t here_ns, until_ns;
    int address = dip__pick_diffusion(s, image, &here_ns);
    if (address >= 0 &&
        (image->is_isolated || !dip__is_better_later(s, image, 1, here_ns, &until_ns)))
        dip__image_bind(s, image, (uint32_t)address);
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
    int fresh = tokens->first + tokens->count - image->token_count;
    if (fresh <= 0)
        return; /* said twice: nobody's progress goes back */
    image->token_count += fresh;
    dip__rate_drawing(s, image);
    dip__finish_update(s, image);
    dip__member_settle(s, &s->members[image->ar_member]);
    bind_diffusion(s, image);
    dip__progress(s, image, DIP_STAGE_DECODE, tokens->first + tokens->count,
                  image->request->token_count);
}

/* An adopted hinge: what it took was before this coordinator's time. */
static void hear_again(struct image *image, const struct dip_message_hinge_ready *ready)
{
    const uint32_t drawing = 1U << DIP_STAGE_PREFILL | 1U << DIP_STAGE_DECODE;
    if ((image->timings.unknown & drawing) != drawing)
        return; /* known already */
    image->timings.stage_ns[DIP_STAGE_PREFILL] += ready->prefill_ns;
    image->timings.stage_ns[DIP_STAGE_DECODE] += ready->decode_ns;
    image->timings.unknown &= ~drawing;
}

void dip__on_hinge_ready(struct dip_scheduler *s, const struct dip_message *m)
{
    const struct dip_message_hinge_ready *ready = &m->as.hinge_ready;
    struct image *image = dip__image_of_ar(s, m);
    if (image && image->state != IMAGE_AR_RUNNING)
        hear_again(image, ready);
    if (!image || image->state != IMAGE_AR_RUNNING)
        return;
    struct member *member = &s->members[image->ar_member];
    dip__rate_drawn(s, image);
    member->aside_length_ns = 0; /* it can do what it is told */
    int kept = image->is_bound ? (int)image->diffusion_member : -1;
    dip__image_unbind(s, image);
    dip__image_leave_ar(s, image);
    dip__image_set_state(s, image, IMAGE_DIFFUSION_WAITING);
    image->hinge_ready_ns = s->now_ns;
    image->timings.stage_ns[DIP_STAGE_PREFILL] += ready->prefill_ns;
    image->timings.stage_ns[DIP_STAGE_DECODE] += ready->decode_ns;
    dip__progress(s, image, DIP_STAGE_HINGE, 0, 1);
    if (kept >= 0 && dip__member_takes(&s->members[kept]))
        dip__diffusion_start(s, image, (uint32_t)kept);
    else
        dip__lane_push(s, &s->diffusion_lane, image);
}
