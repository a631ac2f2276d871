/* engine/ar_group.c - one engine over several ranks: how all of them hold the same jobs.
 *
 * Every rank runs the step machine of ar_step.c on the same slots. A step depends on the slots and
 * on ids that all ranks draw alike, so only changes of the job set have to be told: rank 0 queues
 * what it admits and cancels, and broadcasts the queue between two steps. That it will is said in
 * the exchange that drawing needs anyway (the note of rank 0), so a step without changes costs no
 * message:
 *
 *     rank 0   step n, note 0 | admit x | step n+1, note 1 | share x | step n+2 with x
 *     others   step n         |         | step n+1         | listen  | step n+2 with x
 *
 * Ranks without live jobs take no step: the others then always listen, for as long as it takes.
 * Records are structs in host order, between processes of one build (worker/ compares that). */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "engine/ar_engine.h"

enum record_kind { RECORD_ADMIT, RECORD_CANCEL };

/* Followed by the prompt's ids and the forced ids, and zeros up to a multiple of its alignment. */
struct record {
    uint64_t id;
    enum record_kind kind;
    int32_t prompt_count, forced_count;
    struct dip_image_params params;
};

static size_t record_bytes(int prompt_count, int forced_count)
{
    size_t align = _Alignof(struct record);
    size_t bytes =
        sizeof(struct record) + ((size_t)prompt_count + (size_t)forced_count) * sizeof(int32_t);
    return (bytes + align - 1) / align * align;
}

enum dip_status dip__ar_group_reserve(struct dip_ar_engine *engine)
{
    const struct dip_ar_engine_options *o = &engine->options;
    /* A job for every slot, and before that the cancellation of what was there. */
    engine->control.bytes_max =
        (size_t)o->slot_count *
        (record_bytes(o->prompt_tokens_max, o->image_tokens_max) + record_bytes(0, 0));
    engine->control.data = calloc(1, engine->control.bytes_max);
    return engine->control.data ? DIP_OK : DIP_NO_MEMORY;
}

/* ---- rank 0's queue ---- */

static void append(struct dip_ar_engine *engine, const struct record *record,
                   const int32_t *prompt_ids, const int32_t *forced_ids)
{
    struct dip__ar_control *control = &engine->control;
    size_t prompt_bytes = (size_t)record->prompt_count * sizeof(int32_t);
    size_t forced_bytes = (size_t)record->forced_count * sizeof(int32_t);
    size_t bytes = record_bytes(record->prompt_count, record->forced_count);
    dip_assert(control->bytes + bytes <= control->bytes_max);
    unsigned char *at = control->data + control->bytes;
    memset(at, 0, bytes);
    memcpy(at, record, sizeof *record);
    if (prompt_ids)
        memcpy(at + sizeof *record, prompt_ids, prompt_bytes);
    if (forced_ids)
        memcpy(at + sizeof *record + prompt_bytes, forced_ids, forced_bytes);
    control->bytes += bytes;
}

void dip__ar_group_admit(struct dip_ar_engine *engine, const struct dip_ar_job *job)
{
    struct record record = {.id = job->id,
                            .kind = RECORD_ADMIT,
                            .prompt_count = job->prompt_count,
                            .forced_count = job->forced_count,
                            .params = job->params};
    append(engine, &record, job->prompt_ids, job->forced_ids);
    engine->control.admit_count++;
}

/* The record at *at, which moves to the next; false at the end, or where the bytes make no sense.
 */
static bool record_next(const struct dip_ar_engine *engine, size_t *at, struct record *ret_record)
{
    const struct dip__ar_control *control = &engine->control;
    if (control->bytes - *at < sizeof *ret_record)
        return false;
    memcpy(ret_record, control->data + *at, sizeof *ret_record);
    if (ret_record->prompt_count < 0 || ret_record->forced_count < 0 ||
        ret_record->prompt_count > engine->options.prompt_tokens_max ||
        ret_record->forced_count > engine->options.image_tokens_max)
        return false;
    size_t bytes = record_bytes(ret_record->prompt_count, ret_record->forced_count);
    if (control->bytes - *at < bytes)
        return false;
    *at += bytes;
    return true;
}

/* Where the queued job's record begins; false when there is none. */
static bool record_find(const struct dip_ar_engine *engine, uint64_t id, size_t *ret_begin,
                        size_t *ret_end)
{
    struct record record;
    size_t at = 0;
    for (size_t begin = 0; record_next(engine, &at, &record); begin = at) {
        if (record.kind != RECORD_ADMIT || record.id != id)
            continue;
        *ret_begin = begin;
        *ret_end = at;
        return true;
    }
    return false;
}

bool dip__ar_group_holds(const struct dip_ar_engine *engine, uint64_t id)
{
    size_t begin;
    size_t end;
    return record_find(engine, id, &begin, &end);
}

/* What nobody has heard of is forgotten; of a running job the others must be told. Its slot is free
 * for the next job at once, whose record comes behind. */
void dip__ar_group_cancel(struct dip_ar_engine *engine, uint64_t id)
{
    struct dip__ar_control *control = &engine->control;
    size_t begin;
    size_t end;
    if (record_find(engine, id, &begin, &end)) {
        memmove(control->data + begin, control->data + end, control->bytes - end);
        control->bytes -= end - begin;
        control->admit_count--;
        return;
    }
    struct dip__ar_slot *slot = dip__ar_slot_find(engine, id);
    if (!slot || slot->is_muted)
        return;
    slot->is_muted = true;
    append(engine, &(struct record){.id = id, .kind = RECORD_CANCEL}, NULL, NULL);
}

/* ---- between two steps ---- */

/* The same bytes on every rank from the same slots: all end with the same slots. */
static enum dip_status apply(struct dip_ar_engine *engine)
{
    struct dip__ar_control *control = &engine->control;
    struct record record;
    size_t at = 0;
    for (size_t begin = 0; record_next(engine, &at, &record); begin = at) {
        if (record.kind == RECORD_CANCEL) {
            dip__ar_slot_cancel(engine, record.id);
            continue;
        }
        const int32_t *ids = (const int32_t *)(const void *)(control->data + begin + sizeof record);
        struct dip_ar_job job = {.id = record.id,
                                 .params = record.params,
                                 .prompt_ids = ids,
                                 .prompt_count = record.prompt_count,
                                 .forced_ids = ids + record.prompt_count,
                                 .forced_count = record.forced_count};
        if (dip__ar_job_check(engine, &job) ||
            dip__ar_slots_live(engine) == engine->options.slot_count)
            return DIP_CORRUPT;
        dip__ar_slot_admit(engine, &job);
    }
    bool is_whole = at == control->bytes;
    control->bytes = 0;
    control->admit_count = 0;
    control->is_due = false;
    return is_whole ? DIP_OK : DIP_CORRUPT;
}

/* Rank 0's queue to all: its size, then itself. */
static enum dip_status exchange(struct dip_ar_engine *engine)
{
    struct dip__ar_control *control = &engine->control;
    uint64_t bytes = control->bytes;
    DIP_TRY(dip_comm_broadcast(engine->comm, 0, &bytes, sizeof bytes));
    if (bytes > control->bytes_max)
        return DIP_CORRUPT;
    control->bytes = (size_t)bytes;
    for (size_t done = 0; done < control->bytes; done += DIP_COMM_SMALL_BYTES_MAX) {
        size_t left = control->bytes - done;
        size_t piece = left < DIP_COMM_SMALL_BYTES_MAX ? left : (size_t)DIP_COMM_SMALL_BYTES_MAX;
        DIP_TRY(dip_comm_broadcast(engine->comm, 0, control->data + done, piece));
    }
    return apply(engine);
}

enum dip_status dip__ar_group_share(struct dip_ar_engine *engine)
{
    const struct dip__ar_control *control = &engine->control;
    bool is_idle = dip__ar_slots_live(engine) == 0;
    return control->is_due || (is_idle && control->bytes > 0) ? exchange(engine) : DIP_OK;
}

enum dip_status dip__ar_group_draw(struct dip_ar_engine *engine, struct dip_tensor ids,
                                   struct dip_tensor logits)
{
    int32_t notes[DIP_COMM_RANKS_MAX] = {0};
    struct dip_comm_sample_args a = {.ids = ids,
                                     .logits = logits,
                                     .draws = engine->draws,
                                     .row_count = engine->draw_count,
                                     .vocab = engine->config->vocab,
                                     .note = engine->control.bytes > 0,
                                     .ret_notes = notes};
    DIP_TRY(dip_comm_sample(engine->comm, engine->stream, &a, &engine->scratch));
    engine->control.is_due = notes[0] != 0;
    return DIP_OK;
}

enum dip_status dip_ar_engine_follow(struct dip_ar_engine *engine, int64_t wait_ns)
{
    dip_assert(engine->comm && dip_comm_rank(engine->comm) > 0);
    enum dip_status status;
    int event_count = 0;
    if (engine->control.is_due || dip__ar_slots_live(engine) == 0) {
        status = dip_comm_await(engine->comm, 0, wait_ns);
        if (status == DIP_BUSY)
            return status;
        if (!status)
            status = exchange(engine);
    } else {
        status = dip__ar_step(engine, NULL, &event_count);
    }
    if (status)
        dip_comm_abort(engine->comm); /* whatever it was: the others must not wait */
    return status;
}
