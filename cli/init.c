/* cli/init.c - the first process of a container: it starts the program, passes signals on, reaps.
 *
 * Process 1 differs from all others: signals that it has no handler for are ignored, and orphans
 * become its children, whom nobody but it can bury. Instead of teaching that to every subcommand
 * (and of asking for an init program in the image), process 1 forks once and does nothing else; the
 * program runs as an ordinary process below it. When the program ends, process 1 ends as it did,
 * and the kernel takes along whoever is left. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/cli.h"

enum { KILLED_BASE = 128 }; /* as shells and container runtimes report a death by signal */

/* Buries everybody who has ended. Whether the program was among them; *ret_code as it ended. */
static bool reap(pid_t program, int *ret_code)
{
    bool is_over = false;
    int status = 0;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
        if (pid != program)
            continue;
        is_over = true;
        *ret_code = WIFSIGNALED(status) ? KILLED_BASE + WTERMSIG(status) : WEXITSTATUS(status);
    }
    return is_over;
}

/* Signals of a terminal (SI_KERNEL) reach the program by themselves: passed on they would be the
 * second one, which ends it at once. */
static _Noreturn void watch(pid_t program, const sigset_t *signals)
{
    for (int code = EXIT_FAILED;;) {
        siginfo_t info = {0};
        int number = sigwaitinfo(signals, &info);
        if (number == SIGCHLD && reap(program, &code))
            exit(code);
        if (number > 0 && number != SIGCHLD && info.si_code != SI_KERNEL)
            kill(program, number);
    }
}

void dip_cli_init(void)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTRAP, SIGSYS};
    sigset_t signals, before;
    if (getpid() != 1)
        return;
    sigfillset(&signals);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        sigdelset(&signals, faults[i]);
    sigprocmask(SIG_BLOCK, &signals, &before);
    pid_t program = fork();
    if (program > 0)
        watch(program, &signals);
    if (program < 0) /* then it runs as process 1, with what that entails */
        fprintf(stderr, "warning: cannot fork: %s\n", strerror(errno));
    sigprocmask(SIG_SETMASK, &before, NULL);
}
