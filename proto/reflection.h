/* proto/reflection.h - answers of grpc.reflection, v1 and v1alpha alike: bytes in, bytes out.
 *
 * Knows the .proto files of the program from the descriptors that the build embeds, so any client
 * can list and call what is served without having the files. Thread: any, once opened. */
#pragma once

#include <stddef.h>

#include "base/status.h"

struct dip_reflection;

/* services: full names of what this server serves, for list_services; kept, not copied.
 * Errors: NO_MEMORY, CORRUPT (the build is broken). */
DIP_MUST_USE enum dip_status dip_reflection_new(const char *const *services, int service_count,
                                                struct dip_reflection **ret_reflection);
void dip_reflection_free(struct dip_reflection *reflection);

/* One ServerReflectionRequest in, one ServerReflectionResponse out, owned by the caller (free).
 * What is not known is an answer, too. Errors: CORRUPT, LIMIT (the request), NO_MEMORY. */
DIP_MUST_USE enum dip_status dip_reflection_answer(const struct dip_reflection *reflection,
                                                   const void *request, size_t request_bytes,
                                                   void **ret_answer, size_t *ret_answer_bytes);
