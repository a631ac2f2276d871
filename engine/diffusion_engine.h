/* engine/diffusion_engine.h - the diffusion engine's slots; private to engine/.
 *
 * A slot holds one picture on its way: admitted, conditioned, stepped, decoded. Latents are
 * [h * w, c] inside (channels last) and [c, h, w] wherever somebody outside sees them: the noise
 * that comes in, the traces that go out. Owner thread: the device thread. */
#pragma once

#include "engine/engine.h"

enum dip__diffusion_stage {
    DIP__DIFFUSION_FREE,
    DIP__DIFFUSION_ADMITTED, /* waits for the connector */
    DIP__DIFFUSION_STEPPING,
    DIP__DIFFUSION_STEPPED, /* waits for the decoder */
};

struct dip__diffusion_slot {
    enum dip__diffusion_stage stage;
    uint64_t id;
    uint64_t turn; /* when it was last served: the smallest is served next */
    struct dip_image_params params;
    struct dip_schedule schedule;
    int step_index; /* steps done */
    enum dip_preview_kind preview;
    int preview_every;
    dip_trace_fn trace;
    void *trace_context;
    bool is_finite; /* of what this step made, after the wait */

    /* Host memory. */
    float *hidden; /* [context_rows_max, H] */
    int hidden_rows;
    float *noise; /* [c, h, w]; of a job that goes on, its latent */
    bool has_noise;
    float *history;     /* [c, h, w] of a job that goes on: the last clean estimate */
    unsigned char *rgb; /* [pixels_max, 3]: what events point to */

    /* Device memory. */
    void *context_memory;
    struct dip_cross_context context;
    float *latent;   /* [h * w, c] */
    float *clean[2]; /* [h * w, c]: estimate of step k at k % 2 */
};

/* One block of memory, one copy a step. */
struct dip__diffusion_plan {
    struct dip_sampler_item *items;     /* [batch_max] */
    struct dip_cross_context *contexts; /* [batch_max] */
};

/* Steps of one kind: so many pictures of one size, guided or not (diffusion_record.c). */
enum { DIP__DIFFUSION_RECORDINGS = 16 };
struct dip__diffusion_recording {
    int batch_count, latent_height, latent_width;
    bool is_guided;
    struct dip_graph *graph; /* NULL: was run once, from the host */
    uint64_t turn;           /* when it was last run; 0: a free place */
};

struct dip_diffusion_engine {
    const struct dip_model *model;
    struct dip_device *device;
    struct dip_stream *stream;
    struct dip_diffusion_engine_options options;
    int64_t latent_count_max; /* elements of the largest latent */
    int64_t pixels_max;
    uint64_t turn_next;

    struct dip_mem mem;              /* all device memory below and in the slots */
    float *batch_latent;             /* [batch_max * latent_count_max] each */
    float *batch_uncond;             /* velocities of the two branches */
    float *batch_cond;               /* */
    float *batch_velocity;           /* guided */
    struct dip__diffusion_plan plan; /* what the batch's pictures are and where they stand */
    float *batch_t;                  /* [batch_max] timesteps */
    uint32_t *batch_is_bad;          /* [batch_max] */
    struct dip_arena work;           /* whatever one call of a network needs; empty between calls */

    /* Host memory. */
    struct dip__diffusion_slot *slots;    /* [slot_count] */
    struct dip__diffusion_slot **batch;   /* [batch_max] slots of this step */
    struct dip__diffusion_plan plan_host; /* the same as plan, on its way */
    uint32_t *is_bad;                     /* [batch_max] */
    int batch_count;
    int batch_limit;                             /* for the next step: 1 .. batch_max */
    struct dip__diffusion_recording *recordings; /* [DIP__DIFFUSION_RECORDINGS] */
    uint64_t recording_turn;
    float *staging;       /* one condition or latent on its way to or from the outside */
    unsigned char *cells; /* [latent cells max, 3]: a linear preview before enlarging */
};

/* The slot's latent-shaped tensor at `data` as [h * w, c]. */
struct dip_tensor dip__diffusion_rows(const struct dip_diffusion_engine *engine,
                                      const struct dip__diffusion_slot *slot, float *data);

/* Pictures and traces of a latent (preview.c). Each overwrites `work` and `staging` and waits. */

/* The decoder's picture into slot->rgb; slot->is_finite says whether it holds numbers only. */
DIP_MUST_USE enum dip_status dip__diffusion_decode(struct dip_diffusion_engine *engine,
                                                   struct dip__diffusion_slot *slot, float *latent,
                                                   int *ret_width, int *ret_height);

/* The linear map's picture into slot->rgb, enlarged. */
DIP_MUST_USE enum dip_status dip__diffusion_sketch(struct dip_diffusion_engine *engine,
                                                   struct dip__diffusion_slot *slot, float *latent,
                                                   int *ret_width, int *ret_height);

/* A latent-shaped tensor to ret_planes [c, h, w], in host memory. */
DIP_MUST_USE enum dip_status dip__diffusion_planes(struct dip_diffusion_engine *engine,
                                                   const struct dip__diffusion_slot *slot,
                                                   float *data, float *ret_planes);

/* A latent-shaped tensor to the slot's trace as [c, h, w]; nothing without one. */
DIP_MUST_USE enum dip_status dip__diffusion_trace(struct dip_diffusion_engine *engine,
                                                  struct dip__diffusion_slot *slot,
                                                  const char *name, float *data);

/* Of a plan: the items, then the contexts. */
size_t dip__diffusion_plan_bytes(int batch_max);

/* Whether both branches are computed; without guidance the conditional velocity is the result. */
bool dip__diffusion_is_guided(const struct dip__diffusion_slot *slot);

/* ---- diffusion_record.c ---- */

/* One sampler step of the planned batch, enqueued. Errors: DEVICE, NO_MEMORY. */
DIP_MUST_USE enum dip_status dip__diffusion_run(struct dip_diffusion_engine *engine);
void dip__diffusion_recordings_free(struct dip_diffusion_engine *engine);
