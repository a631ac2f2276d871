/* cli/updates.c - what `generate` does with the news about its request; runs on the loop thread. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/file.h"
#include "cli/generate.h"

/* Embedded, the main thread hears of it and cancels the request. */
void dip__generation_problem(struct generation *g, enum dip_status status)
{
    enum news news = NEWS_PROBLEM;
    if (g->has_problem)
        return;
    g->has_problem = true;
    g->status = status;
    if (!g->news)
        return;
    enum dip_status pushed = dip_mailbox_push(g->news, &news);
    dip_assert(pushed == DIP_OK); /* one problem and one end: two places */
}

static void on_admitted(struct generation *g, const struct dip_update *update)
{
    const struct dip_resolved *resolved = update->resolved;
    g->params = resolved->params;
    g->width = resolved->width;
    g->height = resolved->height;
    memcpy(g->digest, resolved->digest, sizeof g->digest);
}

static void on_progress(struct generation *g, const struct dip_update *update)
{
    if (update->stage == DIP_STAGE_DECODE && update->done > 0 && g->first_token_ns == 0)
        g->first_token_ns = dip_clock_now_ns();
    dip__progress_update(&g->progress, update->image_index, update->stage, update->done,
                         update->total);
}

void dip__generation_preview(struct generation *g, int image_index, int steps_done, const void *png,
                             size_t bytes)
{
    char path[DIP_PATH_BYTES_MAX + 64];
    snprintf(path, sizeof path, "%s/preview-%d-%d.png", g->options->previews, image_index,
             steps_done);
    enum dip_status status = dip_file_write(path, png, bytes, &g->why);
    if (status)
        dip__generation_problem(g, status);
}

static void on_trace(struct generation *g, const struct dip_update *update)
{
    enum dip_status status = dip__trace_add(g->trace, update->trace);
    if (status)
        dip__generation_problem(g, dip_fail(&g->why, status, "no memory for the trace"));
}

static void keep_for_show(struct generation *g, struct generated_image *image, const void *png,
                          size_t bytes)
{
    if (!g->is_showing || image->png)
        return;
    image->png = malloc(bytes);
    if (!image->png)
        return; /* the file is there; only the show is lost */
    memcpy(image->png, png, bytes);
    image->png_bytes = bytes;
}

void dip__generation_image(struct generation *g, int image_index, const void *png, size_t bytes)
{
    dip_assert(image_index >= 0 && image_index < g->image_count);
    struct generated_image *image = &g->images[image_index];
    if (g->has_problem)
        return;
    enum dip_status status = dip_file_write(image->path, png, bytes, &g->why);
    if (status)
        dip__generation_problem(g, status);
    else
        keep_for_show(g, image, png, bytes);
}

static void on_image(struct generation *g, const struct dip_update *update)
{
    const struct dip_message_picture *picture = update->picture;
    dip__generation_image(g, update->image_index, picture->png.data, picture->png.bytes);
    if (g->has_problem)
        return;
    struct generated_image *image = &g->images[update->image_index];
    memcpy(image->sha256, picture->sha256, sizeof image->sha256);
    memcpy(g->fingerprint, update->fingerprint, sizeof g->fingerprint);
    image->tokens = update->done;
    image->timings = *update->timings;
}

static void on_ended(struct generation *g, const struct dip_update *update)
{
    enum news news = NEWS_ENDED;
    if (!g->has_problem) {
        g->status = update->status;
        g->is_refused = update->is_refused;
        if (update->status)
            g->status = dip_fail(&g->why, update->status, "%s", update->text);
    }
    enum dip_status pushed = dip_mailbox_push(g->news, &news);
    dip_assert(pushed == DIP_OK);
}

void dip__generation_update(void *generation, const struct dip_update *update)
{
    struct generation *g = generation;
    switch (update->kind) {
    case DIP_UPDATE_ADMITTED:
        on_admitted(g, update);
        break;
    case DIP_UPDATE_QUEUE:   /* the queue of one process holds one request */
    case DIP_UPDATE_ADOPTED: /* and there was nobody before */
        break;
    case DIP_UPDATE_PROGRESS:
        on_progress(g, update);
        break;
    case DIP_UPDATE_PREVIEW:
        dip__generation_preview(g, update->image_index, update->picture->steps_done,
                                update->picture->png.data, update->picture->png.bytes);
        break;
    case DIP_UPDATE_TRACE:
        on_trace(g, update);
        break;
    case DIP_UPDATE_IMAGE:
        on_image(g, update);
        break;
    case DIP_UPDATE_RETRIED:
        dip__progress_note(&g->progress, "a worker was lost; resuming where it was");
        break;
    case DIP_UPDATE_ENDED:
        on_ended(g, update);
        break;
    }
}
