/* engine/ar_engine.h - the autoregressive engine's slots; private to engine/.
 *
 * A slot holds one sequence: the prompt's ids, then the image's. Three counters say all about it:
 *
 *     ids    p p p p p p p p g g g g g . . . . .
 *            |--- prompt ---|                    |
 *            |------ fed -------|                | keys and values cached, hidden states captured
 *            |------- known --------|            | prompt, forced ids, ids drawn so far
 *            |-------------- end ----------------| prompt + image tokens; sooner after an
 *                                                  end-of-sequence id
 *
 * fed < known: the slot feeds known ids (prompt, or ids to replay), as many as the step's budget
 * allows. fed == known < end: it draws one id and feeds it. fed == end: done. So the last id drawn
 * gets its forward pass like every other, and nothing is drawn after it.
 * Owner thread: the device thread. */
#pragma once

#include "engine/engine.h"

struct dip__ar_slot {
    bool is_live;
    bool is_prefilled; /* PREFILLED has been reported; only then may it draw */
    bool is_waiting;   /* this step: for the prompt of another slot */
    bool is_finite;    /* states of this step's rows, after the wait */
    bool has_failed;   /* they were not; nobody may share this slot's prompt */
    bool is_muted;     /* cancelled on rank 0, not yet on the others: no more events */
    uint64_t id;
    uint64_t turn; /* admission number: first come, first served */
    struct dip_image_params params;
    int32_t *ids; /* [ids_max] host */
    int prompt_count, known_count, fed_count, end_count;
    float *hidden; /* [hinge_rows, H] host: the hinge; row 0 is the prompt's last state */
    int row_first, row_count; /* this step's part of the batch */
};

/* Changes of the job set on their way from rank 0 to the others: records, back to back. */
struct dip__ar_control {
    unsigned char *data; /* [bytes_max]; NULL alone */
    size_t bytes, bytes_max;
    int admit_count; /* among the records */
    bool is_due;     /* the last step said: records come before the next */
};

struct dip_ar_engine {
    const struct dip_ar *ar; /* the model's, or the shard */
    struct dip_ar *shard;    /* owned; NULL alone */
    struct dip_comm *comm;   /* NULL alone */
    struct dip__ar_control control;
    const struct dip_ar_config *config;
    struct dip_device *device;
    struct dip_stream *stream;
    struct dip_ar_engine_options options;
    int rows_max;   /* of one step */
    int hinge_rows; /* image_tokens_max + 1; 1 where nobody asks for the hinge: other ranks than 0
                     */
    uint64_t turn_next;

    struct dip_ar_cache cache;
    struct dip_mem mem;        /* the device tensors below and the scratch */
    struct dip_tensor ids;     /* i32[rows_max] */
    struct dip_tensor hidden;  /* [rows_max, H] of this step */
    struct dip_tensor last;    /* [slots, H]: state after each slot's last fed id */
    struct dip_tensor drawing; /* [slots, H]: those of the slots that draw, side by side, as a
                                  product reads them */
    struct dip_tensor logits;  /* [slots, V of the shard] */
    struct dip_arena scratch;

    struct dip__ar_decode *decode; /* NULL: every step is the host's */

    /* Host memory. */
    struct dip__ar_slot *slots; /* [slot_count] */
    struct dip_row *rows;       /* [rows_max] */
    int32_t *row_ids;           /* [rows_max] */
    struct dip_draw *draws;     /* [slot_count] */
    int row_count, draw_count;  /* of this step; rows 0..draw_count-1 are the drawn ids */
};

/* Whether the slot's cache holds this whole prompt (a free slot's may). */
bool dip__ar_slot_holds(const struct dip__ar_slot *slot, const int32_t *prompt_ids,
                        int prompt_count);

/* What admit and cancel do once they are due; the job has been checked. */
void dip__ar_slot_admit(struct dip_ar_engine *engine, const struct dip_ar_job *job);
void dip__ar_slot_cancel(struct dip_ar_engine *engine, uint64_t id);
struct dip__ar_slot *dip__ar_slot_find(const struct dip_ar_engine *engine, uint64_t id);
int dip__ar_slots_live(const struct dip_ar_engine *engine);
/* LIMIT or INVALID, as dip_ar_engine_admit says of the job alone. */
enum dip_status dip__ar_job_check(const struct dip_ar_engine *engine, const struct dip_ar_job *job);

/* One step of the slots; events NULL where nobody asks for them. */
enum dip_status dip__ar_step(struct dip_ar_engine *engine, struct dip_ar_event *events,
                             int *ret_event_count);

/* ---- ar_decode.c ---- */

/* What repeats steps without the host, where the device can; elsewhere engine->decode stays NULL.
 * Errors: NO_MEMORY, DEVICE. */
enum dip_status dip__ar_decode_new(struct dip_ar_engine *engine);
void dip__ar_decode_free(struct dip_ar_engine *engine);

/* One step, as of dip__ar_step up to the reports, when nothing but drawing is due;
 * *ret_is_done says whether it was. */
enum dip_status dip__ar_decode_step(struct dip_ar_engine *engine, bool *ret_is_done);

/* ---- ar_group.c ---- */

enum dip_status dip__ar_group_reserve(struct dip_ar_engine *engine);

/* Rank 0: queued until the next share. */
void dip__ar_group_admit(struct dip_ar_engine *engine, const struct dip_ar_job *job);
void dip__ar_group_cancel(struct dip_ar_engine *engine, uint64_t id);
/* Whether a queued job that is not cancelled has this id. */
bool dip__ar_group_holds(const struct dip_ar_engine *engine, uint64_t id);
/* Rank 0, before a step: when it was announced or the others are idle, tells what is queued. */
enum dip_status dip__ar_group_share(struct dip_ar_engine *engine);

/* All ranks, once a step: the ids of the slots that draw, and whether records will follow. */
enum dip_status dip__ar_group_draw(struct dip_ar_engine *engine, struct dip_tensor ids,
                                   struct dip_tensor logits);

/* Index of the first end-of-sequence id, -1 when there is none. */
int dip__ar_eos_index(const struct dip_ar_config *config, const int32_t *ids, int count);
