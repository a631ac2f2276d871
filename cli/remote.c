/* cli/remote.c - see cli/remote.h. */
#include "cli/remote.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cli/signals.h"
#include "proto/wire.h"

enum { TURN_NS = 20 * DIP_MS_NS };
#define AVOID_NS (10 * DIP_SECOND_NS)

/* ---- the channel ---- */

static enum dip_status channel_open(struct remote *remote, struct dip_why *why)
{
    struct dip_rpc_channel_options options = {.loop = remote->loop,
                                              .target = remote->target,
                                              .tls = remote->tls,
                                              .tls_name = remote->tls_name};
    return dip_rpc_channel_open(&options, why, &remote->channel);
}

/* "host:port,host:port" */
static enum dip_status take_servers(const char *list, struct dip_why *why, struct remote *remote)
{
    for (const char *at = list; *at; at += *at == ',') {
        size_t bytes = strcspn(at, ",");
        if (bytes >= REMOTE_TARGET_BYTES)
            return dip_fail(why, DIP_LIMIT, "--server is longer than %d bytes",
                            REMOTE_TARGET_BYTES - 1);
        if (remote->server_count == REMOTE_SERVERS_MAX)
            return dip_fail(why, DIP_LIMIT, "--server names more than %d coordinators",
                            REMOTE_SERVERS_MAX);
        if (bytes > 0)
            memcpy(remote->servers[remote->server_count++], at, bytes);
        at += bytes;
    }
    if (remote->server_count == 0)
        return dip_fail(why, DIP_INVALID, "--server names no coordinator");
    memcpy(remote->target, remote->servers[0], sizeof remote->target);
    return DIP_OK;
}

static enum dip_status take_texts(const struct options *o, struct dip_why *why,
                                  struct remote *remote)
{
    DIP_TRY(take_servers(o->server ? o->server : REMOTE_SERVER_DEFAULT, why, remote));
    if (o->token && strlen(o->token) > REMOTE_TOKEN_BYTES)
        return dip_fail(why, DIP_LIMIT, "--token is longer than %d bytes", REMOTE_TOKEN_BYTES);
    if (o->token)
        snprintf(remote->authorization, sizeof remote->authorization, "Bearer %s", o->token);
    if (!o->tls_ca && (o->tls_cert || o->tls_key || o->tls_name))
        return dip_fail(why, DIP_INVALID, "--tls-%s needs --tls-ca FILE",
                        o->tls_cert  ? "cert"
                        : o->tls_key ? "key"
                                     : "name");
    return DIP_OK;
}

enum dip_status dip__remote_open(const struct options *options, int64_t timeout_s,
                                 struct dip_why *why, struct remote *ret_remote)
{
    struct remote remote = {.tls_name = options->tls_name,
                            .has_certificate = options->tls_cert != NULL};
    if (dip__is_given(options, &options->timeout))
        timeout_s = options->timeout;
    remote.deadline_ns = dip_clock_now_ns() + timeout_s * DIP_SECOND_NS;
    enum dip_status status = take_texts(options, why, &remote);
    if (status)
        goto out;
    struct dip_rpc_tls_files files = {options->tls_cert, options->tls_key, options->tls_ca};
    if (options->tls_ca)
        status = dip_rpc_tls_open(&files, why, &remote.tls);
    if (!status)
        status = dip_rpc_loop_new(&(struct dip_rpc_loop_options){.call_count_max = 16,
                                                                 .post_count_max = 16,
                                                                 .timer_count_max = 16},
                                  &remote.loop);
    if (!status)
        status = channel_open(&remote, why);
    if (status)
        goto out;
    *ret_remote = remote;
    return DIP_OK;
out:
    dip__remote_close(&remote);
    return dip_fail(why, status, "--server: %s", dip_status_text(status));
}

void dip__remote_close(struct remote *remote)
{
    if (remote->channel)
        dip_rpc_channel_close(remote->channel);
    if (remote->loop) {
        dip_rpc_loop_stop(remote->loop);
        dip_rpc_loop_run(remote->loop); /* until nothing is left on it */
        dip_rpc_loop_free(remote->loop);
    }
    dip_rpc_tls_close(remote->tls);
    *remote = (struct remote){0};
}

/* ---- one call ---- */

static void on_message(void *context, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    (void)call;
    struct remote_call *c = context;
    c->silence_ns = 0;
    c->on_message(c->context, data, bytes);
}

/* Texts of a peer go to a terminal. */
static void clean(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            *text = '?';
}

static void on_close(void *context, struct dip_rpc_call *call, const struct dip_rpc_status *status)
{
    (void)call;
    struct remote_call *c = context;
    struct remote_end *end = &c->end;
    c->call = NULL;
    end->code = status->code;
    end->has_pushback = status->has_pushback;
    end->pushback_ns = status->pushback_ns;
    snprintf(end->message, sizeof end->message, "%s", status->message ? status->message : "");
    if (status->details_bytes > 0)
        end->has_error =
            dip_error_decode(status->details, status->details_bytes, &end->error) == DIP_OK;
    clean(end->message);
    clean(end->error.message);
    for (int i = 0; i < end->error.field_count; i++) {
        clean(end->error.fields[i].field);
        clean(end->error.fields[i].text);
    }
}

static const struct dip_rpc_handler handler = {.on_message = on_message, .on_close = on_close};

enum dip_status dip__remote_begin(struct remote *remote, const char *path,
                                  const ProtobufCMessage *request, struct remote_call *call)
{
    void *data = NULL;
    size_t bytes = 0;
    struct dip_rpc_pair headers[] = {{"authorization", remote->authorization}};
    call->end = (struct remote_end){0};
    call->silence_ns = 0;
    DIP_TRY(dip_proto_encode(request, &data, &bytes));
    enum dip_status status = dip_rpc_call_open(
        remote->channel,
        &(struct dip_rpc_call_options){.path = path,
                                       .deadline_ns = remote->deadline_ns,
                                       .headers = headers,
                                       .header_count = remote->authorization[0] ? 1 : 0,
                                       .handler = &handler,
                                       .context = call},
        &call->call);
    if (!status)
        status = dip_rpc_call_send(call->call, data, bytes, 0);
    if (!status)
        data = NULL; /* the call's now */
    free(data);
    if (!status)
        dip_rpc_call_half_close(call->call);
    return status;
}

/* A turn that took much longer than it may says that this process stood still, not the other. */
static void count_silence(struct remote_call *call, int64_t turn_ns)
{
    call->silence_ns += turn_ns < 5 * TURN_NS ? turn_ns : TURN_NS;
    if (!call->call || !call->silence_ns_max || call->silence_ns < call->silence_ns_max)
        return;
    char text[64];
    snprintf(text, sizeof text, "nothing was heard for %lld s",
             (long long)(call->silence_ns_max / DIP_SECOND_NS));
    call->end.is_silent = true;
    dip_rpc_call_cancel(call->call, DIP_RPC_UNAVAILABLE, text);
}

void dip__remote_turn(struct remote *remote, struct remote_call *call, int64_t wait_ns)
{
    int64_t now_ns = dip_clock_now_ns(), until_ns = now_ns + wait_ns;
    while (call->call && now_ns < until_ns && !dip__signals_came()) {
        int64_t left_ns = until_ns - now_ns, begin_ns = now_ns;
        dip_rpc_loop_turn(remote->loop, left_ns < TURN_NS ? left_ns : TURN_NS);
        now_ns = dip_clock_now_ns();
        count_silence(call, now_ns - begin_ns);
    }
}

void dip__remote_cancel(struct remote *remote, struct remote_call *call)
{
    if (call->call)
        dip_rpc_call_cancel(call->call, DIP_RPC_CANCELLED, "the client stopped");
    while (call->call)
        dip_rpc_loop_turn(remote->loop, TURN_NS);
}

/* ---- again? ---- */

static const char *fact_of(const struct dip_error *error, const char *key)
{
    for (int i = 0; i < error->fact_count; i++)
        if (strcmp(error->facts[i].key, key) == 0)
            return error->facts[i].value;
    return NULL;
}

bool dip__remote_has_fact(const struct remote_end *end, const char *key, const char *value)
{
    const char *fact = end->has_error ? fact_of(&end->error, key) : NULL;
    return fact && strcmp(fact, value) == 0;
}

/* The leader that a coordinator names; NULL when it names none. */
static const char *leader_of(const struct remote_end *end)
{
    if (!end->has_error || end->error.reason != DIP_REASON_NOT_LEADER)
        return NULL;
    const char *leader = fact_of(&end->error, "leader");
    return leader && leader[0] ? leader : NULL;
}

static bool move_to(struct remote *remote, const char *target)
{
    struct dip_rpc_channel *old = remote->channel;
    snprintf(remote->target, sizeof remote->target, "%s", target);
    if (channel_open(remote, NULL)) {
        remote->channel = old;
        return false;
    }
    dip_rpc_channel_close(old);
    remote->has_moved = true;
    return true;
}

/* Where the user said that somebody is; also back from a leader that is gone. */
static void move_on(struct remote *remote)
{
    remote->server = (remote->server + 1) % remote->server_count;
    const char *next = remote->servers[remote->server];
    if (strcmp(next, remote->target) != 0)
        (void)move_to(remote, next); /* or the same once more */
}

/* Whoever is silent: away from it, or at least from the connection, which may be the dead part. */
static void leave_silent(struct remote *remote)
{
    char was[REMOTE_TARGET_BYTES];
    memcpy(was, remote->target, sizeof was);
    memcpy(remote->silent, was, sizeof was);
    remote->silent_until_ns = dip_clock_now_ns() + AVOID_NS;
    move_on(remote);
    if (strcmp(was, remote->target) == 0)
        (void)move_to(remote, was);
}

static bool is_avoided(const struct remote *remote, const char *target)
{
    return dip_clock_now_ns() < remote->silent_until_ns && strcmp(remote->silent, target) == 0;
}

/* 0.2 s, doubling to 5 s, each between half and all of it, so that a crowd spreads. */
static int64_t backoff_ns(int attempts)
{
    int64_t full_ns = INT64_C(200) * DIP_MS_NS << (attempts < 5 ? attempts : 5);
    if (full_ns > 5 * DIP_SECOND_NS)
        full_ns = 5 * DIP_SECOND_NS;
    return full_ns / 2 + (int64_t)(dip_entropy_seed() % (uint64_t)(full_ns / 2));
}

bool dip__remote_may_retry(struct remote *remote, const struct remote_end *end,
                           struct remote_retry *retry)
{
    bool is_refusal_final = end->has_pushback && end->pushback_ns < 0;
    bool is_several = remote->has_moved || remote->server_count > 1;
    int attempts_max = retry->attempts_max ? retry->attempts_max
                       : is_several        ? REMOTE_RETURNS_MAX
                                           : REMOTE_ATTEMPTS_MAX;
    /* A server that stops cancels what came too late for a word of its own. */
    bool is_away =
        end->code == DIP_RPC_UNAVAILABLE || (end->code == DIP_RPC_CANCELLED && !end->has_error);
    if (!is_away || is_refusal_final || ++retry->attempts >= attempts_max)
        return false;
    const char *leader = leader_of(end);
    if (leader && !is_avoided(remote, leader) && move_to(remote, leader)) {
        retry->wait_ns = 0;
        return true;
    }
    if (end->is_silent)
        leave_silent(remote);
    else if (!end->has_error || end->error.reason == DIP_REASON_NOT_LEADER ||
             end->error.reason == DIP_REASON_NO_WORKERS)
        move_on(remote); /* another one may know better */
    retry->wait_ns = backoff_ns(retry->attempts - 1);
    int64_t asked_ns = end->has_pushback                        ? end->pushback_ns
                       : end->has_error && end->error.has_retry ? end->error.retry_ns
                                                                : 0;
    if (asked_ns > retry->wait_ns)
        retry->wait_ns = asked_ns;
    return true;
}

bool dip__remote_wait(struct remote *remote, int64_t wait_ns)
{
    int64_t until_ns = dip_clock_now_ns() + wait_ns;
    if (remote->deadline_ns && until_ns >= remote->deadline_ns)
        return false;
    while (dip_clock_now_ns() < until_ns && !dip__signals_came())
        dip_rpc_loop_turn(remote->loop, TURN_NS);
    return !dip__signals_came();
}

/* ---- a call with one answer ---- */

struct answer {
    const ProtobufCMessageDescriptor *type;
    ProtobufCMessage *message;
    enum dip_status status;
};

static void take_answer(void *context, const void *data, size_t bytes)
{
    struct answer *answer = context;
    dip_proto_free(answer->message);
    answer->message = NULL;
    answer->status = dip_proto_decode(answer->type, data, bytes, NULL, &answer->message);
}

enum dip_status dip__remote_ask(struct remote *remote, const char *path,
                                const ProtobufCMessage *request,
                                const ProtobufCMessageDescriptor *answer_type,
                                struct remote_end *ret_end, ProtobufCMessage **ret_answer)
{
    struct answer answer = {.type = answer_type};
    struct remote_call call = {
        .silence_ns_max = REMOTE_SILENCE_NS, .on_message = take_answer, .context = &answer};
    struct remote_retry retry = {0};
    for (;;) {
        DIP_TRY(dip__remote_begin(remote, path, request, &call));
        while (call.call && !dip__signals_came())
            dip__remote_turn(remote, &call, DIP_SECOND_NS);
        dip__remote_cancel(remote, &call);
        if (dip__signals_came() || !dip__remote_may_retry(remote, &call.end, &retry) ||
            !dip__remote_wait(remote, retry.wait_ns))
            break;
    }
    if (dip__signals_came() || answer.status || call.end.code != DIP_RPC_OK) {
        dip_proto_free(answer.message);
        answer.message = NULL;
    }
    *ret_end = call.end;
    *ret_answer = answer.message;
    return dip__signals_came() ? DIP_CANCELLED : answer.status;
}

/* ---- in words ---- */

/* What to do, by reason; NULL = the message says it. */
static const char *fix_of(enum dip_reason reason)
{
    switch (reason) {
    case DIP_REASON_NO_CREDENTIAL:
        return "set DIPTYCH_TOKEN, or give --token";
    case DIP_REASON_BAD_CREDENTIAL:
        return "check DIPTYCH_TOKEN: the server does not know this token";
    case DIP_REASON_ROLE_REQUIRED:
        return "use a token with the scope that this needs";
    case DIP_REASON_OVERLOADED:
    case DIP_REASON_QUOTA:
        return "try again later, or ask for less at a time";
    case DIP_REASON_NO_WORKERS:
        return "look at diptych status: workers of a panel are missing or still starting";
    case DIP_REASON_NOT_LEADER:
        return "try again in a moment: the coordinators are choosing a leader";
    case DIP_REASON_DRAINING:
        return "use another coordinator, or wait until this one is back";
    case DIP_REASON_WORKER_LOST:
        return "run the same command again; diptych status shows what happened to the workers";
    case DIP_REASON_QUEUE_TIME:
    case DIP_REASON_DEADLINE:
        return "give it more time with --timeout";
    case DIP_REASON_WORKER_UNKNOWN:
        return "diptych status lists the members";
    case DIP_REASON_BUG:
        return "this is a mistake in the server: please report it with the server's log";
    default:
        return NULL;
    }
}

static enum exit_code exit_of(const struct remote_end *end)
{
    switch (end->code) {
    case DIP_RPC_INVALID_ARGUMENT:
        return EXIT_USAGE;
    case DIP_RPC_INTERNAL:
    case DIP_RPC_DATA_LOSS:
    case DIP_RPC_CANCELLED:
        return EXIT_FAILED;
    default:
        return EXIT_CLUSTER;
    }
}

static bool says(const struct remote_end *end, const char *const *words, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (strcasestr(end->message, words[i]))
            return true;
    return false;
}

/* A server that does not like how we come only hangs up; what we lack is known here alone. */
static const char *reach_fix(const struct remote *remote, const struct remote_end *end)
{
    static const char *const hung_up[] = {"socket closed", "reset", "broken pipe", "alert"};
    static const char *const unverified[] = {"verif", "hostname", "peer name", "peer check"};
    static const char *const not_tls[] = {"wrong version", "wrong_version", "http_request"};
    if (remote->tls && says(end, not_tls, sizeof not_tls / sizeof not_tls[0]))
        return "it seems to speak plaintext: leave out --tls-ca, or give it a TLS certificate";
    if (remote->tls && says(end, unverified, sizeof unverified / sizeof unverified[0]))
        return "its certificate must lead to a root in --tls-ca and bear the host's name, or that "
               "of --tls-name";
    bool was_refused = strstr(end->message, "failed to connect") &&
                       says(end, hung_up, sizeof hung_up / sizeof hung_up[0]);
    if (!was_refused)
        return "check the address and that it runs; diptych up starts a cluster here";
    if (!remote->tls)
        return "it hung up: if it wants TLS, give --tls-ca, and --tls-cert and --tls-key if it "
               "asks for a certificate";
    if (!remote->has_certificate)
        return "it hung up: if it asks for a certificate, give --tls-cert and --tls-key";
    return "it hung up: the certificate of --tls-cert must lead to a root that it trusts";
}

static void print_unexplained(const struct remote *remote, const struct remote_end *end)
{
    if (end->code == DIP_RPC_UNAVAILABLE)
        fprintf(stderr, "error: cannot reach a coordinator at %s (%s)\n  fix: %s\n", remote->target,
                end->message, reach_fix(remote, end));
    else if (end->code == DIP_RPC_DEADLINE_EXCEEDED)
        fprintf(stderr,
                "error: %s did not finish in time\n  fix: give it more time with --timeout\n",
                remote->target);
    else if (end->code == DIP_RPC_UNIMPLEMENTED)
        fprintf(stderr,
                "error: %s does not offer this call (%s)\n"
                "  fix: check that it is a diptych coordinator and not older than this program\n",
                remote->target, end->message);
    else
        fprintf(stderr, "error: %s answered %s: %s\n", remote->target, dip_rpc_code_name(end->code),
                end->message);
}

enum exit_code dip__remote_fail(const struct remote *remote, const struct remote_end *end)
{
    if (!end->has_error) {
        print_unexplained(remote, end);
        return exit_of(end);
    }
    const struct dip_error *error = &end->error;
    const char *fix = fix_of(error->reason);
    fprintf(stderr, "error: %s (%s)\n", error->message, dip_reason_name(error->reason));
    for (int i = 0; i < error->field_count; i++)
        fprintf(stderr, "  %s: %s\n", error->fields[i].field, error->fields[i].text);
    if (error->has_retry && error->retry_ns > 0)
        fprintf(stderr, "  the server asks for a pause of %.1f s\n", (double)error->retry_ns / 1e9);
    if (fix)
        fprintf(stderr, "  fix: %s\n", fix);
    return exit_of(end);
}
