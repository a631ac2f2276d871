/* cluster/wire_command.c - what a coordinator tells a worker, as bytes and back. */
#include <string.h>

#include "cluster/wire_private.h"

enum { GUIDANCE_MAX = 1000, TEMPERATURE_MAX = 1000, GROUP_SIZE_MAX = 256 };

/* ---- parameters of a job ---- */

static enum dip_status params_encode(const struct dip_job_params *params, Pb_(JobParams) * out)
{
    if (params->is_traced)
        return DIP_UNSUPPORTED; /* a trace is megabytes a step, for the embedded cluster only */
    *out = (Pb_(JobParams))PB_(JOB_PARAMS__INIT);
    out->seed = params->seed;
    out->image_index = params->image_index;
    out->token_count = dip__wire_u32(params->token_count);
    out->temperature = params->temperature;
    out->top_k = dip__wire_u32(params->top_k);
    out->top_p = params->top_p;
    out->sampler = params->sampler == DIP_JOB_DPM ? PB_(JOB_SAMPLER__JOB_SAMPLER_DPM)
                                                  : PB_(JOB_SAMPLER__JOB_SAMPLER_EULER);
    out->steps = dip__wire_u32(params->steps);
    out->guidance = params->guidance;
    out->latent_height = dip__wire_u32(params->latent_height);
    out->latent_width = dip__wire_u32(params->latent_width);
    out->preview = (Pb_(JobPreview))params->preview; /* the same numbers */
    out->preview_every = dip__wire_u32(params->preview_every);
    out->checkpoint_every = dip__wire_u32(params->checkpoint_every);
    return DIP_OK;
}

/* False for NaN, too. */
static enum dip_status check_float(struct dip_why *why, const char *field, float value, float max,
                                   bool is_zero_good)
{
    if ((value > 0 || (is_zero_good && value == 0)) && value <= max)
        return DIP_OK;
    return dip_fail(why, DIP_INVALID, "%s is %g; it must be %s 0, at most %g", field, (double)value,
                    is_zero_good ? "at least" : "above", (double)max);
}

static enum dip_status params_check(const Pb_(JobParams) * in, struct dip_why *why)
{
    DIP_TRY(dip__wire_range(why, "params.image_index", in->image_index, 0, DIP_IMAGES_MAX - 1));
    DIP_TRY(dip__wire_range(why, "params.token_count", in->token_count, 1, DIP_IMAGE_TOKENS_MAX));
    DIP_TRY(check_float(why, "params.temperature", in->temperature, TEMPERATURE_MAX, false));
    DIP_TRY(dip__wire_range(why, "params.top_k", in->top_k, 0, DIP_VOCAB_MAX));
    DIP_TRY(check_float(why, "params.top_p", in->top_p, 1, false));
    DIP_TRY(dip__wire_range(why, "params.sampler", (uint32_t)in->sampler,
                            PB_(JOB_SAMPLER__JOB_SAMPLER_EULER),
                            PB_(JOB_SAMPLER__JOB_SAMPLER_DPM)));
    DIP_TRY(dip__wire_range(why, "params.steps", in->steps, 1, DIP_STEPS_MAX));
    DIP_TRY(check_float(why, "params.guidance", in->guidance, GUIDANCE_MAX, true));
    DIP_TRY(
        dip__wire_range(why, "params.latent_height", in->latent_height, 1, DIP_LATENT_EDGE_MAX));
    DIP_TRY(dip__wire_range(why, "params.latent_width", in->latent_width, 1, DIP_LATENT_EDGE_MAX));
    DIP_TRY(dip__wire_range(why, "params.preview", (uint32_t)in->preview, DIP_JOB_PREVIEW_NONE,
                            DIP_JOB_PREVIEW_DECODED));
    DIP_TRY(dip__wire_range(why, "params.preview_every", in->preview_every, 0, DIP_STEPS_MAX));
    return dip__wire_range(why, "params.checkpoint_every", in->checkpoint_every, 0, DIP_STEPS_MAX);
}

static enum dip_status params_read(const Pb_(JobParams) * in, struct dip_why *why,
                                   struct dip_job_params *ret_params)
{
    if (!in)
        return dip_fail(why, DIP_INVALID, "a job without params");
    DIP_TRY(params_check(in, why));
    *ret_params = (struct dip_job_params){
        .seed = in->seed,
        .image_index = in->image_index,
        .token_count = (int32_t)in->token_count,
        .temperature = in->temperature,
        .top_k = (int32_t)in->top_k,
        .top_p = in->top_p,
        .sampler = in->sampler == PB_(JOB_SAMPLER__JOB_SAMPLER_DPM) ? DIP_JOB_DPM : DIP_JOB_EULER,
        .steps = (int32_t)in->steps,
        .guidance = in->guidance,
        .latent_height = (int32_t)in->latent_height,
        .latent_width = (int32_t)in->latent_width,
        .preview = (enum dip_job_preview)in->preview,
        .preview_every = (int32_t)in->preview_every,
        .checkpoint_every = (int32_t)in->checkpoint_every,
    };
    return DIP_OK;
}

/* ---- of what request a job is ---- */

bool dip__wire_is_set(const unsigned char digest[DIP_DIGEST_BYTES])
{
    unsigned char all = 0;
    for (int i = 0; i < DIP_DIGEST_BYTES; i++)
        all |= digest[i];
    return all != 0;
}

/* Points into the message. */
static void origin_encode(const struct dip_job_origin *origin, Pb_(JobOrigin) * out)
{
    *out = (Pb_(JobOrigin))PB_(JOB_ORIGIN__INIT);
    out->request_id = (char *)origin->request_id;
    out->traceparent = (char *)origin->traceparent;
    if (dip__wire_is_set(origin->digest))
        out->request_digest = (ProtobufCBinaryData){DIP_DIGEST_BYTES, (uint8_t *)origin->digest};
}

/* Nothing hangs on it: absent or odd parts are none. */
static enum dip_status origin_read(const Pb_(JobOrigin) * in, struct dip_why *why,
                                   struct dip_job_origin *ret_origin)
{
    struct dip_job_origin origin = {.request_id = ""};
    if (!in)
        return DIP_OK;
    DIP_TRY(dip__wire_text(why, "request_id", in->request_id, origin.request_id,
                           sizeof origin.request_id));
    DIP_TRY(dip__wire_text(why, "traceparent", in->traceparent, origin.traceparent,
                           sizeof origin.traceparent));
    if (in->request_digest.len == DIP_DIGEST_BYTES)
        memcpy(origin.digest, in->request_digest.data, DIP_DIGEST_BYTES);
    *ret_origin = origin;
    return DIP_OK;
}

/* ---- encoding: one function for each command that has a body ---- */

static enum dip_status send(Pb_(ConnectResponse) * frame, int command, dip_wire_frame_fn to,
                            void *context)
{
    frame->command_case = (Pb_(ConnectResponse__CommandCase))command;
    return dip__wire_frame(&frame->base, to, context);
}

static enum dip_status encode_ar(const struct dip_message *m, Pb_(ConnectResponse) * frame,
                                 dip_wire_frame_fn to, void *context)
{
    Pb_(JobParams) params;
    DIP_TRY(params_encode(&m->as.ar.params, &params));
    Pb_(ArJob) job = PB_(AR_JOB__INIT);
    Pb_(JobOrigin) origin;
    origin_encode(&m->as.ar.origin, &origin);
    job.job_id = m->job_id;
    job.params = &params;
    job.origin = &origin;
    job.n_prompt_ids = m->as.ar.prompt_ids.bytes / sizeof(uint32_t);
    job.prompt_ids = m->as.ar.prompt_ids.data;
    job.n_forced_ids = m->as.ar.forced_ids.bytes / sizeof(uint32_t);
    job.forced_ids = m->as.ar.forced_ids.data;
    frame->ar = &job;
    return send(frame, PB_(CONNECT_RESPONSE__COMMAND_AR), to, context);
}

static enum dip_status encode_diffusion(const struct dip_message *m, Pb_(ConnectResponse) * frame,
                                        dip_wire_frame_fn to, void *context)
{
    if (m->as.diffusion.hidden.data || m->as.diffusion.noise.data)
        return DIP_UNSUPPORTED; /* injected inputs are for the embedded cluster */
    Pb_(JobParams) params;
    DIP_TRY(params_encode(&m->as.diffusion.params, &params));
    Pb_(DiffusionJob) job = PB_(DIFFUSION_JOB__INIT);
    Pb_(JobOrigin) origin;
    origin_encode(&m->as.diffusion.origin, &origin);
    job.job_id = m->job_id;
    job.params = &params;
    job.origin = &origin;
    job.format = 1;
    Pb_(LatentCheckpoint) resume;
    dip__wire_checkpoint_encode(&m->as.diffusion.resume, &resume);
    if (m->as.diffusion.resume.steps_done > 0)
        job.resume = &resume;
    frame->diffusion = &job;
    return send(frame, PB_(CONNECT_RESPONSE__COMMAND_DIFFUSION), to, context);
}

static enum dip_status encode_hand_over(const struct dip_message *m,
                                        const struct dip_wire_envelope *envelope,
                                        Pb_(ConnectResponse) * frame, dip_wire_frame_fn to,
                                        void *context)
{
    Pb_(HandOver) body = PB_(HAND_OVER__INIT);
    body.job_id = m->job_id;
    body.to_address = (char *)envelope->hinge_address;
    body.to_job_id = m->as.hand_over.to_job_id;
    frame->hand_over = &body;
    return send(frame, PB_(CONNECT_RESPONSE__COMMAND_HAND_OVER), to, context);
}

static enum dip_status encode_adopt(const struct dip_message *m, Pb_(ConnectResponse) * frame,
                                    dip_wire_frame_fn to, void *context)
{
    Pb_(Adopt) adopt = PB_(ADOPT__INIT);
    adopt.held_epoch = m->as.adopt.held_epoch;
    adopt.held_job_id = m->as.adopt.held_job_id;
    adopt.job_id = m->job_id;
    frame->adopt = &adopt;
    return send(frame, PB_(CONNECT_RESPONSE__COMMAND_ADOPT), to, context);
}

/* RELEASE, DRAIN, UNDRAIN: a number at most. */
static enum dip_status encode_small(const struct dip_message *m, Pb_(ConnectResponse) * frame,
                                    dip_wire_frame_fn to, void *context)
{
    Pb_(Release) release = PB_(RELEASE__INIT);
    Pb_(Drain) drain = PB_(DRAIN__INIT);
    Pb_(Undrain) undrain = PB_(UNDRAIN__INIT);
    switch (m->kind) {
    case DIP_MESSAGE_RELEASE:
        release.job_id = m->job_id;
        frame->release = &release;
        return send(frame, PB_(CONNECT_RESPONSE__COMMAND_RELEASE), to, context);
    case DIP_MESSAGE_DRAIN:
        drain.grace_ns = dip__wire_u64(m->as.grace.grace_ns);
        frame->drain = &drain;
        return send(frame, PB_(CONNECT_RESPONSE__COMMAND_DRAIN), to, context);
    default:
        frame->undrain = &undrain;
        return send(frame, PB_(CONNECT_RESPONSE__COMMAND_UNDRAIN), to, context);
    }
}

static enum dip_status encode_group(const struct dip_message *m, Pb_(ConnectResponse) * frame,
                                    dip_wire_frame_fn to, void *context)
{
    const struct dip_message_group *group = &m->as.group;
    Pb_(PrepareGroup) prepare = PB_(PREPARE_GROUP__INIT);
    Pb_(FormGroup) form = PB_(FORM_GROUP__INIT);
    Pb_(DissolveGroup) dissolve = PB_(DISSOLVE_GROUP__INIT);
    switch (m->kind) {
    case DIP_MESSAGE_PREPARE_GROUP:
        prepare.group_id = (char *)group->id;
        prepare.group_epoch = group->epoch;
        prepare.size = dip__wire_u32(group->size);
        frame->prepare_group = &prepare;
        return send(frame, PB_(CONNECT_RESPONSE__COMMAND_PREPARE_GROUP), to, context);
    case DIP_MESSAGE_FORM_GROUP:
        form.group_id = (char *)group->id;
        form.group_epoch = group->epoch;
        form.rank = dip__wire_u32(group->rank);
        form.size = dip__wire_u32(group->size);
        form.comm_id = (ProtobufCBinaryData){group->comm_id_bytes, (uint8_t *)group->comm_id};
        form.timeout_ns = dip__wire_u64(group->timeout_ns);
        frame->form_group = &form;
        return send(frame, PB_(CONNECT_RESPONSE__COMMAND_FORM_GROUP), to, context);
    default:
        dissolve.group_id = (char *)group->id;
        dissolve.group_epoch = group->epoch;
        frame->dissolve_group = &dissolve;
        return send(frame, PB_(CONNECT_RESPONSE__COMMAND_DISSOLVE_GROUP), to, context);
    }
}

enum dip_status dip_wire_encode_command(const struct dip_message *message,
                                        const struct dip_wire_envelope *envelope,
                                        dip_wire_frame_fn frame, void *context)
{
    Pb_(ConnectResponse) out = PB_(CONNECT_RESPONSE__INIT);
    out.epoch = envelope->epoch;
    switch (message->kind) {
    case DIP_MESSAGE_AR:
        return encode_ar(message, &out, frame, context);
    case DIP_MESSAGE_DIFFUSION:
        return encode_diffusion(message, &out, frame, context);
    case DIP_MESSAGE_HAND_OVER:
        return encode_hand_over(message, envelope, &out, frame, context);
    case DIP_MESSAGE_ADOPT:
        return encode_adopt(message, &out, frame, context);
    case DIP_MESSAGE_RELEASE:
    case DIP_MESSAGE_DRAIN:
    case DIP_MESSAGE_UNDRAIN:
        return encode_small(message, &out, frame, context);
    case DIP_MESSAGE_PREPARE_GROUP:
    case DIP_MESSAGE_FORM_GROUP:
    case DIP_MESSAGE_DISSOLVE_GROUP:
        return encode_group(message, &out, frame, context);
    default:
        return DIP_UNSUPPORTED;
    }
}

/* ---- reading ---- */

static enum dip_status read_job_id(uint64_t job_id, struct dip_why *why, struct dip_message *m)
{
    m->job_id = job_id;
    return dip__wire_range(why, "job_id", job_id, 1, UINT64_MAX);
}

static enum dip_status read_ar(const Pb_(ArJob) * in, struct dip_why *why, struct dip_message *m)
{
    m->kind = DIP_MESSAGE_AR;
    DIP_TRY(read_job_id(in->job_id, why, m));
    DIP_TRY(params_read(in->params, why, &m->as.ar.params));
    DIP_TRY(origin_read(in->origin, why, &m->as.ar.origin));
    DIP_TRY(
        dip__wire_range(why, "count of prompt_ids", in->n_prompt_ids, 1, DIP_PROMPT_TOKENS_MAX));
    DIP_TRY(
        dip__wire_range(why, "count of forced_ids", in->n_forced_ids, 0, in->params->token_count));
    DIP_TRY(
        dip__wire_ids(why, "prompt_ids", in->prompt_ids, in->n_prompt_ids, &m->as.ar.prompt_ids));
    return dip__wire_ids(why, "forced_ids", in->forced_ids, in->n_forced_ids, &m->as.ar.forced_ids);
}

static enum dip_status read_diffusion(const Pb_(DiffusionJob) * in, struct dip_why *why,
                                      struct dip_message *m)
{
    m->kind = DIP_MESSAGE_DIFFUSION;
    DIP_TRY(read_job_id(in->job_id, why, m));
    DIP_TRY(dip__wire_range(why, "format", in->format, 1, 1));
    if (in->resume)
        DIP_TRY(dip__wire_checkpoint_read(in->resume, why, &m->as.diffusion.resume));
    DIP_TRY(origin_read(in->origin, why, &m->as.diffusion.origin));
    return params_read(in->params, why, &m->as.diffusion.params);
}

static enum dip_status read_hand_over(const Pb_(HandOver) * in, struct dip_why *why,
                                      struct dip_wire_envelope *envelope, struct dip_message *m)
{
    m->kind = DIP_MESSAGE_HAND_OVER;
    DIP_TRY(read_job_id(in->job_id, why, m));
    DIP_TRY(dip__wire_range(why, "to_job_id", in->to_job_id, 1, UINT64_MAX));
    if (in->to_address[0] == '\0')
        return dip_fail(why, DIP_INVALID, "to_address is empty");
    m->as.hand_over.to_job_id = in->to_job_id;
    return dip__wire_text(why, "to_address", in->to_address, envelope->hinge_address,
                          sizeof envelope->hinge_address);
}

static enum dip_status read_adopt(const Pb_(Adopt) * in, struct dip_why *why, struct dip_message *m)
{
    m->kind = DIP_MESSAGE_ADOPT;
    m->job_id = in->job_id;
    m->as.adopt.held_epoch = in->held_epoch;
    m->as.adopt.held_job_id = in->held_job_id;
    return dip__wire_range(why, "held_job_id", in->held_job_id, 1, UINT64_MAX);
}

static enum dip_status read_prepare(const Pb_(PrepareGroup) * in, struct dip_why *why,
                                    struct dip_message *m)
{
    m->kind = DIP_MESSAGE_PREPARE_GROUP;
    m->as.group.epoch = in->group_epoch;
    m->as.group.missing_rank = -1;
    DIP_TRY(dip__wire_range(why, "size", in->size, 1, GROUP_SIZE_MAX));
    m->as.group.size = (int32_t)in->size;
    return dip__wire_text(why, "group_id", in->group_id, m->as.group.id, sizeof m->as.group.id);
}

static enum dip_status read_form(const Pb_(FormGroup) * in, struct dip_why *why,
                                 struct dip_message *m)
{
    struct dip_message_group *group = &m->as.group;
    m->kind = DIP_MESSAGE_FORM_GROUP;
    group->epoch = in->group_epoch;
    group->missing_rank = -1;
    DIP_TRY(dip__wire_range(why, "size", in->size, 1, GROUP_SIZE_MAX));
    DIP_TRY(dip__wire_range(why, "rank", in->rank, 0, in->size - 1));
    DIP_TRY(dip__wire_range(why, "bytes of comm_id", in->comm_id.len, 0, sizeof group->comm_id));
    DIP_TRY(dip__wire_ns(why, "timeout_ns", in->timeout_ns, &group->timeout_ns));
    group->size = (int32_t)in->size;
    group->rank = (int32_t)in->rank;
    group->comm_id_bytes = (uint32_t)in->comm_id.len;
    if (in->comm_id.len > 0)
        memcpy(group->comm_id, in->comm_id.data, in->comm_id.len);
    return dip__wire_text(why, "group_id", in->group_id, group->id, sizeof group->id);
}

static enum dip_status read_dissolve(const Pb_(DissolveGroup) * in, struct dip_why *why,
                                     struct dip_message *m)
{
    m->kind = DIP_MESSAGE_DISSOLVE_GROUP;
    m->as.group.epoch = in->group_epoch;
    m->as.group.missing_rank = -1;
    return dip__wire_text(why, "group_id", in->group_id, m->as.group.id, sizeof m->as.group.id);
}

static enum dip_status read_body(const Pb_(ConnectResponse) * in, struct dip_why *why,
                                 struct dip_wire_envelope *envelope, struct dip_message *m)
{
    switch (in->command_case) {
    case PB_(CONNECT_RESPONSE__COMMAND_AR):
        return read_ar(in->ar, why, m);
    case PB_(CONNECT_RESPONSE__COMMAND_DIFFUSION):
        return read_diffusion(in->diffusion, why, m);
    case PB_(CONNECT_RESPONSE__COMMAND_HAND_OVER):
        return read_hand_over(in->hand_over, why, envelope, m);
    case PB_(CONNECT_RESPONSE__COMMAND_RELEASE):
        m->kind = DIP_MESSAGE_RELEASE;
        return read_job_id(in->release->job_id, why, m);
    case PB_(CONNECT_RESPONSE__COMMAND_DRAIN):
        m->kind = DIP_MESSAGE_DRAIN;
        return dip__wire_ns(why, "grace_ns", in->drain->grace_ns, &m->as.grace.grace_ns);
    case PB_(CONNECT_RESPONSE__COMMAND_UNDRAIN):
        m->kind = DIP_MESSAGE_UNDRAIN;
        return DIP_OK;
    case PB_(CONNECT_RESPONSE__COMMAND_PREPARE_GROUP):
        return read_prepare(in->prepare_group, why, m);
    case PB_(CONNECT_RESPONSE__COMMAND_FORM_GROUP):
        return read_form(in->form_group, why, m);
    case PB_(CONNECT_RESPONSE__COMMAND_DISSOLVE_GROUP):
        return read_dissolve(in->dissolve_group, why, m);
    case PB_(CONNECT_RESPONSE__COMMAND_WELCOME):
        return dip_fail(why, DIP_INVALID, "Welcome comes once, as the first thing");
    case PB_(CONNECT_RESPONSE__COMMAND_ADOPT):
        return read_adopt(in->adopt, why, m);
    default: /* a later version's: nothing for this one */
        return DIP_TIMEOUT;
    }
}

enum dip_status dip_wire_read_command(struct dip_wire_reader *reader, const void *data,
                                      size_t bytes, struct dip_why *why,
                                      struct dip_wire_envelope *ret_envelope,
                                      struct dip_message *ret_message)
{
    (void)reader; /* no command is larger than a frame */
    ProtobufCMessage *proto = NULL;
    DIP_TRY(dip__wire_decode(&pb_(connect_response__descriptor), data, bytes, why, &proto));
    const Pb_(ConnectResponse) *in = (const void *)proto;
    struct dip_wire_envelope envelope = {.epoch = in->epoch};
    struct dip_message message = {0};
    enum dip_status status = read_body(in, why, &envelope, &message);
    dip_proto_free(proto);
    if (status) {
        dip_message_release(&message);
        return status;
    }
    *ret_envelope = envelope;
    *ret_message = message;
    return DIP_OK;
}
