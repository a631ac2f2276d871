/* engine/ar_decode.c - decoding without the host: steps that a device repeats by itself.
 *
 * While every live slot draws, a step is the same operations on the same addresses: draw from the
 * last states, embed, layers, norm, capture, stop test. Where the device can record that, one
 * recording for each number of rows replaces some hundred launches, and the host, which only reads
 * along, has a few steps under way at a time:
 *
 *     host     launch 0 1 2 3 | read 0, launch 4 | read 1, launch 5 | ...
 *     device   step 0 | step 1 | step 2 | step 3 | step 4 | ...
 *
 * A run begins from what the slots hold, on the device's side in dip_decode_slot. It ends when the
 * set of jobs changes or fewer rows would do: nothing more is launched, what is under way is read,
 * and the states it captured join those that the host has. Then the general step (ar_step.c) plans
 * anew. A job that was cancelled, or whose slot was taken again, is told by its turn: what the
 * device still does for it is read by nobody, and lies beyond every prompt. Ids, states and events
 * are those of the general step, bit for bit.
 *
 * The ranks of a group run the same recordings at the same time, with their exchanges inside
 * (ops/comm.h). They have one step under way: whether the job set changes after it is said in it.
 * An id that cannot be drawn from what the ranks send each other in a recorded step is -1 on all of
 * them; its slot has not moved, and the general step that follows draws it. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "engine/ar_engine.h"
#include "engine/place.h"

enum { AHEAD_STEPS = 4, RECORDINGS_MAX = 16 };

/* What a rank sends on of each row: top-k as published, 1200, and ties. */
enum { CANDIDATES = 1280, TOP_K_MAX = 1248 };

/* Rows of a recording; the last is the number of slots. */
static const int row_counts[] = {1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192};

struct dip__ar_decode {
    struct dip_mem mem; /* of the device */
    struct dip_decode_slot *slots;
    int32_t *row_slots;
    uint32_t *step;
    struct dip_row *rows;
    struct dip_draw *draws;
    float *hinges;         /* [slots, hinge_rows, H] */
    int32_t *note, *notes; /* of a group: [1], [ranks] */

    struct dip_mem shared;
    int32_t *ring; /* the device's address of it: [AHEAD_STEPS][rows][2] */

    struct dip_fence *fences[AHEAD_STEPS];
    struct {
        int row_count;
        struct dip_graph *graph;
    } recordings[RECORDINGS_MAX];
    int recording_count;

    /* The run. */
    bool is_running, is_closing;
    bool is_undrawn; /* an id is missing: the general step's turn */
    int recording;
    int launched, read; /* steps */
    int step_count;     /* that the longest of its jobs needs */
    int live_count;     /* rows with a job; the others keep free slots company */
    int32_t *run_slots; /* [slots] of each row, host */
    uint64_t *turns;    /* [slots] of each row's job */
    int *hinge_first;   /* [slots] of each row: the states from here on are on the device alone */
};

/* ---- life ---- */

static size_t device_bytes(const struct dip_ar_engine *engine)
{
    size_t slots = (size_t)engine->options.slot_count;
    return dip_arena_round(slots * sizeof(struct dip_decode_slot)) +
           dip_arena_round(slots * sizeof(int32_t)) + dip_arena_round(sizeof(uint32_t)) +
           dip_arena_round(slots * sizeof(struct dip_row)) +
           dip_arena_round(slots * sizeof(struct dip_draw)) + dip_arena_round(sizeof(int32_t)) +
           dip_arena_round(DIP_COMM_RANKS_MAX * sizeof(int32_t)) +
           dip__rows_bytes((int64_t)slots * engine->hinge_rows, engine->config->hidden);
}

static enum dip_status memory_reserve(struct dip_ar_engine *engine, struct dip__ar_decode *d)
{
    size_t slots = (size_t)engine->options.slot_count;
    struct dip_arena arena;
    void *ring = NULL;
    DIP_TRY(dip_reserve(engine->device, device_bytes(engine), &d->mem));
    DIP_TRY(dip_reserve_shared(engine->device, AHEAD_STEPS * slots * 2 * sizeof(int32_t),
                               &d->shared, &ring));
    dip_arena_init(&arena, d->mem.base, d->mem.bytes);
    d->ring = ring;
    d->slots = dip__place(&arena, slots * sizeof *d->slots);
    d->row_slots = dip__place(&arena, slots * sizeof *d->row_slots);
    d->step = dip__place(&arena, sizeof *d->step);
    d->rows = dip__place(&arena, slots * sizeof *d->rows);
    d->draws = dip__place(&arena, slots * sizeof *d->draws);
    d->note = dip__place(&arena, sizeof *d->note);
    d->notes = dip__place(&arena, DIP_COMM_RANKS_MAX * sizeof *d->notes);
    d->hinges = dip__place(
        &arena, dip__rows_bytes((int64_t)slots * engine->hinge_rows, engine->config->hidden));
    d->run_slots = calloc(slots, sizeof *d->run_slots);
    d->turns = calloc(slots, sizeof *d->turns);
    d->hinge_first = calloc(slots, sizeof *d->hinge_first);
    if (!d->run_slots || !d->turns || !d->hinge_first)
        return DIP_NO_MEMORY;
    for (int i = 0; i < AHEAD_STEPS; i++)
        DIP_TRY(dip_fence_new(engine->stream, &d->fences[i]));
    return DIP_OK;
}

static enum dip_status ids_draw(struct dip_ar_engine *engine, const struct dip__ar_decode *d,
                                struct dip_tensor ids, struct dip_tensor logits)
{
    struct dip_stream *s = engine->stream;
    int room = engine->options.candidates_max;
    if (!engine->comm)
        return dip_sample(
            s, &(struct dip_sample_args){.ids = ids, .logits = logits, .draws = d->draws});
    return dip_comm_draw(engine->comm, s,
                         &(struct dip_comm_draw_args){.ids = ids,
                                                      .logits = logits,
                                                      .draws = d->draws,
                                                      .vocab = engine->config->vocab,
                                                      .room = room ? room : (int)CANDIDATES,
                                                      .note = d->note,
                                                      .notes = d->notes},
                         &engine->scratch);
}

/* One step of `rows` rows, all of it on the device. */
static enum dip_status step_enqueue(struct dip_ar_engine *engine, const struct dip__ar_decode *d,
                                    int rows)
{
    struct dip_stream *s = engine->stream;
    struct dip_tensor drawing = dip_rows_slice(engine->drawing, 0, rows);
    struct dip_tensor logits = dip_rows_slice(engine->logits, 0, rows);
    struct dip_tensor hidden = dip_rows_slice(engine->hidden, 0, rows);
    struct dip_tensor ids = dip_tensor_1d(engine->ids.data, DIP_I32, rows);
    struct dip_ar_args forward = {.hidden = hidden,
                                  .ids = ids,
                                  .rows = d->rows,
                                  .cache = &engine->cache,
                                  .comm = engine->comm};
    DIP_TRY(
        dip_decode_begin(s, &(struct dip_decode_begin_args){.slots = d->slots,
                                                            .row_slots = d->row_slots,
                                                            .last = engine->last,
                                                            .drawing = drawing,
                                                            .rows = d->rows,
                                                            .draws = d->draws,
                                                            .step = d->step,
                                                            .capacity = engine->cache.capacity}));
    DIP_TRY(dip_ar_logits(engine->ar, s, logits, drawing));
    DIP_TRY(ids_draw(engine, d, ids, logits));
    DIP_TRY(dip_ar_forward(engine->ar, s, &forward, &engine->scratch));
    return dip_decode_end(s, &(struct dip_decode_end_args){.slots = d->slots,
                                                           .row_slots = d->row_slots,
                                                           .last = engine->last,
                                                           .hidden = hidden,
                                                           .ids = ids.data,
                                                           .ring = d->ring,
                                                           .step = d->step,
                                                           .ring_depth = AHEAD_STEPS,
                                                           .eos_count = engine->config->eos_count,
                                                           .eos_ids = engine->config->eos_ids});
}

static enum dip_status record(struct dip_ar_engine *engine, struct dip__ar_decode *d, int rows)
{
    struct dip_graph *graph = NULL;
    DIP_TRY(dip_graph_begin(engine->stream));
    enum dip_status status = step_enqueue(engine, d, rows);
    enum dip_status ended = dip_graph_end(engine->stream, &graph);
    if (status || ended) {
        dip_graph_free(engine->stream, graph);
        return status ? status : ended;
    }
    d->recordings[d->recording_count].row_count = rows;
    d->recordings[d->recording_count++].graph = graph;
    return DIP_OK;
}

enum dip_status dip__ar_decode_new(struct dip_ar_engine *engine)
{
    int slots = engine->options.slot_count;
    if (!dip_can_capture(engine->stream) || engine->options.is_stepwise ||
        engine->config->eos_count > DIP_DECODE_EOS_MAX)
        return DIP_OK;
    struct dip__ar_decode *d = calloc(1, sizeof *d);
    if (!d)
        return DIP_NO_MEMORY;
    engine->decode = d; /* freed with the engine, also when it is not whole */
    DIP_TRY(memory_reserve(engine, d));
    for (size_t i = 0; i < sizeof row_counts / sizeof *row_counts && row_counts[i] < slots; i++)
        DIP_TRY(record(engine, d, row_counts[i]));
    return record(engine, d, slots);
}

void dip__ar_decode_free(struct dip_ar_engine *engine)
{
    struct dip__ar_decode *d = engine->decode;
    if (!d)
        return;
    for (int i = 0; i < d->recording_count; i++)
        dip_graph_free(engine->stream, d->recordings[i].graph);
    for (int i = 0; i < AHEAD_STEPS; i++)
        dip_fence_free(engine->stream, d->fences[i]);
    dip_release(engine->device, &d->mem);
    dip_release_shared(engine->device, &d->shared);
    free(d->run_slots);
    free(d->turns);
    free(d->hinge_first);
    free(d);
    engine->decode = NULL;
}

/* ---- a run begins ---- */

static bool slot_decodes(const struct dip_ar_engine *engine, const struct dip__ar_slot *slot)
{
    int top_k = slot->params.top_k;
    bool is_drawable = !engine->comm || (top_k > 0 && top_k <= TOP_K_MAX);
    return slot->is_prefilled && slot->fed_count == slot->known_count &&
           slot->known_count < slot->end_count && is_drawable;
}

/* The live slots, then as many free ones as the recording has rows left. */
static bool rows_choose(const struct dip_ar_engine *engine, struct dip__ar_decode *d)
{
    int live = 0;
    for (int i = 0; i < engine->options.slot_count; i++) {
        if (!engine->slots[i].is_live)
            continue;
        if (!slot_decodes(engine, &engine->slots[i]))
            return false;
        d->run_slots[live++] = i;
    }
    if (live == 0)
        return false;
    d->live_count = live;
    d->recording = 0;
    while (d->recordings[d->recording].row_count < live)
        d->recording++;
    int rows = live;
    for (int i = 0; rows < d->recordings[d->recording].row_count; i++)
        if (!engine->slots[i].is_live)
            d->run_slots[rows++] = i;
    return true;
}

/* Of a group, rank 0 alone. */
static bool keeps_hinge(const struct dip_ar_engine *engine)
{
    return !engine->comm || dip_comm_rank(engine->comm) == 0;
}

static struct dip_decode_slot slot_state(const struct dip_ar_engine *engine,
                                         const struct dip__ar_decode *d, int index)
{
    const struct dip__ar_slot *slot = &engine->slots[index];
    const struct dip_image_params *p = &slot->params;
    float *hinge = d->hinges + index * (int64_t)engine->hinge_rows * engine->config->hidden;
    int32_t vocab = engine->config->vocab;
    if (!slot->is_live)
        return (struct dip_decode_slot){.state = DIP_DECODE_IDLE, .temperature = 1, .top_p = 1};
    return (struct dip_decode_slot){.seed = p->seed,
                                    .image_index = p->image_index,
                                    .state = DIP_DECODE_RUNNING,
                                    .temperature = p->temperature,
                                    .top_p = p->top_p,
                                    .top_k = p->top_k > vocab ? vocab : p->top_k,
                                    .position = slot->fed_count,
                                    .token = slot->known_count - slot->prompt_count,
                                    .end = slot->end_count,
                                    .hinge_row = slot->fed_count - slot->prompt_count + 1,
                                    .hinge = keeps_hinge(engine) ? hinge : NULL};
}

/* Host bytes into a device array. */
static enum dip_status upload(struct dip_ar_engine *engine, void *to, const void *from,
                              size_t bytes)
{
    int64_t count = (int64_t)(bytes / sizeof(int32_t));
    return dip_copy(engine->stream, dip_tensor_1d(to, DIP_I32, count),
                    dip_tensor_1d((void *)(uintptr_t)from, DIP_I32, count));
}

static enum dip_status run_begin(struct dip_ar_engine *engine, struct dip__ar_decode *d)
{
    int rows = d->recordings[d->recording].row_count;
    uint32_t step = 0;
    d->step_count = 0;
    for (int r = 0; r < rows; r++) {
        struct dip__ar_slot *slot = &engine->slots[d->run_slots[r]];
        struct dip_decode_slot state = slot_state(engine, d, d->run_slots[r]);
        DIP_TRY(upload(engine, &d->slots[d->run_slots[r]], &state, sizeof state));
        if (r >= d->live_count)
            continue;
        d->turns[r] = slot->turn;
        d->hinge_first[r] = state.hinge_row;
        int left = slot->end_count - slot->fed_count;
        d->step_count = left > d->step_count ? left : d->step_count;
    }
    DIP_TRY(upload(engine, d->row_slots, d->run_slots, (size_t)rows * sizeof *d->run_slots));
    DIP_TRY(upload(engine, d->step, &step, sizeof step));
    DIP_TRY(dip_wait(engine->stream)); /* what is underway reads no memory of ours */
    d->launched = 0;
    d->read = 0;
    d->is_running = true;
    d->is_closing = false;
    return DIP_OK;
}

/* ---- a run goes on ---- */

static struct dip__ar_slot *row_slot(const struct dip_ar_engine *engine,
                                     const struct dip__ar_decode *d, int row)
{
    struct dip__ar_slot *slot = &engine->slots[d->run_slots[row]];
    return slot->is_live && slot->turn == d->turns[row] ? slot : NULL;
}

/* Whether the jobs are still those that the run began with, but for those that are done. */
static bool is_changed(const struct dip_ar_engine *engine, const struct dip__ar_decode *d)
{
    int known = 0;
    for (int r = 0; r < d->live_count; r++)
        known += row_slot(engine, d, r) != NULL;
    int smaller = d->recording > 0 ? d->recordings[d->recording - 1].row_count : 0;
    return known != dip__ar_slots_live(engine) || known <= smaller;
}

static enum dip_status launch(struct dip_ar_engine *engine, struct dip__ar_decode *d)
{
    int ahead = engine->comm ? 1 : (int)AHEAD_STEPS;
    while (!d->is_closing && d->launched < d->step_count && d->launched - d->read < ahead) {
        int32_t note = engine->control.bytes > 0;
        if (engine->comm)
            DIP_TRY(upload(engine, d->note, &note, sizeof note));
        DIP_TRY(dip_graph_launch(engine->stream, d->recordings[d->recording].graph));
        DIP_TRY(dip_fence_set(engine->stream, d->fences[d->launched % AHEAD_STEPS]));
        d->launched++;
    }
    return DIP_OK;
}

/* Until the oldest step is done; of a group also what its ranks have said in it. */
static enum dip_status step_await(struct dip_ar_engine *engine, const struct dip__ar_decode *d)
{
    int32_t notes[DIP_COMM_RANKS_MAX] = {0};
    if (!engine->comm)
        return dip_fence_wait(engine->stream, d->fences[d->read % AHEAD_STEPS]);
    int64_t ranks = dip_comm_count(engine->comm);
    DIP_TRY(dip_copy(engine->stream, dip_tensor_1d(notes, DIP_I32, ranks),
                     dip_tensor_1d(d->notes, DIP_I32, ranks)));
    DIP_TRY(dip_wait(engine->stream));
    DIP_TRY(dip_comm_error(engine->comm)); /* a group that ended leaves nothing to believe */
    engine->control.is_due = notes[0] != 0;
    return DIP_OK;
}

/* The states of this run that only the device has, to the host. */
static enum dip_status states_fetch(struct dip_ar_engine *engine, struct dip__ar_decode *d, int row,
                                    struct dip__ar_slot *slot)
{
    int64_t H = engine->config->hidden;
    int first = d->hinge_first[row];
    int count = slot->fed_count - slot->prompt_count + 1 - first;
    float *hinge = d->hinges + (int64_t)d->run_slots[row] * engine->hinge_rows * H;
    if (count == 0 || !keeps_hinge(engine))
        return DIP_OK;
    d->hinge_first[row] = first + count;
    return dip_copy(engine->stream, dip_rows(slot->hidden + first * H, DIP_F32, count, H),
                    dip_rows(hinge + first * H, DIP_F32, count, H));
}

/* What one step has done to one slot. */
static void row_settle(const struct dip_ar_engine *engine, struct dip__ar_decode *d,
                       struct dip__ar_slot *slot, const int32_t *entry)
{
    int32_t id = entry[0];
    if (engine->comm && id < 0) {
        d->is_undrawn = d->is_closing = true;
        return;
    }
    slot->row_count = 1;
    slot->has_failed = entry[1] == DIP_DECODE_BROKEN;
    if (slot->has_failed)
        return;
    dip_assert(id >= 0 && id < engine->config->vocab);
    slot->ids[slot->known_count++] = id;
    slot->fed_count++;
    if (entry[1] == DIP_DECODE_DONE)
        slot->end_count = slot->fed_count;
    dip_assert((slot->fed_count == slot->end_count) == (entry[1] == DIP_DECODE_DONE));
}

/* Reads the oldest step underway. */
static enum dip_status step_read(struct dip_ar_engine *engine, struct dip__ar_decode *d)
{
    int rows = d->recordings[d->recording].row_count;
    int at = d->read % AHEAD_STEPS;
    const int32_t *ring = (const int32_t *)d->shared.base + (size_t)at * (size_t)rows * 2;
    bool is_fetched = false;
    DIP_TRY(step_await(engine, d));
    d->read++;
    for (int i = 0; i < engine->options.slot_count; i++)
        engine->slots[i].row_count = 0;
    for (int r = 0; r < d->live_count; r++) {
        struct dip__ar_slot *slot = row_slot(engine, d, r);
        if (!slot)
            continue;
        row_settle(engine, d, slot, &ring[2 * r]);
        if (slot->fed_count == slot->end_count) {
            DIP_TRY(states_fetch(engine, d, r, slot));
            is_fetched = true;
        }
    }
    return is_fetched ? dip_wait(engine->stream) : DIP_OK;
}

/* All has been read: whoever goes on does so from the host's side. */
static enum dip_status run_end(struct dip_ar_engine *engine, struct dip__ar_decode *d)
{
    d->is_running = false;
    for (int r = 0; r < d->live_count; r++) {
        struct dip__ar_slot *slot = row_slot(engine, d, r);
        if (slot)
            DIP_TRY(states_fetch(engine, d, r, slot));
    }
    return dip_wait(engine->stream);
}

enum dip_status dip__ar_decode_step(struct dip_ar_engine *engine, bool *ret_is_done)
{
    struct dip__ar_decode *d = engine->decode;
    *ret_is_done = false;
    if (!d)
        return DIP_OK;
    if (d->is_running && is_changed(engine, d))
        d->is_closing = true;
    if (d->is_running && d->read == d->launched && (d->is_closing || d->read == d->step_count))
        DIP_TRY(run_end(engine, d));
    if (!d->is_running) {
        bool is_general = d->is_undrawn;
        d->is_undrawn = false;
        if (is_general || !rows_choose(engine, d))
            return DIP_OK;
        DIP_TRY(run_begin(engine, d));
    }
    DIP_TRY(launch(engine, d));
    DIP_TRY(step_read(engine, d));
    *ret_is_done = true;
    return DIP_OK;
}
