/* cli/options.h - the one option table, and what it makes of a command line.
 *
 * A row states name, type, bounds, default and help of one option. The parser, --help,
 * docs/options.md and the environment names are all printed from it or driven by it. A flag wins
 * over DIPTYCH_<NAME> in the environment, which wins over the default. What is not in the table is
 * refused by name, with the closest name there is. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/status.h"

/* ---- subcommands ---- */

enum command_id {
    COMMAND_GENERATE,
    COMMAND_TOKENIZE,
    COMMAND_INSPECT,
    COMMAND_MODEL,
    COMMAND_BENCH,
    COMMAND_DOCTOR,
    COMMAND_UP,
    COMMAND_COORDINATOR,
    COMMAND_WORKER,
    COMMAND_STATUS,
    COMMAND_DRAIN,
    COMMAND_UNDRAIN,
    COMMAND_PLAN,
    COMMAND_SIM,
    COMMAND_OPTIONS,
    COMMAND_VERSION,
    COMMAND_HELP,
    COMMAND_COUNT
};

struct command {
    const char *name;
    const char *operand; /* "PROMPT", NULL when it takes none */
    bool is_operand_needed;
    const char *help;
};
extern const struct command dip__commands[COMMAND_COUNT];

/* ---- options ---- */

enum progress_mode { PROGRESS_AUTO, PROGRESS_ALWAYS, PROGRESS_NEVER };
enum preview_choice { PREVIEW_AUTO, PREVIEW_LINEAR, PREVIEW_DECODED };
enum sampler_choice { SAMPLER_EULER, SAMPLER_DPM };
enum role_choice { ROLE_AR, ROLE_DIFFUSION, ROLE_BOTH };
enum log_format_choice { LOG_FORMAT_AUTO, LOG_FORMAT_TEXT, LOG_FORMAT_JSON };

enum { OPTION_COUNT_MAX = 112, OPERANDS_MAX = 1 };

/* Values, and whether the user gave them (flag or environment). */
struct options {
    const char *model, *output, *expect, *previews, *trace, *inject, *backend, *shape, *server,
        *etcd;
    const char *precision, *cuda_plugin, *cudnn;
    const char *tls_ca, *tls_cert, *tls_key, *tls_name, *token, *tokens;
    const char *listen, *advertise, *http, *cluster, *name, *host_id, *group_address, *inventory;
    const char *digest, *manifest;
    const char *etcd_ca, *etcd_cert, *etcd_key, *etcd_user, *etcd_password;
    const char *token_file, *etcd_password_file; /* dip__secrets_read reads them */
    uint64_t seed;
    int64_t images, steps, top_k, threads, device, preview_every, timeout, grace;
    int64_t ranks, ar_tp, ar_groups, diffusion, ar_slots, diffusion_slots, keep_time;
    int64_t queue_max, images_max, tenant_max, request_images_max, members_max, attempts;
    int64_t result_mib, result_time, deadline, hold, stall_time;
    int64_t heartbeat, silence, stuck_time, checkpoint_every;
    int64_t sim_workers, sim_requests, sim_seeds;
    double guidance, temperature, top_p;
    int64_t size[2]; /* width, height */
    int sampler, preview_kind, progress, role, log_level, log_format;
    bool json, show, no_metadata, markdown, help, version, watch, insecure, ar_rank;
    bool given[OPTION_COUNT_MAX]; /* by row of the table */
};

enum option_type {
    OPTION_FLAG,   /* bool */
    OPTION_INT,    /* int64_t */
    OPTION_SEED,   /* uint64_t, all of it */
    OPTION_REAL,   /* double */
    OPTION_TEXT,   /* const char *, not empty */
    OPTION_NAME,   /* const char *, one of the names in `value` */
    OPTION_CHOICE, /* int, index of a name in `value` */
    OPTION_SIZE,   /* int64_t[2], WIDTHxHEIGHT */
};

struct option {
    const char *name; /* without dashes */
    char letter;      /* 0 = none */
    enum option_type type;
    const char *value;         /* "N", "FILE", "auto|always|never"; NULL for flags */
    const char *unit;          /* NULL = none */
    double min, max;           /* INT, REAL, SIZE */
    const char *standard;      /* the default as text, parsed like any value; NULL = unset */
    const char *standard_help; /* what unset means, for people */
    uint32_t commands;         /* bit per command */
    size_t offset;             /* into struct options */
    const char *help;
};

extern const struct option dip__options[];
extern const int dip__option_count;

/* Whether the user gave the option stored in `field`, a member of *options. */
bool dip__is_given(const struct options *options, const void *field);

/* ---- a parsed command line ---- */

struct arguments {
    enum command_id command;
    struct options options;
    const char *operand; /* NULL when there is none */
};

/* Looks a variable up; NULL when it is not set. Handed in, so that tests bring their own. */
typedef const char *(*environment_fn)(const char *name);

/* Strings in *ret_arguments point into argv and the environment. Errors: INVALID with one sentence
 * naming the option, what was given and what is allowed. */
DIP_MUST_USE enum dip_status dip__arguments_parse(int argc, const char *const *argv,
                                                  environment_fn environment, struct dip_why *why,
                                                  struct arguments *ret_arguments);

/* The name in `names` closest to `word`, NULL when none is close. */
const char *dip__suggest(const char *word, const char *const *names, int count);

/* "DIPTYCH_TOP_K" for "top-k". */
enum { ENVIRONMENT_NAME_BYTES = 64 };
void dip__environment_name(const struct option *option, char ret_name[ENVIRONMENT_NAME_BYTES]);

/* ---- printed from the table ---- */

void dip__print_help(FILE *out);
void dip__print_command_help(FILE *out, enum command_id command);
void dip__print_markdown(FILE *out);
