/* base/status.c - names of statuses and the composing of sentences for people.
 *
 * Text from files and requests ends up in these sentences and these sentences end up on terminals
 * and in JSON, so what is not printable UTF-8 is shown as '?' here, once, for everybody. */
#include "base/status.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"

const char *dip_status_text(enum dip_status status)
{
    static const char *const texts[DIP_STATUS_COUNT] = {
#define DIP_STATUS_TEXT(name, text) [DIP_##name] = text,
        DIP_STATUS_LIST(DIP_STATUS_TEXT)
#undef DIP_STATUS_TEXT
    };
    if ((unsigned)status >= DIP_STATUS_COUNT)
        return "unknown status";
    return texts[status];
}

enum dip_status dip_status_of_file(enum dip_status status)
{
    bool is_blamed = status == DIP_INVALID || status == DIP_UNSUPPORTED || status == DIP_LIMIT;
    return is_blamed ? DIP_CORRUPT : status;
}

/* Length of the well-formed UTF-8 sequence at `at`, 0 if there is none. The terminating zero is no
 * continuation byte, so the look-ahead stays inside the string. */
static size_t utf8_length(const unsigned char *at)
{
    size_t length = at[0] < 0x80 ? 1 : at[0] < 0xc2 ? 0 : at[0] < 0xe0 ? 2 : at[0] < 0xf0 ? 3 : 4;
    if (at[0] > 0xf4)
        return 0;
    for (size_t i = 1; i < length; i++)
        if ((at[i] & 0xc0) != 0x80)
            return 0;
    bool is_overlong = (at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xf0 && at[1] < 0x90);
    bool is_out_of_range = (at[0] == 0xed && at[1] > 0x9f) || (at[0] == 0xf4 && at[1] > 0x8f);
    return is_overlong || is_out_of_range ? 0 : length;
}

/* C0, DEL and the two-byte C1 controls: what a terminal would obey instead of show. */
static bool is_control(const unsigned char *at)
{
    return at[0] < 0x20 || at[0] == 0x7f || (at[0] == 0xc2 && at[1] < 0xa0);
}

static void sanitise(char *text)
{
    unsigned char *at = (unsigned char *)text;
    while (*at) {
        size_t length = utf8_length(at);
        if (length == 0) {
            *at++ = '?';
            continue;
        }
        if (is_control(at))
            memset(at, '?', length);
        at += length;
    }
}

/* Marks a cut sentence, without leaving half a character in front of the dots. */
static void mark_cut(char *text)
{
    size_t end = DIP_WHY_BYTES - 1 - 3;
    while (end > 0 && ((unsigned char)text[end] & 0xc0) == 0x80)
        end--;
    memcpy(text + end, "...", 4);
}

enum dip_status dip_fail(struct dip_why *why, enum dip_status status, const char *format, ...)
{
    dip_assert(status != DIP_OK);
    if (!why || why->text[0] != '\0')
        return status;
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(why->text, sizeof why->text, format, arguments);
    va_end(arguments);
    if (length >= (int)sizeof why->text)
        mark_cut(why->text);
    sanitise(why->text);
    return status;
}
