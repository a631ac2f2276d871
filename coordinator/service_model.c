/* coordinator/service_model.c - diptych.v1.ModelService: GetModel, ListModels, Tokenize. */
#include <stdlib.h>
#include <string.h>

#include "coordinator/front.h"
#include "model/prompt.h"
#include "proto/diptych/v1/image.pb-c.h"
#include "proto/diptych/v1/model.pb-c.h"

#define METHOD DIP_FRONT_METHOD_MODEL

enum { IDS_MAX = 20480, PAGE_MAX = 100 };

static void fill_model(const struct dip_coordinator_daemon *d, Diptych__V1__Model *model)
{
    const struct dip_config *config = &d->config;
    const struct dip_generation_config *generation = &config->generation;
    diptych__v1__model__init(model);
    model->name = (char *)(uintptr_t)d->model_name;
    model->revision = (char *)(uintptr_t)d->model_revision;
    model->weights_digest = (char *)(uintptr_t)d->digest;
    model->max_prompt_tokens = (uint32_t)dip__ask_prompt_tokens_max(config);
    model->image_tokens = (uint32_t)(generation->grid_height * generation->grid_width);
    model->min_edge = (uint32_t)dip__ask_edge_multiple(config);
    model->max_edge = (uint32_t)dip__ask_edge_max(config);
    model->edge_multiple = (uint32_t)dip__ask_edge_multiple(config);
    model->max_pixels = (uint64_t)model->max_edge * model->max_edge;
    model->default_steps = (uint32_t)generation->steps;
    model->max_steps = DIP_STEPS_MAX;
    model->max_n = (uint32_t)d->options.images_per_request_max;
    model->ready = dip_coordinator_daemon_is_ready(d);
    model->default_guidance_scale = (float)generation->guidance;
    model->default_temperature = (float)generation->temperature;
    model->default_top_p = (float)generation->top_p;
    model->default_top_k = (uint32_t)generation->top_k;
    model->default_width = (uint32_t)(generation->latent_width * config->vae.factor);
    model->default_height = (uint32_t)(generation->latent_height * config->vae.factor);
    model->fingerprint = (char *)(uintptr_t)dip__roster_fingerprint(&d->roster);
}

static void on_get(void *daemon, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    struct dip_coordinator_daemon *d = daemon;
    struct caller caller;
    struct dip_error error;
    Diptych__V1__GetModelRequest *r =
        dip__reply_read(d, METHOD, call, DIP_SCOPE_READ,
                        &diptych__v1__get_model_request__descriptor, data, bytes, &caller);
    if (!r)
        return;
    if (dip__ask_model_is_known(d, r->name, &error)) {
        Diptych__V1__GetModelResponse response = DIPTYCH__V1__GET_MODEL_RESPONSE__INIT;
        Diptych__V1__Model model;
        fill_model(d, &model);
        response.model = &model;
        dip__reply(d, METHOD, call, &response.base);
    } else {
        dip__reply_error(d, METHOD, call, &error);
    }
    dip_proto_free(r);
}

static void on_list(void *daemon, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    struct dip_coordinator_daemon *d = daemon;
    struct caller caller;
    Diptych__V1__ListModelsRequest *r =
        dip__reply_read(d, METHOD, call, DIP_SCOPE_READ,
                        &diptych__v1__list_models_request__descriptor, data, bytes, &caller);
    if (!r)
        return;
    Diptych__V1__ListModelsResponse response = DIPTYCH__V1__LIST_MODELS_RESPONSE__INIT;
    Diptych__V1__Model model, *models[1] = {&model};
    fill_model(d, &model);
    response.models = models;
    response.n_models = 1;
    struct dip_error error;
    bool is_good = true;
    if (r->page_size > PAGE_MAX)
        is_good = dip__error_field(&error, "page_size", "%u, must be 1 to %d, or 0 for %d",
                                   r->page_size, PAGE_MAX, PAGE_MAX);
    else if (r->page_token[0])
        is_good = dip__error_field(&error, "page_token", "there is one page; leave it out");
    if (is_good)
        dip__reply(d, METHOD, call, &response.base);
    else
        dip__reply_error(d, METHOD, call, &error);
    dip_proto_free(r);
}

/* ---- Tokenize ---- */

struct pieces {
    int32_t ids[IDS_MAX];
    uint32_t numbers[IDS_MAX];
    ProtobufCBinaryData list[IDS_MAX];
};

/* The bytes behind each id, which need not be whole characters; false when one stands for none. */
static bool find_pieces(const struct dip_coordinator_daemon *d, struct pieces *p, int count)
{
    for (int i = 0; i < count; i++) {
        const char *at;
        size_t bytes;
        if (dip_tokenizer_bytes(d->tokenizer, p->ids[i], &at, &bytes))
            return false;
        p->numbers[i] = (uint32_t)p->ids[i];
        p->list[i] = (ProtobufCBinaryData){bytes, (uint8_t *)(uintptr_t)at};
    }
    return true;
}

static enum dip_status encode_text(const struct dip_coordinator_daemon *d,
                                   const Diptych__V1__TokenizeRequest *r, struct pieces *p,
                                   struct dip_why *why, int *ret_count)
{
    if (r->input_case != DIPTYCH__V1__TOKENIZE_REQUEST__INPUT_TEXT)
        return dip_fail(why, DIP_INVALID, "is missing: say what to turn into ids");
    if (r->add_special_tokens)
        return dip_prompt_build(d->tokenizer, d->config.ar.vocab, r->text, strlen(r->text), p->ids,
                                DIP_PROMPT_TOKENS_MAX, why, ret_count);
    return dip_tokenizer_encode(d->tokenizer, r->text, strlen(r->text), DIP_TEXT_PLAIN, p->ids,
                                IDS_MAX, why, ret_count);
}

static void tokenize(struct dip_coordinator_daemon *d, struct dip_rpc_call *call,
                     const Diptych__V1__TokenizeRequest *r, struct pieces *p)
{
    Diptych__V1__TokenizeResponse response = DIPTYCH__V1__TOKENIZE_RESPONSE__INIT;
    struct dip_error error;
    struct dip_why why = {0};
    int count = 0;
    enum dip_status status = encode_text(d, r, p, &why, &count);
    if (status == DIP_LIMIT) {
        dip__ask_too_long(d, "text", r->text, why.text, &error);
    } else if (status == DIP_INVALID) {
        dip__error_field(&error, "text", "%s", why.text);
    } else if (status || !find_pieces(d, p, count)) {
        dip__error_bug(d, &error, status ? why.text : "an id that stands for nothing");
    } else {
        response.n_ids = response.n_pieces = (size_t)count;
        response.ids = p->numbers;
        response.pieces = p->list;
        dip__reply(d, METHOD, call, &response.base);
        return;
    }
    dip__reply_error(d, METHOD, call, &error);
}

static void on_tokenize(void *daemon, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    struct dip_coordinator_daemon *d = daemon;
    struct caller caller;
    struct dip_error error;
    Diptych__V1__TokenizeRequest *r =
        dip__reply_read(d, METHOD, call, DIP_SCOPE_READ, &diptych__v1__tokenize_request__descriptor,
                        data, bytes, &caller);
    if (!r)
        return;
    struct pieces *p = malloc(sizeof *p);
    if (!p) {
        dip__error_bug(d, &error, "no memory to tokenize");
        dip__reply_error(d, METHOD, call, &error);
    } else if (!dip__ask_model_is_known(d, r->model, &error)) {
        dip__reply_error(d, METHOD, call, &error);
    } else {
        tokenize(d, call, r, p);
    }
    free(p);
    dip_proto_free(r);
}

void dip__service_model(struct dip_coordinator_daemon *d)
{
    static const struct dip_rpc_handler get = {.on_message = on_get};
    static const struct dip_rpc_handler list = {.on_message = on_list};
    static const struct dip_rpc_handler tokens = {.on_message = on_tokenize};
    dip__service_add(d, METHOD, "/diptych.v1.ModelService/GetModel", DIP_RPC_UNARY, &get);
    dip__service_add(d, METHOD, "/diptych.v1.ModelService/ListModels", DIP_RPC_UNARY, &list);
    dip__service_add(d, METHOD, "/diptych.v1.ModelService/Tokenize", DIP_RPC_UNARY, &tokens);
}
