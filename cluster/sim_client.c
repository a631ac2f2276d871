/* cluster/sim_client.c - requests: when they come, what they ask for, whether they stay. */
#include "cluster/sim_state.h"

/* What a request asks for follows from its id, so that nobody needs to remember it. */
void dip__sim_shape(uint64_t id, int *ret_tokens, int *ret_steps, bool *ret_has_hidden)
{
    uint64_t x = id * UINT64_C(0x9e3779b97f4a7c15);
    x ^= x >> 29;
    *ret_tokens = SIM_TOKENS_MAX / 4 + (int)(x % (SIM_TOKENS_MAX * 3 / 4 + 1));
    *ret_steps = 2 + (int)((x >> 8) % (SIM_STEPS_MAX - 1));
    *ret_has_hidden = (x >> 16) % 16 == 0;
}

/* The leader before has not ended it: the client asks the one of now, if there is time left. */
void dip__sim_request_again(struct sim *s, uint64_t id)
{
    struct sim_request *request = &s->requests[id - 1];
    struct dip_message m = {.kind = DIP_MESSAGE_SUBMIT, .request_id = id};
    struct dip_message_submit *submit = &m.as.submit;
    int tokens = 0, steps = 0;
    if (!request->is_away)
        return;
    request->is_away = false;
    if (request->deadline_ms > 0 && s->now_ns / DIP_MS_NS >= request->deadline_ms) {
        request->state = SIM_REQUEST_OVER;
        s->result.lapsed++;
        return;
    }
    dip__sim_shape(id, &tokens, &steps, &submit->has_hidden);
    submit->token_count = tokens;
    submit->step_count = steps;
    submit->image_count = request->images;
    submit->priority = DIP_PRIORITY_STANDARD;
    submit->deadline_ns = request->deadline_ms * (int64_t)DIP_MS_NS;
    dip__sim_submit(s, &m);
}

static void request_make(struct sim *s, struct dip_message *m, struct sim_request *request)
{
    struct dip_message_submit *submit = &m->as.submit;
    int tokens = 0, steps = 0;
    dip__sim_shape(m->request_id, &tokens, &steps, &submit->has_hidden);
    submit->token_count = tokens;
    submit->step_count = steps;
    submit->image_count =
        dip__sim_chance(s, 800000) ? 1 : 1 + (int)dip__sim_draw(s, SIM_IMAGES_MAX);
    submit->priority = (enum dip_priority)dip__sim_draw(s, 3);
    submit->tenant = dip__sim_chance(s, 600000) ? 0 : (uint32_t)dip__sim_draw(s, 12);
    if (dip__sim_chance(s, 300000))
        submit->deadline_ns = s->now_ns + (int64_t)dip__sim_draw(s, 20 * DIP_SECOND_NS);
    if (dip__sim_chance(s, 150000))
        submit->begin_by_ns = s->now_ns + (int64_t)dip__sim_draw(s, 5 * DIP_SECOND_NS);
    submit->is_check = dip__sim_chance(s, 20000);
    request->images = (uint8_t)submit->image_count;
    request->is_check = submit->is_check;
    request->is_poison = s->has_poison && dip__sim_chance(s, 3000);
    request->submitted_ms = (int32_t)(s->now_ns / DIP_MS_NS);
    request->deadline_ms = (int32_t)(submit->deadline_ns / DIP_MS_NS);
}

void dip__sim_request_send(struct sim *s)
{
    struct sim_request *request = &s->requests[s->submitted++];
    struct dip_message m = {.kind = DIP_MESSAGE_SUBMIT, .request_id = (uint64_t)s->submitted};
    request_make(s, &m, request);
    dip__sim_submit(s, &m);
    if (request->state == SIM_REQUEST_ADMITTED && dip__sim_chance(s, 50000))
        dip__sim_push(
            s, (struct sim_event){.kind = SIM_CANCEL,
                                  .at_ns = s->now_ns + (int64_t)dip__sim_draw(s, 3 * DIP_SECOND_NS),
                                  .id = m.request_id,
                                  .message = -1});
    if (s->submitted == s->options.requests) {
        s->kind_since_ns = s->now_ns;
        s->break_ppm = 0;
        return;
    }
    int64_t pause_ns = 1 + (int64_t)dip__sim_draw(s, 2 * (uint64_t)s->interval_ns);
    dip__sim_push(
        s, (struct sim_event){.kind = SIM_SUBMIT, .at_ns = s->now_ns + pause_ns, .message = -1});
}

void dip__sim_request_cancel(struct sim *s, uint64_t id)
{
    if (s->requests[id - 1].is_away) {
        s->requests[id - 1].is_away = false;
        s->requests[id - 1].state = SIM_REQUEST_OVER; /* it does not come back */
        s->result.lapsed++;
        return;
    }
    dip__sim_submit(s, &(struct dip_message){.kind = DIP_MESSAGE_CANCEL, .request_id = id});
    if (s->requests[id - 1].state != SIM_REQUEST_OVER)
        dip__sim_fail(s, "request %llu was cancelled and goes on", (unsigned long long)id);
}
