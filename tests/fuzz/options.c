/* tests/fuzz/options.c - any words as a command line: a sentence, or values within their bounds.
 *
 * The input is the words after the program's name, separated by newlines; a word that begins with
 * "DIPTYCH_" and has a "=" is a variable of the environment. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "cli/options.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes);

enum { WORDS_MAX = 32 };
static const char *variables[WORDS_MAX];
static int variable_count;

static const char *environment(const char *name)
{
    size_t bytes = strlen(name);
    for (int i = 0; i < variable_count; i++)
        if (strncmp(variables[i], name, bytes) == 0 && variables[i][bytes] == '=')
            return variables[i] + bytes + 1;
    return NULL;
}

static void check_number(const struct option *o, const void *value)
{
    const int64_t *number = value;
    double real = 0;
    switch (o->type) {
    case OPTION_INT:
        dip_assert((double)*number >= o->min && (double)*number <= o->max);
        break;
    case OPTION_REAL:
        memcpy(&real, value, sizeof real);
        dip_assert(real >= o->min && real <= o->max);
        break;
    case OPTION_SIZE:
        dip_assert((double)number[0] >= o->min && (double)number[0] <= o->max);
        dip_assert((double)number[1] >= o->min && (double)number[1] <= o->max);
        break;
    default:
        break;
    }
}

static void check_options(const struct arguments *arguments)
{
    for (int i = 0; i < dip__option_count; i++) {
        const struct option *o = &dip__options[i];
        const void *value = (const char *)&arguments->options + o->offset;
        if (!arguments->options.given[i])
            continue;
        dip_assert((o->commands >> arguments->command) & 1);
        check_number(o, value);
        if (o->type == OPTION_TEXT || o->type == OPTION_NAME)
            dip_assert(*(const char *const *)value != NULL);
    }
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes)
{
    const char *argv[WORDS_MAX + 1] = {"diptych"};
    int argc = 1;
    char *text = malloc(bytes + 1);
    if (!text)
        return 0;
    memcpy(text, data, bytes);
    text[bytes] = '\0';
    variable_count = 0;
    for (char *word = text; word && argc < WORDS_MAX && variable_count < WORDS_MAX;) {
        char *end = memchr(word, '\n', strlen(word));
        if (end)
            *end++ = '\0';
        if (strncmp(word, "DIPTYCH_", 8) == 0 && strchr(word, '='))
            variables[variable_count++] = word;
        else
            argv[argc++] = word;
        word = end;
    }
    struct dip_why why = {0};
    struct arguments arguments;
    if (!dip__arguments_parse(argc, argv, environment, &why, &arguments))
        check_options(&arguments);
    else
        dip_assert(why.text[0] != '\0');
    free(text);
    return 0;
}
