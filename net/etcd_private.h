/* net/etcd_private.h - between the files of the etcd client: pure parts (lines, bodies, answers).
 */
#pragma once

#include "base/kv.h"

enum {
    DIP__ETCD_BYTES_MAX = 16 << 20, /* one answer, or one line of a watch */
    DIP__ETCD_TOKEN_BYTES = 1024,
    DIP__ETCD_VALUE_BYTES_MAX = 1 << 20, /* of foreign keys; ours are far smaller */
};

/* ---- lines: a watch is a stream of chunks whose borders are not those of its lines ---- */

/* Zero-initialise. */
struct dip__etcd_lines {
    char *bytes;
    size_t begin, end, capacity; /* what is in [begin, end) was not taken yet */
};

/* Errors: LIMIT (a line beyond DIP__ETCD_BYTES_MAX), NO_MEMORY; then nothing was added. */
DIP_MUST_USE enum dip_status dip__etcd_lines_push(struct dip__etcd_lines *lines, const void *data,
                                                  size_t bytes);
/* The next whole line, without its end; lives until the next push. Empty lines are skipped. */
bool dip__etcd_lines_next(struct dip__etcd_lines *lines, const char **ret_text, size_t *ret_bytes);
void dip__etcd_lines_clear(struct dip__etcd_lines *lines);
void dip__etcd_lines_free(struct dip__etcd_lines *lines);

/* ---- requests ---- */

/* The gateway's path of a kind of request. */
const char *dip__etcd_path(enum dip_kv_kind kind);

/* The JSON to send, owned by the caller (free); NULL when memory is out or a key is no text.
 * A WATCH begins at request->revision, 0 = now. */
char *dip__etcd_body(const struct dip_kv_request *request);
char *dip__etcd_body_authenticate(const char *user, const char *password);

/* ---- answers ---- */

/* gRPC's codes, as far as they make a difference. */
enum {
    DIP__ETCD_CODE_INVALID = 3,
    DIP__ETCD_CODE_NOT_FOUND = 5,
    DIP__ETCD_CODE_DENIED = 7,
    DIP__ETCD_CODE_EXHAUSTED = 8,
    DIP__ETCD_CODE_COMPACTED = 11,
    DIP__ETCD_CODE_UNAVAILABLE = 14,
    DIP__ETCD_CODE_UNAUTHENTICATED = 16,
};

struct dip__etcd_answer {
    int code;          /* gRPC's; 0 = it worked */
    bool is_done;      /* PUT, DELETE */
    bool is_created;   /* WATCH: it stands */
    bool is_cancelled; /* WATCH: it ended; compact_revision or text says why */
    int64_t revision, compact_revision, lease, ttl_s;
    char token[DIP__ETCD_TOKEN_BYTES];
    char text[DIP_KV_TEXT_BYTES];
    struct dip_kv_entry *entries; /* [entry_count]; keys and values lie in `storage` */
    int entry_count;
    char *storage;
};

/* Reads one JSON object: the answer to a request of this kind, an error, or one line of a watch.
 * Keys that are no C strings, too long, or whose value is over the ceiling are left out: they are
 * not ours. Errors: CORRUPT (no JSON, or not what etcd says), LIMIT, NO_MEMORY; nothing is owned
 * then. */
DIP_MUST_USE enum dip_status dip__etcd_parse(enum dip_kv_kind kind, const char *text, size_t bytes,
                                             struct dip__etcd_answer *ret_answer);
void dip__etcd_answer_free(struct dip__etcd_answer *answer);

/* What a code means to the owner. */
enum dip_status dip__etcd_status(int code);
