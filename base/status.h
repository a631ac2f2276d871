/* base/status.h - the one error type of the project, and the sentence that explains it to a person.
 *
 * Every fallible function returns enum dip_status and is DIP_MUST_USE. errno, CUDA and HTTP codes
 * stay in the file that met them. Functions that face human input (options, model files, requests)
 * also take a struct dip_why: one sentence that names what is wrong, what was expected and what to
 * do. A NULL why is accepted everywhere. */
#pragma once

#include <stdarg.h>
#include <stddef.h>

#define DIP_MUST_USE __attribute__((warn_unused_result))
#define DIP_PRINTF(format_index, first_index)                                                      \
    __attribute__((format(printf, format_index, first_index)))

#define DIP_STATUS_LIST(X)                                                                         \
    X(OK, "ok")                                                                                    \
    X(NO_MEMORY, "out of memory")                                                                  \
    X(INVALID, "invalid input")                                                                    \
    X(NOT_FOUND, "not found")                                                                      \
    X(CORRUPT, "corrupt data")                                                                     \
    X(UNSUPPORTED, "not supported")                                                                \
    X(LIMIT, "over a limit")                                                                       \
    X(BUSY, "busy")                                                                                \
    X(IO, "input/output error")                                                                    \
    X(DEVICE, "device error")                                                                      \
    X(CANCELLED, "cancelled")                                                                      \
    X(TIMEOUT, "timed out")                                                                        \
    X(UNREACHABLE, "unreachable")                                                                  \
    X(STALE, "stale epoch")

enum dip_status {
#define DIP_STATUS_ENUM(name, text) DIP_##name,
    DIP_STATUS_LIST(DIP_STATUS_ENUM)
#undef DIP_STATUS_ENUM
        DIP_STATUS_COUNT
};

/* A short lower-case description, never NULL. */
const char *dip_status_text(enum dip_status status);

/* What is wrong with a file is no fault of who named it, whatever its reader calls it: CORRUPT
 * instead of INVALID, UNSUPPORTED and LIMIT. */
enum dip_status dip_status_of_file(enum dip_status status);

enum { DIP_WHY_BYTES = 640 };

/* One sentence for a person. Zero-initialise; text is always terminated and cut at DIP_WHY_BYTES
 * - 1. */
struct dip_why {
    char text[DIP_WHY_BYTES];
};

/* Writes the sentence (the first one wins: the origin knows most) and returns `status`, so that a
 * failure is one line: return dip_fail(why, DIP_CORRUPT, "%s: header is %zu bytes, expected at most
 * %zu", path, got, max); `why` may be NULL. Long text is cut; control characters that came from
 * input are shown as '?'. */
enum dip_status dip_fail(struct dip_why *why, enum dip_status status, const char *format, ...)
    DIP_PRINTF(3, 4);

/* Returns early with a failure. Only for functions that hold nothing to release. */
#define DIP_TRY(call)                                                                              \
    do {                                                                                           \
        enum dip_status dip_try_status = (call);                                                   \
        if (dip_try_status != DIP_OK)                                                              \
            return dip_try_status;                                                                 \
    } while (0)
