/* cli/remote_generate.c - `diptych generate --server`: ask, listen, and come back when the line
 * breaks.
 *
 *     Generate ──► UNAVAILABLE before Admitted ──► pause, Generate again (same id)
 *         │
 *         ├──────► the stream breaks after it ───► pause, Watch from the last event on
 *         │                                            └─► REQUEST_UNKNOWN: Generate (same id)
 *         ├──────► nothing for five seconds ─────► as if the stream had broken
 *         └──────► a status with its reason ─────► as the reason says
 *
 * The seed is drawn here when none is given, so that the request is the same however often it is
 * sent, and a server that has forgotten it makes the same picture. */
#include "cli/remote_generate.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/signals.h"
#include "proto/time.h"
#include "proto/wire.h"

enum { TIMEOUT_S = 600, PREVIEWS_MAX = 8, PREVIEW_EDGE_MAX = 1024 };

/* protobuf-c never writes through the strings of a message that it packs. */
static char *text_of(const char *text)
{
    return (char *)(uintptr_t)(text ? text : "");
}

/* A random UUID, as RFC 9562 writes them. */
static void draw_request_id(char *text, size_t bytes)
{
    uint64_t a = dip_entropy_seed(), b = dip_entropy_seed(), c = dip_entropy_seed();
    snprintf(text, bytes, "%08x-%04x-4%03x-%04x-%06x%06x", (unsigned)(a & 0xffffffff),
             (unsigned)(a >> 32 & 0xffff), (unsigned)(b & 0xfff),
             (unsigned)(0x8000 | (b >> 12 & 0x3fff)), (unsigned)(c & 0xffffff),
             (unsigned)(c >> 24 & 0xffffff));
}

/* "models/demo/" names the model "demo". */
static void model_name(const char *directory, char name[129])
{
    size_t end = strlen(directory);
    while (end > 1 && directory[end - 1] == '/')
        end--;
    size_t begin = end;
    while (begin > 0 && directory[begin - 1] != '/')
        begin--;
    snprintf(name, 129, "%.*s", (int)(end - begin), directory + begin);
}

/* ---- the model's side of the request: what was left open ---- */

static void take_model(struct remote_generation *r, const Diptych__V1__Model *model)
{
    struct generation *g = r->g;
    const struct options *o = g->options;
    struct dip_job_params *p = &g->params;
    snprintf(g->model_path, sizeof g->model_path, "%s", model->name);
    snprintf(g->digest, sizeof g->digest, "%s", model->weights_digest);
    p->steps = dip__is_given(o, &o->steps) ? (int)o->steps : (int)model->default_steps;
    p->guidance =
        dip__is_given(o, &o->guidance) ? (float)o->guidance : model->default_guidance_scale;
    p->temperature =
        dip__is_given(o, &o->temperature) ? (float)o->temperature : model->default_temperature;
    p->top_p = dip__is_given(o, &o->top_p) ? (float)o->top_p : model->default_top_p;
    p->top_k = dip__is_given(o, &o->top_k) ? (int)o->top_k : (int)model->default_top_k;
    p->sampler = o->sampler == SAMPLER_DPM ? DIP_JOB_DPM : DIP_JOB_EULER;
    r->tokens_total = (int)model->image_tokens;
    if (!o->previews || p->steps <= 1)
        return;
    int count = (p->steps - 1) / (int)o->preview_every;
    r->preview_count = count < PREVIEWS_MAX ? count : PREVIEWS_MAX;
    r->preview_every = p->steps / (r->preview_count + 1); /* at least 1: count < steps */
}

/* False when the server has said why not: *ret_end. */
static enum dip_status ask_model(struct remote_generation *r, struct remote_end *ret_end,
                                 bool *ret_is_known)
{
    char name[129] = "";
    if (r->g->options->model)
        model_name(r->g->options->model, name);
    Diptych__V1__GetModelRequest request = DIPTYCH__V1__GET_MODEL_REQUEST__INIT;
    request.name = name;
    ProtobufCMessage *message = NULL;
    DIP_TRY(dip__remote_ask(&r->remote, "/diptych.v1.ModelService/GetModel", &request.base,
                            &diptych__v1__get_model_response__descriptor, ret_end, &message));
    const Diptych__V1__GetModelResponse *response = (const Diptych__V1__GetModelResponse *)message;
    *ret_is_known = response && response->model;
    if (*ret_is_known)
        take_model(r, response->model);
    dip_proto_free(message);
    return DIP_OK;
}

/* ---- requests ---- */

static void set_sampling(const struct generation *g, Diptych__V1__Sampling *sampling)
{
    const struct options *o = g->options;
    sampling->seed_presence_case = DIPTYCH__V1__SAMPLING__SEED_PRESENCE_SEED;
    sampling->seed = g->params.seed;
    if (dip__is_given(o, &o->steps)) {
        sampling->diffusion_steps_presence_case =
            DIPTYCH__V1__SAMPLING__DIFFUSION_STEPS_PRESENCE_DIFFUSION_STEPS;
        sampling->diffusion_steps = (uint32_t)o->steps;
    }
    if (dip__is_given(o, &o->guidance)) {
        sampling->guidance_scale_presence_case =
            DIPTYCH__V1__SAMPLING__GUIDANCE_SCALE_PRESENCE_GUIDANCE_SCALE;
        sampling->guidance_scale = (float)o->guidance;
    }
    if (dip__is_given(o, &o->temperature)) {
        sampling->temperature_presence_case =
            DIPTYCH__V1__SAMPLING__TEMPERATURE_PRESENCE_TEMPERATURE;
        sampling->temperature = (float)o->temperature;
    }
    if (dip__is_given(o, &o->top_p)) {
        sampling->top_p_presence_case = DIPTYCH__V1__SAMPLING__TOP_P_PRESENCE_TOP_P;
        sampling->top_p = (float)o->top_p;
    }
    if (dip__is_given(o, &o->top_k)) {
        sampling->top_k_presence_case = DIPTYCH__V1__SAMPLING__TOP_K_PRESENCE_TOP_K;
        sampling->top_k = (uint32_t)o->top_k;
    }
    if (dip__is_given(o, &o->sampler))
        sampling->sampler = o->sampler == SAMPLER_DPM ? DIPTYCH__V1__SAMPLER__SAMPLER_DPM_SOLVER
                                                      : DIPTYCH__V1__SAMPLER__SAMPLER_EULER;
}

static enum dip_status begin_generate(struct remote_generation *r)
{
    struct generation *g = r->g;
    Diptych__V1__GenerateRequest request = DIPTYCH__V1__GENERATE_REQUEST__INIT;
    Diptych__V1__Sampling sampling = DIPTYCH__V1__SAMPLING__INIT;
    Diptych__V1__Output output = DIPTYCH__V1__OUTPUT__INIT;
    Diptych__V1__Progress progress = DIPTYCH__V1__PROGRESS__INIT;
    Google__Protobuf__Duration interval = GOOGLE__PROTOBUF__DURATION__INIT;
    set_sampling(g, &sampling);
    output.format = DIPTYCH__V1__IMAGE_FORMAT__IMAGE_FORMAT_PNG;
    output.strip_metadata = g->options->no_metadata;
    if (dip__is_given(g->options, &g->options->size)) {
        output.width = (uint32_t)g->options->size[0];
        output.height = (uint32_t)g->options->size[1];
    }
    progress.previews = (uint32_t)r->preview_count;
    progress.preview_max_edge = r->preview_count > 0 ? PREVIEW_EDGE_MAX : 0;
    dip_duration_encode(100 * (int64_t)DIP_MS_NS, &interval);
    progress.min_interval = &interval;
    request.request_id = g->request_id;
    request.model = g->model_path;
    request.prompt = text_of(g->prompt);
    request.n = (uint32_t)g->image_count;
    request.sampling = &sampling;
    request.output = &output;
    request.progress = &progress;
    r->is_watching = false;
    r->sequence = 0; /* told from the beginning, perhaps by another coordinator */
    return dip__remote_begin(&r->remote, "/diptych.v1.ImageService/Generate", &request.base,
                             &r->call);
}

static enum dip_status begin_watch(struct remote_generation *r)
{
    Diptych__V1__WatchRequest request = DIPTYCH__V1__WATCH_REQUEST__INIT;
    request.request_id = r->g->request_id;
    request.after_sequence = r->sequence;
    r->is_watching = true;
    return dip__remote_begin(&r->remote, "/diptych.v1.ImageService/Watch", &request.base, &r->call);
}

/* ---- how a stream ended, and what then ---- */

enum next { NEXT_STOP, NEXT_GENERATE, NEXT_WATCH };

/* A connection that broke, not an answer: the server explains what it decides. */
static bool is_broken(const struct remote_end *end)
{
    return !end->has_error && (end->code == DIP_RPC_UNAVAILABLE || end->code == DIP_RPC_INTERNAL ||
                               end->code == DIP_RPC_CANCELLED || end->code == DIP_RPC_UNKNOWN);
}

/* The server knows nothing of the request any more, or gave it up because a line broke that we have
 * come back from since: the same request makes the same image. */
static bool is_forgotten(const struct remote_generation *r, const struct remote_end *end)
{
    if (!end->has_error)
        return false;
    if (end->error.reason == DIP_REASON_CANCELLED)
        return r->has_returned && dip__remote_has_fact(end, "cause", "client_left");
    return r->is_watching && end->error.reason == DIP_REASON_REQUEST_UNKNOWN;
}

static enum next next_of(struct remote_generation *r, int64_t *ret_wait_ns)
{
    struct remote_end *end = &r->call.end;
    *ret_wait_ns = 0;
    if (end->code == DIP_RPC_OK)
        return NEXT_STOP;
    if (is_forgotten(r, end))
        return ++r->forgotten < REMOTE_ATTEMPTS_MAX ? NEXT_GENERATE : NEXT_STOP;
    bool is_cut = r->is_admitted && is_broken(end);
    if (is_cut)
        end->code = DIP_RPC_UNAVAILABLE; /* whatever the transport calls it */
    struct remote_retry *retry = is_cut ? &r->returns : &r->retry;
    if (!dip__remote_may_retry(&r->remote, end, retry))
        return NEXT_STOP;
    *ret_wait_ns = retry->wait_ns;
    r->has_returned |= is_broken(end);
    return is_cut ? NEXT_WATCH : NEXT_GENERATE;
}

/* Once for each interruption. */
static void note_return(struct remote_generation *r, enum next next)
{
    const struct remote_end *end = &r->call.end;
    char text[DIP_ERROR_MESSAGE_BYTES + 32];
    if (next == NEXT_STOP || (next == NEXT_WATCH && r->returns.attempts > 1))
        return;
    if (end->has_error)
        snprintf(text, sizeof text, "%s; asking again", end->error.message);
    else if (!r->is_admitted)
        return;
    else
        snprintf(text, sizeof text, "the connection broke; coming back");
    dip__progress_note(&r->g->progress, text);
}

static void listen(struct remote_generation *r)
{
    while (r->call.call && !dip__signals_came() && !r->g->has_problem)
        dip__remote_turn(&r->remote, &r->call, DIP_SECOND_NS / 20);
    dip__remote_cancel(&r->remote, &r->call);
}

static enum dip_status run(struct remote_generation *r)
{
    struct generation *g = r->g;
    enum next next = NEXT_GENERATE;
    while (next != NEXT_STOP) {
        DIP_TRY(next == NEXT_WATCH ? begin_watch(r) : begin_generate(r));
        listen(r);
        if (g->has_problem)
            return g->status;
        if (dip__signals_came())
            return DIP_CANCELLED;
        int64_t wait_ns = 0;
        next = next_of(r, &wait_ns);
        note_return(r, next);
        if (next != NEXT_STOP && !dip__remote_wait(&r->remote, wait_ns))
            return dip__signals_came() ? DIP_CANCELLED : DIP_OK;
    }
    return DIP_OK;
}

/* ---- the command ---- */

static bool is_whole(const struct remote_generation *r)
{
    for (int i = 0; i < r->g->image_count; i++)
        if (!r->arrivals[i].is_whole)
            return false;
    return r->is_completed;
}

static enum exit_code finish(struct remote_generation *r, enum dip_status status,
                             const struct remote_end *end)
{
    struct generation *g = r->g;
    dip__progress_end(&g->progress);
    if (dip__signals_came()) {
        dip__print_error("stopped");
        return EXIT_FAILED;
    }
    if (status) {
        enum exit_code code = dip__fail(status, &g->why);
        return r->remote.channel ? EXIT_FAILED : code;
    }
    if (end->code != DIP_RPC_OK) {
        enum exit_code code = dip__remote_fail(&r->remote, end);
        bool is_lost = is_broken(end);
        return r->is_admitted && !is_lost ? EXIT_FAILED : code;
    }
    if (!is_whole(r)) {
        fprintf(stderr, "error: %s ended the stream before the last image\n", r->remote.target);
        return EXIT_FAILED;
    }
    dip__generation_report(g);
    return EXIT_DONE;
}

static void note_options(const struct options *o)
{
    if (dip__is_given(o, &o->threads) || dip__is_given(o, &o->backend))
        fprintf(stderr,
                "note: --%s is for the process that computes; with --server it changes "
                "nothing\n",
                dip__is_given(o, &o->threads) ? "threads" : "backend");
}

enum exit_code dip__generation_remote(struct generation *g)
{
    struct remote_generation r = {.g = g};
    struct remote_end end = {0};
    bool is_known = false;
    note_options(g->options);
    draw_request_id(g->request_id, sizeof g->request_id);
    g->params.seed =
        dip__is_given(g->options, &g->options->seed) ? g->options->seed : dip_entropy_seed();
    enum dip_status status = dip__remote_open(g->options, TIMEOUT_S, &g->why, &r.remote);
    if (!status) {
        r.arrivals = calloc((size_t)g->image_count, sizeof *r.arrivals);
        status = r.arrivals ? ask_model(&r, &end, &is_known) : DIP_NO_MEMORY;
    }
    if (!status && is_known) {
        r.returns.attempts_max = REMOTE_RETURNS_MAX;
        r.call = (struct remote_call){
            .silence_ns_max = REMOTE_SILENCE_NS, .on_message = dip__remote_event, .context = &r};
        dip__generation_begin_progress(g);
        status = run(&r);
        end = r.call.end;
    }
    enum exit_code code = finish(&r, status, &end);
    for (int i = 0; r.arrivals && i < g->image_count; i++)
        free(r.arrivals[i].data);
    free(r.arrivals);
    dip__remote_close(&r.remote);
    return code;
}
