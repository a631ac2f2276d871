/* model/prompt.c - the chat template of the BLIP3o-NEXT family.
 *
 *   <|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nPlease generate
 *   image based on the following caption: {caption}<|im_end|>\n<|im_start|>assistant\n
 *   <im_start><S0>
 *
 * Control tokens end a stretch of text for every stage of the tokenizer, and within a stretch
 * normalization and merges cross the joint between template and caption. So the template is a list
 * of control tokens and whole stretches, and the caption is put into its stretch before that is
 * encoded. Do not confuse <|im_start|> (a chat turn) with <im_start> (an image). */
#include "model/prompt.h"

#include <stdlib.h>
#include <string.h>

#include "base/limits.h"
#include "model/nfc.h"

static const char caption_lead[] = "user\nPlease generate image based on the following caption: ";

/* Control tokens and the text that follows each; NULL marks the caption's place. */
static const struct part {
    const char *control;
    const char *text;
} parts[] = {
    {"<|im_start|>", "system\nYou are a helpful assistant."},
    {"<|im_end|>", "\n"},
    {"<|im_start|>", NULL},
    {"<|im_end|>", "\n"},
    {"<|im_start|>", "assistant\n"},
    {"<im_start>", ""},
    {"<S0>", ""},
};

struct writer {
    const struct dip_tokenizer *tokenizer;
    int32_t *ids;
    int ids_max;
    int count;
    struct dip_why *why;
};

static enum dip_status fail_count(const struct writer *w)
{
    return dip_fail(w->why, DIP_LIMIT,
                    "the prompt is more than %d tokens with its template; shorten it", w->ids_max);
}

static enum dip_status write_control(struct writer *w, const char *token)
{
    int32_t id = 0;
    if (dip_tokenizer_find(w->tokenizer, token, &id))
        return dip_fail(w->why, DIP_CORRUPT,
                        "tokenizer.json has no added token %s, which the prompt of this model "
                        "family needs",
                        token);
    if (w->count == w->ids_max)
        return fail_count(w);
    w->ids[w->count++] = id;
    return DIP_OK;
}

static enum dip_status write_text(struct writer *w, const char *text, size_t bytes)
{
    int count = 0;
    enum dip_status status =
        dip_tokenizer_encode(w->tokenizer, text, bytes, DIP_TEXT_PLAIN, w->ids + w->count,
                             w->ids_max - w->count, NULL, &count);
    if (status == DIP_LIMIT)
        return fail_count(w);
    if (status)
        return dip_fail(w->why, status, "the prompt cannot be tokenized: %s",
                        dip_status_text(status));
    w->count += count;
    return DIP_OK;
}

static enum dip_status write_parts(struct writer *w, const char *user, size_t user_bytes)
{
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        DIP_TRY(write_control(w, parts[i].control));
        if (parts[i].text)
            DIP_TRY(write_text(w, parts[i].text, strlen(parts[i].text)));
        else
            DIP_TRY(write_text(w, user, user_bytes));
    }
    return DIP_OK;
}

static enum dip_status check_ids(const struct writer *w, int vocab_size)
{
    for (int i = 0; i < w->count; i++)
        if (w->ids[i] < 0 || w->ids[i] >= vocab_size)
            return dip_fail(w->why, DIP_CORRUPT,
                            "the prompt needs token %d but the model has %d embeddings; "
                            "tokenizer.json belongs to another model",
                            (int)w->ids[i], vocab_size);
    return DIP_OK;
}

static enum dip_status check_caption(const char *caption, size_t bytes, struct dip_why *why)
{
    if (bytes == 0)
        return dip_fail(why, DIP_INVALID, "the prompt is empty; say what the image should show");
    if (bytes > DIP_PROMPT_BYTES_MAX)
        return dip_fail(why, DIP_LIMIT, "the prompt is %zu bytes, expected at most %d", bytes,
                        DIP_PROMPT_BYTES_MAX);
    size_t valid_bytes = dip__utf8_check(caption, bytes);
    if (valid_bytes < bytes)
        return dip_fail(why, DIP_INVALID,
                        "the prompt is not UTF-8: byte 0x%02x at offset %zu begins no character",
                        (unsigned char)caption[valid_bytes], valid_bytes);
    return DIP_OK;
}

enum dip_status dip_prompt_build(const struct dip_tokenizer *tokenizer, int vocab_size,
                                 const char *caption, size_t bytes, int32_t *ids, int ids_max,
                                 struct dip_why *why, int *ret_count)
{
    DIP_TRY(check_caption(caption, bytes, why));
    struct writer w = {
        .tokenizer = tokenizer,
        .ids = ids,
        .ids_max = ids_max < DIP_PROMPT_TOKENS_MAX ? ids_max : DIP_PROMPT_TOKENS_MAX,
        .why = why,
    };
    size_t lead_bytes = sizeof caption_lead - 1;
    char *user = malloc(lead_bytes + bytes);
    if (!user)
        return dip_fail(why, DIP_NO_MEMORY, "no memory for the prompt");
    memcpy(user, caption_lead, lead_bytes);
    memcpy(user + lead_bytes, caption, bytes);
    enum dip_status status = write_parts(&w, user, lead_bytes + bytes);
    free(user);
    if (!status)
        status = check_ids(&w, vocab_size);
    if (!status)
        *ret_count = w.count;
    return status;
}
