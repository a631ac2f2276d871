/* tests/unit/wire.c - every kind of message as bytes and back: the same; and what is out of range,
 * cut or not meant to travel is refused with a sentence. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cluster/wire.h"
#include "proto/diptych/internal/v1/worker.pb-c.h"

enum { FRAMES_MAX = 16, ROUNDS = 400 };

struct frames {
    void *data[FRAMES_MAX];
    size_t bytes[FRAMES_MAX];
    int count;
};

static enum dip_status keep(void *context, void *data, size_t bytes)
{
    struct frames *frames = context;
    assert_true(frames->count < FRAMES_MAX);
    frames->data[frames->count] = data;
    frames->bytes[frames->count++] = bytes;
    return DIP_OK;
}

static void frames_free(struct frames *frames)
{
    for (int i = 0; i < frames->count; i++)
        free(frames->data[i]);
    frames->count = 0;
}

/* ---- random messages ---- */

static uint64_t seed = 1;

static uint64_t any(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return seed >> 11 ^ seed << 53;
}

/* 0 .. max, both often. */
static int64_t upto(int64_t max)
{
    switch (any() % 6) {
    case 0:
        return 0;
    case 1:
        return max;
    default:
        return max == INT64_MAX ? (int64_t)(any() >> 1) : (int64_t)(any() % (uint64_t)(max + 1));
    }
}

static int64_t from1(int64_t max)
{
    return 1 + upto(max - 1);
}

static struct dip_payload any_ids(int64_t count)
{
    struct dip_payload ids = {0};
    if (count == 0)
        return ids;
    ids.bytes = (size_t)count * sizeof(int32_t);
    ids.data = malloc(ids.bytes);
    assert_non_null(ids.data);
    for (int64_t i = 0; i < count; i++)
        ((int32_t *)ids.data)[i] = (int32_t)upto(DIP_VOCAB_MAX - 1);
    return ids;
}

static struct dip_payload any_bytes(size_t bytes)
{
    struct dip_payload payload = {malloc(bytes), bytes};
    assert_non_null(payload.data);
    for (size_t i = 0; i < bytes; i++)
        ((unsigned char *)payload.data)[i] = (unsigned char)any();
    return payload;
}

static void any_text(char *text, size_t bytes_max)
{
    size_t bytes = (size_t)upto((int64_t)bytes_max - 1);
    for (size_t i = 0; i < bytes; i++)
        text[i] = (char)('!' + any() % 90);
    text[bytes] = '\0';
}

static void any_hex(char text[DIP_SHA256_HEX_BYTES])
{
    for (int i = 0; i < 64; i++)
        text[i] = "0123456789abcdef"[any() % 16];
    text[64] = '\0';
}

static void any_params(struct dip_job_params *params)
{
    *params = (struct dip_job_params){
        .seed = any(),
        .image_index = (uint32_t)upto(DIP_IMAGES_MAX - 1),
        .token_count = (int32_t)from1(DIP_IMAGE_TOKENS_MAX),
        .temperature = (float)(0.01 + (double)upto(1000) / 500),
        .top_k = (int32_t)upto(DIP_VOCAB_MAX),
        .top_p = (float)((double)from1(1000) / 1000),
        .sampler = any() % 2 ? DIP_JOB_DPM : DIP_JOB_EULER,
        .steps = (int32_t)from1(DIP_STEPS_MAX),
        .guidance = (float)upto(1000),
        .latent_height = (int32_t)from1(DIP_LATENT_EDGE_MAX),
        .latent_width = (int32_t)from1(DIP_LATENT_EDGE_MAX),
        .preview = (enum dip_job_preview)upto(DIP_JOB_PREVIEW_DECODED),
        .preview_every = (int32_t)upto(DIP_STEPS_MAX),
        .checkpoint_every = (int32_t)upto(DIP_STEPS_MAX),
    };
}

static void any_checkpoint(struct dip_checkpoint *checkpoint)
{
    size_t bytes = sizeof(float) * (size_t)from1(1000);
    checkpoint->steps_done = (int32_t)from1(DIP_STEPS_MAX);
    checkpoint->latent = any_bytes(bytes);
    checkpoint->history = any_bytes(bytes);
}

static void any_origin(struct dip_job_origin *origin)
{
    any_text(origin->request_id, sizeof origin->request_id);
    any_text(origin->traceparent, sizeof origin->traceparent);
    for (int i = 0; i < DIP_DIGEST_BYTES && any() % 8; i++)
        origin->digest[i] = (unsigned char)any();
}

/* What a worker holds from before: tokens of the AR panel, steps, pictures. */
static void any_held(struct dip_message_held *list)
{
    int count = (int)upto(20);
    struct dip_held *entries = calloc((size_t)count + 1, sizeof *entries);
    assert_non_null(entries);
    list->entries = (struct dip_payload){entries, (size_t)count * sizeof *entries};
    list->ids = any_ids(count > 0 ? upto(2000) : 0);
    int ids_left = (int)(list->ids.bytes / sizeof(int32_t)), id_first = 0;
    for (int i = 0; i < count; i++) {
        struct dip_held *held = &entries[i];
        *held = (struct dip_held){.epoch = any(), .job_id = any() | 1, .left_ns = upto(INT64_MAX)};
        any_text(held->request_id, sizeof held->request_id);
        held->digest[i] = 1;
        held->image_index = (uint32_t)upto(DIP_IMAGES_MAX - 1);
        held->stage = (enum dip_held_stage)upto(DIP_HELD_STAGE_COUNT - 1);
        held->token_count = (int32_t)upto(DIP_IMAGE_TOKENS_MAX);
        if (held->stage == DIP_HELD_STEPS)
            held->done = (int32_t)upto(DIP_STEPS_MAX);
        else if (held->stage != DIP_HELD_PICTURE)
            held->done = (int32_t)upto(DIP_IMAGE_TOKENS_MAX);
        held->id_first = id_first;
        held->id_count = i == count - 1 ? ids_left : (int32_t)upto(ids_left);
        id_first += held->id_count;
        ids_left -= held->id_count;
    }
}

/* The fields that this kind of group message has. */
static void any_group(enum dip_message_kind kind, struct dip_message_group *group)
{
    bool has_comm = kind == DIP_MESSAGE_GROUP_PREPARED || kind == DIP_MESSAGE_FORM_GROUP;
    any_text(group->id, sizeof group->id);
    group->epoch = any();
    group->missing_rank = -1;
    if (kind == DIP_MESSAGE_PREPARE_GROUP || kind == DIP_MESSAGE_FORM_GROUP)
        group->size = (int32_t)from1(256);
    if (kind == DIP_MESSAGE_FORM_GROUP) {
        group->rank = (int32_t)upto(group->size - 1);
        group->timeout_ns = upto(INT64_MAX);
    }
    if (kind == DIP_MESSAGE_GROUP_LOST)
        group->missing_rank = (int32_t)upto(256) - 1;
    if (has_comm)
        group->comm_id_bytes = (uint32_t)upto(sizeof group->comm_id);
    for (uint32_t i = 0; i < group->comm_id_bytes; i++)
        group->comm_id[i] = (unsigned char)any();
}

static const enum dip_message_kind commands[] = {
    DIP_MESSAGE_AR,         DIP_MESSAGE_HAND_OVER,
    DIP_MESSAGE_DIFFUSION,  DIP_MESSAGE_RELEASE,
    DIP_MESSAGE_ADOPT,      DIP_MESSAGE_DRAIN,
    DIP_MESSAGE_UNDRAIN,    DIP_MESSAGE_PREPARE_GROUP,
    DIP_MESSAGE_FORM_GROUP, DIP_MESSAGE_DISSOLVE_GROUP,
};
static const enum dip_message_kind events[] = {
    DIP_MESSAGE_APPEARED,    DIP_MESSAGE_JOINED,         DIP_MESSAGE_HEARTBEAT,
    DIP_MESSAGE_LEAVING,     DIP_MESSAGE_GROUP_PREPARED, DIP_MESSAGE_GROUP_FORMED,
    DIP_MESSAGE_GROUP_LOST,  DIP_MESSAGE_PREFILLED,      DIP_MESSAGE_TOKENS,
    DIP_MESSAGE_HINGE_READY, DIP_MESSAGE_CONDITIONED,    DIP_MESSAGE_STEP,
    DIP_MESSAGE_DECODED,     DIP_MESSAGE_PREVIEW,        DIP_MESSAGE_IMAGE,
    DIP_MESSAGE_FAILED,      DIP_MESSAGE_CHECKPOINT,     DIP_MESSAGE_SUPERSEDED,
};
enum {
    COMMANDS = sizeof commands / sizeof commands[0],
    EVENTS = sizeof events / sizeof events[0],
};

static void any_member(struct dip_message *m)
{
    static const int roles[] = {DIP_ROLE_AR, DIP_ROLE_DIFFUSION, DIP_ROLE_AR | DIP_ROLE_DIFFUSION};
    if (m->kind == DIP_MESSAGE_APPEARED) {
        struct dip_member_facts *facts = calloc(1, sizeof *facts);
        assert_non_null(facts);
        any_text(facts->name, sizeof facts->name);
        if (facts->name[0] == '\0')
            memcpy(facts->name, "n", 2);
        any_text(facts->address, sizeof facts->address);
        any_text(facts->version, sizeof facts->version);
        any_text(facts->host_id, sizeof facts->host_id);
        any_text(facts->device, sizeof facts->device);
        any_hex(facts->model_digest);
        facts->is_rank_said = any() % 2 == 1;
        facts->is_rank = facts->is_rank_said && any() % 2 == 1;
        facts->incarnation = any();
        facts->roles = (uint32_t)roles[any() % 3];
        m->as.appeared.facts = (struct dip_payload){facts, sizeof *facts};
        any_held(&m->as.appeared.held);
    } else {
        m->as.joined.roles = (uint32_t)roles[any() % 3];
        m->as.joined.ar_slots = (int32_t)upto(DIP_SLOTS_MAX);
        m->as.joined.hinge_slots = (int32_t)upto(4096);
        m->as.joined.diffusion_slots = (int32_t)upto(DIP_SLOTS_MAX);
        any_hex(m->as.joined.fingerprint);
    }
}

static void any_picture(struct dip_message *m)
{
    struct dip_message_picture *picture = &m->as.picture;
    bool is_image = m->kind == DIP_MESSAGE_IMAGE;
    picture->width = (int32_t)from1(DIP_IMAGE_EDGE_MAX);
    picture->height = (int32_t)from1(DIP_IMAGE_EDGE_MAX);
    picture->png = any_bytes((size_t)from1(is_image && any() % 8 == 0 ? 3 << 20 : 2000));
    if (!is_image) {
        picture->steps_done = (int32_t)from1(DIP_STEPS_MAX);
        return;
    }
    if (any() % 2)
        any_hex(picture->sha256);
    picture->diffusion_ns = upto(INT64_MAX);
    picture->vae_ns = upto(INT64_MAX);
    picture->encode_ns = upto(INT64_MAX);
}

static void any_failed(struct dip_message_failed *failed)
{
    static const enum dip_status statuses[] = {DIP_STALE,     DIP_BUSY,   DIP_INVALID,
                                               DIP_NO_MEMORY, DIP_DEVICE, DIP_UNREACHABLE,
                                               DIP_CANCELLED};
    failed->status = (int32_t)statuses[any() % 7];
    any_text(failed->text, sizeof failed->text);
}

/* Everything else that has numbers only. */
static void any_numbers(struct dip_message *m)
{
    switch (m->kind) {
    case DIP_MESSAGE_HAND_OVER:
        m->as.hand_over.to_job_id = any() | 1;
        break;
    case DIP_MESSAGE_ADOPT:
        m->job_id = any() % 2 ? m->job_id : 0;
        m->as.adopt.held_epoch = any();
        m->as.adopt.held_job_id = any() | 1;
        break;
    case DIP_MESSAGE_DRAIN:
    case DIP_MESSAGE_LEAVING:
        m->as.grace.grace_ns = upto(INT64_MAX);
        break;
    case DIP_MESSAGE_HEARTBEAT:
        m->as.heartbeat.steps_total = any();
        m->as.heartbeat.last_step_age_ns = upto(INT64_MAX);
        m->as.heartbeat.ar_busy = (int32_t)upto(DIP_SLOTS_MAX);
        m->as.heartbeat.hinges_held = (int32_t)upto(4096);
        m->as.heartbeat.diffusion_busy = (int32_t)upto(DIP_SLOTS_MAX);
        break;
    case DIP_MESSAGE_TOKENS:
        m->as.tokens.count = (int32_t)from1(DIP_TOKEN_BATCH_MAX);
        m->as.tokens.first = (int32_t)upto(DIP_IMAGE_TOKENS_MAX - m->as.tokens.count);
        for (int i = 0; i < m->as.tokens.count; i++)
            m->as.tokens.ids[i] = (int32_t)upto(DIP_VOCAB_MAX - 1);
        break;
    case DIP_MESSAGE_HINGE_READY:
        m->as.hinge_ready.token_count = (int32_t)upto(DIP_IMAGE_TOKENS_MAX);
        m->as.hinge_ready.prefill_ns = upto(INT64_MAX);
        m->as.hinge_ready.decode_ns = upto(INT64_MAX);
        break;
    case DIP_MESSAGE_STEP:
        m->as.step.steps_done = (int32_t)from1(DIP_STEPS_MAX);
        m->as.step.step_ns = upto(INT64_MAX);
        m->as.step.batch = (int32_t)upto(DIP_SLOTS_MAX);
        m->as.step.room = (int32_t)upto(DIP_SLOTS_MAX);
        break;
    case DIP_MESSAGE_SUPERSEDED:
        any_text(m->as.superseded.leader, sizeof m->as.superseded.leader);
        break;
    default:
        break;
    }
}

static bool is_about_a_job(enum dip_message_kind kind)
{
    return kind != DIP_MESSAGE_DRAIN && kind != DIP_MESSAGE_UNDRAIN &&
           kind != DIP_MESSAGE_PREPARE_GROUP && kind != DIP_MESSAGE_FORM_GROUP &&
           kind != DIP_MESSAGE_DISSOLVE_GROUP && kind != DIP_MESSAGE_APPEARED &&
           kind != DIP_MESSAGE_JOINED && kind != DIP_MESSAGE_HEARTBEAT &&
           kind != DIP_MESSAGE_LEAVING && kind != DIP_MESSAGE_SUPERSEDED &&
           kind != DIP_MESSAGE_GROUP_PREPARED && kind != DIP_MESSAGE_GROUP_FORMED &&
           kind != DIP_MESSAGE_GROUP_LOST;
}

static void any_message(enum dip_message_kind kind, struct dip_message *m)
{
    memset(m, 0, sizeof *m); /* also the padding: messages are compared as memory */
    m->kind = kind;
    if (is_about_a_job(kind))
        m->job_id = any() | 1;
    switch (kind) {
    case DIP_MESSAGE_AR:
        any_params(&m->as.ar.params);
        any_origin(&m->as.ar.origin);
        m->as.ar.prompt_ids = any_ids(from1(DIP_PROMPT_TOKENS_MAX));
        m->as.ar.forced_ids = any_ids(upto(m->as.ar.params.token_count));
        break;
    case DIP_MESSAGE_DIFFUSION:
        any_params(&m->as.diffusion.params);
        any_origin(&m->as.diffusion.origin);
        if (any() % 2)
            any_checkpoint(&m->as.diffusion.resume);
        break;
    case DIP_MESSAGE_PREPARE_GROUP:
    case DIP_MESSAGE_FORM_GROUP:
    case DIP_MESSAGE_DISSOLVE_GROUP:
    case DIP_MESSAGE_GROUP_PREPARED:
    case DIP_MESSAGE_GROUP_FORMED:
    case DIP_MESSAGE_GROUP_LOST:
        any_group(kind, &m->as.group);
        break;
    case DIP_MESSAGE_APPEARED:
    case DIP_MESSAGE_JOINED:
        any_member(m);
        break;
    case DIP_MESSAGE_PREVIEW:
    case DIP_MESSAGE_IMAGE:
        any_picture(m);
        break;
    case DIP_MESSAGE_FAILED:
        any_failed(&m->as.failed);
        break;
    case DIP_MESSAGE_CHECKPOINT:
        any_checkpoint(&m->as.checkpoint);
        break;
    default:
        any_numbers(m);
        break;
    }
}

/* ---- comparing ---- */

static void assert_payload(const struct dip_payload *a, const struct dip_payload *b)
{
    assert_int_equal(a->bytes, b->bytes);
    if (a->bytes > 0)
        assert_memory_equal(a->data, b->data, a->bytes);
}

static void assert_params(const struct dip_job_params *a, const struct dip_job_params *b)
{
    assert_true(a->seed == b->seed && a->image_index == b->image_index);
    assert_int_equal(a->token_count, b->token_count);
    assert_true(a->temperature == b->temperature && a->top_p == b->top_p);
    assert_int_equal(a->top_k, b->top_k);
    assert_int_equal(a->sampler, b->sampler);
    assert_int_equal(a->steps, b->steps);
    assert_true(a->guidance == b->guidance);
    assert_int_equal(a->latent_height, b->latent_height);
    assert_int_equal(a->latent_width, b->latent_width);
    assert_int_equal(a->preview, b->preview);
    assert_int_equal(a->preview_every, b->preview_every);
    assert_int_equal(a->checkpoint_every, b->checkpoint_every);
}

static void assert_checkpoint(const struct dip_checkpoint *a, const struct dip_checkpoint *b)
{
    assert_int_equal(a->steps_done, b->steps_done);
    assert_payload(&a->latent, &b->latent);
    assert_payload(&a->history, &b->history);
}

static void assert_origin(const struct dip_job_origin *a, const struct dip_job_origin *b)
{
    assert_string_equal(a->request_id, b->request_id);
    assert_string_equal(a->traceparent, b->traceparent);
    assert_memory_equal(a->digest, b->digest, sizeof a->digest);
}

static void assert_held(const struct dip_message_held *a, const struct dip_message_held *b)
{
    const struct dip_held *x = a->entries.data, *y = b->entries.data;
    assert_int_equal(a->entries.bytes, b->entries.bytes);
    assert_payload(&a->ids, &b->ids);
    for (size_t i = 0; i < a->entries.bytes / sizeof *x; i++) {
        assert_true(x[i].epoch == y[i].epoch && x[i].job_id == y[i].job_id);
        assert_string_equal(x[i].request_id, y[i].request_id);
        assert_memory_equal(x[i].digest, y[i].digest, sizeof x[i].digest);
        assert_int_equal(x[i].image_index, y[i].image_index);
        assert_int_equal(x[i].stage, y[i].stage);
        assert_int_equal(x[i].done, y[i].done);
        assert_int_equal(x[i].token_count, y[i].token_count);
        assert_int_equal(x[i].id_first, y[i].id_first);
        assert_int_equal(x[i].id_count, y[i].id_count);
        assert_true(x[i].left_ns == y[i].left_ns);
    }
}

static void assert_facts(const struct dip_message *a, const struct dip_message *b)
{
    const struct dip_member_facts *x = a->as.appeared.facts.data, *y = b->as.appeared.facts.data;
    assert_string_equal(x->name, y->name);
    assert_string_equal(x->address, y->address);
    assert_string_equal(x->version, y->version);
    assert_string_equal(x->model_digest, y->model_digest);
    assert_int_equal(x->is_rank_said, y->is_rank_said);
    assert_int_equal(x->is_rank, y->is_rank);
    assert_string_equal(x->host_id, y->host_id);
    assert_string_equal(x->device, y->device);
    assert_true(x->incarnation == y->incarnation);
    assert_int_equal(x->roles, y->roles);
    assert_int_equal(y->protocol, 2);
    assert_held(&a->as.appeared.held, &b->as.appeared.held);
}

static void assert_picture(const struct dip_message_picture *a, const struct dip_message_picture *b)
{
    assert_payload(&a->png, &b->png);
    assert_int_equal(a->steps_done, b->steps_done);
    assert_int_equal(a->width, b->width);
    assert_int_equal(a->height, b->height);
    assert_string_equal(a->sha256, b->sha256);
    assert_true(a->diffusion_ns == b->diffusion_ns && a->vae_ns == b->vae_ns);
    assert_true(a->encode_ns == b->encode_ns);
}

static void assert_group(const struct dip_message_group *a, const struct dip_message_group *b)
{
    assert_string_equal(a->id, b->id);
    assert_true(a->epoch == b->epoch && a->timeout_ns == b->timeout_ns);
    assert_int_equal(a->rank, b->rank);
    assert_int_equal(a->size, b->size);
    assert_int_equal(a->missing_rank, b->missing_rank);
    assert_int_equal(a->comm_id_bytes, b->comm_id_bytes);
    assert_memory_equal(a->comm_id, b->comm_id, a->comm_id_bytes);
}

static void assert_message(const struct dip_message *a, const struct dip_message *b)
{
    assert_string_equal(dip_message_name(a->kind), dip_message_name(b->kind));
    assert_true(a->job_id == b->job_id);
    switch (a->kind) {
    case DIP_MESSAGE_STEP:
        assert_true(a->as.step.step_ns == b->as.step.step_ns);
        assert_int_equal(a->as.step.steps_done, b->as.step.steps_done);
        assert_int_equal(a->as.step.batch, b->as.step.batch);
        assert_int_equal(a->as.step.room, b->as.step.room);
        break;
    case DIP_MESSAGE_AR:
        assert_params(&a->as.ar.params, &b->as.ar.params);
        assert_origin(&a->as.ar.origin, &b->as.ar.origin);
        assert_payload(&a->as.ar.prompt_ids, &b->as.ar.prompt_ids);
        assert_payload(&a->as.ar.forced_ids, &b->as.ar.forced_ids);
        break;
    case DIP_MESSAGE_DIFFUSION:
        assert_params(&a->as.diffusion.params, &b->as.diffusion.params);
        assert_origin(&a->as.diffusion.origin, &b->as.diffusion.origin);
        assert_checkpoint(&a->as.diffusion.resume, &b->as.diffusion.resume);
        break;
    case DIP_MESSAGE_APPEARED:
        assert_facts(a, b);
        break;
    case DIP_MESSAGE_JOINED:
        assert_int_equal(a->as.joined.roles, b->as.joined.roles);
        assert_int_equal(a->as.joined.ar_slots, b->as.joined.ar_slots);
        assert_int_equal(a->as.joined.hinge_slots, b->as.joined.hinge_slots);
        assert_int_equal(a->as.joined.diffusion_slots, b->as.joined.diffusion_slots);
        assert_string_equal(a->as.joined.fingerprint, b->as.joined.fingerprint);
        break;
    case DIP_MESSAGE_CHECKPOINT:
        assert_checkpoint(&a->as.checkpoint, &b->as.checkpoint);
        break;
    case DIP_MESSAGE_PREVIEW:
    case DIP_MESSAGE_IMAGE:
        assert_picture(&a->as.picture, &b->as.picture);
        break;
    case DIP_MESSAGE_FAILED:
        assert_int_equal(a->as.failed.status, b->as.failed.status);
        assert_string_equal(a->as.failed.text, b->as.failed.text);
        break;
    case DIP_MESSAGE_PREPARE_GROUP:
    case DIP_MESSAGE_FORM_GROUP:
    case DIP_MESSAGE_DISSOLVE_GROUP:
    case DIP_MESSAGE_GROUP_PREPARED:
    case DIP_MESSAGE_GROUP_FORMED:
    case DIP_MESSAGE_GROUP_LOST:
        assert_group(&a->as.group, &b->as.group);
        break;
    default: /* numbers, in memory that was zero */
        assert_memory_equal(&a->as, &b->as, sizeof a->as);
        break;
    }
}

/* ---- the laws ---- */

static void round_trip(enum dip_message_kind kind, bool is_command)
{
    struct frames frames = {.count = 0};
    struct dip_wire_envelope envelope = {.epoch = any()}, read_envelope;
    struct dip_wire_reader *reader = NULL;
    struct dip_message message, back;
    struct dip_why why = {0};
    any_message(kind, &message);
    memset(&back, 0, sizeof back);
    if (kind == DIP_MESSAGE_HAND_OVER)
        snprintf(envelope.hinge_address, sizeof envelope.hinge_address, "host:%d", (int)upto(9999));
    assert_int_equal(dip_wire_reader_new(&reader), DIP_OK);
    assert_int_equal(is_command ? dip_wire_encode_command(&message, &envelope, keep, &frames)
                                : dip_wire_encode_event(&message, &envelope, keep, &frames),
                     DIP_OK);
    for (int i = 0; i < frames.count; i++) {
        enum dip_status status =
            is_command ? dip_wire_read_command(reader, frames.data[i], frames.bytes[i], &why,
                                               &read_envelope, &back)
                       : dip_wire_read_event(reader, frames.data[i], frames.bytes[i], &why,
                                             &read_envelope, &back);
        if (status != (i + 1 < frames.count ? DIP_TIMEOUT : DIP_OK))
            fail_msg("%s: %s", dip_message_name(kind), why.text);
    }
    assert_true(envelope.epoch == read_envelope.epoch);
    if (kind == DIP_MESSAGE_HAND_OVER)
        assert_string_equal(envelope.hinge_address, read_envelope.hinge_address);
    assert_message(&message, &back);
    dip_message_release(&message);
    dip_message_release(&back);
    dip_wire_reader_free(reader);
    frames_free(&frames);
}

static void commands_come_back_as_they_were(void **state)
{
    (void)state;
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < COMMANDS; i++)
            round_trip(commands[i], true);
}

static void events_come_back_as_they_were(void **state)
{
    (void)state;
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < EVENTS; i++)
            round_trip(events[i], false);
}

static void what_is_of_one_process_does_not_travel(void **state)
{
    (void)state;
    struct frames frames = {.count = 0};
    struct dip_wire_envelope envelope = {.epoch = 1};
    float value = 1;
    struct dip_message m = {.kind = DIP_MESSAGE_DIFFUSION, .job_id = 1};
    m.as.diffusion.hidden = (struct dip_payload){&value, sizeof value};
    assert_int_equal(dip_wire_encode_command(&m, &envelope, keep, &frames), DIP_UNSUPPORTED);
    m.as.diffusion.hidden = (struct dip_payload){0};
    m.as.diffusion.noise = (struct dip_payload){&value, sizeof value};
    assert_int_equal(dip_wire_encode_command(&m, &envelope, keep, &frames), DIP_UNSUPPORTED);
    m = (struct dip_message){.kind = DIP_MESSAGE_AR, .job_id = 1};
    m.as.ar.params.is_traced = true;
    assert_int_equal(dip_wire_encode_command(&m, &envelope, keep, &frames), DIP_UNSUPPORTED);
    m = (struct dip_message){.kind = DIP_MESSAGE_TRACE, .job_id = 1};
    assert_int_equal(dip_wire_encode_event(&m, &envelope, keep, &frames), DIP_UNSUPPORTED);
    for (int kind = 0; kind < DIP_MESSAGE_COUNT; kind++) {
        bool travels = false;
        for (int i = 0; i < COMMANDS; i++)
            travels = travels || (int)commands[i] == kind;
        m = (struct dip_message){.kind = (enum dip_message_kind)kind, .job_id = 1};
        if (!travels)
            assert_int_equal(dip_wire_encode_command(&m, &envelope, keep, &frames),
                             DIP_UNSUPPORTED);
    }
    assert_int_equal(frames.count, 0);
}

static void a_preview_of_a_megabyte_at_most(void **state)
{
    (void)state;
    struct frames frames = {.count = 0};
    struct dip_wire_envelope envelope = {.epoch = 1};
    struct dip_message m = {.kind = DIP_MESSAGE_PREVIEW, .job_id = 1};
    m.as.picture.png = any_bytes((1 << 20) + 1);
    assert_int_equal(dip_wire_encode_event(&m, &envelope, keep, &frames), DIP_LIMIT);
    dip_message_release(&m);
}

/* Encodes a good message after `spoil` has changed it: the reader must refuse it by a sentence that
 * names the field. */
static void refuses(enum dip_message_kind kind, void (*spoil)(struct dip_message *),
                    bool is_command, const char *field)
{
    struct frames frames = {.count = 0};
    struct dip_wire_envelope envelope = {.epoch = 1, .hinge_address = "a:1"};
    struct dip_wire_reader *reader = NULL;
    struct dip_message message, back;
    struct dip_why why = {0};
    any_message(kind, &message);
    spoil(&message);
    assert_int_equal(dip_wire_reader_new(&reader), DIP_OK);
    assert_int_equal(is_command ? dip_wire_encode_command(&message, &envelope, keep, &frames)
                                : dip_wire_encode_event(&message, &envelope, keep, &frames),
                     DIP_OK);
    int last = frames.count - 1;
    enum dip_status status = is_command
                                 ? dip_wire_read_command(reader, frames.data[last],
                                                         frames.bytes[last], &why, &envelope, &back)
                                 : dip_wire_read_event(reader, frames.data[last],
                                                       frames.bytes[last], &why, &envelope, &back);
    assert_int_equal(status, DIP_INVALID);
    if (!strstr(why.text, field))
        fail_msg("\"%s\" does not name %s", why.text, field);
    dip_message_release(&message);
    dip_wire_reader_free(reader);
    frames_free(&frames);
}

static void no_job(struct dip_message *m)
{
    m->job_id = 0;
}
static void no_steps(struct dip_message *m)
{
    m->as.diffusion.params.steps = 0;
}
static void many_steps(struct dip_message *m)
{
    m->as.diffusion.params.steps = DIP_STEPS_MAX + 1;
}
static void no_number(struct dip_message *m)
{
    m->as.diffusion.params.guidance = NAN;
}
static void no_heat(struct dip_message *m)
{
    m->as.diffusion.params.temperature = 0;
}
static void much_p(struct dip_message *m)
{
    m->as.diffusion.params.top_p = 1.5f;
}
static void no_latent(struct dip_message *m)
{
    m->as.diffusion.params.latent_width = 0;
}
static void no_prompt(struct dip_message *m)
{
    free(m->as.ar.prompt_ids.data);
    m->as.ar.prompt_ids = (struct dip_payload){0};
}
static void foreign_id(struct dip_message *m)
{
    ((int32_t *)m->as.ar.prompt_ids.data)[0] = DIP_VOCAB_MAX;
}
static void much_forced(struct dip_message *m)
{
    free(m->as.ar.forced_ids.data);
    m->as.ar.forced_ids = any_ids(m->as.ar.params.token_count = 5);
    m->as.ar.params.token_count = 4;
}
static void foreign_rank(struct dip_message *m)
{
    m->as.group.rank = m->as.group.size;
}
static void no_role(struct dip_message *m)
{
    m->as.joined.roles = 0;
}
static void many_slots(struct dip_message *m)
{
    m->as.joined.ar_slots = DIP_SLOTS_MAX + 1;
}
static void far_tokens(struct dip_message *m)
{
    m->as.tokens.first = DIP_IMAGE_TOKENS_MAX;
    m->as.tokens.count = 1;
}
static void foreign_token(struct dip_message *m)
{
    m->as.tokens.count = 1;
    m->as.tokens.ids[0] = DIP_VOCAB_MAX;
}
static void no_width(struct dip_message *m)
{
    m->as.picture.width = 0;
}
static void cut(struct dip_message *m) /* its first chunk never comes */
{
    free(m->as.picture.png.data);
    m->as.picture.png = any_bytes((1 << 20) + 1);
}

static void what_is_out_of_range_is_refused(void **state)
{
    (void)state;
    refuses(DIP_MESSAGE_DIFFUSION, no_job, true, "job_id");
    refuses(DIP_MESSAGE_DIFFUSION, no_steps, true, "params.steps");
    refuses(DIP_MESSAGE_DIFFUSION, many_steps, true, "params.steps");
    refuses(DIP_MESSAGE_DIFFUSION, no_number, true, "params.guidance");
    refuses(DIP_MESSAGE_DIFFUSION, no_heat, true, "params.temperature");
    refuses(DIP_MESSAGE_DIFFUSION, much_p, true, "params.top_p");
    refuses(DIP_MESSAGE_DIFFUSION, no_latent, true, "params.latent_width");
    refuses(DIP_MESSAGE_AR, no_prompt, true, "prompt_ids");
    refuses(DIP_MESSAGE_AR, foreign_id, true, "prompt_ids");
    refuses(DIP_MESSAGE_AR, much_forced, true, "forced_ids");
    refuses(DIP_MESSAGE_FORM_GROUP, foreign_rank, true, "rank");
    refuses(DIP_MESSAGE_JOINED, no_role, false, "role");
    refuses(DIP_MESSAGE_JOINED, many_slots, false, "ar_slots");
    refuses(DIP_MESSAGE_TOKENS, far_tokens, false, "first");
    refuses(DIP_MESSAGE_TOKENS, foreign_token, false, "ids");
    refuses(DIP_MESSAGE_PREVIEW, no_width, false, "width");
    refuses(DIP_MESSAGE_PREFILLED, no_job, false, "job_id");
    refuses(DIP_MESSAGE_IMAGE, cut, false, "picture");
}

/* A picture of several chunks of which one is missing, wherever it is. */
static void a_picture_with_a_hole_is_refused(void **state)
{
    (void)state;
    struct frames frames = {.count = 0};
    struct dip_wire_envelope envelope = {.epoch = 1};
    struct dip_message image, back;
    any_message(DIP_MESSAGE_IMAGE, &image);
    cut(&image);
    assert_int_equal(dip_wire_encode_event(&image, &envelope, keep, &frames), DIP_OK);
    assert_true(frames.count > 3);
    for (int missing = 0; missing < frames.count - 1; missing++) {
        struct dip_wire_reader *reader = NULL;
        struct dip_why why = {0};
        enum dip_status status = DIP_TIMEOUT;
        assert_int_equal(dip_wire_reader_new(&reader), DIP_OK);
        for (int i = 0; i < frames.count && status == DIP_TIMEOUT; i++)
            if (i != missing)
                status = dip_wire_read_event(reader, frames.data[i], frames.bytes[i], &why,
                                             &envelope, &back);
        assert_int_equal(status, DIP_INVALID);
        dip_wire_reader_free(reader);
    }
    dip_message_release(&image);
    frames_free(&frames);
}

/* Any cut or changed byte: refused, or another good message; never a crash or a leak. */
static void spoiled_bytes_are_no_danger(void **state)
{
    (void)state;
    struct dip_wire_reader *reader = NULL;
    assert_int_equal(dip_wire_reader_new(&reader), DIP_OK);
    for (int round = 0; round < 4000; round++) {
        struct frames frames = {.count = 0};
        struct dip_wire_envelope envelope = {.epoch = any(), .hinge_address = "h:1"};
        struct dip_message message, back;
        struct dip_why why = {0};
        bool is_command = round % 2;
        any_message(is_command ? commands[any() % COMMANDS] : events[any() % EVENTS], &message);
        assert_int_equal(is_command ? dip_wire_encode_command(&message, &envelope, keep, &frames)
                                    : dip_wire_encode_event(&message, &envelope, keep, &frames),
                         DIP_OK);
        unsigned char *bytes = frames.data[0];
        size_t count = frames.bytes[0];
        if (any() % 3 == 0 && count > 0)
            count = any() % count;
        for (uint64_t i = any() % 4; i > 0 && count > 0; i--)
            bytes[any() % count] = (unsigned char)any();
        enum dip_status status =
            is_command ? dip_wire_read_command(reader, bytes, count, &why, &envelope, &back)
                       : dip_wire_read_event(reader, bytes, count, &why, &envelope, &back);
        if (!status)
            dip_message_release(&back);
        else if (status != DIP_TIMEOUT)
            assert_true(why.text[0] != '\0');
        dip_message_release(&message);
        frames_free(&frames);
    }
    dip_wire_reader_free(reader);
}

/* A frame of a later version: a body that nobody here knows. */
static void the_future_is_skipped(void **state)
{
    (void)state;
    static const unsigned char frame[] = {0x08, 0x05, 0xfa, 0x06, 0x00}; /* epoch 5, field 111 */
    struct dip_wire_reader *reader = NULL;
    struct dip_wire_envelope envelope;
    struct dip_message message;
    struct dip_why why = {0};
    assert_int_equal(dip_wire_reader_new(&reader), DIP_OK);
    assert_int_equal(dip_wire_read_command(reader, frame, sizeof frame, &why, &envelope, &message),
                     DIP_TIMEOUT);
    assert_int_equal(dip_wire_read_event(reader, frame, sizeof frame, &why, &envelope, &message),
                     DIP_TIMEOUT);
    dip_wire_reader_free(reader);
}

/* Neighbours in a rolling upgrade: both sides speak the highest number that both know. */
static void an_older_and_a_later_worker_are_understood(void **state)
{
    (void)state;
    static const unsigned char said[] = {0x30, 1, 0x38, 2}; /* protocol_min, protocol_max */
    static const struct {
        unsigned char min, max;
        uint32_t spoken; /* 0 = refused */
    } tries[] = {{1, 1, 1}, {1, 2, 2}, {2, 7, 2}, {3, 7, 0}, {0, 0, 0}};
    struct dip_wire_envelope envelope = {.epoch = 1};
    struct dip_wire_reader *reader = NULL;
    assert_int_equal(dip_wire_reader_new(&reader), DIP_OK);
    for (size_t i = 0; i < sizeof tries / sizeof tries[0]; i++) {
        struct frames frames = {.count = 0};
        struct dip_message m, back;
        struct dip_why why = {0};
        any_message(DIP_MESSAGE_APPEARED, &m);
        assert_int_equal(dip_wire_encode_event(&m, &envelope, keep, &frames), DIP_OK);
        unsigned char *at = memmem(frames.data[0], frames.bytes[0], said, sizeof said);
        assert_non_null(at);
        at[1] = tries[i].min;
        at[3] = tries[i].max;
        enum dip_status status =
            dip_wire_read_event(reader, frames.data[0], frames.bytes[0], &why, &envelope, &back);
        assert_int_equal(status, tries[i].spoken ? DIP_OK : DIP_UNSUPPORTED);
        if (!status) {
            const struct dip_member_facts *facts = back.as.appeared.facts.data;
            assert_int_equal(facts->protocol, tries[i].spoken);
            dip_message_release(&back);
        }
        dip_message_release(&m);
        frames_free(&frames);
    }
    dip_wire_reader_free(reader);
}

/* A text that was cut inside a character is still one that the peer takes. */
static void half_a_character_is_no_offence(void **state)
{
    (void)state;
    struct frames frames = {.count = 0};
    struct dip_wire_envelope envelope = {.epoch = 1};
    struct dip_wire_reader *reader = NULL;
    struct dip_message m = {.kind = DIP_MESSAGE_FAILED, .job_id = 1}, back;
    struct dip_why why = {0};
    m.as.failed.status = DIP_DEVICE;
    snprintf(m.as.failed.text, sizeof m.as.failed.text, "caf\xc3");
    assert_int_equal(dip_wire_reader_new(&reader), DIP_OK);
    assert_int_equal(dip_wire_encode_event(&m, &envelope, keep, &frames), DIP_OK);
    assert_int_equal(
        dip_wire_read_event(reader, frames.data[0], frames.bytes[0], &why, &envelope, &back),
        DIP_OK);
    assert_string_equal(back.as.failed.text, "caf?");
    dip_wire_reader_free(reader);
    frames_free(&frames);
}

/* ---- welcome and hinges ---- */

static void welcome_comes_first(void **state)
{
    (void)state;
    struct dip_wire_welcome welcome = {
        .epoch = 7, .protocol = 1, .heartbeat_ns = 200000000, .cluster_id = "c"};
    struct dip_wire_welcome back = {0};
    struct dip_wire_envelope envelope = {.epoch = 7};
    struct dip_message message = {.kind = DIP_MESSAGE_UNDRAIN};
    struct dip_why why = {0};
    struct frames frames = {.count = 0};
    void *data = NULL;
    size_t bytes = 0;
    assert_int_equal(dip_wire_encode_welcome(&welcome, &data, &bytes), DIP_OK);
    assert_int_equal(dip_wire_read_welcome(data, bytes, &why, &back), DIP_OK);
    assert_int_equal(back.epoch, 7);
    assert_int_equal(back.heartbeat_ns, 200000000);
    assert_string_equal(back.cluster_id, "c");
    assert_int_equal(dip_wire_read_command(NULL, data, bytes, &why, &envelope, &message),
                     DIP_INVALID);
    free(data);
    assert_int_equal(dip_wire_encode_command(&message, &envelope, keep, &frames), DIP_OK);
    assert_int_equal(dip_wire_read_welcome(frames.data[0], frames.bytes[0], &why, &back),
                     DIP_INVALID);
    frames_free(&frames);
    welcome.protocol = 3; /* of a later version that has not listened */
    assert_int_equal(dip_wire_encode_welcome(&welcome, &data, &bytes), DIP_OK);
    assert_int_equal(dip_wire_read_welcome(data, bytes, &why, &back), DIP_INVALID);
    free(data);
    welcome.protocol = 2;
    welcome.heartbeat_ns = 0; /* a worker that never rests */
    assert_int_equal(dip_wire_encode_welcome(&welcome, &data, &bytes), DIP_OK);
    assert_int_equal(dip_wire_read_welcome(data, bytes, &why, &back), DIP_INVALID);
    free(data);
}

static void hinges_come_back_as_they_were(void **state)
{
    (void)state;
    struct dip_wire_hinge header = {
        .job_id = 9, .epoch = 8, .rows = 17, .width = 64, .offset = 1024};
    struct dip_wire_put put = {0};
    struct dip_why why = {0};
    unsigned char chunk[3000];
    void *data = NULL;
    size_t bytes = 0;
    any_hex(header.sha256);
    assert_int_equal(dip_wire_encode_put_header(&header, &data, &bytes), DIP_OK);
    assert_int_equal(dip_wire_read_put(data, bytes, &why, &put), DIP_OK);
    assert_true(put.is_header);
    assert_memory_equal(&put.header, &header, sizeof header);
    dip_wire_put_release(&put);
    free(data);
    header.offset = 17 * 64 * 4 + 1; /* behind the end */
    assert_int_equal(dip_wire_encode_put_header(&header, &data, &bytes), DIP_OK);
    assert_int_equal(dip_wire_read_put(data, bytes, &why, &put), DIP_INVALID);
    free(data);
    for (size_t i = 0; i < sizeof chunk; i++)
        chunk[i] = (unsigned char)any();
    assert_int_equal(dip_wire_encode_put_chunk(512, chunk, sizeof chunk, &data, &bytes), DIP_OK);
    assert_int_equal(dip_wire_read_put(data, bytes, &why, &put), DIP_OK);
    assert_false(put.is_header);
    assert_int_equal(put.offset, 512);
    assert_int_equal(put.bytes, sizeof chunk);
    assert_memory_equal(put.data, chunk, sizeof chunk);
    dip_wire_put_release(&put);
    ((unsigned char *)data)[bytes - 1] ^= 4; /* the chunk's last byte */
    assert_int_equal(dip_wire_read_put(data, bytes, &why, &put), DIP_CORRUPT);
    free(data);
}

static void offsets_come_back_as_they_were(void **state)
{
    (void)state;
    struct dip_why why = {0};
    uint64_t job_id = 0, epoch = 0, held = 0;
    void *data = NULL;
    size_t bytes = 0;
    assert_int_equal(dip_wire_encode_offset_request(77, 5, &data, &bytes), DIP_OK);
    assert_int_equal(dip_wire_read_offset_request(data, bytes, &why, &job_id, &epoch), DIP_OK);
    assert_int_equal(job_id, 77);
    assert_int_equal(epoch, 5);
    free(data);
    assert_int_equal(dip_wire_encode_received(UINT64_MAX, &data, &bytes), DIP_OK);
    assert_int_equal(dip_wire_read_received(data, bytes, &why, &held), DIP_OK);
    assert_true(held == UINT64_MAX);
    free(data);
    /* One function writes both answers. */
    const ProtobufCFieldDescriptor *put = diptych__internal__v1__put_response__descriptor.fields;
    const ProtobufCFieldDescriptor *ask =
        diptych__internal__v1__get_offset_response__descriptor.fields;
    assert_int_equal(put->id, ask->id);
    assert_int_equal(put->type, ask->type);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(commands_come_back_as_they_were),
        cmocka_unit_test(events_come_back_as_they_were),
        cmocka_unit_test(what_is_of_one_process_does_not_travel),
        cmocka_unit_test(a_preview_of_a_megabyte_at_most),
        cmocka_unit_test(what_is_out_of_range_is_refused),
        cmocka_unit_test(a_picture_with_a_hole_is_refused),
        cmocka_unit_test(spoiled_bytes_are_no_danger),
        cmocka_unit_test(the_future_is_skipped),
        cmocka_unit_test(an_older_and_a_later_worker_are_understood),
        cmocka_unit_test(half_a_character_is_no_offence),
        cmocka_unit_test(welcome_comes_first),
        cmocka_unit_test(hinges_come_back_as_they_were),
        cmocka_unit_test(offsets_come_back_as_they_were),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
