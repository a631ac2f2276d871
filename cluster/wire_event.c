/* cluster/wire_event.c - what a worker tells the coordinator, as bytes and back. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "cluster/wire_private.h"
#include "proto/diptych/v1/cluster.pb-c.h"

enum {
    PREVIEW_BYTES_MAX = 1 << 20,
    /* Of a picture's file: twice the pixels of the largest, which no PNG of it exceeds. */
    PICTURE_BYTES_MAX = 256 << 20,
    CHUNK_BYTES = 256 << 10, /* a peer counts as heard when a frame is whole: not too large */
    HINGE_SLOTS_MAX = 4096,
    RANKS_MAX = 256,
};

/* ---- words that differ ---- */

static Diptych__V1__Role role_encode(uint32_t roles)
{
    switch (roles) {
    case DIP_ROLE_AR:
        return DIPTYCH__V1__ROLE__ROLE_AR;
    case DIP_ROLE_DIFFUSION:
        return DIPTYCH__V1__ROLE__ROLE_DIFFUSION;
    case DIP_ROLE_AR | DIP_ROLE_DIFFUSION:
        return DIPTYCH__V1__ROLE__ROLE_BOTH;
    default:
        return DIPTYCH__V1__ROLE__ROLE_UNSPECIFIED;
    }
}

static enum dip_status role_read(Diptych__V1__Role role, struct dip_why *why, uint32_t *ret_roles)
{
    switch (role) {
    case DIPTYCH__V1__ROLE__ROLE_AR:
        *ret_roles = DIP_ROLE_AR;
        return DIP_OK;
    case DIPTYCH__V1__ROLE__ROLE_DIFFUSION:
        *ret_roles = DIP_ROLE_DIFFUSION;
        return DIP_OK;
    case DIPTYCH__V1__ROLE__ROLE_BOTH:
        *ret_roles = DIP_ROLE_AR | DIP_ROLE_DIFFUSION;
        return DIP_OK;
    default:
        return dip_fail(why, DIP_INVALID, "role is %d; a worker is AR, DIFFUSION or BOTH",
                        (int)role);
    }
}

static Pb_(FailedReason) reason_encode(int32_t status)
{
    switch (status) {
    case DIP_STALE:
        return PB_(FAILED_REASON__FAILED_REASON_STALE);
    case DIP_BUSY:
        return PB_(FAILED_REASON__FAILED_REASON_BUSY);
    case DIP_INVALID:
    case DIP_CORRUPT:
    case DIP_UNSUPPORTED:
    case DIP_LIMIT:
        return PB_(FAILED_REASON__FAILED_REASON_INVALID);
    case DIP_NO_MEMORY:
        return PB_(FAILED_REASON__FAILED_REASON_NO_MEMORY);
    case DIP_DEVICE:
        return PB_(FAILED_REASON__FAILED_REASON_DEVICE);
    case DIP_UNREACHABLE:
    case DIP_TIMEOUT:
        return PB_(FAILED_REASON__FAILED_REASON_UNREACHABLE);
    case DIP_CANCELLED:
        return PB_(FAILED_REASON__FAILED_REASON_CANCELLED);
    default:
        return PB_(FAILED_REASON__FAILED_REASON_UNSPECIFIED);
    }
}

static enum dip_status reason_read(Pb_(FailedReason) reason)
{
    switch (reason) {
    case PB_(FAILED_REASON__FAILED_REASON_STALE):
        return DIP_STALE;
    case PB_(FAILED_REASON__FAILED_REASON_BUSY):
        return DIP_BUSY;
    case PB_(FAILED_REASON__FAILED_REASON_INVALID):
        return DIP_INVALID;
    case PB_(FAILED_REASON__FAILED_REASON_NO_MEMORY):
        return DIP_NO_MEMORY;
    case PB_(FAILED_REASON__FAILED_REASON_UNREACHABLE):
    case PB_(FAILED_REASON__FAILED_REASON_GROUP_LOST):
        return DIP_UNREACHABLE;
    case PB_(FAILED_REASON__FAILED_REASON_CANCELLED):
        return DIP_CANCELLED;
    default: /* DEVICE, a bug, and what a later version means */
        return DIP_DEVICE;
    }
}

/* A text as the wire takes it: a cut may have left half a character at the end. */
static char *clean(struct dip_why *why, const char *text)
{
    if (text[0] == '\0')
        return (char *)"";
    (void)dip_fail(why, DIP_IO, "%s", text);
    return why->text;
}

/* ---- encoding: the worker ---- */

static enum dip_status send(Pb_(ConnectRequest) * frame, int body, dip_wire_frame_fn to,
                            void *context)
{
    frame->body_case = (Pb_(ConnectRequest__BodyCase))body;
    return dip__wire_frame(&frame->base, to, context);
}

static enum dip_status encode_hello(const struct dip_message *m, Pb_(ConnectRequest) * frame,
                                    dip_wire_frame_fn to, void *context)
{
    const struct dip_member_facts *facts = m->as.appeared.facts.data;
    struct dip_why name = {0}, device = {0}, host = {0};
    Pb_(Hello) hello = PB_(HELLO__INIT);
    hello.member_id = clean(&name, facts->name);
    hello.role = role_encode(facts->roles);
    hello.incarnation = facts->incarnation;
    hello.address = (char *)facts->address;
    hello.version = (char *)facts->version;
    hello.protocol_min = WIRE_PROTOCOL_MIN;
    hello.protocol_max = WIRE_PROTOCOL_MAX;
    hello.model_digest = (char *)facts->model_digest;
    hello.host_id = clean(&host, facts->host_id);
    hello.device = clean(&device, facts->device);
    if (facts->is_rank_said)
        hello.rank_presence_case = PB_(HELLO__RANK_PRESENCE_IS_RANK);
    hello.is_rank = facts->is_rank;
    struct wire_held held;
    DIP_TRY(dip__wire_held_encode(&m->as.appeared.held, &held));
    hello.held = held.list;
    hello.n_held = held.count;
    frame->hello = &hello;
    enum dip_status status = send(frame, PB_(CONNECT_REQUEST__BODY_HELLO), to, context);
    dip__wire_held_free(&held);
    return status;
}

/* HEARTBEAT, JOINED, LEAVING, SUPERSEDED: about the worker itself. */
static enum dip_status encode_worker(const struct dip_message *m, Pb_(ConnectRequest) * frame,
                                     dip_wire_frame_fn to, void *context)
{
    Pb_(Heartbeat) heartbeat = PB_(HEARTBEAT__INIT);
    Pb_(Ready) ready = PB_(READY__INIT);
    Pb_(Leaving) leaving = PB_(LEAVING__INIT);
    Pb_(Superseded) superseded = PB_(SUPERSEDED__INIT);
    switch (m->kind) {
    case DIP_MESSAGE_HEARTBEAT:
        heartbeat.steps_total = m->as.heartbeat.steps_total;
        heartbeat.last_step_age_ns = dip__wire_u64(m->as.heartbeat.last_step_age_ns);
        heartbeat.ar_busy = dip__wire_u32(m->as.heartbeat.ar_busy);
        heartbeat.hinges_held = dip__wire_u32(m->as.heartbeat.hinges_held);
        heartbeat.diffusion_busy = dip__wire_u32(m->as.heartbeat.diffusion_busy);
        frame->heartbeat = &heartbeat;
        return send(frame, PB_(CONNECT_REQUEST__BODY_HEARTBEAT), to, context);
    case DIP_MESSAGE_JOINED:
        ready.role = role_encode(m->as.joined.roles);
        ready.ar_slots = dip__wire_u32(m->as.joined.ar_slots);
        ready.hinge_slots = dip__wire_u32(m->as.joined.hinge_slots);
        ready.diffusion_slots = dip__wire_u32(m->as.joined.diffusion_slots);
        ready.fingerprint = (char *)m->as.joined.fingerprint;
        frame->ready = &ready;
        return send(frame, PB_(CONNECT_REQUEST__BODY_READY), to, context);
    case DIP_MESSAGE_SUPERSEDED:
        superseded.leader = (char *)m->as.superseded.leader;
        frame->superseded = &superseded;
        return send(frame, PB_(CONNECT_REQUEST__BODY_SUPERSEDED), to, context);
    default:
        leaving.grace_ns = dip__wire_u64(m->as.grace.grace_ns);
        frame->leaving = &leaving;
        return send(frame, PB_(CONNECT_REQUEST__BODY_LEAVING), to, context);
    }
}

static enum dip_status encode_group(const struct dip_message *m, Pb_(ConnectRequest) * frame,
                                    dip_wire_frame_fn to, void *context)
{
    const struct dip_message_group *group = &m->as.group;
    Pb_(GroupEvent) event = PB_(GROUP_EVENT__INIT);
    Pb_(GroupPrepared) prepared = PB_(GROUP_PREPARED__INIT);
    Pb_(GroupFormed) formed = PB_(GROUP_FORMED__INIT);
    Pb_(GroupLost) lost = PB_(GROUP_LOST__INIT);
    event.group_id = (char *)group->id;
    event.group_epoch = group->epoch;
    if (m->kind == DIP_MESSAGE_GROUP_PREPARED) {
        prepared.comm_id = (ProtobufCBinaryData){group->comm_id_bytes, (uint8_t *)group->comm_id};
        event.kind_case = PB_(GROUP_EVENT__KIND_PREPARED);
        event.prepared = &prepared;
    } else if (m->kind == DIP_MESSAGE_GROUP_FORMED) {
        event.kind_case = PB_(GROUP_EVENT__KIND_FORMED);
        event.formed = &formed;
    } else {
        lost.missing_rank = group->missing_rank < 0 ? 0 : (uint32_t)group->missing_rank + 1;
        event.kind_case = PB_(GROUP_EVENT__KIND_LOST);
        event.lost = &lost;
    }
    frame->group = &event;
    return send(frame, PB_(CONNECT_REQUEST__BODY_GROUP), to, context);
}

/* ---- encoding: a job ---- */

struct job_sender {
    Pb_(ConnectRequest) * frame;
    Pb_(JobEvent) event;
    dip_wire_frame_fn to;
    void *context;
};

static enum dip_status send_job(struct job_sender *s, int kind)
{
    s->event.kind_case = (Pb_(JobEvent__KindCase))kind;
    s->frame->event = &s->event;
    return send(s->frame, PB_(CONNECT_REQUEST__BODY_EVENT), s->to, s->context);
}

static enum dip_status encode_tokens(const struct dip_message *m, struct job_sender *s)
{
    uint32_t ids[DIP_TOKEN_BATCH_MAX];
    Pb_(Tokens) tokens = PB_(TOKENS__INIT);
    tokens.first = dip__wire_u32(m->as.tokens.first);
    tokens.n_ids = dip__wire_u32(m->as.tokens.count);
    tokens.ids = ids;
    for (size_t i = 0; i < tokens.n_ids; i++)
        ids[i] = dip__wire_u32(m->as.tokens.ids[i]);
    s->event.tokens = &tokens;
    return send_job(s, PB_(JOB_EVENT__KIND_TOKENS));
}

static enum dip_status encode_checkpoint(const struct dip_message *m, struct job_sender *s)
{
    Pb_(LatentCheckpoint) checkpoint;
    const struct dip_checkpoint *from = &m->as.checkpoint;
    if (from->latent.bytes + from->history.bytes > DIP_CHECKPOINT_BYTES_MAX)
        return DIP_LIMIT;
    dip__wire_checkpoint_encode(from, &checkpoint);
    s->event.checkpoint = &checkpoint;
    return send_job(s, PB_(JOB_EVENT__KIND_CHECKPOINT));
}

static enum dip_status encode_preview(const struct dip_message *m, struct job_sender *s)
{
    const struct dip_message_picture *picture = &m->as.picture;
    Pb_(Preview) preview = PB_(PREVIEW__INIT);
    if (picture->png.bytes > PREVIEW_BYTES_MAX)
        return DIP_LIMIT;
    preview.steps_done = dip__wire_u32(picture->steps_done);
    preview.width = dip__wire_u32(picture->width);
    preview.height = dip__wire_u32(picture->height);
    preview.data = (ProtobufCBinaryData){picture->png.bytes, picture->png.data};
    s->event.preview = &preview;
    return send_job(s, PB_(JOB_EVENT__KIND_PREVIEW));
}

/* The file in chunks, then what is known of it. */
static enum dip_status encode_image(const struct dip_message *m, struct job_sender *s)
{
    const struct dip_message_picture *picture = &m->as.picture;
    unsigned char sha256[32];
    bool is_hashed = picture->sha256[0] != '\0';
    if (picture->png.bytes > PICTURE_BYTES_MAX ||
        (is_hashed && !dip__wire_unhex(picture->sha256, sha256)))
        return DIP_LIMIT;
    for (size_t at = 0; at < picture->png.bytes; at += CHUNK_BYTES) {
        size_t left = picture->png.bytes - at;
        Pb_(ImageChunk) chunk = PB_(IMAGE_CHUNK__INIT);
        chunk.offset = at;
        chunk.data.len = left < CHUNK_BYTES ? left : CHUNK_BYTES;
        chunk.data.data = (uint8_t *)picture->png.data + at;
        s->event.image_chunk = &chunk;
        DIP_TRY(send_job(s, PB_(JOB_EVENT__KIND_IMAGE_CHUNK)));
    }
    Pb_(ImageFinal) final = PB_(IMAGE_FINAL__INIT);
    final.size_bytes = picture->png.bytes;
    if (is_hashed)
        final.sha256 = (ProtobufCBinaryData){sizeof sha256, sha256};
    final.width = dip__wire_u32(picture->width);
    final.height = dip__wire_u32(picture->height);
    final.diffusion_ns = dip__wire_u64(picture->diffusion_ns);
    final.vae_ns = dip__wire_u64(picture->vae_ns);
    final.encode_ns = dip__wire_u64(picture->encode_ns);
    s->event.image_final = &final;
    return send_job(s, PB_(JOB_EVENT__KIND_IMAGE_FINAL));
}

static enum dip_status encode_failed(const struct dip_message *m, struct job_sender *s)
{
    struct dip_why text = {0};
    Pb_(Failed) failed = PB_(FAILED__INIT);
    failed.reason = reason_encode(m->as.failed.status);
    failed.text = clean(&text, m->as.failed.text);
    s->event.failed = &failed;
    return send_job(s, PB_(JOB_EVENT__KIND_FAILED));
}

/* PREFILLED, HINGE_READY, CONDITIONED, STEP, DECODED: numbers about a job. */
static enum dip_status encode_stage(const struct dip_message *m, struct job_sender *s)
{
    Pb_(Prefilled) prefilled = PB_(PREFILLED__INIT);
    Pb_(HingeReady) ready = PB_(HINGE_READY__INIT);
    Pb_(Conditioned) conditioned = PB_(CONDITIONED__INIT);
    Pb_(Step) step = PB_(STEP__INIT);
    Pb_(Decoded) decoded = PB_(DECODED__INIT);
    switch (m->kind) {
    case DIP_MESSAGE_PREFILLED:
        s->event.prefilled = &prefilled;
        return send_job(s, PB_(JOB_EVENT__KIND_PREFILLED));
    case DIP_MESSAGE_HINGE_READY:
        ready.token_count = dip__wire_u32(m->as.hinge_ready.token_count);
        ready.prefill_ns = dip__wire_u64(m->as.hinge_ready.prefill_ns);
        ready.decode_ns = dip__wire_u64(m->as.hinge_ready.decode_ns);
        s->event.hinge_ready = &ready;
        return send_job(s, PB_(JOB_EVENT__KIND_HINGE_READY));
    case DIP_MESSAGE_CONDITIONED:
        s->event.conditioned = &conditioned;
        return send_job(s, PB_(JOB_EVENT__KIND_CONDITIONED));
    case DIP_MESSAGE_STEP:
        step.steps_done = dip__wire_u32(m->as.step.steps_done);
        step.step_ns = dip__wire_u64(m->as.step.step_ns);
        step.batch = dip__wire_u32(m->as.step.batch);
        step.room = dip__wire_u32(m->as.step.room);
        s->event.step = &step;
        return send_job(s, PB_(JOB_EVENT__KIND_STEP));
    default:
        s->event.decoded = &decoded;
        return send_job(s, PB_(JOB_EVENT__KIND_DECODED));
    }
}

enum dip_status dip_wire_encode_event(const struct dip_message *message,
                                      const struct dip_wire_envelope *envelope,
                                      dip_wire_frame_fn frame, void *context)
{
    Pb_(ConnectRequest) out = PB_(CONNECT_REQUEST__INIT);
    out.epoch = envelope->epoch;
    struct job_sender job = {
        .frame = &out, .event = PB_(JOB_EVENT__INIT), .to = frame, .context = context};
    job.event.job_id = message->job_id;
    switch (message->kind) {
    case DIP_MESSAGE_APPEARED:
        return encode_hello(message, &out, frame, context);
    case DIP_MESSAGE_HEARTBEAT:
    case DIP_MESSAGE_JOINED:
    case DIP_MESSAGE_LEAVING:
    case DIP_MESSAGE_SUPERSEDED:
        return encode_worker(message, &out, frame, context);
    case DIP_MESSAGE_GROUP_PREPARED:
    case DIP_MESSAGE_GROUP_FORMED:
    case DIP_MESSAGE_GROUP_LOST:
        return encode_group(message, &out, frame, context);
    case DIP_MESSAGE_TOKENS:
        return encode_tokens(message, &job);
    case DIP_MESSAGE_PREFILLED:
    case DIP_MESSAGE_HINGE_READY:
    case DIP_MESSAGE_CONDITIONED:
    case DIP_MESSAGE_STEP:
    case DIP_MESSAGE_DECODED:
        return encode_stage(message, &job);
    case DIP_MESSAGE_CHECKPOINT:
        return encode_checkpoint(message, &job);
    case DIP_MESSAGE_PREVIEW:
        return encode_preview(message, &job);
    case DIP_MESSAGE_IMAGE:
        return encode_image(message, &job);
    case DIP_MESSAGE_FAILED:
        return encode_failed(message, &job);
    default: /* TRACE among them */
        return DIP_UNSUPPORTED;
    }
}

/* ---- reading: the worker ---- */

static enum dip_status read_hello(const Pb_(Hello) * in, struct dip_why *why, struct dip_message *m)
{
    m->kind = DIP_MESSAGE_APPEARED;
    if (in->protocol_min > WIRE_PROTOCOL_MAX || in->protocol_max < WIRE_PROTOCOL_MIN)
        return dip_fail(why, DIP_UNSUPPORTED,
                        "the worker speaks protocol %u to %u, this coordinator %d to %d",
                        in->protocol_min, in->protocol_max, WIRE_PROTOCOL_MIN, WIRE_PROTOCOL_MAX);
    if (in->member_id[0] == '\0')
        return dip_fail(why, DIP_INVALID, "member_id is empty");
    struct dip_member_facts *facts = calloc(1, sizeof *facts);
    if (!facts)
        return dip_fail(why, DIP_NO_MEMORY, "no memory for another worker");
    m->as.appeared.facts = (struct dip_payload){facts, sizeof *facts};
    facts->incarnation = in->incarnation;
    facts->protocol =
        in->protocol_max < WIRE_PROTOCOL_MAX ? in->protocol_max : (uint32_t)WIRE_PROTOCOL_MAX;
    DIP_TRY(role_read(in->role, why, &facts->roles));
    DIP_TRY(dip__wire_text(why, "member_id", in->member_id, facts->name, sizeof facts->name));
    DIP_TRY(dip__wire_text(why, "address", in->address, facts->address, sizeof facts->address));
    DIP_TRY(dip__wire_text(why, "version", in->version, facts->version, sizeof facts->version));
    DIP_TRY(dip__wire_text(why, "model_digest", in->model_digest, facts->model_digest,
                           sizeof facts->model_digest));
    DIP_TRY(dip__wire_text(why, "host_id", in->host_id, facts->host_id, sizeof facts->host_id));
    DIP_TRY(dip__wire_text(why, "device", in->device, facts->device, sizeof facts->device));
    facts->is_rank_said = in->rank_presence_case == PB_(HELLO__RANK_PRESENCE_IS_RANK);
    facts->is_rank = facts->is_rank_said && in->is_rank;
    return dip__wire_held_read(in->held, in->n_held, why, &m->as.appeared.held);
}

static enum dip_status read_heartbeat(const Pb_(Heartbeat) * in, struct dip_why *why,
                                      struct dip_message *m)
{
    m->kind = DIP_MESSAGE_HEARTBEAT;
    DIP_TRY(dip__wire_range(why, "ar_busy", in->ar_busy, 0, DIP_SLOTS_MAX));
    DIP_TRY(dip__wire_range(why, "hinges_held", in->hinges_held, 0, HINGE_SLOTS_MAX));
    DIP_TRY(dip__wire_range(why, "diffusion_busy", in->diffusion_busy, 0, DIP_SLOTS_MAX));
    m->as.heartbeat.steps_total = in->steps_total;
    m->as.heartbeat.ar_busy = (int32_t)in->ar_busy;
    m->as.heartbeat.hinges_held = (int32_t)in->hinges_held;
    m->as.heartbeat.diffusion_busy = (int32_t)in->diffusion_busy;
    return dip__wire_ns(why, "last_step_age_ns", in->last_step_age_ns,
                        &m->as.heartbeat.last_step_age_ns);
}

static enum dip_status read_ready(const Pb_(Ready) * in, struct dip_why *why, struct dip_message *m)
{
    m->kind = DIP_MESSAGE_JOINED;
    DIP_TRY(role_read(in->role, why, &m->as.joined.roles));
    DIP_TRY(dip__wire_range(why, "ar_slots", in->ar_slots, 0, DIP_SLOTS_MAX));
    DIP_TRY(dip__wire_range(why, "hinge_slots", in->hinge_slots, 0, HINGE_SLOTS_MAX));
    DIP_TRY(dip__wire_range(why, "diffusion_slots", in->diffusion_slots, 0, DIP_SLOTS_MAX));
    m->as.joined.ar_slots = (int32_t)in->ar_slots;
    m->as.joined.hinge_slots = (int32_t)in->hinge_slots;
    m->as.joined.diffusion_slots = (int32_t)in->diffusion_slots;
    return dip__wire_text(why, "fingerprint", in->fingerprint, m->as.joined.fingerprint,
                          sizeof m->as.joined.fingerprint);
}

static enum dip_status read_superseded(const Pb_(Superseded) * in, struct dip_why *why,
                                       struct dip_message *m)
{
    m->kind = DIP_MESSAGE_SUPERSEDED;
    return dip__wire_text(why, "leader", in->leader, m->as.superseded.leader,
                          sizeof m->as.superseded.leader);
}

static enum dip_status read_group(const Pb_(GroupEvent) * in, struct dip_why *why,
                                  struct dip_message *m)
{
    struct dip_message_group *group = &m->as.group;
    group->epoch = in->group_epoch;
    group->missing_rank = -1;
    DIP_TRY(dip__wire_text(why, "group_id", in->group_id, group->id, sizeof group->id));
    switch (in->kind_case) {
    case PB_(GROUP_EVENT__KIND_PREPARED):
        m->kind = DIP_MESSAGE_GROUP_PREPARED;
        DIP_TRY(dip__wire_range(why, "bytes of comm_id", in->prepared->comm_id.len, 0,
                                sizeof group->comm_id));
        group->comm_id_bytes = (uint32_t)in->prepared->comm_id.len;
        if (group->comm_id_bytes > 0)
            memcpy(group->comm_id, in->prepared->comm_id.data, group->comm_id_bytes);
        return DIP_OK;
    case PB_(GROUP_EVENT__KIND_FORMED):
        m->kind = DIP_MESSAGE_GROUP_FORMED;
        return DIP_OK;
    case PB_(GROUP_EVENT__KIND_LOST):
        m->kind = DIP_MESSAGE_GROUP_LOST;
        DIP_TRY(dip__wire_range(why, "missing_rank", in->lost->missing_rank, 0, RANKS_MAX));
        group->missing_rank = (int32_t)in->lost->missing_rank - 1;
        return DIP_OK;
    default:
        return DIP_TIMEOUT;
    }
}

/* ---- reading: a job ---- */

static enum dip_status read_tokens(const Pb_(Tokens) * in, struct dip_why *why,
                                   struct dip_message *m)
{
    m->kind = DIP_MESSAGE_TOKENS;
    DIP_TRY(dip__wire_range(why, "count of ids", in->n_ids, 1, DIP_TOKEN_BATCH_MAX));
    DIP_TRY(dip__wire_range(why, "first", in->first, 0, DIP_IMAGE_TOKENS_MAX - in->n_ids));
    for (size_t i = 0; i < in->n_ids; i++) {
        DIP_TRY(dip__wire_range(why, "ids", in->ids[i], 0, DIP_VOCAB_MAX - 1));
        m->as.tokens.ids[i] = (int32_t)in->ids[i];
    }
    m->as.tokens.first = (int32_t)in->first;
    m->as.tokens.count = (int32_t)in->n_ids;
    return DIP_OK;
}

static enum dip_status read_hinge_ready(const Pb_(HingeReady) * in, struct dip_why *why,
                                        struct dip_message *m)
{
    m->kind = DIP_MESSAGE_HINGE_READY;
    DIP_TRY(dip__wire_range(why, "token_count", in->token_count, 0, DIP_IMAGE_TOKENS_MAX));
    m->as.hinge_ready.token_count = (int32_t)in->token_count;
    DIP_TRY(dip__wire_ns(why, "prefill_ns", in->prefill_ns, &m->as.hinge_ready.prefill_ns));
    return dip__wire_ns(why, "decode_ns", in->decode_ns, &m->as.hinge_ready.decode_ns);
}

static enum dip_status read_step(const Pb_(Step) * in, struct dip_why *why, struct dip_message *m)
{
    m->kind = DIP_MESSAGE_STEP;
    DIP_TRY(dip__wire_range(why, "steps_done", in->steps_done, 1, DIP_STEPS_MAX));
    DIP_TRY(dip__wire_range(why, "batch", in->batch, 0, DIP_SLOTS_MAX));
    DIP_TRY(dip__wire_range(why, "room", in->room, 0, DIP_SLOTS_MAX));
    m->as.step.steps_done = (int32_t)in->steps_done;
    m->as.step.batch = (int32_t)in->batch;
    m->as.step.room = (int32_t)in->room;
    return dip__wire_ns(why, "step_ns", in->step_ns, &m->as.step.step_ns);
}

static enum dip_status read_size(uint32_t width, uint32_t height, struct dip_why *why,
                                 struct dip_message_picture *picture)
{
    DIP_TRY(dip__wire_range(why, "width", width, 1, DIP_IMAGE_EDGE_MAX));
    DIP_TRY(dip__wire_range(why, "height", height, 1, DIP_IMAGE_EDGE_MAX));
    picture->width = (int32_t)width;
    picture->height = (int32_t)height;
    return DIP_OK;
}

static enum dip_status read_preview(const Pb_(Preview) * in, struct dip_why *why,
                                    struct dip_message *m)
{
    m->kind = DIP_MESSAGE_PREVIEW;
    DIP_TRY(dip__wire_range(why, "steps_done", in->steps_done, 1, DIP_STEPS_MAX));
    DIP_TRY(read_size(in->width, in->height, why, &m->as.picture));
    DIP_TRY(dip__wire_range(why, "bytes of data", in->data.len, 1, PREVIEW_BYTES_MAX));
    m->as.picture.steps_done = (int32_t)in->steps_done;
    m->as.picture.png.data = malloc(in->data.len);
    if (!m->as.picture.png.data)
        return dip_fail(why, DIP_NO_MEMORY, "no memory for a preview");
    memcpy(m->as.picture.png.data, in->data.data, in->data.len);
    m->as.picture.png.bytes = in->data.len;
    return DIP_OK;
}

static void picture_drop(struct dip_wire_reader *reader)
{
    free(reader->data);
    reader->data = NULL;
    reader->bytes = reader->bytes_max = 0;
    reader->job_id = 0;
}

/* Grows with what has really come, never with what was announced. */
static enum dip_status picture_reserve(struct dip_wire_reader *r, size_t bytes, struct dip_why *why)
{
    if (bytes > PICTURE_BYTES_MAX)
        return dip_fail(why, DIP_LIMIT, "a picture of more than %d bytes", PICTURE_BYTES_MAX);
    if (r->data && bytes <= r->bytes_max)
        return DIP_OK;
    size_t bytes_max = 2 * r->bytes_max > bytes ? 2 * r->bytes_max : bytes;
    unsigned char *data = realloc(r->data, bytes_max);
    if (!data)
        return dip_fail(why, DIP_NO_MEMORY, "no memory for a picture of %zu bytes", bytes);
    r->data = data;
    r->bytes_max = bytes_max;
    return DIP_OK;
}

static enum dip_status read_chunk(struct dip_wire_reader *r, uint64_t job_id,
                                  const Pb_(ImageChunk) * in, struct dip_why *why)
{
    if (in->offset == 0)
        picture_drop(r); /* what was there before will not go on */
    if (in->offset == 0)
        r->job_id = job_id;
    if (r->job_id != job_id || r->bytes != in->offset || in->data.len == 0)
        return dip_fail(why, DIP_INVALID, "chunks of a picture do not follow each other");
    DIP_TRY(picture_reserve(r, r->bytes + in->data.len, why));
    dip_assert(r->data != NULL); /* no chunk is empty */
    memcpy(r->data + r->bytes, in->data.data, in->data.len);
    r->bytes += in->data.len;
    return DIP_TIMEOUT;
}

static enum dip_status read_final(struct dip_wire_reader *r, uint64_t job_id,
                                  const Pb_(ImageFinal) * in, struct dip_why *why,
                                  struct dip_message *m)
{
    struct dip_message_picture *picture = &m->as.picture;
    m->kind = DIP_MESSAGE_IMAGE;
    if (r->job_id != job_id || r->bytes != in->size_bytes ||
        (in->sha256.len != 0 && in->sha256.len != 32))
        return dip_fail(why, DIP_INVALID, "the end of a picture does not fit its chunks");
    DIP_TRY(read_size(in->width, in->height, why, picture));
    DIP_TRY(dip__wire_ns(why, "diffusion_ns", in->diffusion_ns, &picture->diffusion_ns));
    DIP_TRY(dip__wire_ns(why, "vae_ns", in->vae_ns, &picture->vae_ns));
    DIP_TRY(dip__wire_ns(why, "encode_ns", in->encode_ns, &picture->encode_ns));
    if (in->sha256.len == 32)
        dip__wire_hex(in->sha256.data, picture->sha256);
    picture->png = (struct dip_payload){r->data, r->bytes};
    *r = (struct dip_wire_reader){0}; /* the message owns the file now */
    return DIP_OK;
}

static enum dip_status read_failed(const Pb_(Failed) * in, struct dip_message *m)
{
    m->kind = DIP_MESSAGE_FAILED;
    m->as.failed.status = reason_read(in->reason);
    size_t bytes = strnlen(in->text, sizeof m->as.failed.text - 1);
    memcpy(m->as.failed.text, in->text, bytes);
    return DIP_OK;
}

static enum dip_status read_job(struct dip_wire_reader *r, const Pb_(JobEvent) * in,
                                struct dip_why *why, struct dip_message *m)
{
    m->job_id = in->job_id;
    DIP_TRY(dip__wire_range(why, "job_id", in->job_id, 1, UINT64_MAX));
    switch (in->kind_case) {
    case PB_(JOB_EVENT__KIND_PREFILLED):
        m->kind = DIP_MESSAGE_PREFILLED;
        return DIP_OK;
    case PB_(JOB_EVENT__KIND_TOKENS):
        return read_tokens(in->tokens, why, m);
    case PB_(JOB_EVENT__KIND_HINGE_READY):
        return read_hinge_ready(in->hinge_ready, why, m);
    case PB_(JOB_EVENT__KIND_CONDITIONED):
        m->kind = DIP_MESSAGE_CONDITIONED;
        return DIP_OK;
    case PB_(JOB_EVENT__KIND_STEP):
        return read_step(in->step, why, m);
    case PB_(JOB_EVENT__KIND_DECODED):
        m->kind = DIP_MESSAGE_DECODED;
        return DIP_OK;
    case PB_(JOB_EVENT__KIND_CHECKPOINT):
        m->kind = DIP_MESSAGE_CHECKPOINT;
        return dip__wire_checkpoint_read(in->checkpoint, why, &m->as.checkpoint);
    case PB_(JOB_EVENT__KIND_PREVIEW):
        return read_preview(in->preview, why, m);
    case PB_(JOB_EVENT__KIND_IMAGE_CHUNK):
        return read_chunk(r, in->job_id, in->image_chunk, why);
    case PB_(JOB_EVENT__KIND_IMAGE_FINAL):
        return read_final(r, in->job_id, in->image_final, why, m);
    case PB_(JOB_EVENT__KIND_FAILED):
        return read_failed(in->failed, m);
    default: /* not of this protocol: nobody waits for it */
        return DIP_TIMEOUT;
    }
}

static enum dip_status read_body(struct dip_wire_reader *reader, const Pb_(ConnectRequest) * in,
                                 struct dip_why *why, struct dip_message *m)
{
    switch (in->body_case) {
    case PB_(CONNECT_REQUEST__BODY_HELLO):
        return read_hello(in->hello, why, m);
    case PB_(CONNECT_REQUEST__BODY_HEARTBEAT):
        return read_heartbeat(in->heartbeat, why, m);
    case PB_(CONNECT_REQUEST__BODY_EVENT):
        return read_job(reader, in->event, why, m);
    case PB_(CONNECT_REQUEST__BODY_GROUP):
        return read_group(in->group, why, m);
    case PB_(CONNECT_REQUEST__BODY_LEAVING):
        m->kind = DIP_MESSAGE_LEAVING;
        return dip__wire_ns(why, "grace_ns", in->leaving->grace_ns, &m->as.grace.grace_ns);
    case PB_(CONNECT_REQUEST__BODY_READY):
        return read_ready(in->ready, why, m);
    case PB_(CONNECT_REQUEST__BODY_SUPERSEDED):
        return read_superseded(in->superseded, why, m);
    default:
        return DIP_TIMEOUT;
    }
}

enum dip_status dip_wire_read_event(struct dip_wire_reader *reader, const void *data, size_t bytes,
                                    struct dip_why *why, struct dip_wire_envelope *ret_envelope,
                                    struct dip_message *ret_message)
{
    ProtobufCMessage *proto = NULL;
    DIP_TRY(dip__wire_decode(&pb_(connect_request__descriptor), data, bytes, why, &proto));
    const Pb_(ConnectRequest) *in = (const void *)proto;
    struct dip_wire_envelope envelope = {.epoch = in->epoch};
    struct dip_message message = {0};
    enum dip_status status = read_body(reader, in, why, &message);
    dip_proto_free(proto);
    if (status) {
        dip_message_release(&message);
        return status;
    }
    *ret_envelope = envelope;
    *ret_message = message;
    return DIP_OK;
}
