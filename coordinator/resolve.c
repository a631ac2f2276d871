/* coordinator/resolve.c - checks a request field by field and fills in what the client left open.
 *
 * Every sentence names the field as the command line and the protocol call it, what was asked and
 * what is allowed. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "coordinator/coordinator.h"
#include "model/prompt.h"

static enum dip_status check_int(struct dip_why *why, const char *name, int value, int min, int max)
{
    if (value >= min && value <= max)
        return DIP_OK;
    return dip_fail(why, DIP_INVALID, "%s is %d; it must be %d to %d", name, value, min, max);
}

static enum dip_status check_double(struct dip_why *why, const char *name, double value, double min,
                                    double max)
{
    if (value >= min && value <= max) /* false for NaN too */
        return DIP_OK;
    return dip_fail(why, DIP_INVALID, "%s is %g; it must be %g to %g", name, value, min, max);
}

static enum dip_status resolve_numbers(const struct dip_request *request,
                                       const struct dip_config *config, struct dip_why *why,
                                       struct dip_job_params *params)
{
    const struct dip_generation_config *defaults = &config->generation;
    uint32_t given = request->given;
    int steps = given & DIP_GIVEN_STEPS ? request->steps : defaults->steps;
    double guidance = given & DIP_GIVEN_GUIDANCE ? request->guidance : defaults->guidance;
    double temperature =
        given & DIP_GIVEN_TEMPERATURE ? request->temperature : defaults->temperature;
    int top_k = given & DIP_GIVEN_TOP_K ? request->top_k : defaults->top_k;
    double top_p = given & DIP_GIVEN_TOP_P ? request->top_p : defaults->top_p;
    DIP_TRY(check_int(why, "steps", steps, 1, DIP_STEPS_MAX));
    DIP_TRY(check_double(why, "guidance", guidance, 0, DIP_GUIDANCE_MAX));
    DIP_TRY(
        check_double(why, "temperature", temperature, DIP_TEMPERATURE_MIN, DIP_TEMPERATURE_MAX));
    DIP_TRY(check_int(why, "top-k", top_k, 0, config->ar.vocab));
    DIP_TRY(check_double(why, "top-p", top_p, DIP_TOP_P_MIN, 1));
    params->seed = given & DIP_GIVEN_SEED ? request->seed : dip_entropy_seed();
    params->steps = steps;
    params->guidance = (float)guidance;
    params->temperature = (float)temperature;
    params->top_k = top_k;
    params->top_p = (float)top_p;
    params->sampler = given & DIP_GIVEN_SAMPLER              ? request->sampler
                      : defaults->sampler == DIP_SAMPLER_DPM ? DIP_JOB_DPM
                                                             : DIP_JOB_EULER;
    params->token_count = defaults->grid_height * defaults->grid_width;
    return DIP_OK;
}

static enum dip_status check_edge(struct dip_why *why, const char *name, int edge,
                                  const struct dip_config *config)
{
    int multiple = config->vae.factor * config->dit.patch;
    int max = DIP_LATENT_EDGE_MAX * config->vae.factor;
    if (max > DIP_IMAGE_EDGE_MAX)
        max = DIP_IMAGE_EDGE_MAX;
    max -= max % multiple;
    if (edge >= multiple && edge <= max && edge % multiple == 0)
        return DIP_OK;
    return dip_fail(why, DIP_INVALID,
                    "the size's %s is %d; it must be a multiple of %d from %d to %d", name, edge,
                    multiple, multiple, max);
}

static enum dip_status resolve_size(const struct dip_request *request,
                                    const struct dip_config *config, struct dip_why *why,
                                    struct dip_resolved *resolved)
{
    int factor = config->vae.factor;
    resolved->width = config->generation.latent_width * factor;
    resolved->height = config->generation.latent_height * factor;
    if (request->given & DIP_GIVEN_SIZE) {
        resolved->width = request->width;
        resolved->height = request->height;
    }
    DIP_TRY(check_edge(why, "width", resolved->width, config));
    DIP_TRY(check_edge(why, "height", resolved->height, config));
    resolved->params.latent_width = resolved->width / factor;
    resolved->params.latent_height = resolved->height / factor;
    return DIP_OK;
}

static enum dip_status resolve_previews(const struct dip_request *request,
                                        const struct dip_config *config, struct dip_why *why,
                                        struct dip_job_params *params)
{
    if (request->preview == DIP_JOB_PREVIEW_NONE)
        return DIP_OK;
    DIP_TRY(check_int(why, "preview-every", request->preview_every, 1, DIP_STEPS_MAX));
    if (request->preview == DIP_JOB_PREVIEW_LINEAR && !config->generation.has_preview)
        return dip_fail(why, DIP_UNSUPPORTED,
                        "this model has no linear previews (diptych.json states no preview_rgb); "
                        "ask for decoded ones");
    params->preview = request->preview;
    params->preview_every = request->preview_every;
    return DIP_OK;
}

/* ---- arrays ---- */

static enum dip_status copy_payload(const void *data, size_t bytes, struct dip_why *why,
                                    struct dip_payload *ret_payload)
{
    void *copy = malloc(bytes > 0 ? bytes : 1);
    if (!copy)
        return dip_fail(why, DIP_NO_MEMORY, "no memory for the request");
    memcpy(copy, data, bytes);
    ret_payload->data = copy;
    ret_payload->bytes = bytes;
    return DIP_OK;
}

static enum dip_status check_ids(struct dip_why *why, const char *name, const int32_t *ids,
                                 int64_t count, int vocab)
{
    for (int64_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= vocab)
            return dip_fail(why, DIP_CORRUPT,
                            "injected %s: id %d at place %lld is outside the vocabulary of %d",
                            name, ids[i], (long long)i, vocab);
    return DIP_OK;
}

static enum dip_status check_finite(struct dip_why *why, const char *name, const float *data,
                                    size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (!isfinite(data[i]))
            return dip_fail(why, DIP_CORRUPT, "injected %s: the value at place %zu is not finite",
                            name, i);
    return DIP_OK;
}

static enum dip_status resolve_image_ids(const struct dip_injection *inject,
                                         const struct dip_config *config, struct dip_why *why,
                                         struct dip_resolved *resolved)
{
    if (!inject->image_ids)
        return DIP_OK;
    if (inject->image_count != resolved->params.token_count)
        return dip_fail(why, DIP_CORRUPT,
                        "injected image_ids: %lld ids, this model draws %d (%d x %d)",
                        (long long)inject->image_count, resolved->params.token_count,
                        config->generation.grid_height, config->generation.grid_width);
    DIP_TRY(check_ids(why, "image_ids", inject->image_ids, inject->image_count, config->ar.vocab));
    return copy_payload(inject->image_ids, (size_t)inject->image_count * sizeof(int32_t), why,
                        &resolved->forced_ids);
}

static enum dip_status resolve_hidden(const struct dip_injection *inject,
                                      const struct dip_config *config, struct dip_why *why,
                                      struct dip_resolved *resolved)
{
    if (!inject->hidden)
        return DIP_OK;
    int rows_max = resolved->params.token_count + 1;
    if (inject->hidden_columns != config->ar.hidden || inject->hidden_rows < 1 ||
        inject->hidden_rows > rows_max)
        return dip_fail(why, DIP_CORRUPT,
                        "injected hidden: shape [%lld, %lld], expected [%d, %d] (or fewer rows)",
                        (long long)inject->hidden_rows, (long long)inject->hidden_columns, rows_max,
                        config->ar.hidden);
    size_t count = (size_t)inject->hidden_rows * (size_t)inject->hidden_columns;
    DIP_TRY(check_finite(why, "hidden", inject->hidden, count));
    return copy_payload(inject->hidden, count * sizeof(float), why, &resolved->hidden);
}

static enum dip_status resolve_noise(const struct dip_injection *inject,
                                     const struct dip_config *config, struct dip_why *why,
                                     struct dip_resolved *resolved)
{
    if (!inject->noise)
        return DIP_OK;
    const int64_t *dims = inject->noise_dims;
    int64_t c = config->dit.latent_channels;
    int64_t h = resolved->params.latent_height, w = resolved->params.latent_width;
    if (dims[0] != c || dims[1] != h || dims[2] != w)
        return dip_fail(why, DIP_CORRUPT,
                        "injected noise: shape [%lld, %lld, %lld], expected [%lld, %lld, %lld] for "
                        "%d x %d pixels",
                        (long long)dims[0], (long long)dims[1], (long long)dims[2], (long long)c,
                        (long long)h, (long long)w, resolved->width, resolved->height);
    size_t count = (size_t)(c * h * w);
    DIP_TRY(check_finite(why, "noise", inject->noise, count));
    return copy_payload(inject->noise, count * sizeof(float), why, &resolved->noise);
}

/* ---- the prompt ---- */

static enum dip_status resolve_text(const struct dip_request *request, struct dip_why *why,
                                    struct dip_resolved *resolved)
{
    if (!request->prompt)
        return DIP_OK;
    if (request->prompt_bytes > DIP_PROMPT_BYTES_MAX)
        return dip_fail(why, DIP_LIMIT, "the prompt is %zu bytes; at most %d are allowed",
                        request->prompt_bytes, DIP_PROMPT_BYTES_MAX);
    resolved->prompt = malloc(request->prompt_bytes + 1);
    if (!resolved->prompt)
        return dip_fail(why, DIP_NO_MEMORY, "no memory for the request");
    memcpy(resolved->prompt, request->prompt, request->prompt_bytes);
    resolved->prompt[request->prompt_bytes] = '\0';
    return DIP_OK;
}

static enum dip_status resolve_prompt_ids(const struct dip_request *request,
                                          const struct dip_served_model *model, struct dip_why *why,
                                          struct dip_resolved *resolved)
{
    const struct dip_injection *inject = &request->injection;
    int vocab = model->config->ar.vocab;
    if (inject->prompt_ids) {
        if (inject->prompt_count < 1 || inject->prompt_count > DIP_PROMPT_TOKENS_MAX)
            return dip_fail(why, DIP_CORRUPT, "injected prompt_ids: %lld ids; 1 to %d are allowed",
                            (long long)inject->prompt_count, DIP_PROMPT_TOKENS_MAX);
        DIP_TRY(check_ids(why, "prompt_ids", inject->prompt_ids, inject->prompt_count, vocab));
        return copy_payload(inject->prompt_ids, (size_t)inject->prompt_count * sizeof(int32_t), why,
                            &resolved->prompt_ids);
    }
    if (!request->prompt && inject->hidden)
        return DIP_OK; /* nothing reads it */
    if (!request->prompt)
        return dip_fail(why, DIP_INVALID, "there is no prompt");
    int32_t ids[DIP_PROMPT_TOKENS_MAX];
    int count = 0;
    DIP_TRY(dip_prompt_build(model->tokenizer, vocab, request->prompt, request->prompt_bytes, ids,
                             DIP_PROMPT_TOKENS_MAX, why, &count));
    return copy_payload(ids, (size_t)count * sizeof ids[0], why, &resolved->prompt_ids);
}

static enum dip_status check_positions(const struct dip_config *config, struct dip_why *why,
                                       const struct dip_resolved *resolved)
{
    int prompt_count = (int)(resolved->prompt_ids.bytes / sizeof(int32_t));
    if (prompt_count + resolved->params.token_count <= config->ar.position_max)
        return DIP_OK;
    return dip_fail(why, DIP_LIMIT,
                    "the prompt is %d tokens with its template; beside %d image tokens this model "
                    "has room for %d",
                    prompt_count, resolved->params.token_count,
                    config->ar.position_max - resolved->params.token_count);
}

enum dip_status dip_request_resolve(const struct dip_request *request,
                                    const struct dip_served_model *model, struct dip_why *why,
                                    struct dip_resolved *ret_resolved)
{
    const struct dip_config *config = model->config;
    struct dip_resolved resolved = {.image_count = request->image_count,
                                    .has_metadata = request->has_metadata};
    dip_assert(strlen(model->digest) < sizeof resolved.digest);
    memcpy(resolved.digest, model->digest, strlen(model->digest) + 1);
    resolved.params.is_traced = request->is_traced;
    enum dip_status status =
        check_int(why, "the number of images", request->image_count, 1, DIP_IMAGES_MAX);
    if (!status)
        status = resolve_numbers(request, config, why, &resolved.params);
    if (!status)
        status = resolve_size(request, config, why, &resolved);
    if (!status)
        status = resolve_previews(request, config, why, &resolved.params);
    if (!status)
        status = resolve_text(request, why, &resolved);
    if (!status)
        status = resolve_prompt_ids(request, model, why, &resolved);
    if (!status)
        status = check_positions(config, why, &resolved);
    if (!status)
        status = resolve_image_ids(&request->injection, config, why, &resolved);
    if (!status)
        status = resolve_hidden(&request->injection, config, why, &resolved);
    if (!status)
        status = resolve_noise(&request->injection, config, why, &resolved);
    if (status) {
        dip_resolved_deinit(&resolved);
        return status;
    }
    *ret_resolved = resolved;
    return DIP_OK;
}

void dip_resolved_deinit(struct dip_resolved *resolved)
{
    free(resolved->prompt);
    free(resolved->prompt_ids.data);
    free(resolved->forced_ids.data);
    free(resolved->hidden.data);
    free(resolved->noise.data);
    *resolved = (struct dip_resolved){0};
}
