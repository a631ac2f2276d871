/* tests/fuzz/etcd_lines.c - any bytes in any chunks: the lines are those of the bytes in one piece.
 */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "net/etcd_private.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes);

/* The first byte seeds the lengths of the chunks. */
int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes)
{
    if (bytes == 0)
        return 0;
    struct dip__etcd_lines whole = {0};
    struct dip__etcd_lines parts = {0};
    const char *text;
    const char *expected;
    size_t count;
    size_t expected_count;
    unsigned seed = data[0];
    dip_assert(dip__etcd_lines_push(&whole, data + 1, bytes - 1) == DIP_OK);
    for (size_t at = 1; at < bytes;) {
        seed = seed * 1103515245u + 12345u;
        size_t chunk = (seed >> 16) % 17;
        chunk = chunk > bytes - at ? bytes - at : chunk;
        dip_assert(dip__etcd_lines_push(&parts, data + at, chunk) == DIP_OK);
        at += chunk;
        while (dip__etcd_lines_next(&parts, &text, &count)) {
            dip_assert(dip__etcd_lines_next(&whole, &expected, &expected_count));
            dip_assert(count == expected_count);
            dip_assert(count > 0);
            dip_assert(memcmp(text, expected, count) == 0);
        }
    }
    dip_assert(!dip__etcd_lines_next(&whole, &expected, &expected_count));
    dip__etcd_lines_free(&whole);
    dip__etcd_lines_free(&parts);
    return 0;
}
