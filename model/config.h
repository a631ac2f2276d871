/* model/config.h - everything a model directory states about its model, checked once.
 *
 * Read from config.json, generation_config.json, transformer/, vae/ and scheduler/ (diffusers
 * layout; the published values when absent) and the optional diptych.json. After dip_config_load
 * every rule that the forward passes rely on holds (divisibility, ranges, ids inside the
 * vocabulary), so model code asserts and never re-checks. Plain data, no ownership. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/limits.h"
#include "base/status.h"

/* Qwen3 (config.json). */
struct dip_ar_config {
    int hidden;       /* H */
    int intermediate; /* F */
    int layers;
    int heads;    /* query heads */
    int kv_heads; /* divides heads */
    int head_dim; /* even; heads * head_dim may differ from hidden */
    float norm_eps;
    double rope_theta;
    int position_max;           /* max_position_embeddings */
    int vocab;                  /* V, rows of the embedding */
    bool is_tied;               /* the head is the embedding table, whatever lm_head.weight holds */
    int32_t image_start_tag_id; /* <im_start> */
    int32_t scale_start_id;     /* <S0> */
    int32_t image_first_id;     /* <I0> */
    int32_t image_token_count;  /* size of the codebook */
    int32_t eos_ids[8];         /* generation_config.json; drawing one ends a sequence early */
    int eos_count;
};

/* SANA transformer (transformer/config.json). */
struct dip_dit_config {
    int latent_channels; /* in_channels == out_channels */
    int patch;
    int width; /* D = heads * head_dim */
    int heads, head_dim;
    int cross_heads, cross_head_dim; /* product is D */
    int caption_channels;
    int layers;
    int ffn; /* F = int(mlp_ratio * D) */
    float norm_eps;
};

enum { DIP_VAE_STAGES_MAX = 8 };
enum dip_vae_block { DIP_VAE_RES, DIP_VAE_VIT };

/* DC-AE decoder (vae/config.json). Arrays are indexed by stage; stage 0 is the full-size one, run
 * last. */
struct dip_vae_config {
    int stages;
    int latent_channels;
    int head_dim;
    enum dip_vae_block block[DIP_VAE_STAGES_MAX];
    int channels[DIP_VAE_STAGES_MAX];
    int layers[DIP_VAE_STAGES_MAX];
    int scale_kernel[DIP_VAE_STAGES_MAX]; /* the extra qkv multiscale's kernel (5), 0 = none */
    bool is_pixel_shuffle;                /* up blocks: false = nearest x2 then convolution */
    double scaling_factor;
    int factor; /* 2^(stages - 1): pixels per latent cell */
};

enum dip_sampler { DIP_SAMPLER_EULER, DIP_SAMPLER_DPM };

/* scheduler/scheduler_config.json. */
struct dip_scheduler_config {
    int train_timesteps;
    double shift;      /* Euler; 1 when absent */
    double flow_shift; /* DPM-Solver++; 3 when absent */
};

/* diptych.json, else the published values. generation_config.json does not override them. */
struct dip_generation_config {
    int grid_height, grid_width; /* image tokens = product */
    int latent_height, latent_width;
    int steps;
    double guidance;
    double temperature;
    int top_k; /* at most vocab */
    double top_p;
    enum dip_sampler sampler;
    bool has_preview;
    float preview_rgb[128][3]; /* [latent_channels], r, g, b in 0..1 per unit of scaled latent */
    float preview_bias[3];
};

struct dip_config {
    struct dip_ar_config ar;
    struct dip_dit_config dit;
    struct dip_vae_config vae;
    struct dip_scheduler_config scheduler;
    struct dip_generation_config generation;
};

/* Errors: NOT_FOUND, CORRUPT, UNSUPPORTED, LIMIT with one sentence naming file, key, found and
 * expected. */
DIP_MUST_USE enum dip_status dip_config_load(const char *directory, struct dip_why *why,
                                             struct dip_config *ret_config);

/* The files that dip_config_load reads, as text: for tests and for fuzzing the parsers. */
enum dip_config_file {
    DIP_CONFIG_MODEL,       /* config.json; the only one that must be there */
    DIP_CONFIG_GENERATION,  /* generation_config.json */
    DIP_CONFIG_TRANSFORMER, /* transformer/config.json */
    DIP_CONFIG_VAE,         /* vae/config.json */
    DIP_CONFIG_SCHEDULER,   /* scheduler/scheduler_config.json */
    DIP_CONFIG_DIPTYCH,     /* diptych.json */
    DIP_CONFIG_FILE_COUNT
};
struct dip_config_text {
    const char *text; /* NULL when the file is absent */
    size_t bytes;
};

/* The same from texts; `directory` is for messages. */
DIP_MUST_USE enum dip_status
dip_config_parse(const struct dip_config_text files[DIP_CONFIG_FILE_COUNT], const char *directory,
                 struct dip_why *why, struct dip_config *ret_config);

/* The true sizes of published models for benchmarks: "qwen3-0.6b", "qwen3-1.7b" (AR only),
 * "sana-1.6b", "dcae", and "full" (1.7b with the other two). Parts a shape lacks have layers or
 * stages 0. Errors: NOT_FOUND, listing the names. */
DIP_MUST_USE enum dip_status dip_config_shape(const char *name, struct dip_why *why,
                                              struct dip_config *ret_config);
