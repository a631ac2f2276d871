/* cli/show.h - pictures in the terminal: the kitty graphics protocol and iTerm2's inline images.
 *
 * What the terminal can do is asked of the terminal, not guessed from its name: a kitty query, a
 * question that iTerm2's family answers, and one that every terminal answers, so that silence is
 * noticed at once. Inside tmux, which swallows answers, the variables of the outer terminal decide
 * and pictures travel in tmux's passthrough. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

enum show_protocol { SHOW_NONE, SHOW_KITTY, SHOW_ITERM2 };

struct terminal {
    enum show_protocol protocol;
    bool is_tmux;
};

/* Errors: UNSUPPORTED with a sentence that says why nothing can be shown. */
DIP_MUST_USE enum dip_status dip__terminal_detect(struct dip_why *why,
                                                  struct terminal *ret_terminal);

/* Writes the picture to standard output. */
void dip__show_png(const struct terminal *terminal, const void *png, size_t bytes);
