/* cli/up_child.c - starting, hearing and ending the processes of a parent.
 *
 * A child has a process group of its own, so that Ctrl-C on the terminal reaches the parent alone,
 * which then ends them in order; and the kernel kills it when the parent dies, however that
 * happens.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/up.h"

enum { VALUE_BYTES = 64, WORDS_MAX = 24 };

/* ---- options as environment: the command line of a process is everybody's to read ---- */

static const char *choice_text(const struct option *row, int index, char text[VALUE_BYTES])
{
    const char *at = row->value;
    for (; index > 0; index--)
        at = strchr(at, '|') + 1;
    snprintf(text, VALUE_BYTES, "%.*s", (int)strcspn(at, "|"), at);
    return text;
}

static const char *value_text(const struct option *row, const struct options *options,
                              char text[VALUE_BYTES])
{
    const char *value = (const char *)options + row->offset;
    switch (row->type) {
    case OPTION_FLAG:
        return *(const bool *)(const void *)value ? "1" : "0";
    case OPTION_INT:
        snprintf(text, VALUE_BYTES, "%" PRId64, *(const int64_t *)(const void *)value);
        return text;
    case OPTION_TEXT:
    case OPTION_NAME:
        return *(const char *const *)(const void *)value;
    case OPTION_CHOICE:
        return choice_text(row, *(const int *)(const void *)value, text);
    default:
        return NULL; /* no daemon has one */
    }
}

/* What was said to the parent is said to its children, but for what concerns one process only. */
static void pass_on(const struct child_start *start)
{
    const struct options *options = start->options;
    for (int i = 0; i < dip__option_count; i++) {
        const struct option *row = &dip__options[i];
        char name[ENVIRONMENT_NAME_BYTES], text[VALUE_BYTES];
        bool is_own = false;
        dip__environment_name(row, name);
        for (int k = 0; start->own[k]; k++)
            is_own |= strcmp(row->name, start->own[k]) == 0;
        const char *value = value_text(row, options, text);
        if (is_own)
            unsetenv(name);
        else if (options->given[i] && value)
            setenv(name, value, 1);
    }
    if (start->is_quiet && !dip__is_given(options, &options->log_level))
        setenv("DIPTYCH_LOG_LEVEL", "warning", 1);
}

/* In the child, until exec; never returns. */
static void become(const struct child_start *start, pid_t parent, int output)
{
    char threads[VALUE_BYTES], device[VALUE_BYTES];
    char *argv[WORDS_MAX + 2] = {(char[]){"diptych"}};
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) /* it died before that was in force */
        _exit(EXIT_FAILED);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    signal(SIGHUP, SIG_DFL);
    dup2(output, STDOUT_FILENO);
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (null >= 0)
        dup2(null, STDIN_FILENO);
    pass_on(start);
    if (start->threads > 0) {
        snprintf(threads, sizeof threads, "%d", start->threads);
        setenv("DIPTYCH_THREADS", threads, 1);
        snprintf(device, sizeof device, "%d", start->device);
        setenv("DIPTYCH_DEVICE", device, 1);
    }
    for (int i = 0; i < WORDS_MAX && start->words[i]; i++)
        argv[i + 1] = strdup(start->words[i]);
    execv("/proc/self/exe", argv);
    fprintf(stderr, "error: cannot start %s: %s\n", start->words[0], strerror(errno));
    _exit(EXIT_FAILED);
}

enum dip_status dip__child_start(struct child *child, const struct child_start *start,
                                 struct dip_why *why)
{
    int ends[2];
    pid_t parent = getpid();
    if (pipe2(ends, O_CLOEXEC) != 0)
        return dip_fail(why, DIP_IO, "cannot start %s: too many open files", child->name);
    fflush(stdout);
    /* Other threads, if there are any, serve pages: nothing of theirs is touched before exec. */
    pid_t pid = fork();
    if (pid == 0)
        become(start, parent, ends[1]);
    close(ends[1]);
    if (pid < 0) {
        close(ends[0]);
        return dip_fail(why, DIP_NO_MEMORY, "cannot start %s: %s", child->name, strerror(errno));
    }
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    if (child->output >= 0)
        close(child->output);
    child->pid = pid;
    child->output = ends[0];
    child->line_bytes = 0;
    child->is_ready = child->has_come_up = false;
    return DIP_OK;
}

/* ---- what it says ---- */

const char *dip__child_line(struct child *child)
{
    char c;
    while (child->output >= 0 && read(child->output, &c, 1) == 1) {
        if (c == '\n') {
            child->line[child->line_bytes] = '\0';
            child->line_bytes = 0;
            return child->line;
        }
        if (child->line_bytes < CHILD_LINE_BYTES - 1)
            child->line[child->line_bytes++] = c;
    }
    return NULL;
}

bool dip__child_has_ended(struct child *child, int *ret_status)
{
    if (child->pid == 0 || waitpid(child->pid, ret_status, WNOHANG) != child->pid)
        return false;
    child->pid = 0;
    child->is_ready = false;
    return true;
}

void dip__child_signal(const struct child *child, int number)
{
    if (child->pid > 0)
        kill(child->pid, number);
}
