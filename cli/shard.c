/* cli/shard.c - see cli/shard.h. */
#include "cli/shard.h"

#include <string.h>

const char *dip__component_name(enum component component)
{
    static const char *const names[] = {"ar",          "connector", "diffusion", "vae decoder",
                                        "vae encoder", "vision",    "other"};
    return (unsigned)component < COMPONENT_COUNT ? names[component] : "?";
}

enum component dip__component_of(const char *tensor_name)
{
    static const struct {
        const char *prefix;
        enum component component;
    } rows[] = {
        {"model.embed_tokens.", COMPONENT_AR},
        {"model.layers.", COMPONENT_AR},
        {"model.norm.", COMPONENT_AR},
        {"lm_head.", COMPONENT_AR},
        {"model.diffusion_connector.", COMPONENT_CONNECTOR},
        {"model.sana.", COMPONENT_DIFFUSION},
        {"model.sana_vae.decoder.", COMPONENT_DECODER},
        {"model.sana_vae.encoder.", COMPONENT_ENCODER},
        {"model.vision_tower.", COMPONENT_VISION},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (strncmp(tensor_name, rows[i].prefix, strlen(rows[i].prefix)) == 0)
            return rows[i].component;
    return COMPONENT_OTHER;
}

const char *dip__degree_refusal(const struct dip_ar_config *config, int degree)
{
    if (config->kv_heads % degree != 0)
        return "does not divide the key/value heads";
    if (config->heads % degree != 0)
        return "does not divide the query heads";
    if (config->intermediate % degree != 0)
        return "does not divide the intermediate size";
    return NULL;
}

static bool has_part(const char *name, const char *part)
{
    return strstr(name, part) != NULL;
}

uint64_t dip__rank_bytes(const struct dip_weight *weight, int degree)
{
    const char *name = weight->name;
    uint64_t split = (uint64_t)degree;
    if (dip__component_of(name) != COMPONENT_AR)
        return 0;
    if (has_part(name, "embed_tokens.") || has_part(name, "lm_head.")) {
        uint64_t rows = weight->dims[0] > 0 ? (uint64_t)weight->dims[0] : 1;
        return (rows + split - 1) / split * (weight->bytes / rows);
    }
    return has_part(name, "_proj.weight") ? weight->bytes / split : weight->bytes;
}
