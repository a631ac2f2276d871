/* proto/error.h - errors as clients receive them: google.rpc.Status with its details.
 *
 * One reason word per situation, stable for ever; the reason decides the gRPC code, the HTTP status
 * and whether a retry makes sense. A front door composes an error with the calls below, sends the
 * encoded bytes as `grpc-status-details-bin` and the code and message as the call's status. Texts
 * are cut to fit, because clients give up on trailers above 8 KiB. Follows AIP-193: exactly one
 * ErrorInfo, at most one each of BadRequest, RetryInfo and QuotaFailure, every varying part of the
 * message repeated as a fact. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum dip_retry {
    DIP_RETRY_NEVER, /* the same request would fail again */
    DIP_RETRY_LATER, /* after the time that the error names */
    DIP_RETRY_SOON,  /* blindly, with backoff */
};

/* X(reason, gRPC code, HTTP status, retry) */
#define DIP_REASON_LIST(X)                                                                         \
    X(BUG, INTERNAL, 500, NEVER)                                                                   \
    X(BAD_FIELD, INVALID_ARGUMENT, 400, NEVER)                                                     \
    X(MALFORMED, INVALID_ARGUMENT, 400, NEVER)                                                     \
    X(PROMPT_TOO_LONG, INVALID_ARGUMENT, 400, NEVER)                                               \
    X(IMAGE_UNDECODABLE, INVALID_ARGUMENT, 400, NEVER)                                             \
    X(IMAGE_TOO_LARGE, INVALID_ARGUMENT, 400, NEVER)                                               \
    X(IMAGE_TYPE, INVALID_ARGUMENT, 400, NEVER)                                                    \
    X(MESSAGE_TOO_LARGE, RESOURCE_EXHAUSTED, 413, NEVER)                                           \
    X(NO_CREDENTIAL, UNAUTHENTICATED, 401, NEVER)                                                  \
    X(BAD_CREDENTIAL, UNAUTHENTICATED, 401, NEVER)                                                 \
    X(ROLE_REQUIRED, PERMISSION_DENIED, 403, NEVER)                                                \
    X(MODEL_UNKNOWN, NOT_FOUND, 404, NEVER)                                                        \
    X(REQUEST_UNKNOWN, NOT_FOUND, 404, NEVER)                                                      \
    X(WORKER_UNKNOWN, NOT_FOUND, 404, NEVER)                                                       \
    X(REQUEST_ID_REUSED, ALREADY_EXISTS, 409, NEVER)                                               \
    X(QUOTA, RESOURCE_EXHAUSTED, 429, LATER)                                                       \
    X(OVERLOADED, UNAVAILABLE, 503, LATER)                                                         \
    X(NO_WORKERS, UNAVAILABLE, 503, SOON)                                                          \
    X(NOT_LEADER, UNAVAILABLE, 503, SOON)                                                          \
    X(DRAINING, UNAVAILABLE, 503, SOON)                                                            \
    X(WORKER_LOST, UNAVAILABLE, 503, SOON)                                                         \
    X(QUEUE_TIME, DEADLINE_EXCEEDED, 504, NEVER)                                                   \
    X(DEADLINE, DEADLINE_EXCEEDED, 504, NEVER)                                                     \
    X(SLOW_READER, DEADLINE_EXCEEDED, 504, NEVER)                                                  \
    X(CANCELLED, CANCELLED, 499, NEVER)                                                            \
    X(POISONED, FAILED_PRECONDITION, 422, NEVER)                                                   \
    X(WEIGHT_VERSION, FAILED_PRECONDITION, 409, NEVER)

enum dip_reason {
#define DIP_REASON_ENUM(name, code, http, retry) DIP_REASON_##name,
    DIP_REASON_LIST(DIP_REASON_ENUM)
#undef DIP_REASON_ENUM
        DIP_REASON_COUNT
};

/* "BAD_FIELD"; never NULL. */
const char *dip_reason_name(enum dip_reason reason);
/* The number of a google.rpc.Code, which is a gRPC status. */
int dip_reason_code(enum dip_reason reason);
int dip_reason_http(enum dip_reason reason);
enum dip_retry dip_reason_retry(enum dip_reason reason);

enum {
    DIP_ERROR_MESSAGE_BYTES = 256,
    DIP_ERROR_KEY_BYTES = 32,
    DIP_ERROR_VALUE_BYTES = 128,
    DIP_ERROR_FIELD_BYTES = 128,
    DIP_ERROR_TEXT_BYTES = 192,
    DIP_ERROR_FACTS_MAX = 6,
    DIP_ERROR_FIELDS_MAX = 4,
    DIP_ERROR_BYTES_MAX = 4096, /* encoded */
};

/* Filled by the calls below; what goes beyond a ceiling is cut or left out, and control characters
 * become question marks. */
struct dip_error {
    enum dip_reason reason;
    char message[DIP_ERROR_MESSAGE_BYTES]; /* brief: what to do, no internals */
    struct {
        char key[DIP_ERROR_KEY_BYTES];
        char value[DIP_ERROR_VALUE_BYTES];
    } facts[DIP_ERROR_FACTS_MAX];
    int fact_count;
    struct {
        char field[DIP_ERROR_FIELD_BYTES]; /* path from the request on */
        char text[DIP_ERROR_TEXT_BYTES];
    } fields[DIP_ERROR_FIELDS_MAX];
    int field_count;
    bool has_retry;
    int64_t retry_ns; /* wait at least this long */
    bool has_quota;
    char quota_subject[DIP_ERROR_FIELD_BYTES];
    char quota_text[DIP_ERROR_TEXT_BYTES];
};

/* Begins an error anew. */
void dip_error_set(struct dip_error *error, enum dip_reason reason, const char *format, ...)
    DIP_PRINTF(3, 4);
/* A part of the message that varies, for programs: "limit" = "2048". */
void dip_error_fact(struct dip_error *error, const char *key, const char *format, ...)
    DIP_PRINTF(3, 4);
/* A field of the request that is wrong, and how. */
void dip_error_field(struct dip_error *error, const char *field, const char *format, ...)
    DIP_PRINTF(3, 4);
void dip_error_retry(struct dip_error *error, int64_t retry_ns);
void dip_error_quota(struct dip_error *error, const char *subject, const char *format, ...)
    DIP_PRINTF(3, 4);

/* The bytes of a google.rpc.Status, at most DIP_ERROR_BYTES_MAX, owned by the caller (free).
 * Errors: NO_MEMORY. */
DIP_MUST_USE enum dip_status dip_error_encode(const struct dip_error *error, void **ret_data,
                                              size_t *ret_bytes);

/* An error as a client reads it. The reason is BUG when the word is not one of ours or the domain
 * another's. Errors: CORRUPT, LIMIT, NO_MEMORY. */
DIP_MUST_USE enum dip_status dip_error_decode(const void *data, size_t bytes,
                                              struct dip_error *ret_error);
