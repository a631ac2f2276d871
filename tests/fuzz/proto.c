/* tests/fuzz/proto.c - any bytes as any message that comes from outside: refused with a reason, or
 * a message that survives being written and read again.
 *
 * The first byte picks the type. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "proto/diptych/internal/v1/worker.pb-c.h"
#include "proto/diptych/v1/cluster.pb-c.h"
#include "proto/diptych/v1/image.pb-c.h"
#include "proto/diptych/v1/model.pb-c.h"
#include "proto/grpc/health/v1/health.pb-c.h"
#include "proto/wire.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes);

static const ProtobufCMessageDescriptor *const types[] = {
    &diptych__v1__generate_request__descriptor,
    &diptych__v1__watch_request__descriptor,
    &diptych__v1__cancel_request__descriptor,
    &diptych__v1__generate_response__descriptor,
    &diptych__v1__tokenize_request__descriptor,
    &diptych__v1__tokenize_response__descriptor,
    &diptych__v1__list_models_response__descriptor,
    &diptych__v1__list_workers_response__descriptor,
    &diptych__v1__drain_request__descriptor,
    &diptych__internal__v1__connect_request__descriptor,
    &diptych__internal__v1__connect_response__descriptor,
    &diptych__internal__v1__put_request__descriptor,
    &diptych__internal__v1__get_offset_request__descriptor,
    &grpc__health__v1__health_check_request__descriptor,
};

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes)
{
    if (bytes == 0)
        return 0;
    const ProtobufCMessageDescriptor *type = types[data[0] % (sizeof types / sizeof types[0])];
    struct dip_proto_fault fault = {.field = ""};
    ProtobufCMessage *message = NULL, *again = NULL;
    enum dip_status status = dip_proto_decode(type, data + 1, bytes - 1, &fault, &message);
    if (status) {
        dip_assert(status == DIP_CORRUPT || status == DIP_LIMIT);
        dip_assert(fault.text[0]);
        return 0;
    }
    void *first = NULL, *second = NULL;
    size_t first_bytes = 0, second_bytes = 0;
    dip_assert(dip_proto_encode(message, &first, &first_bytes) == DIP_OK);
    dip_assert(dip_proto_decode(type, first, first_bytes, NULL, &again) == DIP_OK);
    dip_assert(dip_proto_encode(again, &second, &second_bytes) == DIP_OK);
    dip_assert(first_bytes == second_bytes);
    dip_assert(memcmp(first, second, first_bytes) == 0);
    free(first);
    free(second);
    dip_proto_free(message);
    dip_proto_free(again);
    return 0;
}
