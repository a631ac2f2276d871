/* tests/fuzz/error.c - any bytes as a server's error details: refused, or an error that can be
 * shown and sent on. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "proto/error.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes);

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes)
{
    struct dip_error error, back;
    if (dip_error_decode(data, bytes, &error))
        return 0;
    dip_assert(error.fact_count <= DIP_ERROR_FACTS_MAX);
    dip_assert(error.field_count <= DIP_ERROR_FIELDS_MAX);
    void *again = NULL;
    size_t again_bytes = 0;
    dip_assert(dip_error_encode(&error, &again, &again_bytes) == DIP_OK);
    dip_assert(again_bytes <= DIP_ERROR_BYTES_MAX);
    dip_assert(dip_error_decode(again, again_bytes, &back) == DIP_OK);
    dip_assert(strcmp(back.message, error.message) == 0);
    dip_assert(back.fact_count == error.fact_count);
    dip_assert(back.retry_ns == error.retry_ns);
    free(again);
    return 0;
}
