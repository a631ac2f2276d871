/* cli/inject.h - --inject FILE: what a request shall use instead of drawing it.
 *
 * A safetensors file with any of prompt_ids i32[P], image_ids i32[N], hidden f32[N+1, D], noise
 * f32[c, h, w] (bf16 and f16 are widened). A whole trace is a valid file: what a trace holds beside
 * these is ignored; any other name is refused. */
#pragma once

#include "coordinator/coordinator.h"

struct injection_file {
    void *arrays[4]; /* what `injection` points to */
    struct dip_injection injection;
};

/* Errors: those of opening the file; CORRUPT (names, dtypes, ranks) with a sentence. */
DIP_MUST_USE enum dip_status dip__injection_open(const char *path, struct dip_why *why,
                                                 struct injection_file *ret_file);
void dip__injection_close(struct injection_file *file);
