/* model/config_ar.c - the autoregressive panel's part: config.json and generation_config.json.
 *
 * Only the end-of-sequence ids are taken from generation_config.json: its sampling values are not
 * what the published inference uses (model.md 3.4). */
#include "model/config_private.h"

enum { EOS_MAX = sizeof((struct dip_ar_config *)0)->eos_ids / sizeof(int32_t) };

static enum dip_status read_sizes(const struct dip_json *json, struct dip_why *why,
                                  struct dip_ar_config *ar)
{
    DIP_TRY(dip__config_int(json, "hidden_size", 1, DIP_WIDTH_MAX, why, &ar->hidden));
    DIP_TRY(dip__config_int(json, "intermediate_size", 1, DIP_WIDTH_MAX, why, &ar->intermediate));
    DIP_TRY(dip__config_int(json, "num_hidden_layers", 1, DIP_LAYERS_MAX, why, &ar->layers));
    DIP_TRY(dip__config_int(json, "num_attention_heads", 1, DIP_WIDTH_MAX, why, &ar->heads));
    DIP_TRY(dip__config_int(json, "num_key_value_heads", 1, DIP_WIDTH_MAX, why, &ar->kv_heads));
    DIP_TRY(dip__config_int(json, "head_dim", 2, DIP__HEAD_DIM_MAX, why, &ar->head_dim));
    DIP_TRY(dip__config_int(json, "vocab_size", 1, DIP_VOCAB_MAX, why, &ar->vocab));
    if (ar->heads % ar->kv_heads != 0)
        return dip_fail(why, DIP_INVALID,
                        "%s: num_attention_heads is %d, expected a multiple of num_key_value_heads "
                        "(%d)",
                        json->path, ar->heads, ar->kv_heads);
    if (ar->head_dim % 2 != 0)
        return dip_fail(why, DIP_INVALID, "%s: head_dim is %d, expected an even number", json->path,
                        ar->head_dim);
    if (ar->heads * ar->head_dim > DIP_WIDTH_MAX)
        return dip_fail(why, DIP_LIMIT,
                        "%s: num_attention_heads x head_dim is %d, expected at most %d", json->path,
                        ar->heads * ar->head_dim, DIP_WIDTH_MAX);
    return DIP_OK;
}

static enum dip_status read_constants(const struct dip_json *json, struct dip_why *why,
                                      struct dip_ar_config *ar)
{
    double norm_eps = 1e-6;
    int64_t position_max = 32768; /* the library's default for this architecture */
    DIP_TRY(dip_json_double(json, "rms_norm_eps", 1e-12, 0.1, why, &norm_eps));
    DIP_TRY(dip__config_require(json, "rope_theta", why));
    DIP_TRY(dip_json_double(json, "rope_theta", 1, 1e12, why, &ar->rope_theta));
    DIP_TRY(dip_json_int(json, "max_position_embeddings", 2, 1 << 24, why, &position_max));
    DIP_TRY(dip_json_bool(json, "tie_word_embeddings", why, &ar->is_tied));
    ar->norm_eps = (float)norm_eps;
    ar->position_max = (int)position_max;
    return DIP_OK;
}

static enum dip_status check_variant(const struct dip_json *json, struct dip_why *why)
{
    DIP_TRY(dip__config_only_string(json, "hidden_act", "silu", why));
    DIP_TRY(dip__config_only_bool(json, "attention_bias", false, why));
    DIP_TRY(dip__config_only_bool(json, "use_sliding_window", false, why));
    return dip__config_only_null(json, "rope_scaling", why);
}

/* ---- image tokens ---- */

static enum dip_status read_id(const struct dip_json *json, const char *key, int vocab,
                               struct dip_why *why, int32_t *ret_id)
{
    int64_t id = 0;
    DIP_TRY(dip__config_require(json, key, why));
    DIP_TRY(dip_json_int(json, key, 0, INT32_MAX, why, &id));
    if (id >= vocab)
        return dip_fail(why, DIP_INVALID, "%s: %s is %d, expected an id below vocab_size (%d)",
                        json->path, key, (int)id, vocab);
    *ret_id = (int32_t)id;
    return DIP_OK;
}

/* A run of ids may be given by its last id, by its length or by both, which must then agree. */
static enum dip_status read_run(const struct dip_json *json, const char *end_key,
                                const char *count_key, int32_t first, int vocab,
                                struct dip_why *why, int32_t *ret_count)
{
    int64_t count = 0;
    int32_t last = 0;
    DIP_TRY(dip_json_int(json, count_key, 1, DIP_VOCAB_MAX, why, &count));
    if (count == 0 || dip_json_has(json, end_key)) {
        DIP_TRY(read_id(json, end_key, vocab, why, &last));
        if (last < first || (count > 0 && count != last - first + 1))
            return dip_fail(why, DIP_INVALID,
                            "%s: %s is %d, expected it to end a run of %s ids that begins at %d",
                            json->path, end_key, last, count_key, first);
        count = last - first + 1;
    }
    if (count > vocab - first)
        return dip_fail(why, DIP_INVALID,
                        "%s: %s is %d, but vocab_size (%d) leaves room for %d ids from %d on",
                        json->path, count_key, (int)count, vocab, vocab - first, first);
    *ret_count = (int32_t)count;
    return DIP_OK;
}

static enum dip_status read_image_ids(const struct dip_json *json, struct dip_why *why,
                                      struct dip_ar_config *ar)
{
    int32_t unused = 0;
    DIP_TRY(read_id(json, "image_start_tag_id", ar->vocab, why, &ar->image_start_tag_id));
    if (dip_json_has(json, "image_end_tag_id"))
        DIP_TRY(read_id(json, "image_end_tag_id", ar->vocab, why, &unused));
    DIP_TRY(read_id(json, "scale_start_token_id", ar->vocab, why, &ar->scale_start_id));
    if (dip_json_has(json, "scale_end_token_id") || dip_json_has(json, "num_scale_tokens"))
        DIP_TRY(read_run(json, "scale_end_token_id", "num_scale_tokens", ar->scale_start_id,
                         ar->vocab, why, &unused));
    DIP_TRY(read_id(json, "image_start_token_id", ar->vocab, why, &ar->image_first_id));
    return read_run(json, "image_end_token_id", "num_image_tokens", ar->image_first_id, ar->vocab,
                    why, &ar->image_token_count);
}

/* generation_config.json decides; config.json is asked only when it is silent. */
static enum dip_status read_eos(const struct dip_json *model, const struct dip_json *generation,
                                struct dip_why *why, struct dip_ar_config *ar)
{
    int64_t ids[EOS_MAX];
    const struct dip_json *json = dip_json_has(generation, "eos_token_id") ? generation : model;
    DIP_TRY(
        dip_json_ints(json, "eos_token_id", 0, ar->vocab - 1, EOS_MAX, why, ids, &ar->eos_count));
    for (int i = 0; i < ar->eos_count; i++)
        ar->eos_ids[i] = (int32_t)ids[i];
    return DIP_OK;
}

enum dip_status dip__config_read_ar(const struct dip_json *model, const struct dip_json *generation,
                                    struct dip_why *why, struct dip_ar_config *ret_ar)
{
    struct dip_ar_config ar = {0};
    DIP_TRY(check_variant(model, why));
    DIP_TRY(read_sizes(model, why, &ar));
    DIP_TRY(read_constants(model, why, &ar));
    DIP_TRY(read_image_ids(model, why, &ar));
    DIP_TRY(read_eos(model, generation, why, &ar));
    *ret_ar = ar;
    return DIP_OK;
}
