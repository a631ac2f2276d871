/* coordinator/origin.c - by what a request is known again when another coordinator meets it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/sha256.h"
#include "coordinator/core.h"

enum { TEXT_BYTES = 1024 };

/* All that decides the pictures, in words: the same whatever version writes them. */
static int describe(const struct dip_resolved *resolved, const char *tenant, const char *request_id,
                    char text[TEXT_BYTES])
{
    const struct dip_job_params *p = &resolved->params;
    char temperature[DIP_FLOAT_TEXT_BYTES], top_p[DIP_FLOAT_TEXT_BYTES];
    char guidance[DIP_FLOAT_TEXT_BYTES];
    dip_float_text(p->temperature, temperature);
    dip_float_text(p->top_p, top_p);
    dip_float_text(p->guidance, guidance);
    return snprintf(text, TEXT_BYTES,
                    "tenant %s\nrequest %s\nmodel %s\nseed %llu\ntokens %d\ntemperature %s\n"
                    "top_k %d\ntop_p %s\nsampler %d\nsteps %d\nguidance %s\nlatent %d x %d\n"
                    "prompt %zu\n",
                    tenant, request_id, resolved->digest, (unsigned long long)p->seed,
                    p->token_count, temperature, p->top_k, top_p, (int)p->sampler, p->steps,
                    guidance, p->latent_height, p->latent_width,
                    resolved->prompt_ids.bytes / sizeof(int32_t));
}

static unsigned char from_hex(const char *hex)
{
    char two[3] = {hex[0], hex[1], '\0'};
    return (unsigned char)strtoul(two, NULL, 16);
}

enum dip_status dip_origin_make(const struct dip_resolved *resolved, const char *tenant,
                                const char *request_id, const char *traceparent,
                                struct dip_job_origin *ret_origin)
{
    struct dip_job_origin origin = {.request_id = ""};
    char hex[DIP_SHA256_HEX_BYTES];
    char *all = malloc(TEXT_BYTES + resolved->prompt_ids.bytes);
    if (!all)
        return DIP_NO_MEMORY;
    int bytes = describe(resolved, tenant, request_id, all);
    memcpy(all + bytes, resolved->prompt_ids.data, resolved->prompt_ids.bytes);
    enum dip_status status = dip_sha256_hex(all, (size_t)bytes + resolved->prompt_ids.bytes, hex);
    free(all);
    if (status)
        return status;
    for (int i = 0; i < DIP_DIGEST_BYTES; i++)
        origin.digest[i] = from_hex(hex + (ptrdiff_t)2 * i);
    snprintf(origin.request_id, sizeof origin.request_id, "%s", request_id);
    snprintf(origin.traceparent, sizeof origin.traceparent, "%s", traceparent);
    *ret_origin = origin;
    return DIP_OK;
}
