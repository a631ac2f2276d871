/* cli/signals.c - see cli/signals.h. */
#include "cli/signals.h"

#include <signal.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/counter.h"
#include "base/file.h"
#include "cli/cli.h"

/* timeout(1), and others that pass a signal on to a process and to its group, say it twice at once:
 * nobody has become impatient. */
#define AGAIN_NS (300 * DIP_MS_NS)

static struct dip_counter first_ns; /* when the first came; 0 = none did */

static void on_signal(int number)
{
    (void)number;
    int64_t now_ns = dip_clock_now_ns();
    int64_t since_ns = (int64_t)dip_counter_get(&first_ns);
    if (since_ns == 0)
        dip_counter_set(&first_ns, (uint64_t)now_ns);
    if (since_ns == 0 || now_ns - since_ns < AGAIN_NS)
        return;
    dip_file_abandon();
    _exit(EXIT_FAILED);
}

void dip__signals_catch(void)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
}

void dip__signals_serve(void)
{
    dip__signals_catch();
    signal(SIGPIPE, SIG_IGN);
}

bool dip__signals_came(void)
{
    return dip_counter_get(&first_ns) != 0;
}
