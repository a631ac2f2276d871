/* cli/cli.h - front door of cli/: the program `diptych` as a function, and its subcommands. */
#pragma once

#include "cli/options.h"

/* Fixed, because scripts use them. */
enum exit_code { EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_CLUSTER };

/* As process 1 of a container: returns in a new process, and stays behind as its init. Otherwise
 * returns at once. To be called before there are threads. */
void dip_cli_init(void);

/* The whole program. Returns the exit status. */
int dip_cli_run(int argc, const char *const *argv, environment_fn environment);

/* One per subcommand; each prints its own results and, on failure, one sentence. */
enum exit_code dip__generate(const struct arguments *arguments);
enum exit_code dip__tokenize(const struct arguments *arguments);
enum exit_code dip__sim(const struct arguments *arguments);
enum exit_code dip__inspect(const struct arguments *arguments);
enum exit_code dip__model(const struct arguments *arguments);
enum exit_code dip__bench(const struct arguments *arguments);
enum exit_code dip__doctor(const struct arguments *arguments);
enum exit_code dip__up(const struct arguments *arguments);
enum exit_code dip__coordinator(const struct arguments *arguments);
enum exit_code dip__worker(const struct arguments *arguments);
enum exit_code dip__ranks(const struct arguments *arguments); /* worker --ranks */
enum exit_code dip__plan(const struct arguments *arguments);
enum exit_code dip__status(const struct arguments *arguments);
enum exit_code dip__drain(const struct arguments *arguments);
enum exit_code dip__undrain(const struct arguments *arguments);

/* "error: ..." on standard error. */
void dip__print_error(const char *text);

/* EXIT_USAGE for what the user asked wrongly, EXIT_FAILED for everything else; prints the sentence,
 * or the status' text when there is none. */
enum exit_code dip__fail(enum dip_status status, const struct dip_why *why);

/* --model, or the demo model. Errors: NOT_FOUND. */
DIP_MUST_USE enum dip_status dip__model_directory(const struct options *options,
                                                  struct dip_why *why, char *ret_path,
                                                  size_t path_bytes);
