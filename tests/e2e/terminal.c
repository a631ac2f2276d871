/* tests/e2e/terminal.c - the program on a terminal: the bar, and pictures for terminals that answer
 * as kitty, as iTerm2, and not at all. The test plays the terminal on a pseudo-terminal. */
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { SCREEN_BYTES = 1 << 16 };
static char screen[SCREEN_BYTES]; /* what the last run wrote to its terminal */
static char folder[64];

/* Runs `generate --show` on a terminal that answers the question about device attributes, which
 * every terminal does, preceded by `answer`. Returns the exit status. */
static int show_on(const char *answer, const char *tmux)
{
    int terminal = -1, status = 0;
    char output[128];
    snprintf(output, sizeof output, "%s/out.png", folder);
    pid_t child = forkpty(&terminal, NULL, NULL, NULL);
    assert_true(child >= 0);
    if (child == 0) {
        unsetenv("KITTY_WINDOW_ID");
        unsetenv("GHOSTTY_RESOURCES_DIR");
        unsetenv("TMUX");
        if (tmux) {
            setenv("TMUX", tmux, 1);
            setenv("KITTY_WINDOW_ID", "1", 1);
        }
        execl(DIP_PROGRAM, DIP_PROGRAM, "generate", "--model", "tests/golden/tiny-a/model",
              "--show", "-o", output, "a dog", (char *)NULL);
        _exit(98);
    }
    size_t bytes = 0;
    int has_answered = 0;
    struct pollfd poller = {.fd = terminal, .events = POLLIN};
    while (bytes + 1 < SCREEN_BYTES && poll(&poller, 1, 20000) == 1) {
        ssize_t got = read(terminal, screen + bytes, SCREEN_BYTES - 1 - bytes);
        if (got <= 0)
            break; /* the child has closed its side */
        bytes += (size_t)got;
        screen[bytes] = '\0';
        if (!has_answered && strstr(screen, "\033[c")) {
            char reply[256];
            int reply_bytes = snprintf(reply, sizeof reply, "%s\033[?62;22c", answer);
            assert_int_equal(write(terminal, reply, (size_t)reply_bytes), reply_bytes);
            has_answered = 1;
        }
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    close(terminal);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
}

static void kitty_gets_its_protocol(void **state)
{
    (void)state;
    assert_int_equal(show_on("\033_Gi=31;OK\033\\", NULL), 0);
    assert_non_null(strstr(screen, "\033_Ga=T,f=100,q=2,m=0;iVBORw0KGgo")); /* a PNG begins so */
    assert_null(strstr(screen, "note:"));
}

static void iterm2_gets_its_protocol(void **state)
{
    (void)state;
    assert_int_equal(show_on("\033]1337;ReportCellSize=17.0;8.0\033\\", NULL), 0);
    assert_non_null(strstr(screen, "\033]1337;File=inline=1;size="));
    assert_non_null(strstr(screen, ":iVBORw0KGgo"));
}

static void another_terminal_gets_a_sentence(void **state)
{
    (void)state;
    assert_int_equal(show_on("", NULL), 0);
    assert_non_null(strstr(screen, "note: --show: this terminal speaks neither"));
    assert_null(strstr(screen, "iVBORw0KGgo"));
}

static void tmux_gets_the_passthrough(void **state)
{
    (void)state;
    assert_int_equal(show_on("", "/tmp/tmux-0/default,1,0"), 0);
    assert_non_null(strstr(screen, "\033Ptmux;\033\033_Ga=T,f=100,q=2,m=0;iVBORw0KGgo"));
}

/* The bar is drawn over and gone at the end; the result stands on lines of its own. */
static void a_terminal_gets_a_bar(void **state)
{
    (void)state;
    assert_int_equal(show_on("", NULL), 0);
    const char *bar = strstr(screen, "\r\033[Kreading prompt");
    assert_non_null(bar);
    const char *last = bar;
    for (const char *next = bar; next; next = strstr(next + 1, "\r\033[K"))
        last = next;
    assert_memory_equal(last + 4, folder, strlen(folder)); /* cleared, then the file's name */
}

static int make_folder(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/diptych-terminal-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    char output[128];
    snprintf(output, sizeof output, "%s/out.png", folder);
    unlink(output);
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kitty_gets_its_protocol),
        cmocka_unit_test(iterm2_gets_its_protocol),
        cmocka_unit_test(another_terminal_gets_a_sentence),
        cmocka_unit_test(tmux_gets_the_passthrough),
        cmocka_unit_test(a_terminal_gets_a_bar),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
