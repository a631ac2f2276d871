/* cli/parse.c - a command line and the environment, read through the option table.
 *
 * Accepts --name VALUE, --name=VALUE, -x VALUE, -xVALUE, and -- before operands that begin with a
 * dash. Flags in the environment are 1, true, yes, on or 0, false, no, off. */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "cli/options.h"

/* ---- values ---- */

/* Where a value came from, for sentences: "--steps" or "DIPTYCH_STEPS". */
struct source {
    const char *name;
    struct dip_why *why;
};

static enum dip_status fail_bounds(const struct source *source, const struct option *o,
                                   const char *text)
{
    return dip_fail(source->why, DIP_INVALID, "%s is \"%s\"; it must be %s%.17g to %.17g",
                    source->name, text, o->type == OPTION_INT ? "a whole number from " : "", o->min,
                    o->max);
}

static enum dip_status parse_int(const struct source *source, const struct option *o,
                                 const char *text, void *value)
{
    char *end = NULL;
    errno = 0;
    long long number = strtoll(text, &end, 10);
    bool is_number = end != text && *end == '\0' && !isspace((unsigned char)text[0]) && !errno;
    if (!is_number || (double)number < o->min || (double)number > o->max)
        return fail_bounds(source, o, text);
    *(int64_t *)value = number;
    return DIP_OK;
}

static enum dip_status parse_seed(const struct source *source, const char *text, void *value)
{
    char *end = NULL;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (!isdigit((unsigned char)text[0]) || *end != '\0' || errno)
        return dip_fail(source->why, DIP_INVALID,
                        "%s is \"%s\"; it must be a whole number from 0 to %llu", source->name,
                        text, (unsigned long long)UINT64_MAX);
    *(uint64_t *)value = number;
    return DIP_OK;
}

static enum dip_status parse_real(const struct source *source, const struct option *o,
                                  const char *text, void *value)
{
    char *end = NULL;
    double number = strtod(text, &end);
    bool is_number = end != text && *end == '\0' && !isspace((unsigned char)text[0]);
    if (!is_number || !(number >= o->min && number <= o->max)) /* NaN is within nothing */
        return fail_bounds(source, o, text);
    *(double *)value = number;
    return DIP_OK;
}

/* Digits only: no sign, no blank. */
static bool read_edge(const char **text, int64_t *ret_edge)
{
    if (!isdigit((unsigned char)**text))
        return false;
    char *end = NULL;
    errno = 0;
    *ret_edge = strtoll(*text, &end, 10);
    *text = end;
    return errno == 0;
}

static enum dip_status parse_size(const struct source *source, const struct option *o,
                                  const char *text, void *value)
{
    int64_t *size = value, width = 0, height = 0;
    const char *at = text;
    bool is_size = read_edge(&at, &width) && (*at == 'x' || *at == 'X') && at++ &&
                   read_edge(&at, &height) && *at == '\0';
    if (!is_size || (double)width < o->min || (double)width > o->max || (double)height < o->min ||
        (double)height > o->max)
        return dip_fail(source->why, DIP_INVALID,
                        "%s is \"%s\"; it must be WIDTHxHEIGHT, each %g to %g pixels", source->name,
                        text, o->min, o->max);
    size[0] = width;
    size[1] = height;
    return DIP_OK;
}

static enum dip_status parse_flag(const struct source *source, const char *text, void *value)
{
    static const char *const words[] = {"0", "false", "no", "off", "1", "true", "yes", "on"};
    for (int i = 0; i < 8; i++) {
        if (strcmp(text, words[i]) != 0)
            continue;
        *(bool *)value = i >= 4;
        return DIP_OK;
    }
    return dip_fail(source->why, DIP_INVALID, "%s is \"%s\"; it must be 1 or 0", source->name,
                    text);
}

/* Index of `text` in "auto|always|never", -1 when it is none of them. */
static int choice_index(const char *choices, const char *text)
{
    size_t bytes = strlen(text);
    int index = 0;
    for (const char *at = choices; bytes > 0; index++) {
        size_t name_bytes = strcspn(at, "|");
        if (name_bytes == bytes && memcmp(at, text, bytes) == 0)
            return index;
        if (at[name_bytes] == '\0')
            break;
        at += name_bytes + 1;
    }
    return -1;
}

static enum dip_status parse_choice(const struct source *source, const struct option *o,
                                    const char *text, void *value)
{
    int index = choice_index(o->value, text);
    if (index < 0)
        return dip_fail(source->why, DIP_INVALID, "%s is \"%s\"; it must be one of %s",
                        source->name, text, o->value);
    if (o->type == OPTION_CHOICE)
        *(int *)value = index;
    else
        *(const char **)value = text;
    return DIP_OK;
}

static enum dip_status parse_value(const struct source *source, const struct option *o,
                                   const char *text, struct options *options)
{
    void *value = (char *)options + o->offset;
    switch (o->type) {
    case OPTION_FLAG:
        return parse_flag(source, text, value);
    case OPTION_INT:
        return parse_int(source, o, text, value);
    case OPTION_SEED:
        return parse_seed(source, text, value);
    case OPTION_REAL:
        return parse_real(source, o, text, value);
    case OPTION_SIZE:
        return parse_size(source, o, text, value);
    case OPTION_NAME:
    case OPTION_CHOICE:
        return parse_choice(source, o, text, value);
    case OPTION_TEXT:
        break;
    }
    if (text[0] == '\0')
        return dip_fail(source->why, DIP_INVALID, "%s is empty", source->name);
    *(const char **)value = text;
    return DIP_OK;
}

/* ---- defaults and environment ---- */

static enum dip_status options_default(struct options *options)
{
    *options = (struct options){0};
    for (int i = 0; i < dip__option_count; i++) {
        const struct option *o = &dip__options[i];
        struct source source = {o->name, NULL};
        if (o->standard)
            DIP_TRY(parse_value(&source, o, o->standard, options));
    }
    return DIP_OK;
}

void dip__environment_name(const struct option *option, char ret_name[ENVIRONMENT_NAME_BYTES])
{
    int bytes = snprintf(ret_name, ENVIRONMENT_NAME_BYTES, "DIPTYCH_%s", option->name);
    dip_assert(bytes > 0 && bytes < ENVIRONMENT_NAME_BYTES);
    for (char *c = ret_name; *c; c++)
        *c = *c == '-' ? '_' : (char)toupper((unsigned char)*c);
}

/* Variables for other commands are none of this one's business. --help and --version are asked for
 * by people, not by surroundings. */
static enum dip_status read_environment(struct arguments *arguments, environment_fn environment,
                                        struct dip_why *why)
{
    for (int i = 0; i < dip__option_count; i++) {
        const struct option *o = &dip__options[i];
        char name[ENVIRONMENT_NAME_BYTES];
        dip__environment_name(o, name);
        const char *text = environment(name);
        bool is_meant = (o->commands >> arguments->command) & 1 &&
                        o->offset != offsetof(struct options, help) &&
                        o->offset != offsetof(struct options, version);
        if (!text || text[0] == '\0' || !is_meant)
            continue;
        struct source source = {name, why};
        DIP_TRY(parse_value(&source, o, text, &arguments->options));
        arguments->options.given[i] = true;
    }
    return DIP_OK;
}

/* ---- the command line ---- */

struct words {
    int count, index; /* of the next one */
    const char *const *words;
    struct dip_why *why;
};

static enum dip_status fail_unknown_option(const struct words *w, enum command_id command,
                                           const char *name)
{
    const char *names[OPTION_COUNT_MAX];
    int count = 0;
    for (int i = 0; i < dip__option_count; i++) {
        bool is_taken = (dip__options[i].commands >> command) & 1;
        if (!is_taken && strcmp(dip__options[i].name, name) == 0)
            return dip_fail(w->why, DIP_INVALID, "%s does not take --%s",
                            dip__commands[command].name, name);
        if (is_taken)
            names[count++] = dip__options[i].name;
    }
    const char *near = dip__suggest(name, names, count);
    if (near)
        return dip_fail(w->why, DIP_INVALID, "there is no option --%s; did you mean --%s?", name,
                        near);
    return dip_fail(w->why, DIP_INVALID, "there is no option --%s", name);
}

static const struct option *find_long(enum command_id command, const char *name, size_t bytes)
{
    for (int i = 0; i < dip__option_count; i++)
        if ((dip__options[i].commands >> command) & 1 && strlen(dip__options[i].name) == bytes &&
            memcmp(dip__options[i].name, name, bytes) == 0)
            return &dip__options[i];
    return NULL;
}

static const struct option *find_letter(enum command_id command, char letter)
{
    for (int i = 0; i < dip__option_count; i++)
        if ((dip__options[i].commands >> command) & 1 && dip__options[i].letter == letter)
            return &dip__options[i];
    return NULL;
}

/* `inline_value` is what stood in the same word, NULL when nothing did. */
static enum dip_status take_option(struct words *w, const struct option *o, const char *shown,
                                   const char *inline_value, struct options *options)
{
    const char *text = inline_value;
    if (o->type == OPTION_FLAG) {
        if (text)
            return dip_fail(w->why, DIP_INVALID, "%s takes no value", shown);
        text = "1";
    } else if (!text) {
        if (w->index == w->count)
            return dip_fail(w->why, DIP_INVALID, "%s needs a value (%s)", shown, o->value);
        text = w->words[w->index++];
    }
    struct source source = {shown, w->why};
    DIP_TRY(parse_value(&source, o, text, options));
    options->given[o - dip__options] = true;
    return DIP_OK;
}

static enum dip_status take_long(struct words *w, const char *word, struct arguments *arguments)
{
    const char *name = word + 2;
    size_t bytes = strcspn(name, "=");
    char shown[64];
    snprintf(shown, sizeof shown, "--%.*s", bytes < 48 ? (int)bytes : 48, name);
    const struct option *o = find_long(arguments->command, name, bytes);
    if (!o)
        return fail_unknown_option(w, arguments->command, shown + 2);
    return take_option(w, o, shown, name[bytes] == '=' ? name + bytes + 1 : NULL,
                       &arguments->options);
}

static enum dip_status take_short(struct words *w, const char *word, struct arguments *arguments)
{
    char shown[3] = {'-', word[1], '\0'};
    const struct option *o = find_letter(arguments->command, word[1]);
    if (!o)
        return dip_fail(w->why, DIP_INVALID, "there is no option %s", shown);
    return take_option(w, o, shown, word[2] ? word + 2 : NULL, &arguments->options);
}

static enum dip_status take_operand(struct words *w, const char *word, struct arguments *arguments)
{
    const struct command *command = &dip__commands[arguments->command];
    if (!command->operand)
        return dip_fail(w->why, DIP_INVALID, "%s takes no operand, found \"%.60s\"", command->name,
                        word);
    if (arguments->operand)
        return dip_fail(w->why, DIP_INVALID,
                        "%s takes one %s, found \"%.60s\" as well; put quotes around a text of "
                        "several words",
                        command->name, command->operand, word);
    arguments->operand = word;
    return DIP_OK;
}

static enum dip_status take_words(struct words *w, struct arguments *arguments)
{
    bool has_options_ended = false;
    while (w->index < w->count) {
        const char *word = w->words[w->index++];
        if (has_options_ended || word[0] != '-' || word[1] == '\0')
            DIP_TRY(take_operand(w, word, arguments));
        else if (strcmp(word, "--") == 0)
            has_options_ended = true;
        else if (word[1] == '-')
            DIP_TRY(take_long(w, word, arguments));
        else
            DIP_TRY(take_short(w, word, arguments));
    }
    return DIP_OK;
}

static enum dip_status find_command(const char *word, struct dip_why *why,
                                    enum command_id *ret_command)
{
    const char *names[COMMAND_COUNT];
    for (int i = 0; i < COMMAND_COUNT; i++) {
        names[i] = dip__commands[i].name;
        if (strcmp(word, names[i]) == 0) {
            *ret_command = (enum command_id)i;
            return DIP_OK;
        }
    }
    const char *near = dip__suggest(word, names, COMMAND_COUNT);
    if (near)
        return dip_fail(why, DIP_INVALID, "there is no command \"%.40s\"; did you mean %s?", word,
                        near);
    return dip_fail(why, DIP_INVALID, "there is no command \"%.40s\"", word);
}

enum dip_status dip__arguments_parse(int argc, const char *const *argv, environment_fn environment,
                                     struct dip_why *why, struct arguments *ret_arguments)
{
    struct arguments arguments = {.command = COMMAND_HELP};
    struct words words = {.count = argc, .index = 1, .words = argv, .why = why};
    DIP_TRY(options_default(&arguments.options));
    if (argc > 1 && argv[1][0] != '-')
        DIP_TRY(find_command(argv[words.index++], why, &arguments.command));
    DIP_TRY(read_environment(&arguments, environment, why));
    DIP_TRY(take_words(&words, &arguments));
    const struct command *command = &dip__commands[arguments.command];
    bool is_asking = arguments.options.help || arguments.options.version;
    if (command->is_operand_needed && !arguments.operand && !is_asking)
        return dip_fail(why, DIP_INVALID, "%s needs %s %s", command->name,
                        strchr(command->operand, '|') ? "one of" : "a", command->operand);
    *ret_arguments = arguments;
    return DIP_OK;
}
