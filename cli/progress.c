/* cli/progress.c - see cli/progress.h. */
#include "cli/progress.h"

#include <string.h>

#include "base/assert.h"
#include "base/clock.h"

enum { BAR_CELLS = 28 };

static const char *stage_text(enum dip_stage stage)
{
    switch (stage) {
    case DIP_STAGE_QUEUE:
        return "waiting";
    case DIP_STAGE_PREFILL:
        return "reading prompt";
    case DIP_STAGE_DECODE:
        return "image tokens";
    case DIP_STAGE_HINGE:
        return "conditioning";
    case DIP_STAGE_DIFFUSION:
        return "diffusion steps";
    default:
        return "finishing";
    }
}

/* Sum over the images of what is done in `stage`: all of it by those that are past it. */
static void sum_stage(const struct progress *p, enum dip_stage stage, int *ret_done, int *ret_total)
{
    int each = stage == DIP_STAGE_DECODE      ? p->tokens_total
               : stage == DIP_STAGE_DIFFUSION ? p->steps_total
                                              : 1;
    int done = 0;
    for (int i = 0; i < p->image_count; i++) {
        const struct progress_image *image = &p->images[i];
        done += image->stage > stage ? each : image->stage == stage ? image->done : 0;
    }
    *ret_done = done;
    *ret_total = each * p->image_count;
}

/* The stage of the image that is furthest behind. */
static enum dip_stage stage_behind(const struct progress *p)
{
    enum dip_stage stage = DIP_STAGE_ENCODE;
    for (int i = 0; i < p->image_count; i++)
        if (p->images[i].stage < stage)
            stage = p->images[i].stage;
    return stage;
}

/* "0:07 left", "" while nothing was measured. */
static void time_left(const struct progress *p, int done, int total, int64_t now_ns, char *text,
                      size_t bytes)
{
    text[0] = '\0';
    int measured = done - p->stage_begin_done;
    if (measured <= 0 || done >= total)
        return;
    int64_t left_ns = (now_ns - p->stage_begin_ns) / measured * (total - done);
    int seconds = (int)((left_ns + DIP_SECOND_NS / 2) / DIP_SECOND_NS);
    snprintf(text, bytes, "%d:%02d left", seconds / 60, seconds % 60);
}

static void draw(struct progress *p, enum dip_stage stage, int64_t now_ns)
{
    int done = 0, total = 0;
    char left[32], bar[BAR_CELLS + 1];
    sum_stage(p, stage, &done, &total);
    time_left(p, done, total, now_ns, left, sizeof left);
    int cells = total > 0 ? (int)((int64_t)BAR_CELLS * done / total) : 0;
    memset(bar, '.', BAR_CELLS);
    memset(bar, '#', (size_t)cells);
    bar[BAR_CELLS] = '\0';
    if (p->is_terminal)
        fprintf(p->out, "\r\033[K%-16s [%s] %d/%d  %s", stage_text(stage), bar, done, total, left);
    else
        fprintf(p->out, "%s %d/%d %s\n", stage_text(stage), done, total, left);
    fflush(p->out);
    p->is_drawn = p->is_terminal;
    p->drawn_ns = now_ns;
}

void dip__progress_begin(struct progress *p, FILE *out, bool is_terminal, int image_count)
{
    dip_assert(image_count > 0 && image_count <= DIP_IMAGES_MAX);
    *p = (struct progress){.out = out,
                           .is_terminal = is_terminal,
                           .image_count = image_count,
                           .stage_begin_ns = dip_clock_now_ns()};
}

void dip__progress_update(struct progress *p, int image_index, enum dip_stage stage, int done,
                          int total)
{
    dip_assert(image_index >= 0 && image_index < p->image_count);
    if (!p->out)
        return;
    p->images[image_index] = (struct progress_image){stage, done, total};
    if (stage == DIP_STAGE_DECODE)
        p->tokens_total = total;
    if (stage == DIP_STAGE_DIFFUSION)
        p->steps_total = total;
    int64_t now_ns = dip_clock_now_ns();
    enum dip_stage shown = stage_behind(p);
    bool is_new_stage = shown != p->shown_stage;
    if (is_new_stage) {
        int ignored;
        p->shown_stage = shown;
        p->stage_begin_ns = now_ns;
        sum_stage(p, shown, &p->stage_begin_done, &ignored);
    }
    int64_t pause_ns = p->is_terminal ? DIP_SECOND_NS / 20 : DIP_SECOND_NS;
    if (is_new_stage || now_ns - p->drawn_ns >= pause_ns)
        draw(p, shown, now_ns);
}

static void clear(struct progress *p)
{
    if (p->is_drawn)
        fprintf(p->out, "\r\033[K");
    p->is_drawn = false;
}

void dip__progress_note(struct progress *p, const char *text)
{
    if (!p->out)
        return;
    clear(p);
    fprintf(p->out, "%s\n", text);
    fflush(p->out);
}

void dip__progress_end(struct progress *p)
{
    if (!p->out)
        return;
    clear(p);
    fflush(p->out);
    p->out = NULL;
}
