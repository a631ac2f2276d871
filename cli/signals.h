/* cli/signals.h - Ctrl-C and SIGTERM as a flag that is looked at between waits.
 *
 * The first signal asks for a stop within one step; another one, a moment later or more, ends the
 * process at once. Either way no half-written file stays. */
#pragma once

#include <stdbool.h>

void dip__signals_catch(void);
bool dip__signals_came(void);
