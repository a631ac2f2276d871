/* cli/secrets.h - passwords and tokens from files, which is how orchestrators hand them over. */
#pragma once

#include "cli/options.h"

enum { SECRET_BYTES = 4096 };

/* Outlives the options that point into it. */
struct secrets {
    char token[SECRET_BYTES], etcd_password[SECRET_BYTES];
};

/* Reads --token-file and --etcd-password-file, the first line of each, in place of --token and
 * --etcd-password. Errors: INVALID (both were given, or the line is empty or too long), those of
 * reading. */
DIP_MUST_USE enum dip_status dip__secrets_read(struct options *options, struct dip_why *why,
                                               struct secrets *ret_secrets);
