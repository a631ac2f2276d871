/* tests/fuzz/reflection.c - any bytes as a reflection request: refused, or answered within the
 * ceilings of the answer. */
#include <stdlib.h>

#include "base/assert.h"
#include "proto/grpc/reflection/v1/reflection.pb-c.h"
#include "proto/reflection.h"
#include "proto/wire.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes);

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes)
{
    static const char *const services[] = {"diptych.v1.ImageService"};
    static struct dip_reflection *reflection;
    if (!reflection)
        dip_assert(dip_reflection_new(services, 1, &reflection) == DIP_OK);
    void *answer = NULL;
    size_t answer_bytes = 0;
    if (dip_reflection_answer(reflection, data, bytes, &answer, &answer_bytes))
        return 0;
    ProtobufCMessage *message = NULL;
    dip_assert(dip_proto_decode(&grpc__reflection__v1__server_reflection_response__descriptor,
                                answer, answer_bytes, NULL, &message) == DIP_OK);
    dip_proto_free(message);
    free(answer);
    return 0;
}
