/* cli/secrets.c - see cli/secrets.h. */
#include "cli/secrets.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"

static enum dip_status read_one(const char *path, const char *option, struct dip_why *why,
                                const char **value, char text[SECRET_BYTES])
{
    char *whole = NULL;
    size_t bytes = 0;
    if (!path)
        return DIP_OK;
    if (*value)
        return dip_fail(why, DIP_INVALID, "--%s and --%s-file exclude each other", option, option);
    DIP_TRY(dip_file_read(path, SECRET_BYTES - 1, why, &whole, &bytes));
    size_t line = strcspn(whole, "\r\n");
    memcpy(text, whole, line);
    text[line] = '\0';
    explicit_bzero(whole, bytes);
    free(whole);
    if (line == 0)
        return dip_fail(why, DIP_INVALID, "--%s-file: the first line of %s is empty", option, path);
    *value = text;
    return DIP_OK;
}

enum dip_status dip__secrets_read(struct options *options, struct dip_why *why,
                                  struct secrets *ret_secrets)
{
    DIP_TRY(read_one(options->token_file, "token", why, &options->token, ret_secrets->token));
    return read_one(options->etcd_password_file, "etcd-password", why, &options->etcd_password,
                    ret_secrets->etcd_password);
}
