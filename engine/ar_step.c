/* engine/ar_step.c - one step of the autoregressive engine: plan the batch, draw, one forward pass,
 * capture, report.
 *
 * The batch of a step is every slot's rows side by side: first the slots that draw (one row each),
 * then the known ids that slots still have to feed, oldest job first, within the budget. A row's
 * hidden state does not depend on its neighbours (model/ar.h), an id drawn depends on its logits
 * and its position only, so neither the mix nor the order can change a job's result; they only
 * decide who waits. The host learns the drawn ids when everything is enqueued: one wait a step. */
#include "engine/ar_engine.h"

#include <string.h>

#include "base/assert.h"

int dip__ar_eos_index(const struct dip_ar_config *config, const int32_t *ids, int count)
{
    for (int i = 0; i < count; i++)
        for (int e = 0; e < config->eos_count; e++)
            if (ids[i] == config->eos_ids[e])
                return i;
    return -1;
}

static bool slot_has_prompt(const struct dip__ar_slot *slot, const int32_t *ids, int count)
{
    return slot->prompt_count == count && memcmp(slot->ids, ids, (size_t)count * sizeof *ids) == 0;
}

bool dip__ar_slot_holds(const struct dip__ar_slot *slot, const int32_t *prompt_ids,
                        int prompt_count)
{
    return !slot->has_failed && slot->fed_count >= prompt_count &&
           slot_has_prompt(slot, prompt_ids, prompt_count);
}

/* The slot whose prefill this one can take over now, or NULL. */
static struct dip__ar_slot *slot_donor(const struct dip_ar_engine *engine,
                                       const struct dip__ar_slot *slot)
{
    for (int i = 0; i < engine->options.slot_count; i++)
        if (&engine->slots[i] != slot &&
            dip__ar_slot_holds(&engine->slots[i], slot->ids, slot->prompt_count))
            return &engine->slots[i];
    return NULL;
}

/* A job whose prompt an older live job is about to prefill, or a slot already holds, feeds nothing:
 * slots_share gives it the prompt at the end of a step. Decided afresh each step, so a cancelled or
 * failed elder leaves nobody waiting. */
static bool slot_waits(const struct dip_ar_engine *engine, const struct dip__ar_slot *slot)
{
    if (slot->fed_count > 0)
        return false;
    for (int i = 0; i < engine->options.slot_count; i++) {
        const struct dip__ar_slot *other = &engine->slots[i];
        if (other->is_live && other->turn < slot->turn &&
            slot_has_prompt(other, slot->ids, slot->prompt_count))
            return true;
    }
    return slot_donor(engine, slot) != NULL;
}

/* ---- planning ---- */

static void rows_append(struct dip_ar_engine *engine, struct dip__ar_slot *slot, int count)
{
    dip_assert(count > 0 && engine->row_count + count <= engine->rows_max);
    slot->row_first = engine->row_count;
    slot->row_count = count;
    for (int i = 0; i < count; i++) {
        int row = engine->row_count + i;
        int position = slot->fed_count + i;
        engine->rows[row] = (struct dip_row){(int32_t)(slot - engine->slots), position};
        engine->row_ids[row] = slot->ids[position];
    }
    engine->row_count += count;
}

static bool slot_draws(const struct dip__ar_slot *slot)
{
    return slot->is_live && slot->is_prefilled && slot->fed_count == slot->known_count &&
           slot->known_count < slot->end_count;
}

static void draws_plan(struct dip_ar_engine *engine)
{
    for (int i = 0; i < engine->options.slot_count; i++) {
        struct dip__ar_slot *slot = &engine->slots[i];
        if (!slot_draws(slot))
            continue;
        const struct dip_image_params *p = &slot->params;
        struct dip_rng_key key = {p->seed, p->image_index, DIP_RNG_TOKEN};
        int32_t vocab = engine->config->vocab;
        engine->draws[engine->draw_count++] = (struct dip_draw){
            .temperature = p->temperature,
            .top_k = p->top_k > vocab ? vocab : p->top_k,
            .top_p = p->top_p,
            .uniform = dip_rng_uniform(&key, (uint64_t)(slot->known_count - slot->prompt_count)),
        };
        slot->ids[slot->known_count++] = 0; /* filled in after the wait */
        rows_append(engine, slot, 1);
    }
}

/* A prompt to prefill, or ids to replay once PREFILLED has been reported. */
static bool slot_feeds(const struct dip__ar_slot *slot)
{
    return slot->is_live && !slot->is_waiting && slot->row_count == 0 &&
           slot->fed_count < slot->known_count &&
           (slot->is_prefilled || slot->fed_count < slot->prompt_count);
}

/* The oldest of the slots that this step has not served yet. */
static struct dip__ar_slot *slot_next_feed(struct dip_ar_engine *engine)
{
    struct dip__ar_slot *next = NULL;
    for (int i = 0; i < engine->options.slot_count; i++) {
        struct dip__ar_slot *slot = &engine->slots[i];
        if (slot_feeds(slot) && (!next || slot->turn < next->turn))
            next = slot;
    }
    return next;
}

static void feeds_plan(struct dip_ar_engine *engine)
{
    int budget = engine->options.prefill_rows_max;
    struct dip__ar_slot *slot;
    while (budget > 0 && (slot = slot_next_feed(engine))) {
        /* A chunk ends with the prompt, so that PREFILLED is a step of its own. */
        int until = slot->fed_count < slot->prompt_count ? slot->prompt_count : slot->known_count;
        int count = until - slot->fed_count;
        count = count < budget ? count : budget;
        rows_append(engine, slot, count);
        budget -= count;
    }
}

static void step_plan(struct dip_ar_engine *engine)
{
    engine->row_count = 0;
    engine->draw_count = 0;
    for (int i = 0; i < engine->options.slot_count; i++) {
        engine->slots[i].row_count = 0;
        engine->slots[i].is_waiting =
            engine->slots[i].is_live && slot_waits(engine, &engine->slots[i]);
    }
    draws_plan(engine);
    feeds_plan(engine);
}

/* ---- computing ---- */

/* The ids of the slots that draw, into device memory. A group exchanges something in every step. */
static enum dip_status ids_draw(struct dip_ar_engine *engine)
{
    struct dip_stream *s = engine->stream;
    int draw_count = engine->draw_count;
    struct dip_tensor logits = dip_rows_slice(engine->logits, 0, draw_count);
    struct dip_tensor drawn = dip_tensor_1d(engine->ids.data, DIP_I32, draw_count);
    for (int row = 0; row < draw_count; row++)
        DIP_TRY(dip_cast(s, dip_rows_slice(engine->drawing, row, 1),
                         dip_rows_slice(engine->last, engine->rows[row].slot, 1)));
    if (draw_count > 0)
        DIP_TRY(
            dip_ar_logits(engine->ar, s, logits, dip_rows_slice(engine->drawing, 0, draw_count)));
    if (engine->comm)
        DIP_TRY(dip__ar_group_draw(engine, drawn, logits));
    else if (draw_count > 0)
        DIP_TRY(dip_sample(
            s, &(struct dip_sample_args){.ids = drawn, .logits = logits, .draws = engine->draws}));
    if (draw_count == 0)
        return DIP_OK;
    return dip_copy(s, dip_tensor_1d(engine->row_ids, DIP_I32, draw_count), drawn);
}

/* The known ids of the planned rows beside them. */
static enum dip_status ids_fill(struct dip_ar_engine *engine)
{
    int32_t *ids = engine->ids.data;
    int draw_count = engine->draw_count;
    int known_count = engine->row_count - draw_count;
    if (known_count == 0)
        return DIP_OK;
    return dip_copy(engine->stream, dip_tensor_1d(ids + draw_count, DIP_I32, known_count),
                    dip_tensor_1d(engine->row_ids + draw_count, DIP_I32, known_count));
}

/* The states from the prompt's last on go to the slot's hinge; the newest also stays on the device
 * for the next draw. */
static enum dip_status slot_capture(struct dip_ar_engine *engine, struct dip__ar_slot *slot)
{
    struct dip_stream *s = engine->stream;
    int64_t H = engine->config->hidden;
    struct dip_tensor states = dip_rows_slice(engine->hidden, slot->row_first, slot->row_count);
    int hinge_first = slot->fed_count - (slot->prompt_count - 1);
    int skip_count = hinge_first < 0 ? -hinge_first : 0;
    DIP_TRY(dip_check_finite(s, states, &slot->is_finite));
    if (skip_count >= slot->row_count)
        return DIP_OK;
    int first = hinge_first + skip_count;
    int count = slot->row_count - skip_count;
    if (count > engine->hinge_rows - first)
        count = engine->hinge_rows - first;
    if (count > 0)
        DIP_TRY(dip_copy(s, dip_rows(slot->hidden + (int64_t)first * H, DIP_F32, count, H),
                         dip_rows_slice(states, skip_count, count)));
    return dip_copy(s, dip_rows_slice(engine->last, slot - engine->slots, 1),
                    dip_rows_slice(states, slot->row_count - 1, 1));
}

static enum dip_status rows_compute(struct dip_ar_engine *engine)
{
    struct dip_stream *s = engine->stream;
    DIP_TRY(ids_fill(engine));
    struct dip_ar_args args = {
        .hidden = dip_rows_slice(engine->hidden, 0, engine->row_count),
        .ids = dip_tensor_1d(engine->ids.data, DIP_I32, engine->row_count),
        .rows = engine->rows,
        .cache = &engine->cache,
        .comm = engine->comm,
    };
    DIP_TRY(dip_ar_forward(engine->ar, s, &args, &engine->scratch));
    for (int i = 0; i < engine->options.slot_count; i++)
        if (engine->slots[i].row_count > 0)
            DIP_TRY(slot_capture(engine, &engine->slots[i]));
    DIP_TRY(dip_wait(s));
    /* A group that ended in this step may have left the wait with no sums in the states. */
    return engine->comm ? dip_comm_error(engine->comm) : DIP_OK;
}

/* ---- settling ---- */

/* What the host learns from the wait: ids drawn, sequences ended, states that are not numbers. */
static void slots_settle(struct dip_ar_engine *engine)
{
    for (int row = 0; row < engine->draw_count; row++) {
        struct dip__ar_slot *slot = &engine->slots[engine->rows[row].slot];
        int32_t id = engine->row_ids[row];
        dip_assert(id >= 0 && id < engine->config->vocab);
        slot->ids[slot->known_count - 1] = id;
        if (dip__ar_eos_index(engine->config, &id, 1) == 0)
            slot->end_count = slot->known_count;
    }
    for (int i = 0; i < engine->options.slot_count; i++) {
        struct dip__ar_slot *slot = &engine->slots[i];
        if (slot->row_count == 0)
            continue;
        slot->fed_count += slot->row_count;
        slot->has_failed = !slot->is_finite;
        dip_assert(slot->fed_count <= slot->known_count);
    }
}

/* Jobs that have fed nothing take over the prompt of a slot that has it. */
static enum dip_status slots_share(struct dip_ar_engine *engine)
{
    struct dip_stream *s = engine->stream;
    int64_t H = engine->config->hidden;
    bool is_shared = false;
    for (int i = 0; i < engine->options.slot_count; i++) {
        struct dip__ar_slot *slot = &engine->slots[i];
        if (!slot->is_live || slot->is_prefilled)
            continue;
        if (slot->fed_count == 0) {
            struct dip__ar_slot *donor = slot_donor(engine, slot);
            if (!donor)
                continue;
            DIP_TRY(dip_ar_cache_share(engine->ar, s, &engine->cache, (int)(donor - engine->slots),
                                       i, slot->prompt_count));
            memcpy(slot->hidden, donor->hidden, (size_t)H * sizeof(float));
            slot->fed_count = slot->prompt_count;
        } else if (slot->row_count > 0 || slot->fed_count < slot->prompt_count) {
            continue; /* it computed its own prompt */
        }
        DIP_TRY(
            dip_copy(s, dip_rows_slice(engine->last, i, 1), dip_rows(slot->hidden, DIP_F32, 1, H)));
        is_shared = true;
    }
    return is_shared ? dip_wait(s) : DIP_OK;
}

/* Fills the slot's event; false when there is nothing to say. */
static bool slot_report(struct dip__ar_slot *slot, struct dip_ar_event *event)
{
    int tokens_done = slot->fed_count - slot->prompt_count;
    *event = (struct dip_ar_event){.kind = DIP_AR_TOKENS, .id = slot->id};
    if (slot->has_failed) {
        event->kind = DIP_AR_FAILED;
        event->status = DIP_CORRUPT;
        slot->is_live = false;
        return true;
    }
    if (tokens_done < 0)
        return false;
    event->tokens_done = tokens_done;
    event->image_ids = slot->ids + slot->prompt_count;
    if (!slot->is_prefilled) {
        event->kind = DIP_AR_PREFILLED;
        slot->is_prefilled = true;
    } else if (slot->fed_count == slot->end_count) {
        event->kind = DIP_AR_DONE;
        event->hidden = slot->hidden;
        slot->is_live = false;
    } else if (slot->row_count == 0) {
        return false;
    }
    return true;
}

/* A step without the host serves the slots of its rows and no other: what the general step gives to
 * the rest (slots_share) they have not got. Everyone settles every slot alike; who asked for events
 * gets them, but for muted slots. */
static int slots_report(struct dip_ar_engine *engine, bool is_general, struct dip_ar_event *events)
{
    int event_count = 0;
    for (int i = 0; i < engine->options.slot_count; i++) {
        struct dip__ar_slot *slot = &engine->slots[i];
        struct dip_ar_event event;
        bool is_served = is_general || slot->row_count > 0;
        if (is_served && slot->is_live && slot_report(slot, &event) && events && !slot->is_muted)
            events[event_count++] = event;
    }
    return event_count;
}

enum dip_status dip__ar_step(struct dip_ar_engine *engine, struct dip_ar_event *events,
                             int *ret_event_count)
{
    bool is_done = false;
    DIP_TRY(dip__ar_decode_step(engine, &is_done));
    if (is_done) {
        *ret_event_count = slots_report(engine, false, events);
        return DIP_OK;
    }
    step_plan(engine);
    DIP_TRY(ids_draw(engine));
    if (engine->row_count > 0) {
        DIP_TRY(rows_compute(engine));
        slots_settle(engine);
    }
    DIP_TRY(slots_share(engine));
    *ret_event_count = slots_report(engine, true, events);
    return DIP_OK;
}

enum dip_status dip_ar_engine_step(struct dip_ar_engine *engine, struct dip_ar_event *events,
                                   int event_count_max, int *ret_event_count)
{
    dip_assert(event_count_max >= engine->options.slot_count - dip_ar_engine_free_slots(engine));
    dip_assert(!engine->comm || dip_comm_rank(engine->comm) == 0);
    enum dip_status status = engine->comm ? dip__ar_group_share(engine) : DIP_OK;
    int event_count = 0;
    if (!status && (!engine->comm || dip__ar_slots_live(engine) > 0))
        status = dip__ar_step(engine, events, &event_count);
    if (status && engine->comm)
        dip_comm_abort(engine->comm); /* whatever it was: the others must not wait */
    if (!status)
        *ret_event_count = event_count;
    return status;
}
