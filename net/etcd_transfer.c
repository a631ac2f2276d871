/* net/etcd_transfer.c - libcurl: one POST per call, many at a time, on the caller's thread. */
#include <curl/curl.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "net/etcd_client.h"

enum { WAIT_MS_MAX = 60000 };

enum dip_status dip__etcd_transfer_open(struct etcd *e)
{
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        return DIP_NO_MEMORY;
    e->multi = curl_multi_init();
    if (e->multi)
        return DIP_OK;
    curl_global_cleanup();
    return DIP_NO_MEMORY;
}

void dip__etcd_transfer_close(struct etcd *e)
{
    if (!e->multi)
        return;
    curl_multi_cleanup(e->multi);
    curl_global_cleanup();
}

bool dip__etcd_url_is_sound(const char *url)
{
    CURLU *parts = curl_url();
    char *host = NULL;
    bool is_sound = parts && curl_url_set(parts, CURLUPART_URL, url, 0) == CURLUE_OK &&
                    curl_url_get(parts, CURLUPART_HOST, &host, 0) == CURLUE_OK;
    curl_free(host);
    curl_url_cleanup(parts);
    return is_sound;
}

static size_t take_bytes(char *data, size_t size, size_t count, void *context)
{
    struct etcd_call *call = context;
    size_t bytes = size * count;
    /* Anything but the count ends the transfer. */
    return dip__etcd_lines_push(&call->lines, data, bytes) ? 0 : bytes;
}

static bool set_headers(const struct etcd *e, struct etcd_call *call)
{
    char token[DIP__ETCD_TOKEN_BYTES + 32];
    struct curl_slist *list = curl_slist_append(NULL, "Content-Type: application/json");
    struct curl_slist *longer = list;
    snprintf(token, sizeof token, "Authorization: %s", e->token);
    if (longer && e->token[0])
        longer = curl_slist_append(list, token);
    /* A member that has lost its leader ends the watch instead of keeping it open in silence. */
    if (longer && call->kind == DIP_KV_WATCH)
        longer = curl_slist_append(list, "Grpc-Metadata-hasleader: true");
    call->headers = list;
    return longer != NULL;
}

/* Every option either fits or memory is out: names and types are checked by the compiler. */
static bool set_options(const struct etcd *e, struct etcd_call *call, const char *url)
{
    CURL *easy = call->easy;
    bool is_watch = call->kind == DIP_KV_WATCH;
    long wait_ms = (long)(e->call_wait_ns / DIP_MS_NS);
    CURLcode bad = CURLE_OK;
    bad |= curl_easy_setopt(easy, CURLOPT_URL, url);
    bad |= curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    bad |= curl_easy_setopt(easy, CURLOPT_PROXY, "");
    bad |= curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    bad |= curl_easy_setopt(easy, CURLOPT_POSTFIELDS, call->body);
    bad |= curl_easy_setopt(easy, CURLOPT_HTTPHEADER, (struct curl_slist *)call->headers);
    bad |= curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_bytes);
    bad |= curl_easy_setopt(easy, CURLOPT_WRITEDATA, call);
    bad |= curl_easy_setopt(easy, CURLOPT_PRIVATE, call);
    bad |= curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, call->transfer_text);
    bad |= curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    bad |= curl_easy_setopt(easy, CURLOPT_TCP_NODELAY, 1L);
    if (is_watch) { /* a connection that a peer or a gateway has forgotten: gone within a minute */
        bad |= curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
        bad |= curl_easy_setopt(easy, CURLOPT_TCP_KEEPIDLE, 10L);
        bad |= curl_easy_setopt(easy, CURLOPT_TCP_KEEPINTVL, 5L);
    }
    bad |= curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, wait_ms);
    bad |= curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, is_watch ? 0L : wait_ms);
    if (e->ca)
        bad |= curl_easy_setopt(easy, CURLOPT_CAINFO, e->ca);
    if (e->cert)
        bad |= curl_easy_setopt(easy, CURLOPT_SSLCERT, e->cert);
    if (e->key)
        bad |= curl_easy_setopt(easy, CURLOPT_SSLKEY, e->key);
    return bad == CURLE_OK;
}

enum dip_status dip__etcd_transfer_start(struct etcd *e, struct etcd_call *call, const char *path,
                                         int64_t now_ns)
{
    char url[DIP_ETCD_URL_BYTES + 64];
    (void)now_ns;
    dip_assert(!call->easy);
    snprintf(url, sizeof url, "%s%s", e->endpoints[call->endpoint], path);
    dip__etcd_lines_clear(&call->lines);
    call->http_status = 0;
    call->transfer_text[0] = '\0';
    call->easy = curl_easy_init();
    if (!call->easy || !set_headers(e, call) || !set_options(e, call, url) ||
        curl_multi_add_handle(e->multi, call->easy) != CURLM_OK) {
        dip__etcd_transfer_stop(e, call);
        return DIP_NO_MEMORY;
    }
    call->state = CALL_RUNNING;
    return DIP_OK;
}

void dip__etcd_transfer_stop(struct etcd *e, struct etcd_call *call)
{
    if (call->easy) {
        curl_multi_remove_handle(e->multi, call->easy); /* fine when it was never added */
        curl_easy_cleanup(call->easy);
    }
    curl_slist_free_all(call->headers);
    call->easy = NULL;
    call->headers = NULL;
}

static void end_transfer(struct etcd_call *call, CURLcode code)
{
    call->state = CALL_ENDED;
    (void)curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &call->http_status);
    if (code != CURLE_OK && !call->transfer_text[0])
        snprintf(call->transfer_text, sizeof call->transfer_text, "%s", curl_easy_strerror(code));
    call->is_unsent = false;
    switch (code) {
    case CURLE_OK:
        call->transfer_status = DIP_OK;
        break;
    case CURLE_OPERATION_TIMEDOUT:
        call->transfer_status = DIP_TIMEOUT;
        break;
    case CURLE_OUT_OF_MEMORY:
        call->transfer_status = DIP_NO_MEMORY;
        break;
    case CURLE_WRITE_ERROR:
        call->transfer_status = DIP_LIMIT;
        break;
    case CURLE_COULDNT_CONNECT:
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CACERT_BADFILE:
        call->is_unsent = true;
        call->transfer_status = DIP_UNREACHABLE;
        break;
    default:
        call->transfer_status = DIP_UNREACHABLE;
        break;
    }
}

/* How many transfers ended. */
static int collect(struct etcd *e)
{
    int running = 0;
    int left = 0;
    int ended = 0;
    curl_multi_perform(e->multi, &running);
    for (const CURLMsg *message; (message = curl_multi_info_read(e->multi, &left));) {
        struct etcd_call *call = NULL;
        if (message->msg != CURLMSG_DONE)
            continue;
        (void)curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&call);
        dip_assert(call);
        end_transfer(call, message->data.result);
        ended++;
    }
    return ended;
}

void dip__etcd_transfer_poll(struct etcd *e, int64_t wait_ns)
{
    int64_t wait_ms = (wait_ns + DIP_MS_NS - 1) / DIP_MS_NS;
    if (collect(e) > 0 || wait_ms <= 0)
        return;
    curl_multi_poll(e->multi, NULL, 0, wait_ms > WAIT_MS_MAX ? WAIT_MS_MAX : (int)wait_ms, NULL);
    (void)collect(e);
}

void dip__etcd_transfer_wake(struct etcd *e)
{
    curl_multi_wakeup(e->multi);
}
