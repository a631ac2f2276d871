/* coordinator/caller.c - who calls and what they may: the bearer token, if there is a file of them.
 */
#include <string.h>

#include "base/clock.h"
#include "coordinator/front.h"

static const char *scope_name(enum dip_scope scope)
{
    switch (scope) {
    case DIP_SCOPE_ADMIN:
        return "admin";
    case DIP_SCOPE_GENERATE:
        return "generate";
    case DIP_SCOPE_WORKER:
        return "worker";
    default:
        return "read";
    }
}

bool dip__caller_read(struct dip_coordinator_daemon *d, const struct dip_rpc_call *call,
                      enum dip_scope scope, struct caller *ret_caller, struct dip_error *ret_error)
{
    const char *value;
    size_t bytes;
    if (!d->options.tokens) {
        *ret_caller = (struct caller){CALLER_TENANT_DEFAULT,
                                      DIP_SCOPE_READ | DIP_SCOPE_GENERATE | DIP_SCOPE_ADMIN};
        return true;
    }
    if (!dip_rpc_call_metadata(call, "authorization", &value, &bytes)) {
        dip_error_set(ret_error, DIP_REASON_NO_CREDENTIAL,
                      "send the header \"authorization: Bearer TOKEN\"");
        return false;
    }
    struct dip_token_holder holder;
    if (dip_tokens_check(d->options.tokens, dip_clock_now_ns(), value, bytes, &holder)) {
        dip_error_set(ret_error, DIP_REASON_BAD_CREDENTIAL, "the token is not known here");
        return false;
    }
    if (!(holder.scopes & (uint32_t)scope)) {
        dip_error_set(ret_error, DIP_REASON_ROLE_REQUIRED, "this token lacks the scope %s",
                      scope_name(scope));
        return false;
    }
    memcpy(ret_caller->tenant, holder.tenant, sizeof ret_caller->tenant);
    ret_caller->scopes = holder.scopes;
    return true;
}

static uint32_t mix(uint32_t hash, const char *text)
{
    for (; *text; text++)
        hash = (hash ^ (unsigned char)*text) * UINT32_C(16777619);
    return (hash ^ 0xff) * UINT32_C(16777619); /* "a" + "b" is not "ab" + "" */
}

uint32_t dip__caller_share(const struct caller *caller, const char *fairness_key)
{
    /* Two that fall on one number share one portion: unfair to both, and harmless otherwise. */
    uint32_t hash = mix(mix(UINT32_C(2166136261), caller->tenant), fairness_key);
    return hash % FRONT_TENANTS;
}
