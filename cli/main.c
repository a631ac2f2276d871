/* cli/main.c - the program's beginning. */
#include <stdlib.h>

#include "cli/cli.h"

static const char *environment(const char *name)
{
    return getenv(name);
}

int main(int argc, char **argv)
{
    dip_cli_init();
    return dip_cli_run(argc, (const char *const *)argv, environment);
}
