/* tests/engine_fixture.h - a tiny model on a device, and jobs for it: what the engine's tests
 * share. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/rng.h"
#include "engine/engine.h"
#include "tests/device.h"

struct fixture {
    struct dip_device *device;
    struct dip_stream *stream;
    struct dip_model *model;
    const struct dip_config *config;
    int tokens; /* of one image */
};

static inline void fixture_open_on(struct fixture *f, const char *model,
                                   const struct dip_device_options *options)
{
    struct dip_why why = {0};
    char directory[256];
    snprintf(directory, sizeof directory, "tests/golden/%s/model", model);
    if (dip_device_open(options, &why, &f->device) || dip_model_open(directory, &why, &f->model))
        fail_msg("%s", why.text);
    assert_int_equal(dip_stream_open(f->device, &f->stream), DIP_OK);
    if (dip_model_prepare(f->model, f->stream, &why))
        fail_msg("%s", why.text);
    f->config = &f->model->config;
    f->tokens = f->config->generation.grid_height * f->config->generation.grid_width;
}

static inline void fixture_open(struct fixture *f, const char *model, int threads)
{
    struct dip_device_options options = test_device_options(threads);
    fixture_open_on(f, model, &options);
}

static inline void fixture_close(struct fixture *f)
{
    dip_model_close(f->model);
    dip_stream_close(f->stream);
    dip_device_close(f->device);
}

/* A number below `below` that depends on seed and position only. */
static inline uint32_t pick(uint64_t seed, uint64_t position, uint32_t below)
{
    struct dip_rng_key key = {.seed = seed, .purpose = DIP_RNG_TEST};
    uint32_t words[4];
    dip_rng_words(&key, position, words);
    return words[0] % below;
}

static inline struct dip_image_params fixture_params(const struct fixture *f, uint64_t seed)
{
    const struct dip_generation_config *g = &f->config->generation;
    return (struct dip_image_params){
        .seed = seed,
        .temperature = 1,
        .top_k = 50,
        .top_p = 0.95f,
        .steps = g->steps,
        .guidance = (float)g->guidance,
        .sampler = g->sampler,
        .latent_height = g->latent_height,
        .latent_width = g->latent_width,
        .token_count = f->tokens,
    };
}

/* Ids that are neither control tokens nor ends of sequence. */
static inline void fixture_prompt(uint64_t seed, int32_t *ids, int count)
{
    for (int i = 0; i < count; i++)
        ids[i] = (int32_t)pick(seed, (uint64_t)i, 300);
}

/* Standard normals as hidden states. */
static inline float *fixture_hidden(const struct fixture *f, uint64_t seed, int rows)
{
    size_t count = (size_t)rows * (size_t)f->config->ar.hidden;
    float *hidden = malloc(count * sizeof *hidden);
    assert_non_null(hidden);
    struct dip_rng_key key = {.seed = seed, .purpose = DIP_RNG_TEST};
    dip_rng_normals(&key, hidden, count);
    return hidden;
}
