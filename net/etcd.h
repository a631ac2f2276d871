/* net/etcd.h - etcd v3 as a store of keys (net/kv.h), through its JSON gateway over libcurl.
 *
 * HTTP/1.1 also under TLS, no redirects, no proxy from the environment. One endpoint is preferred
 * and everything goes there, the watches too: so the time-out of any call also uncovers that a
 * watch hangs on a frozen member, which no socket option does. While watches stand and nothing was
 * heard for probe_ns, the client asks for the member's status by itself. A call that fails there
 * makes the next endpoint the preferred one and moves the watches over; they resume at the first
 * revision not told yet, after a jittered wait that grows while it keeps failing. A call that
 * could not even connect is tried once at each endpoint; one that may have happened is not
 * repeated: the owner decides.
 *
 * With a user, a token is fetched first and again when etcd does not take it any more.
 * The process should ignore SIGPIPE. libcurl resolves names on a thread of its own; apart from that
 * everything happens inside dip_kv_poll and dip_kv_next. */
#pragma once

#include "base/status.h"
#include "net/kv.h"

enum { DIP_ETCD_ENDPOINTS_MAX = 16, DIP_ETCD_URL_BYTES = 256 };

struct dip_etcd_options {
    const char *endpoints; /* "http://10.0.0.1:2379,http://10.0.0.2:2379" */
    const char *ca;        /* PEM files; NULL = the system's roots, no certificate of our own */
    const char *cert;
    const char *key;
    const char *user; /* NULL = none */
    const char *password;
    int64_t call_wait_ns; /* of one attempt; 0 = 1.2 s. Watches live on */
    int64_t probe_ns;     /* silence before a member that carries a watch is asked; 0 = 3 s */
    uint64_t seed;        /* of the jitter */
};

/* Does not connect. etcd refuses client certificates with a CN once its users are on: use subject
 * alternative names only. Errors: INVALID (an endpoint is no http or https URL, too many; a
 * certificate without its key, a password without a user), NOT_FOUND, IO (a PEM file),
 * NO_MEMORY. */
DIP_MUST_USE enum dip_status dip_etcd_open(const struct dip_etcd_options *options,
                                           struct dip_why *why, struct dip_kv **ret_kv);

/* Facts for status pages and metrics. Owner thread. */
struct dip_etcd_stats {
    const char *endpoint; /* the preferred one */
    uint64_t calls, failures, failovers, watch_resumes, authentications;
};
struct dip_etcd_stats dip_etcd_stats(const struct dip_kv *kv);
