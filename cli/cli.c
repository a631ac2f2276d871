/* cli/cli.c - from a command line to a subcommand. */
#include "cli/cli.h"

#include <string.h>

#include "cli/paths.h"
#include "cli/secrets.h"

void dip__print_error(const char *text)
{
    fprintf(stderr, "error: %s\n", text);
}

enum exit_code dip__fail(enum dip_status status, const struct dip_why *why)
{
    dip__print_error(why->text[0] ? why->text : dip_status_text(status));
    bool is_usage = status == DIP_INVALID || status == DIP_LIMIT || status == DIP_UNSUPPORTED;
    return is_usage ? EXIT_USAGE : EXIT_FAILED;
}

enum dip_status dip__model_directory(const struct options *options, struct dip_why *why,
                                     char *ret_path, size_t path_bytes)
{
    if (!options->model)
        return dip__model_find(why, ret_path);
    int bytes = snprintf(ret_path, path_bytes, "%s", options->model);
    if (bytes < 0 || (size_t)bytes >= path_bytes)
        return dip_fail(why, DIP_LIMIT, "--model is longer than %zu bytes", path_bytes - 1);
    return DIP_OK;
}

static enum exit_code print_options(const struct arguments *arguments)
{
    if (arguments->options.markdown) {
        dip__print_markdown(stdout);
        return EXIT_DONE;
    }
    for (int i = 0; i < dip__option_count; i++)
        printf("--%-14s %s\n", dip__options[i].name, dip__options[i].help);
    return EXIT_DONE;
}

static enum exit_code print_version(void)
{
    printf("diptych %s\n", DIP_VERSION);
    return EXIT_DONE;
}

static enum exit_code print_help(const struct arguments *arguments)
{
    if (!arguments->operand) {
        dip__print_help(stdout);
        return EXIT_DONE;
    }
    const char *names[COMMAND_COUNT];
    for (int i = 0; i < COMMAND_COUNT; i++) {
        names[i] = dip__commands[i].name;
        if (strcmp(names[i], arguments->operand) == 0) {
            dip__print_command_help(stdout, (enum command_id)i);
            return EXIT_DONE;
        }
    }
    const char *near = dip__suggest(arguments->operand, names, COMMAND_COUNT);
    fprintf(stderr, "error: there is no command \"%.40s\" to explain%s%s\n", arguments->operand,
            near ? "; did you mean " : "", near ? near : "");
    return EXIT_USAGE;
}

static enum exit_code dispatch(const struct arguments *arguments)
{
    if (arguments->options.version)
        return print_version();
    if (arguments->options.help && arguments->command != COMMAND_HELP) {
        dip__print_command_help(stdout, arguments->command);
        return EXIT_DONE;
    }
    switch (arguments->command) {
    case COMMAND_GENERATE:
        return dip__generate(arguments);
    case COMMAND_TOKENIZE:
        return dip__tokenize(arguments);
    case COMMAND_INSPECT:
        return dip__inspect(arguments);
    case COMMAND_MODEL:
        return dip__model(arguments);
    case COMMAND_BENCH:
        return dip__bench(arguments);
    case COMMAND_DOCTOR:
        return dip__doctor(arguments);
    case COMMAND_UP:
        return dip__up(arguments);
    case COMMAND_COORDINATOR:
        return dip__coordinator(arguments);
    case COMMAND_WORKER:
        return dip__worker(arguments);
    case COMMAND_STATUS:
        return dip__status(arguments);
    case COMMAND_DRAIN:
        return dip__drain(arguments);
    case COMMAND_UNDRAIN:
        return dip__undrain(arguments);
    case COMMAND_PLAN:
        return dip__plan(arguments);
    case COMMAND_SIM:
        return dip__sim(arguments);
    case COMMAND_OPTIONS:
        return print_options(arguments);
    case COMMAND_VERSION:
        return print_version();
    case COMMAND_HELP:
    default:
        return print_help(arguments);
    }
}

int dip_cli_run(int argc, const char *const *argv, environment_fn environment)
{
    struct arguments arguments;
    struct dip_why why = {0};
    enum dip_status status = dip__arguments_parse(argc, argv, environment, &why, &arguments);
    if (status) {
        dip__print_error(why.text);
        fprintf(stderr, "see: diptych --help\n");
        return EXIT_USAGE;
    }
    struct secrets secrets = {0};
    if (!arguments.options.help && !arguments.options.version)
        status = dip__secrets_read(&arguments.options, &why, &secrets);
    if (status)
        return dip__fail(status, &why);
    enum exit_code code = dispatch(&arguments);
    explicit_bzero(&secrets, sizeof secrets);
    /* A full disk or a closed pipe must not look like success. */
    if ((fflush(stdout) != 0 || ferror(stdout)) && code == EXIT_DONE) {
        dip__print_error("cannot write to standard output");
        code = EXIT_FAILED;
    }
    return code;
}
