/* cli/report.c - what `generate` made: one JSON object, or a line per image for people. */
#include <math.h>

#include "cli/generate.h"
#include "cli/json.h"

/* Of image 0; the total is that of the whole request. */
static struct dip_timings request_timings(const struct generation *g)
{
    struct dip_timings timings = g->images[0].timings;
    for (int i = 1; i < g->image_count; i++)
        if (g->images[i].timings.total_ns > timings.total_ns)
            timings.total_ns = g->images[i].timings.total_ns;
    return timings;
}

static void json_timings(struct json_writer *w, const struct dip_timings *timings)
{
    dip__json_open(w, "timings_ms", '{');
    for (int i = 0; i < DIP_STAGE_COUNT; i++) {
        const char *name = dip_stage_name((enum dip_stage)i);
        if (timings->unknown >> i & 1)
            dip__json_real(w, name, (double)NAN, 1); /* null */
        else
            dip__json_ms(w, name, timings->stage_ns[i]);
    }
    dip__json_ms(w, "total", timings->total_ns);
    dip__json_close(w, '}');
}

static void json_images(struct json_writer *w, const struct generation *g)
{
    dip__json_open(w, "images", '[');
    for (int i = 0; i < g->image_count; i++) {
        const struct generated_image *image = &g->images[i];
        dip__json_open(w, NULL, '{');
        dip__json_int(w, "index", i);
        dip__json_string(w, "path", image->path);
        dip__json_string(w, "image_sha256", image->sha256);
        dip__json_int(w, "tokens", image->tokens);
        json_timings(w, &image->timings);
        dip__json_close(w, '}');
    }
    dip__json_close(w, ']');
}

static void json_float(struct json_writer *w, const char *key, float value)
{
    char text[DIP_FLOAT_TEXT_BYTES];
    dip_float_text(value, text);
    dip__json_number(w, key, text);
}

static void report_json(const struct generation *g)
{
    struct json_writer w = {.out = stdout};
    const struct dip_job_params *p = &g->params;
    struct dip_timings timings = request_timings(g);
    dip__json_open(&w, NULL, '{');
    dip__json_uint(&w, "seed", p->seed);
    dip__json_string(&w, "image_sha256", g->images[0].sha256);
    dip__json_int(&w, "width", g->width);
    dip__json_int(&w, "height", g->height);
    dip__json_int(&w, "tokens", g->images[0].tokens);
    json_timings(&w, &timings);
    dip__json_string(&w, "path", g->images[0].path);
    dip__json_string(&w, "fingerprint", g->fingerprint);
    dip__json_string(&w, "model", g->model_path);
    dip__json_string(&w, "model_sha256", g->digest);
    dip__json_int(&w, "steps", p->steps);
    json_float(&w, "guidance", p->guidance);
    json_float(&w, "temperature", p->temperature);
    dip__json_int(&w, "top_k", p->top_k);
    json_float(&w, "top_p", p->top_p);
    dip__json_string(&w, "sampler", p->sampler == DIP_JOB_DPM ? "dpm++" : "euler");
    dip__json_ms(&w, "startup_ms", g->ready_ns - g->begin_ns);
    if (g->first_token_ns)
        dip__json_ms(&w, "first_token_ms", g->first_token_ns - g->begin_ns);
    if (g->request_id[0])
        dip__json_string(&w, "request_id", g->request_id);
    json_images(&w, g);
    dip__json_close(&w, '}');
}

static void report_text(const struct generation *g)
{
    struct dip_timings timings = request_timings(g);
    for (int i = 0; i < g->image_count; i++)
        printf("%s\n", g->images[i].path);
    printf("%dx%d, seed %llu, %.2f s (start %.2f s", g->width, g->height,
           (unsigned long long)g->params.seed, (double)timings.total_ns / 1e9,
           (double)(g->ready_ns - g->begin_ns) / 1e9);
    for (int i = 0; i < DIP_STAGE_COUNT; i++)
        if (!(timings.unknown >> i & 1))
            printf(", %s %.1f ms", dip_stage_name((enum dip_stage)i),
                   (double)timings.stage_ns[i] / 1e6);
    printf(")\n");
}

void dip__generation_report(const struct generation *g)
{
    if (g->options->json)
        report_json(g);
    else
        report_text(g);
    fflush(stdout);
    for (int i = 0; i < g->image_count && g->is_showing; i++)
        if (g->images[i].png)
            dip__show_png(&g->terminal, g->images[i].png, g->images[i].png_bytes);
}
