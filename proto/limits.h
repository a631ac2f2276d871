/* proto/limits.h - the ceilings that the .proto files state, as the decoder reads them. */
#pragma once

#include <protobuf-c/protobuf-c.h>
#include <stdint.h>

struct dip_proto_limit {
    const ProtobufCMessageDescriptor *type;
    const char *field;
    uint32_t count_max; /* entries of a repeated field; 1 otherwise */
    uint32_t bytes_max; /* of the text or bytes, or of each entry; 0 for numbers and messages */
};

/* All of them, those of one type beside each other. */
const struct dip_proto_limit *dip_proto_limits(int *ret_count);

/* The ceiling of a field; NULL when it has none, which for a field that can grow is a bug that
 * tests/unit/proto_limits.c finds. */
const struct dip_proto_limit *dip_proto_limit_of(const ProtobufCMessageDescriptor *type,
                                                 const ProtobufCFieldDescriptor *field);
