/* net/etcd_client.h - the etcd client's state, shared by what decides (etcd.c) and what moves bytes
 * (etcd_transfer.c). Owner: the thread that polls. */
#pragma once

#include "net/etcd.h"
#include "net/etcd_private.h"

enum { ETCD_CALLS_MAX = 64, ETCD_CURL_TEXT_BYTES = 256 };

enum etcd_call_state { CALL_FREE, CALL_WAITING, CALL_RUNNING, CALL_ENDED };

struct etcd_call {
    uint64_t id; /* 0 = free */
    enum dip_kv_kind kind;
    enum etcd_call_state state;
    char *body;       /* JSON */
    int64_t retry_ns; /* CALL_WAITING: not before */
    int attempts;     /* that could not connect */
    int refusals;     /* of the token */
    int endpoint;     /* where it ran last */

    void *easy; /* libcurl's handle while it runs */
    void *headers;
    struct dip__etcd_lines lines; /* what came */
    long http_status;
    enum dip_status transfer_status; /* CALL_ENDED: OK, or nothing worth reading came */
    bool is_unsent;                  /* it failed before anything was sent */
    char transfer_text[ETCD_CURL_TEXT_BYTES];

    /* watches */
    char key[DIP_KV_KEY_BYTES];
    int64_t watch_revision; /* the first that was not told; 0 = from now on */
    int64_t stand_ns;       /* when the server must have said that it stands */
    bool is_standing, is_interrupted;
    bool is_hung; /* the endpoint was asked whether it lives, and said nothing */
    int failures;
};

enum etcd_token_state { TOKEN_KNOWN, TOKEN_WANTED, TOKEN_ASKED, TOKEN_FAILED };

struct etcd {
    struct dip_kv kv;
    char endpoints[DIP_ETCD_ENDPOINTS_MAX][DIP_ETCD_URL_BYTES];
    int endpoint_count, preferred;
    char *ca, *cert, *key, *user, *password;
    int64_t call_wait_ns;
    uint64_t seed, draws; /* of the jitter */
    void *multi;          /* libcurl's */

    enum etcd_token_state token_state;
    char token[DIP__ETCD_TOKEN_BYTES];
    enum dip_status token_status; /* TOKEN_FAILED: why, and when it is tried again by itself */
    int64_t token_retry_ns;
    int token_failures;
    char token_text[DIP_KV_TEXT_BYTES];
    struct etcd_call authentication;

    int64_t heard_ns; /* when the preferred endpoint last said anything */
    int64_t probe_ns; /* silence before it is asked whether it lives, while watches stand there */
    struct etcd_call probe;

    struct etcd_call calls[ETCD_CALLS_MAX];
    unsigned turn;                  /* who is looked at first */
    struct dip__etcd_answer answer; /* what the last reply points to */
    struct dip_etcd_stats stats;
};

DIP_MUST_USE enum dip_status dip__etcd_transfer_open(struct etcd *e);
void dip__etcd_transfer_close(struct etcd *e);

/* Whether it has the form of a URL with a host, and with a port that exists if it names one. */
bool dip__etcd_url_is_sound(const char *url);

/* Posts call->body to its endpoint; the call is CALL_RUNNING until it is CALL_ENDED.
 * Errors: NO_MEMORY. */
DIP_MUST_USE enum dip_status dip__etcd_transfer_start(struct etcd *e, struct etcd_call *call,
                                                      const char *path, int64_t now_ns);
/* Also when it does not run. */
void dip__etcd_transfer_stop(struct etcd *e, struct etcd_call *call);
void dip__etcd_transfer_poll(struct etcd *e, int64_t wait_ns);
void dip__etcd_transfer_wake(struct etcd *e);
