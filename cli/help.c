/* cli/help.c - --help and docs/options.md, printed from the tables. */
#include <stdio.h>
#include <string.h>

#include "cli/options.h"

void dip__print_help(FILE *out)
{
    fprintf(out, "diptych makes images: one panel draws image tokens, the other turns them into "
                 "pixels.\n\nusage: diptych COMMAND [OPTIONS] [OPERAND]\n\ncommands:\n");
    for (int i = 0; i < COMMAND_COUNT; i++)
        fprintf(out, "  %-12s %s\n", dip__commands[i].name, dip__commands[i].help);
    fprintf(out, "\ntry: diptych generate \"a red circle\"\n"
                 "     diptych COMMAND --help\n");
}

/* "1 to 1000 steps; default 30" */
static void print_range(FILE *out, const struct option *o, const char *open, const char *close)
{
    char range[96] = "", standard[96] = "";
    if (o->type == OPTION_INT || o->type == OPTION_REAL)
        snprintf(range, sizeof range, "%.16g to %.16g%s%s", o->min, o->max, o->unit ? " " : "",
                 o->unit ? o->unit : "");
    if (o->type == OPTION_SEED)
        snprintf(range, sizeof range, "0 to 18446744073709551615");
    if (o->standard || o->standard_help)
        snprintf(standard, sizeof standard, "default: %s",
                 o->standard ? o->standard : o->standard_help);
    if (range[0] || standard[0])
        fprintf(out, "%s%s%s%s%s", open, range, range[0] && standard[0] ? "; " : "", standard,
                close);
}

void dip__print_command_help(FILE *out, enum command_id id)
{
    const struct command *command = &dip__commands[id];
    fprintf(out, "usage: diptych %s [OPTIONS]%s%s\n\n%s\n\noptions:\n", command->name,
            command->operand ? " " : "", command->operand ? command->operand : "", command->help);
    for (int i = 0; i < dip__option_count; i++) {
        const struct option *o = &dip__options[i];
        if (!((o->commands >> id) & 1))
            continue;
        char letter[8] = "    ", name[64];
        if (o->letter)
            snprintf(letter, sizeof letter, "-%c, ", o->letter);
        snprintf(name, sizeof name, "--%s%s%s", o->name, o->value ? " " : "",
                 o->value ? o->value : "");
        fprintf(out, "  %s%-34s %s", letter, name, o->help);
        print_range(out, o, " (", ")");
        fprintf(out, "\n");
    }
    fprintf(out, "\nEach option can be set by an environment variable: DIPTYCH_ and its name in "
                 "capitals,\nwith _ for -. A flag wins over it.\n");
}

/* A bar inside a table's cell needs a backslash. */
static void print_cell(FILE *out, const char *text)
{
    for (; *text; text++)
        fprintf(out, *text == '|' ? "\\|" : "%c", *text);
}

static void print_commands(FILE *out, uint32_t commands)
{
    if (commands == (1u << COMMAND_COUNT) - 1) {
        fprintf(out, "all");
        return;
    }
    const char *separator = "";
    for (int i = 0; i < COMMAND_COUNT; i++) {
        if (!((commands >> i) & 1))
            continue;
        fprintf(out, "%s%s", separator, dip__commands[i].name);
        separator = ", ";
    }
}

void dip__print_markdown(FILE *out)
{
    fprintf(out,
            "# Options\n\n"
            "Printed by `diptych options --markdown` from the table in `cli/options.c`; a test "
            "compares.\nA flag wins over its environment variable, which wins over the default. "
            "Variables that\nname no option are left alone: orchestrators set some of that form.\n"
            "\n| option | environment | commands | meaning | range and default |\n"
            "|---|---|---|---|---|\n");
    for (int i = 0; i < dip__option_count; i++) {
        const struct option *o = &dip__options[i];
        char name[ENVIRONMENT_NAME_BYTES];
        dip__environment_name(o, name);
        bool is_asked = !strcmp(o->name, "help") || !strcmp(o->name, "version");
        fprintf(out, "| `--%s", o->name);
        if (o->value)
            fprintf(out, " ");
        print_cell(out, o->value ? o->value : "");
        fprintf(out, "`");
        if (o->letter)
            fprintf(out, ", `-%c`", o->letter);
        fprintf(out, " | %s%s%s | ", is_asked ? "" : "`", is_asked ? "" : name,
                is_asked ? "" : "`");
        print_commands(out, o->commands);
        fprintf(out, " | ");
        print_cell(out, o->help);
        fprintf(out, " | ");
        print_range(out, o, "", "");
        fprintf(out, " |\n");
    }
    fprintf(out, "\n## Commands\n\n| command | operand | does |\n|---|---|---|\n");
    for (int i = 0; i < COMMAND_COUNT; i++) {
        const struct command *command = &dip__commands[i];
        fprintf(out, "| `%s` | ", command->name);
        print_cell(out, command->operand ? command->operand : "");
        fprintf(out, " | %s |\n", command->help);
    }
    fprintf(out, "\nExit status: 0 done, 1 failed, 2 usage, 3 cluster unreachable or refused.\n");
}
