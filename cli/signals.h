/* cli/signals.h - Ctrl-C and SIGTERM as a flag that is looked at between waits.
 *
 * The first signal asks for a stop within one step; another one, a moment later or more, ends the
 * process at once. Either way no half-written file stays. */
#pragma once

#include <stdbool.h>

void dip__signals_catch(void);
/* The same for a process that serves. When whoever reads its log or its output goes, or a peer to
 * which a library writes, that ends the write (SIGPIPE) and not the service. */
void dip__signals_serve(void);
bool dip__signals_came(void);
