/* cli/show.c - see cli/show.h. Protocols: https://sw.kovidgoyal.net/kitty/graphics-protocol and
 * https://iterm2.com/documentation-images.html. */
#include "cli/show.h"

#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

enum { ANSWER_MS_MAX = 500, ANSWER_BYTES_MAX = 512, CHUNK_BYTES = 3072 };

/* ---- detection ---- */

/* Reads until the answer to the last question (device attributes, ending in "c") or silence. */
static void read_answer(int tty, char *answer)
{
    size_t bytes = 0;
    struct pollfd poller = {.fd = tty, .events = POLLIN};
    while (bytes + 1 < ANSWER_BYTES_MAX && poll(&poller, 1, ANSWER_MS_MAX) == 1) {
        ssize_t got = read(tty, answer + bytes, ANSWER_BYTES_MAX - 1 - bytes);
        if (got <= 0)
            break;
        bytes += (size_t)got;
        answer[bytes] = '\0';
        const char *attributes = strstr(answer, "\033[?");
        if (attributes && strchr(attributes, 'c'))
            break;
    }
    answer[bytes] = '\0';
}

static enum show_protocol ask_terminal(int tty)
{
    static const char questions[] = "\033_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\033\\" /* kitty? */
                                    "\033]1337;ReportCellSize\a"                 /* iTerm2? */
                                    "\033[c";                                    /* anybody? */
    char answer[ANSWER_BYTES_MAX] = "";
    struct termios before, raw;
    if (tcgetattr(tty, &before) != 0)
        return SHOW_NONE;
    raw = before;
    raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
    raw.c_cc[VMIN] = 0;
    raw.c_cc[VTIME] = 0;
    if (tcsetattr(tty, TCSANOW, &raw) != 0)
        return SHOW_NONE;
    if (write(tty, questions, sizeof questions - 1) == (ssize_t)sizeof questions - 1)
        read_answer(tty, answer);
    tcsetattr(tty, TCSANOW, &before);
    if (strstr(answer, "_Gi=31;OK"))
        return SHOW_KITTY;
    return strstr(answer, "]1337;ReportCellSize=") ? SHOW_ITERM2 : SHOW_NONE;
}

static enum show_protocol guess_outer_terminal(void)
{
    const char *outer = getenv("LC_TERMINAL");
    if (getenv("KITTY_WINDOW_ID") || getenv("GHOSTTY_RESOURCES_DIR"))
        return SHOW_KITTY;
    return outer && strcmp(outer, "iTerm2") == 0 ? SHOW_ITERM2 : SHOW_NONE;
}

enum dip_status dip__terminal_detect(struct dip_why *why, struct terminal *ret_terminal)
{
    struct terminal terminal = {.is_tmux = getenv("TMUX") != NULL};
    if (!isatty(STDOUT_FILENO))
        return dip_fail(why, DIP_UNSUPPORTED,
                        "--show: standard output is not a terminal; the image is in its file");
    if (terminal.is_tmux) {
        terminal.protocol = guess_outer_terminal();
    } else {
        int tty = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC);
        if (tty >= 0) {
            terminal.protocol = ask_terminal(tty);
            close(tty);
        }
    }
    if (terminal.protocol == SHOW_NONE)
        return dip_fail(why, DIP_UNSUPPORTED,
                        "--show: this terminal speaks neither the kitty nor the iTerm2 protocol; "
                        "the image is in its file");
    *ret_terminal = terminal;
    return DIP_OK;
}

/* ---- pictures ---- */

/* Base64 of up to CHUNK_BYTES bytes (a multiple of three but for the last chunk), terminated. */
static void base64(const unsigned char *data, size_t bytes, char *text)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < bytes; i += 3) {
        uint32_t word = (uint32_t)data[i] << 16;
        word |= i + 1 < bytes ? (uint32_t)data[i + 1] << 8 : 0;
        word |= i + 2 < bytes ? data[i + 2] : 0;
        *text++ = digits[word >> 18];
        *text++ = digits[word >> 12 & 63];
        *text++ = i + 1 < bytes ? digits[word >> 6 & 63] : '=';
        *text++ = i + 2 < bytes ? digits[word & 63] : '=';
    }
    *text = '\0';
}

/* tmux passes on what stands in its own escape, with every escape character doubled. */
static void escape_begin(const struct terminal *terminal)
{
    if (terminal->is_tmux)
        fputs("\033Ptmux;", stdout);
}

static void escape_put(const struct terminal *terminal, const char *text)
{
    for (; *text; text++) {
        if (terminal->is_tmux && *text == '\033')
            fputc('\033', stdout);
        fputc(*text, stdout);
    }
}

static void escape_end(const struct terminal *terminal)
{
    if (terminal->is_tmux)
        fputs("\033\\", stdout);
}

static void show_kitty(const struct terminal *terminal, const unsigned char *png, size_t bytes)
{
    char header[64], digits[CHUNK_BYTES / 3 * 4 + 1];
    for (size_t at = 0; at < bytes; at += CHUNK_BYTES) {
        size_t part = bytes - at < CHUNK_BYTES ? bytes - at : CHUNK_BYTES;
        snprintf(header, sizeof header, "\033_G%sm=%d;", at == 0 ? "a=T,f=100,q=2," : "",
                 at + part < bytes);
        base64(png + at, part, digits);
        escape_begin(terminal);
        escape_put(terminal, header);
        escape_put(terminal, digits);
        escape_put(terminal, "\033\\");
        escape_end(terminal);
    }
}

static void show_iterm2(const struct terminal *terminal, const unsigned char *png, size_t bytes)
{
    char header[64], digits[CHUNK_BYTES / 3 * 4 + 1];
    snprintf(header, sizeof header, "\033]1337;File=inline=1;size=%zu:", bytes);
    escape_begin(terminal);
    escape_put(terminal, header);
    for (size_t at = 0; at < bytes; at += CHUNK_BYTES) {
        base64(png + at, bytes - at < CHUNK_BYTES ? bytes - at : CHUNK_BYTES, digits);
        escape_put(terminal, digits);
    }
    escape_put(terminal, "\a");
    escape_end(terminal);
}

void dip__show_png(const struct terminal *terminal, const void *png, size_t bytes)
{
    if (terminal->protocol == SHOW_KITTY)
        show_kitty(terminal, png, bytes);
    else if (terminal->protocol == SHOW_ITERM2)
        show_iterm2(terminal, png, bytes);
    fputc('\n', stdout);
    fflush(stdout);
}
