/* coordinator/texts.c - what a picture's file says about its making. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "coordinator/state.h"

enum { PARAMETERS_BYTES_MAX = 1024 };

struct writer {
    char *data;
    size_t bytes, bytes_max;
};

static void text_put(struct writer *w, const char *key, const char *format, ...) DIP_PRINTF(3, 4);

static void text_put(struct writer *w, const char *key, const char *format, ...)
{
    size_t key_bytes = strlen(key) + 1;
    dip_assert(w->bytes + key_bytes < w->bytes_max);
    memcpy(w->data + w->bytes, key, key_bytes);
    w->bytes += key_bytes;
    va_list arguments;
    va_start(arguments, format);
    int count = vsnprintf(w->data + w->bytes, w->bytes_max - w->bytes, format, arguments);
    va_end(arguments);
    dip_assert(count >= 0 && w->bytes + (size_t)count < w->bytes_max);
    w->bytes += (size_t)count + 1;
}

void dip_float_text(float value, char ret_text[DIP_FLOAT_TEXT_BYTES])
{
    for (int digits = 1; digits <= 9; digits++) { /* nine always do */
        snprintf(ret_text, DIP_FLOAT_TEXT_BYTES, "%.*g", digits, (double)value);
        if (strtof(ret_text, NULL) == value)
            return;
    }
}

static void float_put(struct writer *w, const char *key, float value)
{
    char text[DIP_FLOAT_TEXT_BYTES];
    dip_float_text(value, text);
    text_put(w, key, "%s", text);
}

enum dip_status dip__texts_build(const struct dip_resolved *resolved, int image_index,
                                 struct dip_payload *ret_texts)
{
    const struct dip_job_params *p = &resolved->params;
    *ret_texts = (struct dip_payload){0};
    if (!resolved->has_metadata)
        return DIP_OK;
    size_t prompt_bytes = resolved->prompt ? strlen(resolved->prompt) : 0;
    struct writer w = {.bytes_max = prompt_bytes + PARAMETERS_BYTES_MAX};
    w.data = malloc(w.bytes_max);
    if (!w.data)
        return DIP_NO_MEMORY;
    text_put(&w, "Software", "diptych %s", DIP_VERSION);
    if (resolved->prompt)
        text_put(&w, "prompt", "%s", resolved->prompt);
    text_put(&w, "seed", "%llu", (unsigned long long)p->seed);
    text_put(&w, "image", "%d", image_index);
    text_put(&w, "model", "%s", resolved->digest);
    text_put(&w, "steps", "%d", p->steps);
    float_put(&w, "guidance", p->guidance);
    text_put(&w, "sampler", "%s", p->sampler == DIP_JOB_DPM ? "dpm++" : "euler");
    float_put(&w, "temperature", p->temperature);
    text_put(&w, "top_k", "%d", p->top_k);
    float_put(&w, "top_p", p->top_p);
    text_put(&w, "size", "%dx%d", resolved->width, resolved->height);
    *ret_texts = (struct dip_payload){w.data, w.bytes};
    return DIP_OK;
}
