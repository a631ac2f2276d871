/* model/config.c - the configuration of a model directory: which files, and the rules between them.
 *
 * Each file has its reader (config_ar.c, config_diffusion.c, config_generation.c), which knows its
 * keys and the rules inside it; this file opens them and checks what one says against another. */
#include "model/config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "model/config_private.h"

enum { CONFIG_BYTES_MAX = 4 << 20 }; /* the published ones are a few KB */

static const char *const file_names[DIP_CONFIG_FILE_COUNT] = {
    [DIP_CONFIG_MODEL] = "config.json",
    [DIP_CONFIG_GENERATION] = "generation_config.json",
    [DIP_CONFIG_TRANSFORMER] = "transformer/config.json",
    [DIP_CONFIG_VAE] = "vae/config.json",
    [DIP_CONFIG_SCHEDULER] = "scheduler/scheduler_config.json",
    [DIP_CONFIG_DIPTYCH] = "diptych.json",
};

/* ---- helpers of the readers ---- */

enum dip_status dip__config_require(const struct dip_json *json, const char *key,
                                    struct dip_why *why)
{
    if (dip_json_has(json, key))
        return DIP_OK;
    return dip_fail(why, DIP_INVALID, "%s: %s is missing", json->path, key);
}

enum dip_status dip__config_int(const struct dip_json *json, const char *key, int min, int max,
                                struct dip_why *why, int *ret_value)
{
    int64_t value = 0;
    DIP_TRY(dip__config_require(json, key, why));
    DIP_TRY(dip_json_int(json, key, min, max, why, &value));
    *ret_value = (int)value;
    return DIP_OK;
}

enum dip_status dip__config_only_bool(const struct dip_json *json, const char *key, bool expected,
                                      struct dip_why *why)
{
    bool value = expected;
    DIP_TRY(dip_json_bool(json, key, why, &value));
    if (value != expected)
        return dip_fail(why, DIP_UNSUPPORTED, "%s: %s is %s, only %s is supported", json->path, key,
                        value ? "true" : "false", expected ? "true" : "false");
    return DIP_OK;
}

enum dip_status dip__config_only_string(const struct dip_json *json, const char *key,
                                        const char *expected, struct dip_why *why)
{
    const char *value = expected;
    DIP_TRY(dip_json_string(json, key, why, &value));
    if (strcmp(value, expected) != 0)
        return dip_fail(why, DIP_UNSUPPORTED, "%s: %s is \"%.60s\", only \"%s\" is supported",
                        json->path, key, value, expected);
    return DIP_OK;
}

enum dip_status dip__config_only_number(const struct dip_json *json, const char *key,
                                        double expected, struct dip_why *why)
{
    double value = expected;
    DIP_TRY(dip_json_double(json, key, -1e300, 1e300, why, &value));
    if (value != expected)
        return dip_fail(why, DIP_UNSUPPORTED, "%s: %s is %g, only %g is supported", json->path, key,
                        value, expected);
    return DIP_OK;
}

enum dip_status dip__config_only_null(const struct dip_json *json, const char *key,
                                      struct dip_why *why)
{
    if (!dip_json_has(json, key))
        return DIP_OK;
    return dip_fail(why, DIP_UNSUPPORTED, "%s: %s is set, only null is supported", json->path, key);
}

/* ---- rules between the files ---- */

static enum dip_status check_latent(const struct dip_config *config, const char *directory,
                                    struct dip_why *why)
{
    const struct dip_generation_config *g = &config->generation;
    int patch = config->dit.patch;
    if (config->dit.latent_channels != config->vae.latent_channels)
        return dip_fail(why, DIP_INVALID,
                        "%s: transformer/config.json has %d in_channels, vae/config.json %d "
                        "latent_channels: expected the same number",
                        directory, config->dit.latent_channels, config->vae.latent_channels);
    if (g->latent_height % patch != 0 || g->latent_width % patch != 0)
        return dip_fail(why, DIP_INVALID,
                        "%s: latent_size is [%d, %d], expected multiples of the patch size %d",
                        directory, g->latent_height, g->latent_width, patch);
    int edge = g->latent_height > g->latent_width ? g->latent_height : g->latent_width;
    if (edge * config->vae.factor > DIP_IMAGE_EDGE_MAX)
        return dip_fail(why, DIP_LIMIT,
                        "%s: latent_size [%d, %d] gives an image of %d pixels on a side, expected "
                        "at most %d",
                        directory, g->latent_height, g->latent_width, edge * config->vae.factor,
                        DIP_IMAGE_EDGE_MAX);
    return DIP_OK;
}

static enum dip_status check_grid(const struct dip_config *config, const char *directory,
                                  struct dip_why *why)
{
    const struct dip_generation_config *g = &config->generation;
    int tokens = g->grid_height * g->grid_width;
    if (tokens > DIP_IMAGE_TOKENS_MAX)
        return dip_fail(why, DIP_LIMIT, "%s: image_grid has %d tokens, expected at most %d",
                        directory, tokens, DIP_IMAGE_TOKENS_MAX);
    if (tokens >= config->ar.position_max)
        return dip_fail(why, DIP_INVALID,
                        "%s: image_grid has %d tokens, but max_position_embeddings is %d: no room "
                        "for a prompt",
                        directory, tokens, config->ar.position_max);
    return DIP_OK;
}

static enum dip_status check_preview(const struct dip_config *config, int preview_rows,
                                     const char *directory, struct dip_why *why)
{
    int channels = config->vae.latent_channels;
    if (preview_rows == 0 || preview_rows == channels || preview_rows == channels + 1)
        return DIP_OK;
    return dip_fail(why, DIP_INVALID,
                    "%s: preview_rgb has %d rows, expected %d (one per latent channel) or %d (with "
                    "a last row of offsets)",
                    directory, preview_rows, channels, channels + 1);
}

/* The row after the last channel is the offset. */
static void split_preview(struct dip_config *config, int preview_rows)
{
    struct dip_generation_config *g = &config->generation;
    int channels = config->vae.latent_channels;
    g->has_preview = preview_rows > 0;
    if (preview_rows <= channels)
        return;
    memcpy(g->preview_bias, g->preview_rgb[channels], sizeof g->preview_bias);
    memset(g->preview_rgb[channels], 0, sizeof g->preview_rgb[channels]);
}

/* ---- all files ---- */

static enum dip_status read_all(const struct dip_json json[DIP_CONFIG_FILE_COUNT],
                                const char *directory, struct dip_why *why,
                                struct dip_config *config)
{
    int preview_rows = 0;
    DIP_TRY(dip__config_read_ar(&json[DIP_CONFIG_MODEL], &json[DIP_CONFIG_GENERATION], why,
                                &config->ar));
    DIP_TRY(dip__config_read_dit(&json[DIP_CONFIG_TRANSFORMER], why, &config->dit));
    DIP_TRY(dip__config_read_vae(&json[DIP_CONFIG_VAE], why, &config->vae));
    DIP_TRY(dip__config_read_scheduler(&json[DIP_CONFIG_SCHEDULER], why, &config->scheduler));
    DIP_TRY(dip__config_read_generation(&json[DIP_CONFIG_DIPTYCH], why, &config->generation,
                                        &preview_rows));
    DIP_TRY(check_latent(config, directory, why));
    DIP_TRY(check_grid(config, directory, why));
    DIP_TRY(check_preview(config, preview_rows, directory, why));
    split_preview(config, preview_rows);
    if (config->generation.top_k > config->ar.vocab)
        config->generation.top_k = config->ar.vocab; /* min(top_k, V), as the reference does */
    return DIP_OK;
}

enum dip_status dip_config_parse(const struct dip_config_text files[DIP_CONFIG_FILE_COUNT],
                                 const char *directory, struct dip_why *why,
                                 struct dip_config *ret_config)
{
    struct dip_json json[DIP_CONFIG_FILE_COUNT] = {0};
    struct dip_config config = {0};
    enum dip_status status = DIP_OK;
    for (int i = 0; i < DIP_CONFIG_FILE_COUNT && !status; i++) {
        char path[DIP_PATH_BYTES_MAX];
        if (!files[i].text)
            continue;
        snprintf(path, sizeof path, "%s/%s", directory, file_names[i]);
        status = dip_json_parse(files[i].text, files[i].bytes, path, why, &json[i]);
    }
    if (!status && dip__config_is_absent(&json[DIP_CONFIG_MODEL]))
        status = dip_fail(
            why, DIP_NOT_FOUND,
            "%s: found no config.json: expected the folder of a downloaded checkpoint", directory);
    if (!status)
        status = read_all(json, directory, why, &config);
    for (int i = 0; i < DIP_CONFIG_FILE_COUNT; i++)
        dip_json_close(&json[i]);
    if (!status)
        *ret_config = config;
    return status;
}

static enum dip_status read_text(const char *directory, enum dip_config_file file,
                                 struct dip_why *why, char **ret_text,
                                 struct dip_config_text *ret_file)
{
    char path[DIP_PATH_BYTES_MAX];
    int length = snprintf(path, sizeof path, "%s/%s", directory, file_names[file]);
    if (length >= (int)sizeof path)
        return dip_fail(why, DIP_LIMIT, "the path of %s is longer than %d bytes", file_names[file],
                        DIP_PATH_BYTES_MAX - 1);
    if (!dip_file_exists(path))
        return DIP_OK; /* whether it must be there is the parser's business */
    DIP_TRY(dip_file_read(path, CONFIG_BYTES_MAX, why, ret_text, &ret_file->bytes));
    ret_file->text = *ret_text;
    return DIP_OK;
}

enum dip_status dip_config_load(const char *directory, struct dip_why *why,
                                struct dip_config *ret_config)
{
    char *texts[DIP_CONFIG_FILE_COUNT] = {0};
    struct dip_config_text files[DIP_CONFIG_FILE_COUNT] = {0};
    enum dip_status status = DIP_OK;
    for (int i = 0; i < DIP_CONFIG_FILE_COUNT && !status; i++)
        status = read_text(directory, (enum dip_config_file)i, why, &texts[i], &files[i]);
    if (!status)
        status = dip_config_parse(files, directory, why, ret_config);
    for (int i = 0; i < DIP_CONFIG_FILE_COUNT; i++)
        free(texts[i]);
    return status;
}

/* ---- built-in shapes ---- */

static struct dip_ar_config published_ar(int hidden, int intermediate)
{
    return (struct dip_ar_config){
        .hidden = hidden,
        .intermediate = intermediate,
        .layers = 28,
        .heads = 16,
        .kv_heads = 8,
        .head_dim = 128,
        .norm_eps = 1e-6f,
        .rope_theta = 1e6,
        .position_max = 40960,
        .vocab = 217210,
        .is_tied = true,
        .image_start_tag_id = 151669,
        .scale_start_id = 151671,
        .image_first_id = 151674,
        .image_token_count = 65536,
        .eos_ids = {151645, 151643},
        .eos_count = 2,
    };
}

enum dip_status dip_config_shape(const char *name, struct dip_why *why,
                                 struct dip_config *ret_config)
{
    static const struct {
        const char *name;
        int hidden; /* 0: no AR panel */
        int intermediate;
        bool has_dit;
        bool has_vae;
    } shapes[] = {
        {"qwen3-0.6b", 1024, 3072, false, false}, {"qwen3-1.7b", 2048, 6144, false, false},
        {"sana-1.6b", 0, 0, true, false},         {"dcae", 0, 0, false, true},
        {"full", 2048, 6144, true, true},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        if (strcmp(shapes[i].name, name) != 0)
            continue;
        struct dip_config config = {.scheduler = dip__config_published_scheduler(),
                                    .generation = dip__config_published_generation()};
        if (shapes[i].hidden > 0)
            config.ar = published_ar(shapes[i].hidden, shapes[i].intermediate);
        if (shapes[i].has_dit)
            config.dit = dip__config_published_dit();
        if (shapes[i].has_vae)
            config.vae = dip__config_published_vae();
        *ret_config = config;
        return DIP_OK;
    }
    return dip_fail(why, DIP_NOT_FOUND,
                    "shape \"%.60s\" is not one of qwen3-0.6b, qwen3-1.7b, sana-1.6b, dcae, full",
                    name);
}
