/* model/config_generation.c - diptych.json: what a checkpoint's own files do not state. */
#include <string.h>

#include "model/config_private.h"

enum {
    PREVIEW_ROWS_MAX = sizeof((struct dip_generation_config *)0)->preview_rgb / sizeof(float[3])
};

struct dip_generation_config dip__config_published_generation(void)
{
    return (struct dip_generation_config){.grid_height = 27,
                                          .grid_width = 27,
                                          .latent_height = 32,
                                          .latent_width = 32,
                                          .steps = 30,
                                          .guidance = 2.0,
                                          .temperature = 1.0,
                                          .top_k = 1200,
                                          .top_p = 0.95,
                                          .sampler = DIP_SAMPLER_EULER};
}

/* A misspelt key would silently leave its default, so unknown ones are refused. vision_heads
 * belongs to the image tokenizer, which generation from text does not run. */
static enum dip_status check_keys(const struct dip_json *json, struct dip_why *why)
{
    static const char *const known[] = {"image_grid",  "latent_size", "steps", "guidance",
                                        "temperature", "top_k",       "top_p", "sampler",
                                        "preview_rgb", "vision_heads"};
    void *cursor = NULL;
    for (const char *key; (key = dip_json_next(json, &cursor));) {
        bool is_known = false;
        for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
            is_known = is_known || strcmp(known[i], key) == 0;
        if (!is_known)
            return dip_fail(why, DIP_INVALID,
                            "%s: unknown key \"%.60s\", expected image_grid, latent_size, steps, "
                            "guidance, temperature, top_k, top_p, sampler, preview_rgb or "
                            "vision_heads",
                            json->path, key);
    }
    return DIP_OK;
}

/* [rows, columns] */
static enum dip_status read_pair(const struct dip_json *json, const char *key, int max,
                                 struct dip_why *why, int *height, int *width)
{
    int64_t pair[2] = {*height, *width};
    int count = 2;
    DIP_TRY(dip_json_ints(json, key, 1, max, 2, why, pair, &count));
    if (count != 2)
        return dip_fail(why, DIP_INVALID, "%s: %s has %d numbers, expected [rows, columns]",
                        json->path, key, count);
    *height = (int)pair[0];
    *width = (int)pair[1];
    return DIP_OK;
}

static enum dip_status read_numbers(const struct dip_json *json, struct dip_why *why,
                                    struct dip_generation_config *g)
{
    int64_t steps = g->steps;
    int64_t top_k = g->top_k;
    int64_t vision_heads = 1;
    DIP_TRY(dip_json_int(json, "steps", 1, DIP_STEPS_MAX, why, &steps));
    DIP_TRY(dip_json_double(json, "guidance", 0, 100, why, &g->guidance));
    DIP_TRY(dip_json_double(json, "temperature", 0.01, 100, why, &g->temperature));
    DIP_TRY(dip_json_int(json, "top_k", 0, DIP_VOCAB_MAX, why, &top_k));
    DIP_TRY(dip_json_double(json, "top_p", 1e-6, 1, why, &g->top_p));
    DIP_TRY(dip_json_int(json, "vision_heads", 1, DIP_WIDTH_MAX, why, &vision_heads));
    g->steps = (int)steps;
    g->top_k = (int)top_k;
    return DIP_OK;
}

static enum dip_status read_sampler(const struct dip_json *json, struct dip_why *why,
                                    enum dip_sampler *sampler)
{
    const char *name = "euler";
    DIP_TRY(dip_json_string(json, "sampler", why, &name));
    if (strcmp(name, "euler") == 0)
        *sampler = DIP_SAMPLER_EULER;
    else if (strcmp(name, "dpm++") == 0)
        *sampler = DIP_SAMPLER_DPM;
    else
        return dip_fail(why, DIP_INVALID, "%s: sampler is \"%.40s\", expected euler or dpm++",
                        json->path, name);
    return DIP_OK;
}

/* How many rows there may be depends on the autoencoder: the caller compares. */
static enum dip_status read_preview(const struct dip_json *json, struct dip_why *why,
                                    struct dip_generation_config *g, int *ret_rows)
{
    int rows = 0;
    DIP_TRY(dip_json_rows(json, "preview_rgb", PREVIEW_ROWS_MAX, why, &rows));
    for (int row = 0; row < rows; row++) {
        double rgb[3];
        int count = 0;
        DIP_TRY(dip_json_row_doubles(json, "preview_rgb", row, -1e4, 1e4, 3, why, rgb, &count));
        if (count != 3)
            return dip_fail(why, DIP_INVALID,
                            "%s: preview_rgb[%d] has %d numbers, expected red, green and blue",
                            json->path, row, count);
        for (int i = 0; i < 3; i++)
            g->preview_rgb[row][i] = (float)rgb[i];
    }
    *ret_rows = rows;
    return DIP_OK;
}

enum dip_status dip__config_read_generation(const struct dip_json *json, struct dip_why *why,
                                            struct dip_generation_config *ret_generation,
                                            int *ret_preview_rows)
{
    struct dip_generation_config g = dip__config_published_generation();
    int preview_rows = 0;
    if (!dip__config_is_absent(json)) {
        DIP_TRY(check_keys(json, why));
        DIP_TRY(read_pair(json, "image_grid", DIP_IMAGE_TOKENS_MAX, why, &g.grid_height,
                          &g.grid_width));
        DIP_TRY(read_pair(json, "latent_size", DIP_LATENT_EDGE_MAX, why, &g.latent_height,
                          &g.latent_width));
        DIP_TRY(read_numbers(json, why, &g));
        DIP_TRY(read_sampler(json, why, &g.sampler));
        DIP_TRY(read_preview(json, why, &g, &preview_rows));
    }
    *ret_generation = g;
    *ret_preview_rows = preview_rows;
    return DIP_OK;
}
