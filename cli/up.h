/* cli/up.h - the processes of `diptych up`, and of a worker of several ranks; private to cli/. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "cli/cli.h"

enum child_role { CHILD_COORDINATOR, CHILD_AR, CHILD_DIFFUSION };

enum { CHILD_NAME_BYTES = 96, CHILD_LINE_BYTES = 512, CHILDREN_MAX = 1 + 64 * 64 + 64 };

/* One process: the same executable under another subcommand. It dies with this one. */
struct child {
    enum child_role role;
    char name[CHILD_NAME_BYTES];
    pid_t pid;                  /* 0 = not running */
    int output;                 /* what it says, non-blocking; -1 = closed */
    bool is_ready, has_come_up; /* now; in this life */
    bool was_ready;             /* in any */
    int failures;               /* to come up, in a row */
    int64_t begin_again_ns;
    int line_bytes;
    char line[CHILD_LINE_BYTES]; /* being read */
};

/* How a child is started: `words` are its arguments after the program's name. */
struct child_start {
    const struct options *options; /* the user's, passed on by the environment */
    const char *const *words;
    const char *const *own; /* names of options that are not passed on, ended by NULL */
    int threads;            /* 0 = as the user said, or all */
    int device;             /* which GPU; of a worker */
    bool is_quiet;          /* it logs warnings only, unless the user said otherwise */
};
DIP_MUST_USE enum dip_status dip__child_start(struct child *child, const struct child_start *start,
                                              struct dip_why *why);

/* The next whole line that it has said, without its end; NULL when there is none yet. */
const char *dip__child_line(struct child *child);

/* Whether it has ended since; *ret_status as of waitpid. */
bool dip__child_has_ended(struct child *child, int *ret_status);
void dip__child_signal(const struct child *child, int number);
