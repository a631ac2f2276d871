/* cli/generate.c - `diptych generate`: check, resolve, start the embedded cluster, submit, wait. */
#include "cli/generate.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/device.h"
#include "cli/expect.h"
#include "cli/paths.h"
#include "cli/signals.h"

/* ---- before anything is computed ---- */

static enum dip_status refuse_absent(const struct options *o, struct dip_why *why)
{
    if (o->server && (o->trace || o->inject))
        return dip_fail(why, DIP_UNSUPPORTED,
                        "--%s looks into the engine and cannot be asked of a server; leave "
                        "--server away",
                        o->trace ? "trace" : "inject");
    if (o->server && o->preview_kind == PREVIEW_DECODED)
        return dip_fail(why, DIP_UNSUPPORTED,
                        "--preview-kind is chosen by the server; leave it away or at auto");
    if (!dip__is_given(o, &o->previews) &&
        (dip__is_given(o, &o->preview_every) || dip__is_given(o, &o->preview_kind)))
        return dip_fail(why, DIP_INVALID, "--preview-%s needs --previews DIR",
                        dip__is_given(o, &o->preview_every) ? "every" : "kind");
    return DIP_OK;
}

static enum dip_status check_output_name(const char *output, struct dip_why *why)
{
    static const char *const others[] = {".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tiff"};
    const char *dot = strrchr(output, '.');
    for (int i = 0; dot && i < 6; i++)
        if (strcasecmp(dot, others[i]) == 0)
            return dip_fail(why, DIP_UNSUPPORTED, "--output: only PNG is written, not %s", dot);
    return DIP_OK;
}

/* Every file that will be written can be: found out before the first second is spent. */
static enum dip_status check_files(struct generation *g, struct dip_why *why)
{
    const struct options *o = g->options;
    DIP_TRY(check_output_name(o->output, why));
    for (int i = 0; i < g->image_count; i++) {
        DIP_TRY(dip__image_path(o->output, i, g->image_count, why, g->images[i].path));
        DIP_TRY(dip__check_writable(g->images[i].path, "--output", why));
    }
    if (o->expect)
        DIP_TRY(dip__expect_read(o->expect, why, g->expected));
    if (o->trace)
        DIP_TRY(dip__check_writable(o->trace, "--trace", why));
    if (o->previews)
        DIP_TRY(dip__make_folder(o->previews, "--previews", why));
    return DIP_OK;
}

static enum dip_status prepare(struct generation *g, const struct arguments *arguments)
{
    struct dip_why *why = &g->why;
    const struct options *o = g->options;
    DIP_TRY(refuse_absent(o, why));
    if (o->inject)
        DIP_TRY(dip__injection_open(o->inject, why, &g->injection));
    g->prompt = arguments->operand;
    if (!g->prompt && !g->injection.injection.prompt_ids && !g->injection.injection.hidden)
        return dip_fail(why, DIP_INVALID,
                        "generate needs a PROMPT, for example: diptych generate \"a red circle\"");
    g->images = calloc((size_t)g->image_count, sizeof *g->images);
    if (!g->images)
        return dip_fail(why, DIP_NO_MEMORY, "no memory for %d images", g->image_count);
    DIP_TRY(check_files(g, why));
    if (o->trace && dip__trace_new(&g->trace))
        return dip_fail(why, DIP_NO_MEMORY, "no memory for the trace");
    return DIP_OK;
}

static enum dip_status prepare_embedded(struct generation *g)
{
    if (dip_mailbox_new(sizeof(enum news), 2, &g->news))
        return dip_fail(&g->why, DIP_NO_MEMORY, "no memory to begin");
    return dip__model_directory(g->options, &g->why, g->model_path, sizeof g->model_path);
}

static enum dip_job_preview preview_choice(const struct options *o, const struct dip_config *config)
{
    if (!o->previews)
        return DIP_JOB_PREVIEW_NONE;
    if (o->preview_kind == PREVIEW_AUTO)
        return config->generation.has_preview ? DIP_JOB_PREVIEW_LINEAR : DIP_JOB_PREVIEW_DECODED;
    return o->preview_kind == PREVIEW_LINEAR ? DIP_JOB_PREVIEW_LINEAR : DIP_JOB_PREVIEW_DECODED;
}

static uint32_t given_fields(const struct options *o)
{
    return (dip__is_given(o, &o->seed) ? DIP_GIVEN_SEED : 0u) |
           (dip__is_given(o, &o->steps) ? DIP_GIVEN_STEPS : 0u) |
           (dip__is_given(o, &o->guidance) ? DIP_GIVEN_GUIDANCE : 0u) |
           (dip__is_given(o, &o->temperature) ? DIP_GIVEN_TEMPERATURE : 0u) |
           (dip__is_given(o, &o->top_k) ? DIP_GIVEN_TOP_K : 0u) |
           (dip__is_given(o, &o->top_p) ? DIP_GIVEN_TOP_P : 0u) |
           (dip__is_given(o, &o->size) ? DIP_GIVEN_SIZE : 0u) |
           (dip__is_given(o, &o->sampler) ? DIP_GIVEN_SAMPLER : 0u);
}

static enum dip_status resolve(struct generation *g, const struct dip_local *local,
                               struct dip_resolved *ret_resolved)
{
    const struct options *o = g->options;
    struct dip_request request = {
        .prompt = g->prompt,
        .prompt_bytes = g->prompt ? strlen(g->prompt) : 0,
        .image_count = g->image_count,
        .given = given_fields(o),
        .seed = o->seed,
        .steps = (int)o->steps,
        .guidance = o->guidance,
        .temperature = o->temperature,
        .top_k = (int)o->top_k,
        .top_p = o->top_p,
        .width = (int)o->size[0],
        .height = (int)o->size[1],
        .sampler = o->sampler == SAMPLER_DPM ? DIP_JOB_DPM : DIP_JOB_EULER,
        .preview = preview_choice(o, dip__local_config(local)),
        .preview_every = (int)o->preview_every,
        .is_traced = g->trace != NULL,
        .has_metadata = !o->no_metadata,
        .injection = g->injection.injection,
    };
    struct dip_served_model model = dip__local_model(local);
    return dip_request_resolve(&request, &model, &g->why, ret_resolved);
}

/* ---- while it runs ---- */

void dip__generation_begin_progress(struct generation *g)
{
    bool is_terminal = isatty(STDERR_FILENO);
    bool is_shown = g->options->progress == PROGRESS_ALWAYS ||
                    (g->options->progress == PROGRESS_AUTO && is_terminal);
    dip__progress_begin(&g->progress, is_shown ? stderr : NULL, is_terminal, g->image_count);
}

/* Waits for the end; a signal or a file that cannot be written asks for it. */
static void wait_for_end(struct generation *g, struct dip_coordinator *coordinator,
                         uint64_t request_id)
{
    bool is_cancelled = false;
    for (;;) {
        enum news news = NEWS_PROBLEM;
        enum dip_status status = dip_mailbox_pop(g->news, DIP_SECOND_NS / 20, &news);
        if (!status && news == NEWS_ENDED)
            return;
        bool is_unwanted = !status || dip__signals_came();
        if (is_unwanted && !is_cancelled) /* BUSY: asked again in a moment */
            is_cancelled = dip_coordinator_cancel(coordinator, request_id) == DIP_OK;
    }
}

static enum dip_status run(struct generation *g, struct dip_local *local)
{
    uint64_t request_id = 0;
    struct dip_resolved resolved = {0};
    DIP_TRY(resolve(g, local, &resolved));
    g->is_begun = true;
    struct dip_device_options device = dip__device_options(g->options);
    enum dip_status status = dip__local_start(local, &resolved, &device, &g->why);
    if (status)
        goto out;
    g->ready_ns = dip_clock_now_ns();
    dip__generation_begin_progress(g);
    struct dip_coordinator *coordinator = dip__local_coordinator(local);
    status = dip_coordinator_submit(coordinator, &resolved, dip__generation_update, g, &request_id);
    if (status)
        goto out;
    wait_for_end(g, coordinator, request_id);
    dip__progress_end(&g->progress);
    status = g->status;
    if (!status && g->trace)
        status = dip__trace_write(g->trace, g->options->trace, &g->why);
out:
    dip_resolved_deinit(&resolved);
    return status;
}

/* ---- the command ---- */

/* Asked for before the work, so that the answer does not come an hour late; the picture is wanted
 * all the same. */
static void begin_show(struct generation *g)
{
    struct dip_why why = {0};
    if (!g->options->show)
        return;
    if (dip__terminal_detect(&why, &g->terminal))
        fprintf(stderr, "note: %s\n", why.text);
    else
        g->is_showing = true;
}

static enum exit_code finish(struct generation *g, enum dip_status status)
{
    if (!status) {
        dip__generation_report(g);
        if (g->expected[0])
            status = dip__expect_meet(g->expected, g->images[0].sha256, &g->why);
        return status ? dip__fail(status, &g->why) : EXIT_DONE;
    }
    if (status == DIP_CANCELLED && dip__signals_came()) {
        dip__print_error("stopped");
        return EXIT_FAILED;
    }
    enum exit_code code = dip__fail(status, &g->why);
    if (g->is_refused)
        return EXIT_CLUSTER;
    return g->is_begun ? EXIT_FAILED : code;
}

static void generation_deinit(struct generation *g)
{
    for (int i = 0; g->images && i < g->image_count; i++)
        free(g->images[i].png);
    free(g->images);
    dip__trace_free(g->trace);
    dip_mailbox_free(g->news);
    dip__injection_close(&g->injection);
}

static enum exit_code generate_here(struct generation *g)
{
    struct dip_local *local = NULL;
    enum dip_status status = prepare_embedded(g);
    if (!status)
        status = dip__local_open(g->model_path, &g->why, &local);
    if (!status)
        status = run(g, local);
    dip__local_close(local);
    return finish(g, status);
}

enum exit_code dip__generate(const struct arguments *arguments)
{
    struct generation g = {.options = &arguments->options,
                           .image_count = (int)arguments->options.images,
                           .begin_ns = dip_clock_now_ns()};
    dip__signals_catch();
    enum exit_code code;
    enum dip_status status = prepare(&g, arguments);
    if (!status)
        begin_show(&g);
    if (status)
        code = finish(&g, status);
    else
        code = g.options->server ? dip__generation_remote(&g) : generate_here(&g);
    generation_deinit(&g);
    return code;
}
