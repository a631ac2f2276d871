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
    uint64_t id;
    uint64_t turn; /* admission number: first come, first served */
    struct dip_image_params params;
    int32_t *ids; /* [ids_max] host */
    int prompt_count, known_count, fed_count, end_count;
    float *hidden; /* [image_tokens_max + 1, H] host: the hinge; row 0 is the prompt's last state */
    int row_first, row_count; /* this step's part of the batch */
};

struct dip_ar_engine {
    const struct dip_ar *ar;
    const struct dip_ar_config *config;
    struct dip_device *device;
    struct dip_stream *stream;
    struct dip_ar_engine_options options;
    int rows_max; /* of one step */
    uint64_t turn_next;

    struct dip_ar_cache cache;
    struct dip_mem mem;        /* the device tensors below and the scratch */
    struct dip_tensor ids;     /* i32[rows_max] */
    struct dip_tensor hidden;  /* [rows_max, H] of this step */
    struct dip_tensor last;    /* [slots, H]: state after each slot's last fed id */
    struct dip_tensor drawing; /* [slots, H]: those of the slots that draw, side by side */
    struct dip_tensor logits;  /* [slots, V] */
    struct dip_arena scratch;

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

/* Index of the first end-of-sequence id, -1 when there is none. */
int dip__ar_eos_index(const struct dip_ar_config *config, const int32_t *ids, int count);
