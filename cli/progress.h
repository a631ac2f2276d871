/* cli/progress.h - how far a request is, on standard error.
 *
 * A bar that is drawn over on a terminal; elsewhere a line when the stage changes and at most one a
 * second. Times left are extrapolated from what this run measured; before anything is measured none
 * is shown. Owner: the coordinator's loop thread, between the start and the end of a request. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "cluster/cluster.h"

struct progress_image {
    enum dip_stage stage;
    int done, total; /* of that stage */
};

struct progress {
    FILE *out; /* NULL = show nothing */
    bool is_terminal;
    bool is_drawn; /* the bar stands on the current line */
    int image_count;
    int tokens_total, steps_total; /* of one image; 0 until known */
    struct progress_image images[DIP_IMAGES_MAX];
    enum dip_stage shown_stage;
    int64_t stage_begin_ns, drawn_ns;
    int stage_begin_done;
};

void dip__progress_begin(struct progress *p, FILE *out, bool is_terminal, int image_count);
void dip__progress_update(struct progress *p, int image_index, enum dip_stage stage, int done,
                          int total);
/* A line beside the bar. */
void dip__progress_note(struct progress *p, const char *text);
void dip__progress_end(struct progress *p);
