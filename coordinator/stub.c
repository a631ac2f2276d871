/* coordinator/stub.c - see coordinator/stub.h. */
#include "coordinator/stub.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"

enum { BUCKETS = 4096, PNG_BYTES_DEFAULT = 4096, AR_PARTS = 4, MEMBERS_MAX = 4096 };

struct job {
    struct dip_stub *stub;
    struct job *next; /* of the bucket */
    uint64_t id;
    uint32_t member;
    bool is_ar, has_hinge;
    struct dip_job_params params;
    int tokens_known; /* forced: drawn before the job came here */
    int done;         /* parts of the tokens, or steps */
    struct dip_rpc_timer timer;
};

struct dip_stub {
    struct dip_endpoint endpoint; /* first, so that one pointer is both */
    struct dip_stub_options options;
    struct dip_coordinator_daemon *daemon;
    struct job *buckets[BUCKETS];
    unsigned char *png;
    bool is_held;
    bool is_member[MEMBERS_MAX];
    enum dip_status fail_next;
    struct dip_stub_stats stats;
};

/* ---- jobs ---- */

static struct job **job_at(struct dip_stub *stub, uint64_t id)
{
    /* A job id is a serial number over an index of 20 bits: both halves differ between neighbours.
     */
    struct job **at = &stub->buckets[(id ^ (id >> 20)) % BUCKETS];
    while (*at && (*at)->id != id)
        at = &(*at)->next;
    return at;
}

static void job_free(struct dip_stub *stub, uint64_t id)
{
    struct job **at = job_at(stub, id);
    struct job *job = *at;
    if (!job)
        return;
    dip_rpc_timer_clear(stub->options.loop, &job->timer);
    *at = job->next;
    stub->stats.jobs--;
    free(job);
}

static void say(struct dip_stub *stub, uint32_t member, struct dip_message message)
{
    message.from = member;
    dip_coordinator_daemon_feed(stub->daemon, &message);
    dip_message_release(&message);
}

static void job_set(struct job *job, int64_t wait_ns)
{
    if (job->stub->is_held || (!job->is_ar && !job->has_hinge))
        return;
    enum dip_status status =
        dip_rpc_timer_set(job->stub->options.loop, &job->timer, dip_clock_now_ns() + wait_ns);
    dip_assert(status == DIP_OK); /* whoever makes the loop gives it enough timers */
}

/* ---- what workers say ---- */

/* Tokens [first, first + count) in batches as a worker sends them; the ids say nothing. */
static bool say_tokens(struct job *job, int first, int count)
{
    struct dip_stub *stub = job->stub;
    uint64_t id = job->id;
    uint32_t member = job->member;
    while (count > 0) {
        struct dip_message message = {.kind = DIP_MESSAGE_TOKENS, .job_id = id};
        int batch = count < DIP_TOKEN_BATCH_MAX ? count : DIP_TOKEN_BATCH_MAX;
        message.as.tokens.first = first;
        message.as.tokens.count = batch;
        say(stub, member, message);
        if (!*job_at(stub, id))
            return false; /* released by what it said */
        first += batch;
        count -= batch;
    }
    return true;
}

static void fire_ar(struct job *job)
{
    struct dip_stub *stub = job->stub;
    uint64_t id = job->id;
    uint32_t member = job->member;
    int parts = stub->options.ar_ns > 0 ? AR_PARTS : 1;
    if (job->done >= parts)
        return; /* keeps its hinge */
    int left = job->params.token_count - job->tokens_known;
    int first = job->tokens_known + left * job->done / parts;
    int last = job->tokens_known + left * (job->done + 1) / parts;
    if (job->done == 0) {
        say(stub, member, (struct dip_message){.kind = DIP_MESSAGE_PREFILLED, .job_id = id});
        if (!*job_at(stub, id))
            return;
    }
    job->done++;
    if (!say_tokens(job, first, last - first))
        return;
    if (job->done < parts) {
        job_set(job, stub->options.ar_ns / parts);
        return;
    }
    struct dip_message ready = {.kind = DIP_MESSAGE_HINGE_READY, .job_id = id};
    ready.as.hinge_ready.token_count = job->params.token_count;
    ready.as.hinge_ready.prefill_ns = stub->options.ar_ns / parts;
    ready.as.hinge_ready.decode_ns = stub->options.ar_ns;
    say(stub, member, ready);
}

static void say_picture(struct job *job, enum dip_message_kind kind)
{
    struct dip_stub *stub = job->stub;
    struct dip_message message = {.kind = kind, .job_id = job->id};
    struct dip_message_picture *picture = &message.as.picture;
    size_t bytes = kind == DIP_MESSAGE_IMAGE ? stub->options.png_bytes : 64;
    picture->png.data = malloc(bytes);
    dip_assert(picture->png.data); /* a test or a benchmark */
    picture->png.bytes = bytes;
    memcpy(picture->png.data, stub->png, bytes);
    picture->steps_done = job->done;
    picture->width = picture->height = 8;
    picture->diffusion_ns = stub->options.step_ns * job->params.steps;
    say(stub, job->member, message);
}

static bool say_step(struct job *job)
{
    struct dip_stub *stub = job->stub;
    uint64_t id = job->id;
    struct dip_message step = {.kind = DIP_MESSAGE_STEP, .job_id = id};
    step.as.step.steps_done = job->done;
    step.as.step.step_ns = stub->options.step_ns;
    say(stub, job->member, step);
    if (!*job_at(stub, id))
        return false;
    bool has_preview = job->params.preview_every > 0 && job->done < job->params.steps &&
                       job->done % job->params.preview_every == 0;
    if (has_preview)
        say_picture(job, DIP_MESSAGE_PREVIEW);
    return *job_at(stub, id) != NULL;
}

static void finish_diffusion(struct job *job)
{
    struct dip_stub *stub = job->stub;
    uint64_t id = job->id;
    if (stub->fail_next) {
        struct dip_message failed = {.kind = DIP_MESSAGE_FAILED, .job_id = id};
        failed.as.failed.status = stub->fail_next;
        snprintf(failed.as.failed.text, sizeof failed.as.failed.text, "the stub was told to fail");
        stub->fail_next = DIP_OK;
        say(stub, job->member, failed);
        return;
    }
    say(stub, job->member, (struct dip_message){.kind = DIP_MESSAGE_DECODED, .job_id = id});
    if (!*job_at(stub, id))
        return;
    say_picture(job, DIP_MESSAGE_IMAGE);
    job_free(stub, id); /* a diffusion job needs no release after its picture */
}

static void fire_diffusion(struct job *job)
{
    struct dip_stub *stub = job->stub;
    if (job->done == 0) {
        uint64_t id = job->id;
        say(stub, job->member, (struct dip_message){.kind = DIP_MESSAGE_CONDITIONED, .job_id = id});
        if (!*job_at(stub, id))
            return;
    }
    bool is_instant = stub->options.step_ns == 0;
    do {
        /* At once means without the steps in between, unless somebody wants to look at them. */
        job->done =
            is_instant && job->params.preview_every == 0 ? job->params.steps : job->done + 1;
        if (!say_step(job))
            return;
    } while (is_instant && job->done < job->params.steps);
    if (job->done < job->params.steps)
        job_set(job, stub->options.step_ns);
    else
        finish_diffusion(job);
}

static void fire(void *context)
{
    struct job *job = context;
    if (job->stub->is_held)
        return;
    if (job->is_ar)
        fire_ar(job);
    else
        fire_diffusion(job);
}

/* ---- what workers are told ---- */

static void job_new(struct dip_stub *stub, uint32_t member, const struct dip_message *message)
{
    struct job *job = calloc(1, sizeof *job);
    dip_assert(job);
    bool is_ar = message->kind == DIP_MESSAGE_AR, is_adopted = message->kind == DIP_MESSAGE_ADOPT;
    *job = (struct job){.stub = stub, .id = message->job_id, .member = member, .is_ar = is_ar};
    if (is_ar) {
        job->params = message->as.ar.params;
        job->tokens_known = (int)(message->as.ar.forced_ids.bytes / sizeof(int32_t));
        stub->stats.origin = message->as.ar.origin;
    } else if (!is_adopted) { /* else nothing is left to do */
        job->params = message->as.diffusion.params;
    }
    job->has_hinge = is_adopted || (!is_ar && message->as.diffusion.hidden.data != NULL);
    job->timer.fire = fire;
    job->timer.context = job;
    struct job **at = job_at(stub, job->id);
    dip_assert(!*at);
    *at = job;
    stub->stats.jobs++;
    stub->stats.ar += is_ar;
    stub->stats.adopted += is_adopted;
    stub->stats.diffusion += !is_ar && !is_adopted;
    job_set(job, 0);
}

static enum dip_status stub_send(struct dip_endpoint *endpoint, uint32_t to, const void *data)
{
    struct dip_stub *stub = (struct dip_stub *)endpoint;
    struct dip_message message = *(const struct dip_message *)data;
    struct job *job;
    if (to >= MEMBERS_MAX || !stub->is_member[to])
        return DIP_UNREACHABLE;
    switch (message.kind) {
    case DIP_MESSAGE_AR:
    case DIP_MESSAGE_DIFFUSION:
        job_new(stub, to, &message);
        break;
    case DIP_MESSAGE_ADOPT:
        if (message.job_id != 0)
            job_new(stub, to, &message);
        else
            stub->stats.forgotten++;
        break;
    case DIP_MESSAGE_HAND_OVER:
        job = *job_at(stub, message.as.hand_over.to_job_id);
        if (job) {
            job->has_hinge = true;
            job_set(job, 0);
        }
        break;
    case DIP_MESSAGE_RELEASE:
        stub->stats.released++;
        job_free(stub, message.job_id);
        break;
    default:
        break;
    }
    dip_message_release(&message);
    return DIP_OK;
}

static enum dip_status stub_receive(struct dip_endpoint *endpoint, int64_t wait_ns,
                                    void *ret_message)
{
    (void)endpoint;
    (void)wait_ns;
    (void)ret_message;
    return DIP_UNSUPPORTED;
}

static void stub_close(struct dip_endpoint *endpoint)
{
    (void)endpoint;
}

/* ---- new, free, handles for tests ---- */

enum dip_status dip_stub_new(const struct dip_stub_options *options, struct dip_stub **ret_stub)
{
    static const struct dip_endpoint_ops ops = {stub_send, stub_receive, stub_close};
    static const unsigned char head[] =
        "\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x08\0\0\0\x08\x08\x02\0\0\0\x4b\x6d\x29\xdc";
    struct dip_stub *stub = calloc(1, sizeof *stub);
    if (!stub)
        return DIP_NO_MEMORY;
    stub->options = *options;
    if (stub->options.png_bytes < 64)
        stub->options.png_bytes = PNG_BYTES_DEFAULT;
    stub->png = calloc(1, stub->options.png_bytes);
    if (!stub->png) {
        free(stub);
        return DIP_NO_MEMORY;
    }
    dip_assert(options->member_count < MEMBERS_MAX);
    memcpy(stub->png, head, sizeof head - 1);
    stub->endpoint.ops = &ops;
    *ret_stub = stub;
    return DIP_OK;
}

void dip_stub_free(struct dip_stub *stub)
{
    if (!stub)
        return;
    for (int i = 0; i < BUCKETS; i++)
        while (stub->buckets[i])
            job_free(stub, stub->buckets[i]->id);
    free(stub->png);
    free(stub);
}

struct dip_endpoint *dip_stub_endpoint(struct dip_stub *stub)
{
    return &stub->endpoint;
}

void dip_stub_join_holding(struct dip_stub *stub, uint32_t address, struct dip_message_held *held)
{
    struct dip_member_facts facts = {.version = DIP_VERSION, .device = "stub"};
    facts.roles = DIP_ROLE_AR | DIP_ROLE_DIFFUSION;
    facts.incarnation = address;
    snprintf(facts.name, sizeof facts.name, "stub-%u", address);
    struct dip_message appeared = {.kind = DIP_MESSAGE_APPEARED};
    appeared.as.appeared.facts.data = malloc(sizeof facts);
    dip_assert(appeared.as.appeared.facts.data);
    memcpy(appeared.as.appeared.facts.data, &facts, sizeof facts);
    appeared.as.appeared.facts.bytes = sizeof facts;
    appeared.as.appeared.held = *held;
    *held = (struct dip_message_held){.entries = {0}};
    stub->is_member[address] = true;
    say(stub, address, appeared);
    struct dip_message joined = {.kind = DIP_MESSAGE_JOINED};
    joined.as.joined.roles = facts.roles;
    joined.as.joined.ar_slots = stub->options.slots;
    joined.as.joined.hinge_slots = 2 * stub->options.slots;
    joined.as.joined.diffusion_slots = stub->options.slots;
    snprintf(joined.as.joined.fingerprint, sizeof joined.as.joined.fingerprint, "%064d", 0);
    say(stub, address, joined);
}

void dip_stub_join_one(struct dip_stub *stub, uint32_t address)
{
    struct dip_message_held nothing = {.entries = {0}};
    dip_stub_join_holding(stub, address, &nothing);
}

void dip_stub_join(struct dip_stub *stub, struct dip_coordinator_daemon *daemon)
{
    stub->daemon = daemon;
    for (int i = 1; i <= stub->options.member_count; i++)
        dip_stub_join_one(stub, (uint32_t)i);
}

void dip_stub_lose(struct dip_stub *stub, uint32_t address)
{
    stub->is_member[address] = false;
    for (int i = 0; i < BUCKETS; i++)
        for (struct job *job = stub->buckets[i], *next; job; job = next) {
            next = job->next;
            if (job->member == address)
                job_free(stub, job->id);
        }
    say(stub, address, (struct dip_message){.kind = DIP_MESSAGE_LOST});
}

void dip_stub_hold(struct dip_stub *stub, bool is_held)
{
    stub->is_held = is_held;
    for (int i = 0; i < BUCKETS && !is_held; i++)
        for (struct job *job = stub->buckets[i]; job; job = job->next)
            job_set(job, 0);
}

void dip_stub_fail_next(struct dip_stub *stub, enum dip_status status)
{
    stub->fail_next = status;
}

struct dip_stub_stats dip_stub_stats(const struct dip_stub *stub)
{
    return stub->stats;
}
