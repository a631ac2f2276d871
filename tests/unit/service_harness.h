/* tests/unit/service_harness.h - a coordinator with workers made of nothing, and a client, on one
 * loop on one thread: real gRPC over loopback. */
#pragma once

#include "tests/unit/rpc_harness.h"

#include "base/sha256.h"
#include "coordinator/daemon.h"
#include "coordinator/stub.h"
#include "proto/diptych/v1/cluster.pb-c.h"
#include "proto/diptych/v1/image.pb-c.h"
#include "proto/diptych/v1/model.pb-c.h"
#include "proto/error.h"
#include "proto/wire.h"

#define MODEL "tests/golden/tiny-a/model"

enum { EVENTS_MAX = 4096, FILES_MAX = 16 };

struct event {
    int kind; /* Diptych__V1__Event__KindCase */
    uint64_t sequence;
    int image_index;
    int done; /* tokens, steps, position, preview_index, attempt */
    int64_t at_ns;
};

/* One call as its client sees it. */
struct answer {
    struct dip_rpc_call *call;
    int closes, code;
    struct event events[EVENTS_MAX];
    int event_count;
    char id[65];
    uint64_t seed;
    char fingerprint[65];
    struct {
        size_t bytes, size;
        unsigned char *data;
        bool is_final, is_right; /* size and hash agree */
        uint64_t seed;
    } files[FILES_MAX];
    uint32_t images, text_tokens, image_tokens, steps; /* usage */
    int unknown_stages;                                /* of Completed's timing */
    struct dip_error error;
    bool has_error, has_pushback;
    int64_t pushback_ns;
    char text[512]; /* the status's message */
    void *reply;    /* a unary answer's bytes */
    size_t reply_bytes;
    void (*on_event)(struct answer *answer, const struct event *event);
};

struct front {
    bool has_hub; /* workers come over the wire; the stub stands aside */
    struct dip_rpc_loop *loop;
    struct dip_stub *stub;
    struct dip_coordinator_daemon *daemon;
    struct dip_rpc_channel *channel;
    struct dip_stub_options stub_options;
    struct dip_coordinator_daemon_options options;
    size_t window_bytes; /* of the client; 0 = grows */
    bool is_stopped;
};

/* ---- what a client hears ---- */

static inline void answer_file(struct answer *answer, const Diptych__V1__FinalImage *image)
{
    char hex[DIP_SHA256_HEX_BYTES], said[DIP_SHA256_HEX_BYTES];
    unsigned i = image->image_index;
    assert_in_range(i, 0, FILES_MAX - 1);
    if (image->data.len > 0) {
        answer->files[i].data = malloc(image->data.len);
        memcpy(answer->files[i].data, image->data.data, image->data.len);
        answer->files[i].bytes = image->data.len;
    }
    assert_int_equal(dip_sha256_hex(answer->files[i].data, answer->files[i].bytes, hex), DIP_OK);
    assert_int_equal(image->sha256.len, 32);
    for (int j = 0; j < 32; j++)
        snprintf(said + 2 * j, 3, "%02x", image->sha256.data[j]);
    answer->files[i].is_final = true;
    answer->files[i].is_right =
        strcmp(hex, said) == 0 && image->size_bytes == answer->files[i].bytes;
    answer->files[i].seed = image->seed;
}

static inline void answer_chunk(struct answer *answer, const Diptych__V1__ImageChunk *chunk)
{
    unsigned i = chunk->image_index;
    assert_in_range(i, 0, FILES_MAX - 1);
    assert_int_equal(chunk->offset, answer->files[i].bytes);
    answer->files[i].data =
        realloc(answer->files[i].data, answer->files[i].bytes + chunk->data.len);
    memcpy(answer->files[i].data + answer->files[i].bytes, chunk->data.data, chunk->data.len);
    answer->files[i].bytes += chunk->data.len;
}

static inline int count_absent(const Diptych__V1__Timing *t)
{
    return !t->queue + !t->prefill + !t->decode + !t->hinge + !t->diffusion + !t->vae + !t->encode;
}

static inline void answer_event(struct answer *answer, const Diptych__V1__Event *e)
{
    struct event event = {
        .kind = (int)e->kind_case, .sequence = e->sequence, .at_ns = dip_clock_now_ns()};
    snprintf(answer->id, sizeof answer->id, "%s", e->request_id);
    switch (e->kind_case) {
    case DIPTYCH__V1__EVENT__KIND_ADMITTED:
        answer->seed = e->admitted->seed;
        snprintf(answer->fingerprint, sizeof answer->fingerprint, "%s",
                 e->admitted->determinism->fingerprint);
        break;
    case DIPTYCH__V1__EVENT__KIND_QUEUE:
        event.done = (int)e->queue->position;
        break;
    case DIPTYCH__V1__EVENT__KIND_TOKENS:
        event.image_index = (int)e->tokens->image_index;
        event.done = (int)e->tokens->tokens_done;
        break;
    case DIPTYCH__V1__EVENT__KIND_STEPS:
        event.image_index = (int)e->steps->image_index;
        event.done = (int)e->steps->steps_done;
        break;
    case DIPTYCH__V1__EVENT__KIND_PREVIEW:
        event.image_index = (int)e->preview->image_index;
        event.done = (int)e->preview->preview_index;
        break;
    case DIPTYCH__V1__EVENT__KIND_CHUNK:
        event.image_index = (int)e->chunk->image_index;
        answer_chunk(answer, e->chunk);
        break;
    case DIPTYCH__V1__EVENT__KIND_FINAL_IMAGE:
        event.image_index = (int)e->final_image->image_index;
        answer_file(answer, e->final_image);
        break;
    case DIPTYCH__V1__EVENT__KIND_RETRIED:
        event.image_index = (int)e->retried->image_index;
        event.done = (int)e->retried->attempt;
        break;
    case DIPTYCH__V1__EVENT__KIND_COMPLETED:
        answer->images = e->completed->usage->images;
        answer->text_tokens = e->completed->usage->input_text_tokens;
        answer->image_tokens = e->completed->usage->output_image_tokens;
        answer->steps = (uint32_t)e->completed->usage->diffusion_steps;
        answer->unknown_stages = count_absent(e->completed->timing);
        break;
    default:
        fail_msg("an event without a kind");
    }
    assert_in_range(answer->event_count, 0, EVENTS_MAX - 1);
    answer->events[answer->event_count++] = event;
    if (answer->on_event)
        answer->on_event(answer, &event);
}

static inline void on_event_message(void *context, struct dip_rpc_call *call, const void *data,
                                    size_t bytes)
{
    (void)call;
    ProtobufCMessage *message;
    assert_int_equal(
        dip_proto_decode(&diptych__v1__generate_response__descriptor, data, bytes, NULL, &message),
        DIP_OK);
    answer_event(context, ((Diptych__V1__GenerateResponse *)message)->event);
    dip_proto_free(message);
}

static inline void on_reply_message(void *context, struct dip_rpc_call *call, const void *data,
                                    size_t bytes)
{
    (void)call;
    struct answer *answer = context;
    answer->event_count++;
    free(answer->reply);
    answer->reply = malloc(bytes ? bytes : 1);
    memcpy(answer->reply, data, bytes);
    answer->reply_bytes = bytes;
}

static inline void on_answer_close(void *context, struct dip_rpc_call *call,
                                   const struct dip_rpc_status *status)
{
    (void)call;
    struct answer *answer = context;
    answer->closes++;
    answer->call = NULL;
    answer->code = status->code;
    snprintf(answer->text, sizeof answer->text, "%s", status->message ? status->message : "");
    answer->has_pushback = status->has_pushback;
    answer->pushback_ns = status->pushback_ns;
    if (status->details_bytes)
        answer->has_error =
            dip_error_decode(status->details, status->details_bytes, &answer->error) == DIP_OK;
}

static inline void answer_free(struct answer *answer)
{
    for (int i = 0; i < FILES_MAX; i++)
        free(answer->files[i].data);
    free(answer->reply);
    memset(answer, 0, sizeof *answer);
}

/* ---- asking ---- */

static const struct dip_rpc_handler event_handler = {.on_message = on_event_message,
                                                     .on_close = on_answer_close};
static const struct dip_rpc_handler reply_handler = {.on_message = on_reply_message,
                                                     .on_close = on_answer_close};

struct asking {
    const char *path;
    const struct dip_rpc_pair *headers;
    int header_count;
    int64_t timeout_ns;
    bool is_events;
};

static inline void ask_bytes(struct front *f, const struct asking *asking, const void *data,
                             size_t bytes, struct answer *answer)
{
    void (*on_event)(struct answer *, const struct event *) = answer->on_event;
    memset(answer, 0, sizeof *answer);
    answer->on_event = on_event;
    answer->code = -1;
    struct dip_rpc_call_options options = {
        .path = asking->path,
        .deadline_ns = asking->timeout_ns ? dip_clock_now_ns() + asking->timeout_ns : 0,
        .headers = asking->headers,
        .header_count = asking->header_count,
        .handler = asking->is_events ? &event_handler : &reply_handler,
        .context = answer};
    void *copy = malloc(bytes ? bytes : 1);
    assert_non_null(copy);
    memcpy(copy, data, bytes);
    assert_int_equal(dip_rpc_call_open(f->channel, &options, &answer->call), DIP_OK);
    assert_int_equal(dip_rpc_call_send(answer->call, copy, bytes, 0), DIP_OK);
    dip_rpc_call_half_close(answer->call);
}

static inline void ask(struct front *f, const struct asking *asking,
                       const ProtobufCMessage *message, struct answer *answer)
{
    void *data;
    size_t bytes;
    assert_int_equal(dip_proto_encode(message, &data, &bytes), DIP_OK);
    ask_bytes(f, asking, data, bytes, answer);
    free(data);
}

static inline void ask_generate(struct front *f, const Diptych__V1__GenerateRequest *request,
                                struct answer *answer)
{
    ask(f, &(struct asking){.path = "/diptych.v1.ImageService/Generate", .is_events = true},
        &request->base, answer);
}

/* Asks and waits for the end. */
static inline void run_generate(struct front *f, const Diptych__V1__GenerateRequest *request,
                                struct answer *answer)
{
    ask_generate(f, request, answer);
    WAIT_UNTIL(f->loop, answer->closes);
}

/* Asks and waits for the first event: the request holds a place. */
static inline void admit_generate(struct front *f, const Diptych__V1__GenerateRequest *request,
                                  struct answer *answer)
{
    ask_generate(f, request, answer);
    WAIT_UNTIL(f->loop, answer->event_count > 0);
}

/* The same while nobody works at it. */
static inline void hold_generate(struct front *f, const Diptych__V1__GenerateRequest *request,
                                 struct answer *answer)
{
    dip_stub_hold(f->stub, true);
    admit_generate(f, request, answer);
}

static inline void ask_watch(struct front *f, const char *id, uint64_t after, struct answer *answer)
{
    Diptych__V1__WatchRequest request = DIPTYCH__V1__WATCH_REQUEST__INIT;
    request.request_id = (char *)(uintptr_t)id;
    request.after_sequence = after;
    ask(f, &(struct asking){.path = "/diptych.v1.ImageService/Watch", .is_events = true},
        &request.base, answer);
}

static inline int ask_cancel(struct front *f, const char *id, struct answer *answer)
{
    Diptych__V1__CancelRequest request = DIPTYCH__V1__CANCEL_REQUEST__INIT;
    ProtobufCMessage *message;
    answer_free(answer);
    request.request_id = (char *)(uintptr_t)id;
    request.reason = (char *)(uintptr_t) "the test says so";
    ask(f, &(struct asking){.path = "/diptych.v1.ImageService/Cancel"}, &request.base, answer);
    WAIT_UNTIL(f->loop, answer->closes);
    if (answer->code != DIP_RPC_OK)
        return -1;
    assert_int_equal(dip_proto_decode(&diptych__v1__cancel_response__descriptor, answer->reply,
                                      answer->reply_bytes, NULL, &message),
                     DIP_OK);
    int state = (int)((Diptych__V1__CancelResponse *)message)->state;
    dip_proto_free(message);
    return state;
}

static inline Diptych__V1__GenerateRequest a_request(const char *id)
{
    Diptych__V1__GenerateRequest request = DIPTYCH__V1__GENERATE_REQUEST__INIT;
    request.request_id = (char *)(uintptr_t)id;
    request.prompt = (char *)(uintptr_t) "a red circle";
    return request;
}

static inline Diptych__V1__Sampling with_steps(uint32_t steps)
{
    Diptych__V1__Sampling sampling = DIPTYCH__V1__SAMPLING__INIT;
    sampling.diffusion_steps_presence_case =
        DIPTYCH__V1__SAMPLING__DIFFUSION_STEPS_PRESENCE_DIFFUSION_STEPS;
    sampling.diffusion_steps = steps;
    return sampling;
}

/* ---- looking at answers ---- */

static inline int count_kind(const struct answer *answer, int kind)
{
    int count = 0;
    for (int i = 0; i < answer->event_count; i++)
        count += answer->events[i].kind == kind;
    return count;
}

static inline void check_sequence(const struct answer *answer)
{
    for (int i = 0; i < answer->event_count; i++)
        assert_int_equal(answer->events[i].sequence, i + 1);
}

static inline void check_error(const struct answer *answer, enum dip_reason reason)
{
    assert_int_equal(answer->closes, 1);
    if (answer->code != dip_reason_code(reason) || !answer->has_error ||
        answer->error.reason != reason)
        fail_msg("%s expected; code %d, %s: %s", dip_reason_name(reason), answer->code,
                 answer->has_error ? dip_reason_name(answer->error.reason) : "no details",
                 answer->text);
    assert_string_equal(answer->error.message, answer->text);
}

static inline const char *fact(const struct answer *answer, const char *key)
{
    for (int i = 0; i < answer->error.fact_count; i++)
        if (strcmp(answer->error.facts[i].key, key) == 0)
            return answer->error.facts[i].value;
    return "";
}

/* ---- setting up ---- */

static inline void front_connect(struct front *f)
{
    struct dip_why why = {0};
    char target[64];
    snprintf(target, sizeof target, "127.0.0.1:%d", dip_coordinator_daemon_port(f->daemon));
    if (dip_rpc_channel_open(&(struct dip_rpc_channel_options){.loop = f->loop,
                                                               .target = target,
                                                               .window_bytes = f->window_bytes},
                             &why, &f->channel))
        fail_msg("%s", why.text);
}

/* f->options and f->stub_options may have been filled in before. */
static inline void front_open(struct front *f)
{
    struct dip_why why = {0};
    alarm(250); /* a failed test may leave calls that nobody ends */
    assert_int_equal(
        dip_rpc_loop_new(&(struct dip_rpc_loop_options){.timer_count_max = 1 << 15}, &f->loop),
        DIP_OK);
    f->stub_options.loop = f->loop;
    if (!f->stub_options.member_count)
        f->stub_options.member_count = 2;
    if (!f->stub_options.slots)
        f->stub_options.slots = 4;
    assert_int_equal(dip_stub_new(&f->stub_options, &f->stub), DIP_OK);
    f->options.loop = f->loop;
    if (!f->has_hub)
        f->options.endpoint = dip_stub_endpoint(f->stub);
    f->options.model_directory = MODEL;
    f->options.model_name = "tiny";
    f->options.listen = f->options.listen ? f->options.listen : "127.0.0.1:0";
    f->options.epoch = f->options.epoch ? f->options.epoch : 1;
    f->options.expect_ns = f->options.expect_ns ? f->options.expect_ns : -1;
    if (dip_coordinator_daemon_start(&f->options, &why, &f->daemon))
        fail_msg("%s", why.text);
    if (!f->has_hub)
        dip_stub_join(f->stub, f->daemon);
    front_connect(f);
}

static inline void front_on_stopped(void *context)
{
    ((struct front *)context)->is_stopped = true;
}

/* Everything must end by itself: a record that is not freed is what asan is for. */
static inline void front_close(struct front *f)
{
    dip_rpc_channel_close(f->channel);
    if (!f->is_stopped)
        dip_coordinator_daemon_drain(f->daemon, 0, front_on_stopped, f);
    WAIT_UNTIL(f->loop, f->is_stopped);
    dip_coordinator_daemon_free(f->daemon);
    dip_stub_free(f->stub);
    dip_rpc_loop_stop(f->loop);
    dip_rpc_loop_run(f->loop);
    dip_rpc_loop_free(f->loop);
    memset(f, 0, sizeof *f);
}

/* ---- of every test ---- */

static struct front f;
static struct answer a, b, c;

static inline int front_setup(void **state)
{
    (void)state;
    memset(&f, 0, sizeof f);
    return 0;
}

static inline int front_teardown(void **state)
{
    (void)state;
    answer_free(&a);
    answer_free(&b);
    answer_free(&c);
    front_close(&f);
    return 0;
}
