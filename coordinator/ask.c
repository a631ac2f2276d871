/* coordinator/ask.c - a GenerateRequest, checked field by field; what is wrong is named by its
 * path.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "coordinator/front.h"
#include "model/prompt.h"
#include "proto/diptych/v1/image.pb-c.h"
#include "proto/time.h"

enum {
    PREVIEWS_MAX = 8,
    PREVIEW_EDGE_MIN = 16,
    PREVIEW_EDGE_MAX = 1024,
    PREVIEW_EDGE_DEFAULT = 256,
    INTERVAL_MS_MIN = 10,
    INTERVAL_MS_MAX = 1000,
    INTERVAL_MS_DEFAULT = 250,
    TEXT_TOKENS_MAX = 20480, /* to say how long a prompt is that is too long */
};

/* ---- one field ---- */

static bool whole_in(struct dip_error *error, const char *field, int64_t value, int64_t min,
                     int64_t max)
{
    if (value >= min && value <= max)
        return true;
    return dip__error_field(error, field, "%lld, must be %lld to %lld", (long long)value,
                            (long long)min, (long long)max);
}

static bool real_in(struct dip_error *error, const char *field, double value, double min,
                    double max)
{
    /* The smallest float that is 0.01 to a person may be a little less. False for NaN, too. */
    if (value >= min * (1 - 1e-6) && value <= max)
        return true;
    return dip__error_field(error, field, "%g, must be %g to %g", value, min, max);
}

int dip__ask_edge_multiple(const struct dip_config *config)
{
    return config->vae.factor * config->dit.patch;
}

int dip__ask_edge_max(const struct dip_config *config)
{
    int multiple = dip__ask_edge_multiple(config);
    int max = DIP_LATENT_EDGE_MAX * config->vae.factor;
    if (max > DIP_IMAGE_EDGE_MAX)
        max = DIP_IMAGE_EDGE_MAX;
    return max - max % multiple;
}

int dip__ask_prompt_tokens_max(const struct dip_config *config)
{
    int tokens = config->generation.grid_height * config->generation.grid_width;
    int max = config->ar.position_max - tokens;
    return max < DIP_PROMPT_TOKENS_MAX ? max : DIP_PROMPT_TOKENS_MAX;
}

static bool edge_is_good(struct dip_error *error, const char *field, uint32_t edge,
                         const struct dip_config *config)
{
    int multiple = dip__ask_edge_multiple(config);
    if (!whole_in(error, field, edge, multiple, dip__ask_edge_max(config)))
        return false;
    if (edge % (uint32_t)multiple == 0)
        return true;
    return dip__error_field(error, field, "%u, must be a multiple of %d", edge, multiple);
}

/* ---- the parts of a request ---- */

static bool read_sampling(const struct dip_config *config, const Diptych__V1__Sampling *s,
                          struct dip_request *request, struct dip_error *error)
{
    if (!s)
        return true;
    if (s->seed_presence_case) {
        request->given |= DIP_GIVEN_SEED;
        request->seed = s->seed;
    }
    if (s->diffusion_steps_presence_case) {
        request->given |= DIP_GIVEN_STEPS;
        request->steps = (int)s->diffusion_steps;
        if (!whole_in(error, "sampling.diffusion_steps", s->diffusion_steps, 1, DIP_STEPS_MAX))
            return false;
    }
    if (s->guidance_scale_presence_case) {
        request->given |= DIP_GIVEN_GUIDANCE;
        request->guidance = (double)s->guidance_scale;
        if (!real_in(error, "sampling.guidance_scale", request->guidance, 0, DIP_GUIDANCE_MAX))
            return false;
    }
    if (s->temperature_presence_case) {
        request->given |= DIP_GIVEN_TEMPERATURE;
        request->temperature = (double)s->temperature;
        if (!real_in(error, "sampling.temperature", request->temperature, DIP_TEMPERATURE_MIN,
                     DIP_TEMPERATURE_MAX))
            return false;
        request->temperature = fmax(request->temperature, DIP_TEMPERATURE_MIN);
    }
    if (s->top_p_presence_case) {
        request->given |= DIP_GIVEN_TOP_P;
        request->top_p = (double)s->top_p;
        if (!real_in(error, "sampling.top_p", request->top_p, DIP_TOP_P_MIN, 1))
            return false;
        request->top_p = fmax(request->top_p, DIP_TOP_P_MIN);
    }
    if (s->top_k_presence_case) {
        request->given |= DIP_GIVEN_TOP_K;
        request->top_k = (int)s->top_k;
        if (!whole_in(error, "sampling.top_k", s->top_k, 1, config->ar.vocab))
            return false;
    }
    return true;
}

static bool read_words(const Diptych__V1__Sampling *s, struct dip_request *request,
                       struct dip_error *error)
{
    if (!s)
        return true;
    if (s->negative_prompt && s->negative_prompt[0])
        return dip__error_field(error, "sampling.negative_prompt",
                                "this model has no negative prompts; leave it out");
    if ((unsigned)s->determinism > DIPTYCH__V1__DETERMINISM_MODE__DETERMINISM_MODE_STRICT)
        return dip__error_field(error, "sampling.determinism",
                                "%d, must be 1 (BEST_EFFORT), 2 (STRICT) or left out",
                                (int)s->determinism);
    switch (s->sampler) {
    case DIPTYCH__V1__SAMPLER__SAMPLER_UNSPECIFIED:
        return true; /* the model's default */
    case DIPTYCH__V1__SAMPLER__SAMPLER_EULER:
        request->sampler = DIP_JOB_EULER;
        break;
    case DIPTYCH__V1__SAMPLER__SAMPLER_DPM_SOLVER:
        request->sampler = DIP_JOB_DPM;
        break;
    default:
        return dip__error_field(error, "sampling.sampler",
                                "%d, must be 1 (EULER), 2 (DPM_SOLVER) or left out",
                                (int)s->sampler);
    }
    request->given |= DIP_GIVEN_SAMPLER;
    return true;
}

static bool read_output(const struct dip_config *config, const Diptych__V1__Output *o,
                        struct dip_request *request, struct dip_error *error)
{
    request->width = config->generation.latent_width * config->vae.factor;
    request->height = config->generation.latent_height * config->vae.factor;
    request->given |= DIP_GIVEN_SIZE;
    request->has_metadata = !o || !o->strip_metadata;
    if (!o)
        return true;
    if (o->width && !edge_is_good(error, "output.width", o->width, config))
        return false;
    if (o->height && !edge_is_good(error, "output.height", o->height, config))
        return false;
    request->width = o->width ? (int)o->width : request->width;
    request->height = o->height ? (int)o->height : request->height;
    switch (o->format) {
    case DIPTYCH__V1__IMAGE_FORMAT__IMAGE_FORMAT_UNSPECIFIED:
    case DIPTYCH__V1__IMAGE_FORMAT__IMAGE_FORMAT_PNG:
        break;
    case DIPTYCH__V1__IMAGE_FORMAT__IMAGE_FORMAT_JPEG:
        return dip__error_field(error, "output.format",
                                "this server writes PNG, not JPEG; leave it out");
    case DIPTYCH__V1__IMAGE_FORMAT__IMAGE_FORMAT_RAW_RGB8:
        return dip__error_field(error, "output.format",
                                "this server writes PNG, not raw pixels; leave it out");
    default:
        return dip__error_field(error, "output.format", "%d, must be 1 (PNG) or left out",
                                (int)o->format);
    }
    if (o->quality_presence_case)
        return dip__error_field(error, "output.quality", "PNG has no quality; leave it out");
    return true;
}

/* Steps from one preview to the next, so that the first `previews` of them are spread evenly. */
static int preview_every(int steps, int previews)
{
    int every = steps / (previews + 1);
    return every > 0 ? every : 1;
}

static bool read_progress(const struct dip_config *config, const Diptych__V1__Progress *p,
                          struct dip_request *request, struct ask *ask, struct dip_error *error)
{
    ask->min_interval_ns = (int64_t)INTERVAL_MS_DEFAULT * DIP_MS_NS;
    if (!p)
        return true;
    int64_t edge_max = p->preview_max_edge ? p->preview_max_edge : PREVIEW_EDGE_DEFAULT;
    int64_t interval_ns;
    if (!whole_in(error, "progress.previews", p->previews, 0, PREVIEWS_MAX) ||
        !whole_in(error, "progress.preview_max_edge", edge_max, PREVIEW_EDGE_MIN, PREVIEW_EDGE_MAX))
        return false;
    bool is_duration = dip_duration_decode(p->min_interval, &interval_ns);
    if (!is_duration || (interval_ns > 0 && (interval_ns < INTERVAL_MS_MIN * DIP_MS_NS ||
                                             interval_ns > INTERVAL_MS_MAX * DIP_MS_NS)))
        return dip__error_field(error, "progress.min_interval",
                                "must be a duration of %d to %d ms, or left out", INTERVAL_MS_MIN,
                                INTERVAL_MS_MAX);
    if (interval_ns > 0)
        ask->min_interval_ns = interval_ns;
    if (p->previews == 0)
        return true;
    /* Previews are as large as the latent, or as the picture where the model has no short cut. */
    int scale = config->generation.has_preview ? config->vae.factor : 1;
    int longer = (request->width > request->height ? request->width : request->height) / scale;
    if (longer > edge_max)
        return dip__error_field(error, "progress.preview_max_edge",
                                "%lld, but this model makes previews of %d pixels at this size",
                                (long long)edge_max, longer);
    int steps = request->given & DIP_GIVEN_STEPS ? request->steps : config->generation.steps;
    request->preview =
        config->generation.has_preview ? DIP_JOB_PREVIEW_LINEAR : DIP_JOB_PREVIEW_DECODED;
    request->preview_every = preview_every(steps, (int)p->previews);
    ask->previews = (int)p->previews;
    ask->preview_every = request->preview_every;
    return true;
}

static bool read_scheduling(const Diptych__V1__Scheduling *s, struct ask *ask,
                            struct dip_error *error)
{
    ask->priority = DIP_PRIORITY_STANDARD;
    if (!s)
        return true;
    switch (s->priority) {
    case DIPTYCH__V1__PRIORITY__PRIORITY_UNSPECIFIED:
    case DIPTYCH__V1__PRIORITY__PRIORITY_STANDARD:
        break;
    case DIPTYCH__V1__PRIORITY__PRIORITY_BATCH:
        ask->priority = DIP_PRIORITY_BATCH;
        break;
    case DIPTYCH__V1__PRIORITY__PRIORITY_INTERACTIVE:
        ask->priority = DIP_PRIORITY_INTERACTIVE;
        break;
    default:
        return dip__error_field(error, "scheduling.priority",
                                "%d, must be 1 (BATCH), 2 (STANDARD), 3 (INTERACTIVE) or left out",
                                (int)s->priority);
    }
    if (!dip_duration_decode(s->max_queue_time, &ask->max_queue_ns))
        return dip__error_field(error, "scheduling.max_queue_time",
                                "must be a duration of 0 to 9223372036 s, or left out");
    ask->is_detached = s->detach;
    return true;
}

/* ---- the prompt ---- */

void dip__ask_too_long(const struct dip_coordinator_daemon *d, const char *field, const char *text,
                       const char *why, struct dip_error *error)
{
    int32_t *ids = malloc(TEXT_TOKENS_MAX * sizeof *ids);
    int count = 0;
    enum dip_status status = DIP_NO_MEMORY;
    if (ids)
        status = dip_tokenizer_encode(d->tokenizer, text, strlen(text), DIP_TEXT_PLAIN, ids,
                                      TEXT_TOKENS_MAX, NULL, &count);
    free(ids);
    dip_error_set(error, DIP_REASON_PROMPT_TOO_LONG, "%s", why);
    dip_error_fact(error, "limit", "%d tokens", dip__ask_prompt_tokens_max(&d->config));
    if (!status)
        dip_error_fact(error, "length", "%d tokens", count);
    dip_error_field(error, field, "%s", why);
}

static bool resolve(struct dip_coordinator_daemon *d, const Diptych__V1__GenerateRequest *r,
                    const struct dip_request *request, struct ask *ask, struct dip_error *error)
{
    struct dip_served_model model = {
        .config = &d->config, .tokenizer = d->tokenizer, .digest = d->digest};
    struct dip_why why = {0};
    int64_t begin_ns = dip_clock_now_ns();
    enum dip_status status = dip_request_resolve(request, &model, &why, &ask->resolved);
    dip_histogram_add(&d->stats.tokenize, dip_clock_now_ns() - begin_ns);
    switch (status) {
    case DIP_OK:
        return true;
    case DIP_LIMIT:
        dip__ask_too_long(d, "prompt", r->prompt, why.text, error);
        return false;
    case DIP_INVALID: /* numbers and sizes have been checked: what is left is the prompt */
        return dip__error_field(error, "prompt", "%s", why.text);
    default:
        dip__error_bug(d, error, why.text);
        return false;
    }
}

bool dip__ask_model_is_known(const struct dip_coordinator_daemon *d, const char *name,
                             struct dip_error *ret_error)
{
    if (!name[0] || strcmp(name, d->model_name) == 0)
        return true;
    dip_error_set(ret_error, DIP_REASON_MODEL_UNKNOWN,
                  "there is no model \"%s\" here; there is \"%s\"", name, d->model_name);
    dip_error_fact(ret_error, "model", "%s", name);
    dip_error_fact(ret_error, "known", "%s", d->model_name);
    return false;
}

bool dip__ask_read(struct dip_coordinator_daemon *d, const Diptych__V1__GenerateRequest *r,
                   struct ask *ret_ask, struct dip_error *ret_error)
{
    struct dip_error *error = ret_error;
    struct dip_request request = {.prompt = r->prompt, .image_count = r->n ? (int)r->n : 1};
    struct ask ask = {.is_check = r->validate_only};
    if (!dip__ask_model_is_known(d, r->model, error))
        return false;
    if (!r->prompt[0])
        return dip__error_field(error, "prompt", "is empty; say what the image should show");
    request.prompt_bytes = strlen(r->prompt);
    if (!whole_in(error, "n", r->n, 0, d->options.images_per_request_max) ||
        !read_sampling(&d->config, r->sampling, &request, error) ||
        !read_words(r->sampling, &request, error) ||
        !read_output(&d->config, r->output, &request, error) ||
        !read_progress(&d->config, r->progress, &request, &ask, error) ||
        !read_scheduling(r->scheduling, &ask, error) || !resolve(d, r, &request, &ask, error))
        return false;
    *ret_ask = ask;
    return true;
}
