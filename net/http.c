/* net/http.c - see net/http.h. */
#include "net/http.h"

#include <microhttpd.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/accept.h"

enum {
    CONNECTIONS_MAX = 32,
    IDLE_S = 10,
    REQUEST_BYTES_MAX = 16 << 10,
    HOST_BYTES = 256,
};

struct dip_http {
    struct dip_http_options options;
    struct MHD_Daemon *daemon;
    int socket;
    int port;
};

/* ---- answers ---- */

/* "Name: value" of a page. */
static void add_header(struct MHD_Response *response, const char *line)
{
    char name[64];
    const char *colon = strchr(line, ':');
    snprintf(name, sizeof name, "%.*s", (int)(colon - line), line);
    MHD_add_response_header(response, name, colon + 2);
}

static enum MHD_Result reply(struct MHD_Connection *connection, unsigned code, char *text,
                             size_t bytes, enum MHD_ResponseMemoryMode mode,
                             const struct dip_http_page *page)
{
    struct MHD_Response *response = MHD_create_response_from_buffer(bytes, text, mode);
    if (!response) {
        if (mode == MHD_RESPMEM_MUST_FREE)
            free(text);
        return MHD_NO;
    }
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE,
                            page ? page->type : "text/plain; charset=utf-8");
    MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    if (page && page->headers)
        add_header(response, page->headers);
    if (code == MHD_HTTP_METHOD_NOT_ALLOWED)
        MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
    enum MHD_Result result = MHD_queue_response(connection, code, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result reply_text(struct MHD_Connection *connection, unsigned code,
                                  const char *text)
{
    char line[DIP_HTTP_WHY_BYTES + 1];
    int bytes = snprintf(line, sizeof line, "%s\n", text);
    return reply(connection, code, line, (size_t)bytes, MHD_RESPMEM_MUST_COPY, NULL);
}

static enum MHD_Result reply_page(struct MHD_Connection *connection,
                                  const struct dip_http_page *page)
{
    char *text = NULL;
    size_t bytes = 0;
    if (dip_page_read(page->page, &text, &bytes))
        return reply_text(connection, MHD_HTTP_SERVICE_UNAVAILABLE, "nothing was measured yet");
    return reply(connection, MHD_HTTP_OK, text, bytes, MHD_RESPMEM_MUST_FREE, page);
}

static enum MHD_Result reply_probe(struct MHD_Connection *connection, const struct dip_http *http,
                                   bool (*is_good)(void *context, char *ret_why))
{
    char why[DIP_HTTP_WHY_BYTES] = "ok";
    bool is_ok = is_good(http->options.context, why);
    why[sizeof why - 1] = '\0';
    return reply_text(connection, is_ok ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE, why);
}

static enum MHD_Result on_request(void *context, struct MHD_Connection *connection,
                                  const char *path, const char *method, const char *version,
                                  const char *upload, size_t *upload_bytes, void **state)
{
    const struct dip_http *http = context;
    static char is_seen;
    (void)version;
    (void)upload;
    if (!*state) { /* the headers; the answer is due when the whole request is there */
        *state = &is_seen;
        return MHD_YES;
    }
    if (*upload_bytes > 0) { /* nobody reads it */
        *upload_bytes = 0;
        return MHD_YES;
    }
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
        return reply_text(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET and HEAD");
    for (int i = 0; i < http->options.page_count; i++)
        if (strcmp(path, http->options.pages[i].path) == 0)
            return reply_page(connection, &http->options.pages[i]);
    if (strcmp(path, "/healthz") == 0)
        return reply_probe(connection, http, http->options.is_live);
    if (strcmp(path, "/readyz") == 0)
        return reply_probe(connection, http, http->options.is_ready);
    if (strcmp(path, "/startupz") == 0)
        return reply_probe(connection, http, http->options.is_started);
    return reply_text(connection, MHD_HTTP_NOT_FOUND,
                      "there are /metrics, /healthz, /readyz and /startupz");
}

/* ---- listening ---- */

/* "[::1]:80" and "host:80" into their parts; the host may be empty. */
static enum dip_status split(const char *listen_at, struct dip_why *why, char host[HOST_BYTES],
                             const char **ret_port)
{
    const char *colon = strrchr(listen_at, ':');
    const char *begin = listen_at, *end = colon;
    if (colon && listen_at[0] == '[' && colon > listen_at + 1 && colon[-1] == ']') {
        begin++;
        end--;
    }
    size_t digits = colon ? strspn(colon + 1, "0123456789") : 0;
    bool is_port = digits > 0 && digits <= 5 && colon[1 + digits] == '\0' &&
                   strtol(colon + 1, NULL, 10) <= 65535;
    if (!is_port || (size_t)(end - begin) >= HOST_BYTES)
        return dip_fail(why, DIP_INVALID, "\"%.100s\" is no HOST:PORT", listen_at);
    memcpy(host, begin, (size_t)(end - begin));
    host[end - begin] = '\0';
    *ret_port = colon + 1;
    return DIP_OK;
}

static int bind_to(const struct addrinfo *address)
{
    int one = 1;
    int s = socket(address->ai_family, address->ai_socktype | SOCK_CLOEXEC, address->ai_protocol);
    if (s < 0)
        return -1;
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(s, address->ai_addr, address->ai_addrlen) == 0 && listen(s, CONNECTIONS_MAX) == 0)
        return s;
    close(s);
    return -1;
}

static int port_of(int s)
{
    struct sockaddr_storage address;
    socklen_t bytes = sizeof address;
    char port[16] = "";
    if (getsockname(s, (struct sockaddr *)&address, &bytes) != 0 ||
        getnameinfo((struct sockaddr *)&address, bytes, NULL, 0, port, sizeof port,
                    NI_NUMERICSERV) != 0)
        return 0;
    return (int)strtol(port, NULL, 10);
}

static enum dip_status listen_on(const char *listen_at, struct dip_why *why, int *ret_socket)
{
    char host[HOST_BYTES] = "";
    const char *port = NULL;
    DIP_TRY(split(listen_at, why, host, &port));
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    if (getaddrinfo(host[0] ? host : NULL, port, &hints, &found) != 0)
        return dip_fail(why, DIP_INVALID, "\"%.100s\" is no address to listen on", listen_at);
    int s = -1;
    for (struct addrinfo *a = found; a && s < 0; a = a->ai_next)
        s = bind_to(a);
    freeaddrinfo(found);
    if (s < 0)
        return dip_fail(why, DIP_IO, "cannot listen on %.100s: it is in use or not ours",
                        listen_at);
    *ret_socket = s;
    return DIP_OK;
}

enum dip_status dip_http_start(const struct dip_http_options *options, struct dip_why *why,
                               struct dip_http **ret_http)
{
    struct dip_http *http = calloc(1, sizeof *http);
    if (!http)
        return dip_fail(why, DIP_NO_MEMORY, "no memory for the metrics page");
    http->options = *options;
    enum dip_status status = listen_on(options->listen, why, &http->socket);
    if (status) {
        free(http);
        return status;
    }
    http->port = port_of(http->socket);
    dip_accept_always(http->socket); /* probes must not fail because many clients are here */
    http->daemon = MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL, 0, NULL, NULL,
                                    on_request, http, MHD_OPTION_LISTEN_SOCKET, http->socket, //
                                    MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS_MAX,
                                    MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_S,
                                    MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)REQUEST_BYTES_MAX,
                                    MHD_OPTION_END);
    if (!http->daemon) {
        close(http->socket);
        free(http);
        return dip_fail(why, DIP_IO, "cannot serve HTTP on %.100s", options->listen);
    }
    *ret_http = http;
    return DIP_OK;
}

int dip_http_port(const struct dip_http *http)
{
    return http->port;
}

void dip_http_stop(struct dip_http *http)
{
    if (!http)
        return;
    MHD_stop_daemon(http->daemon); /* closes the socket */
    free(http);
}
