/* coordinator/daemon_hub.c - the daemon's workers come over net/hub.h. */
#include <string.h>

#include "coordinator/front.h"

static void on_message(void *daemon, struct dip_message *message)
{
    dip_coordinator_daemon_feed(daemon, message);
}

/* A token file that names workers asks them for theirs. */
static bool may_join(void *daemon, const struct dip_rpc_call *call)
{
    struct dip_coordinator_daemon *d = daemon;
    struct caller caller;
    struct dip_error error;
    if (!d->options.tokens || !(dip_tokens_scopes(d->options.tokens) & DIP_SCOPE_WORKER))
        return true;
    return dip__caller_read(d, call, DIP_SCOPE_WORKER, &caller, &error);
}

static void on_log(void *daemon, const char *text)
{
    struct dip_coordinator_daemon *d = daemon;
    dip_log_say(d->options.log, DIP_LOG_WARNING, "%s", text);
}

/* One image passes through several workers, and may pass through others after a loss: with two
 * models among them the same request would give other bytes. A worker that names none is as old as
 * number 1 of the protocol. */
static bool has_our_model(const struct dip_coordinator_daemon *d,
                          const struct dip_member_facts *facts, struct dip_why *ret_why)
{
    if (facts->model_digest[0] == '\0' || strcmp(facts->model_digest, d->digest) == 0)
        return true;
    (void)dip_fail(ret_why, DIP_INVALID,
                   "it has the model %.16s, and this coordinator %.16s (diptych model verify shows "
                   "a model's digest): give all processes of a cluster the same --model",
                   facts->model_digest, d->digest);
    return false;
}

/* A rank that nobody puts into a group would wait for ever, and so would a group for one that draws
 * alone. */
static bool fits_groups(const struct dip_coordinator_daemon *d,
                        const struct dip_member_facts *facts, struct dip_why *ret_why)
{
    int degree = d->options.tensor_parallel;
    bool are_formed = degree >= 2;
    if (facts->roles != DIP_ROLE_AR || !facts->is_rank_said || facts->is_rank == are_formed)
        return true;
    if (are_formed)
        (void)dip_fail(ret_why, DIP_INVALID,
                       "it draws alone, and this coordinator forms groups of %d: start the worker "
                       "with --ar-rank, or the coordinator without --ar-tp",
                       degree);
    else
        (void)dip_fail(ret_why, DIP_INVALID,
                       "it is one rank of a group, and this coordinator forms none: start the "
                       "coordinator with --ar-tp 2 or more, or the worker without --ar-rank and "
                       "--ranks");
    return false;
}

static bool does_fit(void *daemon, const struct dip_member_facts *facts, struct dip_why *ret_why)
{
    const struct dip_coordinator_daemon *d = daemon;
    return has_our_model(d, facts, ret_why) && fits_groups(d, facts, ret_why);
}

enum dip_status dip__hub_open(struct dip_coordinator_daemon *d, struct dip_why *why)
{
    struct dip_hub_options options = {.loop = d->loop,
                                      .member_count_max = (uint32_t)d->options.member_count_max - 1,
                                      .cluster_id = d->cluster_id,
                                      .heartbeat_ns = d->options.heartbeat_ns,
                                      .silence_ns = d->options.silence_ns,
                                      .stuck_ns = d->options.stuck_ns,
                                      .on_message = on_message,
                                      .may_join = may_join,
                                      .does_fit = does_fit,
                                      .log = on_log,
                                      .context = d};
    enum dip_status status = dip_hub_new(&options, &d->hub);
    if (status)
        return dip_fail(why, status, "no memory for %d workers", d->options.member_count_max);
    d->options.endpoint = dip_hub_endpoint(d->hub);
    d->methods[d->method_count++] = dip_hub_method(d->hub);
    return DIP_OK;
}

void dip__hub_close(struct dip_coordinator_daemon *d)
{
    if (d->hub)
        dip_hub_free(d->hub);
}

void dip__hub_lead(struct dip_coordinator_daemon *d, uint64_t epoch)
{
    if (d->hub)
        dip_hub_set_epoch(d->hub, epoch);
}

void dip__hub_dismiss(struct dip_coordinator_daemon *d)
{
    if (d->hub)
        dip_hub_dismiss(d->hub);
}
