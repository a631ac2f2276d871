/* net/etcd.c - the etcd client: calls that wait, run and end; watches that resume.
 *
 *     WAITING ──► RUNNING ──► ENDED ──► reply            a call
 *        ▲           │           │
 *        └───────────┴───────────┘ connect failed, token refused, watch interrupted
 *
 * Transfers only move bytes (net/etcd_transfer.c); what they mean is decided here, inside
 * dip_kv_next, one call after the other. */
#include "net/etcd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/rng.h"
#include "net/etcd_client.h"

#define WAIT_NS_DEFAULT    (12 * DIP_SECOND_NS / 10)
#define PROBE_NS_DEFAULT   (3 * DIP_SECOND_NS)
#define BACKOFF_NS_FIRST   (DIP_SECOND_NS / 10)
#define BACKOFF_NS_LONGEST (5 * DIP_SECOND_NS)

static struct etcd *etcd_of(struct dip_kv *kv)
{
    return (struct etcd *)kv; /* its first member */
}

/* ---- endpoints ---- */

/* Calls and watches go elsewhere from now on, unless somebody has already decided so. */
static void endpoint_failed(struct etcd *e, const struct etcd_call *call)
{
    e->stats.failures++;
    if (call->endpoint != e->preferred || e->endpoint_count == 1)
        return;
    e->preferred = (e->preferred + 1) % e->endpoint_count;
    e->stats.failovers++;
}

/* Something came: the endpoint lives. */
static void endpoint_heard(struct etcd *e, const struct etcd_call *call, int64_t now_ns)
{
    if (call->endpoint == e->preferred)
        e->heard_ns = now_ns;
}

/* Full jitter: anywhere between nothing and a ceiling that doubles. */
static int64_t backoff_ns(struct etcd *e, int failures)
{
    struct dip_rng_key key = {.seed = e->seed, .purpose = DIP_RNG_TEST};
    int64_t ceiling = BACKOFF_NS_FIRST;
    for (int i = 1; i < failures && ceiling < BACKOFF_NS_LONGEST; i++)
        ceiling *= 2;
    if (ceiling > BACKOFF_NS_LONGEST)
        ceiling = BACKOFF_NS_LONGEST;
    return (int64_t)((double)dip_rng_uniform(&key, e->draws++) * (double)ceiling);
}

/* ---- replies ---- */

static void set_reply(const struct etcd_call *call, enum dip_status status, const char *text,
                      struct dip_kv_reply *ret_reply)
{
    *ret_reply = (struct dip_kv_reply){
        .id = call->id, .kind = call->kind, .status = status, .is_last = true};
    snprintf(ret_reply->text, sizeof ret_reply->text, "%s", text);
}

/* "http://...: what happened". */
static void describe(const struct etcd *e, const struct etcd_call *call, const char *what,
                     char text[DIP_KV_TEXT_BYTES])
{
    snprintf(text, DIP_KV_TEXT_BYTES, "%.100s: %.90s", e->endpoints[call->endpoint], what);
}

static void call_free(struct etcd *e, struct etcd_call *call)
{
    dip__etcd_transfer_stop(e, call);
    dip__etcd_lines_free(&call->lines);
    free(call->body);
    *call = (struct etcd_call){0};
}

static bool end_call(struct etcd *e, struct etcd_call *call, enum dip_status status,
                     const char *text, struct dip_kv_reply *ret_reply)
{
    set_reply(call, status, text, ret_reply);
    call_free(e, call);
    return true;
}

/* ---- the token ---- */

/* etcd does not know us (any more): its token expired, or users changed or were switched on. */
static bool is_token_refused(const struct etcd *e, int code, const char *text)
{
    return e->user &&
           (code == DIP__ETCD_CODE_UNAUTHENTICATED || strstr(text, "invalid auth token") ||
            strstr(text, "user name is empty") || strstr(text, "auth store is old") ||
            strstr(text, "permission denied") || strstr(text, "PermissionDenied"));
}

static void token_drop(struct etcd *e)
{
    if (e->token_state == TOKEN_KNOWN)
        e->token_state = TOKEN_WANTED;
    e->token[0] = '\0';
}

static void token_failed(struct etcd *e, int64_t now_ns, enum dip_status status, const char *text)
{
    e->token_retry_ns = now_ns + backoff_ns(e, ++e->token_failures);
    e->token_state = TOKEN_FAILED;
    e->token_status = status;
    describe(e, &e->authentication, text, e->token_text);
}

static void token_answer(struct etcd *e, int64_t now_ns)
{
    struct etcd_call *call = &e->authentication;
    struct dip__etcd_answer answer = {0};
    enum dip_status status = dip__etcd_parse(DIP_KV_GRANT, call->lines.bytes + call->lines.begin,
                                             call->lines.end - call->lines.begin, &answer);
    if (status) {
        token_failed(e, now_ns, status, "no answer to a log-in");
    } else if (answer.token[0] || strstr(answer.text, "not enabled")) {
        memcpy(e->token, answer.token, sizeof e->token);
        e->token_failures = 0;
        e->token_state = TOKEN_KNOWN; /* empty when etcd has no users: then none is needed */
    } else {
        token_failed(e, now_ns, answer.code ? dip__etcd_status(answer.code) : DIP_CORRUPT,
                     answer.text);
    }
    dip__etcd_answer_free(&answer);
}

/* Moves the log-in on. It is asked for by the calls that wait for it. */
static void token_step(struct etcd *e, int64_t now_ns)
{
    struct etcd_call *call = &e->authentication;
    if (e->token_state == TOKEN_WANTED) {
        call->body = dip__etcd_body_authenticate(e->user, e->password);
        call->endpoint = e->preferred;
        e->stats.authentications++;
        e->token_state = TOKEN_ASKED;
        if (!call->body || dip__etcd_transfer_start(e, call, "/v3/auth/authenticate", now_ns))
            token_failed(e, now_ns, DIP_NO_MEMORY, "out of memory");
    }
    if (e->token_state == TOKEN_ASKED && call->state == CALL_ENDED) {
        if (call->transfer_status) {
            token_failed(e, now_ns, call->transfer_status, call->transfer_text);
            endpoint_failed(e, call);
        } else {
            token_answer(e, now_ns);
        }
    }
    if (e->token_state != TOKEN_ASKED)
        call_free(e, call);
}

/* ---- calls ---- */

static void call_wait(struct etcd *e, struct etcd_call *call, int64_t at_ns)
{
    dip__etcd_transfer_stop(e, call);
    dip__etcd_lines_clear(&call->lines);
    call->state = CALL_WAITING;
    call->retry_ns = at_ns;
}

static bool call_answer(struct etcd *e, struct etcd_call *call, int64_t now_ns,
                        struct dip_kv_reply *ret_reply)
{
    char text[DIP_KV_TEXT_BYTES];
    struct dip__etcd_answer *answer = &e->answer;
    enum dip_status status = dip__etcd_parse(call->kind, call->lines.bytes + call->lines.begin,
                                             call->lines.end - call->lines.begin, answer);
    if (status) {
        snprintf(text, sizeof text, "%.100s: HTTP %ld, and not etcd's words",
                 e->endpoints[call->endpoint], call->http_status);
        endpoint_failed(e, call);
        return end_call(e, call, status, text, ret_reply);
    }
    if (is_token_refused(e, answer->code, answer->text) && call->refusals++ == 0) {
        token_drop(e);
        dip__etcd_answer_free(answer);
        call_wait(e, call, now_ns);
        return false;
    }
    status = dip__etcd_status(answer->code);
    if (status == DIP_UNREACHABLE)
        endpoint_failed(e, call);
    describe(e, call, answer->text, text);
    end_call(e, call, status, answer->code ? text : "", ret_reply);
    ret_reply->is_done = answer->is_done;
    ret_reply->revision = answer->revision;
    ret_reply->lease = answer->lease;
    ret_reply->ttl_s = answer->ttl_s;
    ret_reply->entries = answer->entries;
    ret_reply->entry_count = answer->entry_count;
    return true;
}

static bool call_ended(struct etcd *e, struct etcd_call *call, int64_t now_ns,
                       struct dip_kv_reply *ret_reply)
{
    char text[DIP_KV_TEXT_BYTES];
    if (!call->transfer_status) {
        endpoint_heard(e, call, now_ns);
        return call_answer(e, call, now_ns, ret_reply);
    }
    describe(e, call, call->transfer_text, text);
    endpoint_failed(e, call);
    if (call->is_unsent && ++call->attempts < e->endpoint_count) {
        call_wait(e, call, now_ns);
        return false;
    }
    return end_call(e, call, call->transfer_status, text, ret_reply);
}

/* ---- watches ---- */

/* Takes it up again later; the owner hears of it once per interruption. */
static bool watch_interrupt(struct etcd *e, struct etcd_call *call, int64_t now_ns,
                            const char *what, struct dip_kv_reply *ret_reply)
{
    char text[DIP_KV_TEXT_BYTES];
    bool is_news = !call->is_interrupted;
    describe(e, call, what, text);
    call->is_interrupted = true;
    call->failures++;
    call_wait(e, call, now_ns + backoff_ns(e, call->failures));
    if (!is_news)
        return false;
    set_reply(call, DIP_UNREACHABLE, text, ret_reply);
    ret_reply->is_last = false;
    ret_reply->revision = call->watch_revision - 1;
    return true;
}

/* One line of the stream. The revision in its header may be ahead of the events told so far (etcd
 * catches up in batches, and its progress notices had bugs), so only events move us on. At worst a
 * watch resumes before a compaction, and the owner lists again. */
static bool watch_answer(struct etcd *e, struct etcd_call *call, int64_t now_ns,
                         struct dip_kv_reply *ret_reply)
{
    struct dip__etcd_answer *answer = &e->answer;
    if (answer->code != 0 || (answer->is_cancelled && answer->compact_revision == 0)) {
        if (is_token_refused(e, answer->code, answer->text))
            token_drop(e);
        else
            endpoint_failed(e, call);
        return watch_interrupt(e, call, now_ns, answer->text, ret_reply);
    }
    if (answer->is_cancelled) {
        int64_t revision = answer->compact_revision;
        end_call(e, call, DIP_STALE, "the history was compacted", ret_reply);
        ret_reply->revision = revision;
        return true;
    }
    int64_t seen = 0;
    if (answer->is_created && call->watch_revision == 0)
        seen = answer->revision;
    if (answer->entry_count > 0)
        seen = answer->entries[answer->entry_count - 1].mod_revision;
    if (seen >= call->watch_revision)
        call->watch_revision = seen + 1;
    set_reply(call, DIP_OK, "", ret_reply);
    ret_reply->is_last = false;
    ret_reply->is_resumed = answer->is_created && call->is_interrupted;
    ret_reply->revision = call->watch_revision - 1;
    ret_reply->entries = answer->entries;
    ret_reply->entry_count = answer->entry_count;
    e->stats.watch_resumes += ret_reply->is_resumed;
    call->is_standing = true;
    call->is_interrupted = false;
    call->failures = 0;
    return true;
}

static bool watch_step(struct etcd *e, struct etcd_call *call, int64_t now_ns,
                       struct dip_kv_reply *ret_reply)
{
    const char *text;
    size_t bytes;
    if (dip__etcd_lines_next(&call->lines, &text, &bytes)) {
        endpoint_heard(e, call, now_ns);
        if (!dip__etcd_parse(DIP_KV_WATCH, text, bytes, &e->answer))
            return watch_answer(e, call, now_ns, ret_reply);
        endpoint_failed(e, call);
        return watch_interrupt(e, call, now_ns, "not etcd's words", ret_reply);
    }
    if (call->state == CALL_ENDED) {
        struct dip__etcd_answer *answer = &e->answer;
        bool is_error = !call->transfer_status && call->lines.end > call->lines.begin &&
                        !dip__etcd_parse(DIP_KV_WATCH, call->lines.bytes + call->lines.begin,
                                         call->lines.end - call->lines.begin, answer);
        if (is_error) /* an error before the stream began has no line end */
            return watch_answer(e, call, now_ns, ret_reply);
        endpoint_failed(e, call);
        return watch_interrupt(e, call, now_ns,
                               call->transfer_status ? call->transfer_text : "the stream ended",
                               ret_reply);
    }
    if (!call->is_standing && now_ns >= call->stand_ns) {
        endpoint_failed(e, call);
        return watch_interrupt(e, call, now_ns, "the watch was not answered", ret_reply);
    }
    if (call->is_hung)
        return watch_interrupt(e, call, now_ns, "does not say whether it lives", ret_reply);
    if (call->endpoint != e->preferred) {
        call->failures = 0; /* it is the endpoint that failed */
        return watch_interrupt(e, call, now_ns, "left this endpoint", ret_reply);
    }
    return false;
}

/* A watch begins at the first revision that was not told. */
static bool watch_body(struct etcd_call *call)
{
    struct dip_kv_request request = {
        .kind = DIP_KV_WATCH, .key = call->key, .revision = call->watch_revision};
    free(call->body);
    call->body = dip__etcd_body(&request);
    return call->body != NULL;
}

static bool call_begin(struct etcd *e, struct etcd_call *call, int64_t now_ns,
                       struct dip_kv_reply *ret_reply)
{
    bool is_watch = call->kind == DIP_KV_WATCH;
    if (now_ns < call->retry_ns || e->token_state == TOKEN_ASKED)
        return false;
    if (e->token_state == TOKEN_WANTED)
        return false; /* the next turn asks */
    if (e->token_state == TOKEN_FAILED) {
        /* Who waits now is told; who comes later has it tried again. */
        if (is_watch)
            return watch_interrupt(e, call, now_ns, e->token_text, ret_reply);
        return end_call(e, call, e->token_status, e->token_text, ret_reply);
    }
    call->endpoint = e->preferred;
    call->is_standing = false;
    call->is_hung = false;
    call->stand_ns = now_ns + e->call_wait_ns;
    if ((is_watch && !watch_body(call)) ||
        dip__etcd_transfer_start(e, call, dip__etcd_path(call->kind), now_ns))
        return end_call(e, call, DIP_NO_MEMORY, "out of memory", ret_reply);
    return false;
}

/* ---- silence ---- */

/* A watch that stands where everything goes; others are about to leave. */
static bool is_watching(const struct etcd *e)
{
    for (int i = 0; i < ETCD_CALLS_MAX; i++) {
        const struct etcd_call *call = &e->calls[i];
        if (call->id != 0 && call->kind == DIP_KV_WATCH && call->is_standing &&
            call->state == CALL_RUNNING && call->endpoint == e->preferred)
            return true;
    }
    return false;
}

/* A watch is silent when nothing changes and when its member is frozen or cut off. Who makes no
 * calls would never learn which: any answer to a question of our own tells. */
static void probe_step(struct etcd *e, int64_t now_ns)
{
    struct etcd_call *probe = &e->probe;
    if (probe->state == CALL_ENDED) {
        for (int i = 0; i < ETCD_CALLS_MAX && probe->transfer_status; i++)
            e->calls[i].is_hung |= e->calls[i].endpoint == probe->endpoint;
        if (probe->transfer_status)
            endpoint_failed(e, probe);
        e->heard_ns = now_ns; /* or the next endpoint's time begins now */
        call_free(e, probe);
    }
    if (probe->state == CALL_RUNNING && probe->endpoint != e->preferred)
        call_free(e, probe);
    if (probe->state != CALL_FREE || now_ns < e->heard_ns + e->probe_ns || !is_watching(e))
        return;
    *probe = (struct etcd_call){.endpoint = e->preferred, .body = strdup("{}")};
    if (!probe->body || dip__etcd_transfer_start(e, probe, "/v3/maintenance/status", now_ns)) {
        call_free(e, probe);
        e->heard_ns = now_ns; /* out of memory: later */
    }
}

static bool call_step(struct etcd *e, struct etcd_call *call, int64_t now_ns,
                      struct dip_kv_reply *ret_reply)
{
    if (call->state == CALL_WAITING)
        return call_begin(e, call, now_ns, ret_reply);
    if (call->kind == DIP_KV_WATCH)
        return watch_step(e, call, now_ns, ret_reply);
    return call->state == CALL_ENDED && call_ended(e, call, now_ns, ret_reply);
}

/* ---- what a store does ---- */

static struct etcd_call *call_find(struct etcd *e, uint64_t id)
{
    for (int i = 0; i < ETCD_CALLS_MAX; i++)
        if (e->calls[i].id == id)
            return &e->calls[i];
    return NULL;
}

static enum dip_status etcd_send(struct dip_kv *kv, int64_t now_ns,
                                 const struct dip_kv_request *request)
{
    struct etcd *e = etcd_of(kv);
    dip_assert(!call_find(e, request->id));
    struct etcd_call *call = call_find(e, 0);
    if (!call)
        return DIP_BUSY;
    char *body = dip__etcd_body(request);
    if (!body)
        return DIP_NO_MEMORY;
    *call = (struct etcd_call){.id = request->id,
                               .kind = request->kind,
                               .state = CALL_WAITING,
                               .body = body,
                               .watch_revision = request->revision,
                               .retry_ns = now_ns};
    if (request->key)
        snprintf(call->key, sizeof call->key, "%s", request->key);
    if (e->token_state == TOKEN_FAILED)
        e->token_state = TOKEN_WANTED;
    e->stats.calls++;
    struct dip_kv_reply unused;
    if (e->token_state == TOKEN_KNOWN)
        (void)call_begin(e, call, now_ns, &unused); /* out of memory is told by the next turn */
    return call->id ? DIP_OK : DIP_NO_MEMORY;
}

static void etcd_cancel(struct dip_kv *kv, uint64_t id)
{
    struct etcd_call *call = id != 0 ? call_find(etcd_of(kv), id) : NULL;
    if (call)
        call_free(etcd_of(kv), call);
}

/* A wait that would pass the moment at which a call has something to do is cut short. */
static void etcd_poll(struct dip_kv *kv, int64_t now_ns, int64_t wait_ns)
{
    struct etcd *e = etcd_of(kv);
    for (int i = 0; i < ETCD_CALLS_MAX; i++) {
        const struct etcd_call *call = &e->calls[i];
        int64_t at_ns = now_ns + wait_ns;
        if (call->id == 0)
            continue;
        if (call->state == CALL_ENDED)
            at_ns = now_ns;
        else if (call->state == CALL_WAITING && e->token_state != TOKEN_ASKED)
            at_ns = call->retry_ns;
        else if (call->kind == DIP_KV_WATCH && !call->is_standing)
            at_ns = call->stand_ns;
        if (at_ns - now_ns < wait_ns)
            wait_ns = at_ns > now_ns ? at_ns - now_ns : 0;
    }
    int64_t probe_ns = e->heard_ns + e->probe_ns - now_ns;
    if (e->probe.state == CALL_FREE && probe_ns < wait_ns && is_watching(e))
        wait_ns = probe_ns > 0 ? probe_ns : 0;
    dip__etcd_transfer_poll(e, wait_ns);
}

static bool etcd_next(struct dip_kv *kv, int64_t now_ns, struct dip_kv_reply *ret_reply)
{
    struct etcd *e = etcd_of(kv);
    dip__etcd_answer_free(&e->answer);
    if (e->token_state == TOKEN_WANTED || e->token_state == TOKEN_ASKED)
        token_step(e, now_ns);
    probe_step(e, now_ns);
    bool is_waiting = false;
    for (int i = 0; i < ETCD_CALLS_MAX; i++) {
        struct etcd_call *call = &e->calls[e->turn++ % ETCD_CALLS_MAX];
        if (call->id != 0 && call_step(e, call, now_ns, ret_reply))
            return true;
        dip__etcd_answer_free(&e->answer);
        is_waiting = is_waiting || (call->id != 0 && call->state == CALL_WAITING);
    }
    if (e->token_state == TOKEN_FAILED && is_waiting && now_ns >= e->token_retry_ns)
        e->token_state = TOKEN_WANTED; /* watches that wait out their backoff */
    return false;
}

static void etcd_wake(struct dip_kv *kv)
{
    dip__etcd_transfer_wake(etcd_of(kv));
}

static void etcd_close(struct dip_kv *kv)
{
    struct etcd *e = etcd_of(kv);
    for (int i = 0; i < ETCD_CALLS_MAX; i++)
        call_free(e, &e->calls[i]);
    call_free(e, &e->authentication);
    call_free(e, &e->probe);
    dip__etcd_answer_free(&e->answer);
    dip__etcd_transfer_close(e);
    free(e->ca);
    free(e->cert);
    free(e->key);
    free(e->user);
    free(e->password);
    free(e);
}

struct dip_etcd_stats dip_etcd_stats(const struct dip_kv *kv)
{
    const struct etcd *e = (const struct etcd *)kv;
    struct dip_etcd_stats stats = e->stats;
    stats.endpoint = e->endpoints[e->preferred];
    return stats;
}

/* ---- opening ---- */

/* False when it is no http or https URL, or too long. */
static bool take_endpoint(struct etcd *e, const char *text, size_t bytes)
{
    char *url = e->endpoints[e->endpoint_count];
    if (bytes >= DIP_ETCD_URL_BYTES)
        return false;
    memcpy(url, text, bytes);
    url[bytes] = '\0';
    if (strncmp(url, "http://", 7) != 0 && strncmp(url, "https://", 8) != 0)
        return false;
    if (!dip__etcd_url_is_sound(url))
        return false;
    while (url[bytes - 1] == '/') /* paths are added to it */
        url[--bytes] = '\0';
    e->endpoint_count++;
    return true;
}

static enum dip_status read_endpoints(struct etcd *e, const char *list, struct dip_why *why)
{
    for (const char *at = list; at && *at;) {
        size_t bytes = strcspn(at, ",");
        if (e->endpoint_count == DIP_ETCD_ENDPOINTS_MAX)
            return dip_fail(why, DIP_INVALID, "etcd: more than %d endpoints",
                            DIP_ETCD_ENDPOINTS_MAX);
        if (!take_endpoint(e, at, bytes))
            return dip_fail(why, DIP_INVALID,
                            "etcd: endpoint \"%.*s\" is not like http://10.0.0.1:2379",
                            (int)(bytes > 100 ? 100 : bytes), at);
        at += bytes;
        at += *at == ',';
    }
    if (e->endpoint_count == 0)
        return dip_fail(why, DIP_INVALID, "etcd: no endpoint was given");
    return DIP_OK;
}

/* What cannot work is said at the start; a store that is away may come back. */
static enum dip_status check_credentials(const struct dip_etcd_options *o, struct dip_why *why)
{
    const char *files[] = {o->ca, o->cert, o->key};
    if (!o->cert != !o->key)
        return dip_fail(why, DIP_INVALID,
                        "etcd: a certificate needs its key, and a key needs its "
                        "certificate: give --etcd-cert and --etcd-key");
    if (o->password && !o->user)
        return dip_fail(why, DIP_INVALID, "etcd: a password needs a user: give --etcd-user");
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        struct dip_map map = {0};
        if (files[i])
            DIP_TRY(dip_map_open(files[i], why, &map));
        dip_map_close(&map);
    }
    return DIP_OK;
}

static bool copy_text(const char *text, char **ret_copy)
{
    *ret_copy = text ? strdup(text) : NULL;
    return !text || *ret_copy;
}

enum dip_status dip_etcd_open(const struct dip_etcd_options *options, struct dip_why *why,
                              struct dip_kv **ret_kv)
{
    static const struct dip_kv_ops ops = {
        .send = etcd_send,
        .cancel = etcd_cancel,
        .poll = etcd_poll,
        .next = etcd_next,
        .wake = etcd_wake,
        .close = etcd_close,
    };
    DIP_TRY(check_credentials(options, why));
    struct etcd *e = calloc(1, sizeof *e);
    enum dip_status status = DIP_NO_MEMORY;
    if (!e)
        return dip_fail(why, DIP_NO_MEMORY, "etcd: out of memory");
    e->kv.ops = &ops;
    e->seed = options->seed;
    e->call_wait_ns = options->call_wait_ns > 0 ? options->call_wait_ns : WAIT_NS_DEFAULT;
    e->probe_ns = options->probe_ns > 0 ? options->probe_ns : PROBE_NS_DEFAULT;
    e->token_state = options->user ? TOKEN_WANTED : TOKEN_KNOWN;
    if (!copy_text(options->ca, &e->ca) || !copy_text(options->cert, &e->cert) ||
        !copy_text(options->key, &e->key) || !copy_text(options->user, &e->user) ||
        !copy_text(options->password ? options->password : "", &e->password))
        goto out;
    status = read_endpoints(e, options->endpoints, why);
    if (status)
        goto out;
    status = dip__etcd_transfer_open(e);
    if (status)
        goto out;
    *ret_kv = &e->kv;
    e = NULL;
out:
    if (e)
        etcd_close(&e->kv);
    if (status == DIP_NO_MEMORY)
        (void)dip_fail(why, status, "etcd: out of memory");
    return status;
}
