/* proto/wire.h - messages from bytes and back, with every ceiling checked before memory is set
 * aside.
 *
 * Bytes from a peer are walked once before protobuf-c sees them: well-formed, strings in UTF-8
 * without NUL (protobuf-c would silently cut them there), every text, bytes and repeated field
 * within the ceiling that its .proto states (proto/limits.c), a bounded number of fields in all.
 * Only then is the message built, with an allocator that has a ceiling of its own. What a number
 * means is for whoever reads the message.
 *
 * Thread: any; nothing is shared. */
#pragma once

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum {
    DIP_PROTO_DEPTH_MAX = 8,        /* messages in messages */
    DIP_PROTO_FIELDS_MAX = 1 << 16, /* on the wire, in one message and all that it holds */
    DIP_PROTO_FIELD_PATH_BYTES = 128,
    DIP_PROTO_FAULT_BYTES = 192,
};

/* What is wrong with a message: fits a google.rpc.BadRequest.FieldViolation. */
struct dip_proto_fault {
    char field[DIP_PROTO_FIELD_PATH_BYTES]; /* "sampling.top_p"; empty: the message as a whole */
    char text[DIP_PROTO_FAULT_BYTES];       /* "20000 bytes, at most 16384" */
};

/* The message in `data`, which is not kept. Give it back with dip_proto_free.
 * Errors: CORRUPT (not well-formed), LIMIT (a ceiling), NO_MEMORY; `fault` (may be NULL) says what.
 */
DIP_MUST_USE enum dip_status dip_proto_decode(const ProtobufCMessageDescriptor *type,
                                              const void *data, size_t bytes,
                                              struct dip_proto_fault *fault,
                                              ProtobufCMessage **ret_message);
void dip_proto_free(void *message);

/* The message as bytes, owned by the caller (free). An empty message is 0 bytes and still a
 * pointer. Errors: NO_MEMORY. */
DIP_MUST_USE enum dip_status dip_proto_encode(const ProtobufCMessage *message, void **ret_data,
                                              size_t *ret_bytes);

/* The first half of dip_proto_decode: looks, builds nothing. Errors: CORRUPT, LIMIT. */
DIP_MUST_USE enum dip_status dip_proto_check(const ProtobufCMessageDescriptor *type,
                                             const void *data, size_t bytes,
                                             struct dip_proto_fault *fault);
