/* cli/daemon.c - see cli/daemon.h. */
#include "cli/daemon.h"

#include <stdio.h>
#include <sys/resource.h>

#include "model/config.h"
#include "model/shard.h"

void dip__fact(const char *component, const char *fact, const char *detail)
{
    printf("%s: %s%s\n", component, fact, detail);
    fflush(stdout);
}

enum dip_status dip__daemon_tls(const struct options *options, struct dip_why *why,
                                struct dip_rpc_tls **ret_tls)
{
    const struct options *o = options;
    *ret_tls = NULL;
    if (!o->tls_cert && !o->tls_key && !o->tls_ca)
        return DIP_OK;
    if (!o->tls_cert || !o->tls_key)
        return dip_fail(why, DIP_INVALID, "--tls-%s needs --tls-%s as well",
                        o->tls_cert  ? "cert"
                        : o->tls_key ? "key"
                                     : "ca",
                        o->tls_cert ? "key" : "cert");
    struct dip_rpc_tls_files files = {o->tls_cert, o->tls_key, o->tls_ca};
    return dip_rpc_tls_open(&files, why, ret_tls);
}

int64_t dip__daemon_files(void)
{
    struct rlimit limit = {0};
    if (getrlimit(RLIMIT_NOFILE, &limit))
        return 0;
    struct rlimit more = {.rlim_cur = limit.rlim_max, .rlim_max = limit.rlim_max};
    if (limit.rlim_cur < limit.rlim_max && setrlimit(RLIMIT_NOFILE, &more) == 0)
        limit = more;
    return limit.rlim_cur < INT64_MAX ? (int64_t)limit.rlim_cur : INT64_MAX;
}

enum dip_status dip__daemon_degrees(const char *directory, int degree, struct dip_why *why,
                                    uint64_t *ret_degrees)
{
    struct dip_config config;
    uint64_t degrees = 0;
    DIP_TRY(dip_status_of_file(dip_config_load(directory, why, &config)));
    DIP_TRY(dip_shard_check(&config.ar, degree, why));
    for (int d = 1; d <= 64; d++)
        if (dip_shard_check(&config.ar, d, NULL) == DIP_OK)
            degrees |= UINT64_C(1) << (d - 1);
    *ret_degrees = degrees;
    return DIP_OK;
}
