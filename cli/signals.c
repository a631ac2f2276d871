/* cli/signals.c - see cli/signals.h. */
#include "cli/signals.h"

#include <signal.h>
#include <unistd.h>

#include "base/file.h"
#include "cli/cli.h"

static volatile sig_atomic_t signal_count;

static void on_signal(int number)
{
    (void)number;
    if (++signal_count < 2)
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

bool dip__signals_came(void)
{
    return signal_count > 0;
}
