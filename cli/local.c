/* cli/local.c - see cli/local.h. */
#include "cli/local.h"

#include <stdlib.h>

enum {
    COORDINATOR = 0,
    WORKER = 1,
    ADDRESSES,
    INBOX_MESSAGES = 256,
    AR_SLOTS_MAX = 16,
    DIFFUSION_SLOTS = 1,
};

struct dip_local {
    struct dip_model *model; /* NULL from the start on: the worker's */
    struct dip_local_net *net;
    struct dip_coordinator *coordinator;
    struct dip_worker *worker;
};

enum dip_status dip__local_open(const char *directory, struct dip_why *why,
                                struct dip_local **ret_local)
{
    struct dip_local *local = calloc(1, sizeof *local);
    if (!local)
        return dip_fail(why, DIP_NO_MEMORY, "no memory to open a model");
    enum dip_status status = dip_status_of_file(dip_model_open(directory, why, &local->model));
    if (status) {
        free(local);
        return status;
    }
    *ret_local = local;
    return DIP_OK;
}

struct dip_served_model dip__local_model(const struct dip_local *local)
{
    return (struct dip_served_model){.config = &local->model->config,
                                     .tokenizer = local->model->tokenizer,
                                     .digest = local->model->digest};
}

const struct dip_config *dip__local_config(const struct dip_local *local)
{
    return &local->model->config;
}

static int at_most(int count, int max)
{
    return count < max ? count : max;
}

static struct dip_worker_options worker_options(struct dip_local *local,
                                                const struct dip_resolved *resolved)
{
    int ar_slots = at_most(resolved->image_count, AR_SLOTS_MAX);
    int prompt_tokens = (int)(resolved->prompt_ids.bytes / sizeof(int32_t));
    return (struct dip_worker_options){
        .endpoint = dip_local_net_endpoint(local->net, WORKER),
        .coordinator = COORDINATOR,
        .model = local->model,
        /* With the hinge at hand there is nothing for an AR panel to do. */
        .roles = resolved->hidden.data ? DIP_ROLE_DIFFUSION : DIP_ROLE_AR | DIP_ROLE_DIFFUSION,
        .ar_slots = ar_slots,
        .hinge_slots = 2 * ar_slots,
        /* Decoding in lockstep is nearly free; diffusion on a CPU is compute-bound, so one image
         * after the other costs the same in all and the first is there sooner. */
        .diffusion_slots = DIFFUSION_SLOTS,
        .diffusion_batch_max = DIFFUSION_SLOTS,
        .prompt_tokens_max = prompt_tokens > 0 ? prompt_tokens : 1,
        .image_tokens_max = resolved->params.token_count,
        .latent_height_max = resolved->params.latent_height,
        .latent_width_max = resolved->params.latent_width,
    };
}

enum dip_status dip__local_start(struct dip_local *local, const struct dip_resolved *resolved,
                                 const struct dip_device_options *device, struct dip_why *why)
{
    enum dip_status status =
        dip_local_net_new(sizeof(struct dip_message), INBOX_MESSAGES, ADDRESSES, &local->net);
    if (status)
        return dip_fail(why, status, "no memory for the embedded cluster");
    struct dip_coordinator_options options = {
        .endpoint = dip_local_net_endpoint(local->net, COORDINATOR),
        .limits = {.request_count_max = 1,
                   .image_count_max = resolved->image_count,
                   .member_count_max = ADDRESSES,
                   .token_count_max = resolved->params.token_count,
                   .attempt_count_max = 3}};
    DIP_TRY(dip_coordinator_start(&options, why, &local->coordinator));
    struct dip_worker_options worker = worker_options(local, resolved);
    worker.device = *device;
    local->model = NULL;
    return dip_worker_start(&worker, why, &local->worker);
}

struct dip_coordinator *dip__local_coordinator(struct dip_local *local)
{
    return local->coordinator;
}

const struct dip_worker *dip__local_worker(const struct dip_local *local)
{
    return local->worker;
}

uint64_t dip__local_weights_bytes(const struct dip_local *local)
{
    return dip_weights_bytes(local->model->weights);
}

void dip__local_stop(struct dip_local *local)
{
    dip_coordinator_stop(local->coordinator);
    dip_worker_stop(local->worker);
    dip_local_net_free(local->net);
    local->coordinator = NULL;
    local->worker = NULL;
    local->net = NULL;
}

void dip__local_close(struct dip_local *local)
{
    if (!local)
        return;
    dip__local_stop(local);
    dip_model_close(local->model);
    free(local);
}
