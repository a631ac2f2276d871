/* cli/expect.c - see cli/expect.h. */
#include "cli/expect.h"

#include <ctype.h>
#include <string.h>

#include "base/file.h"

static bool is_hex(const char *text)
{
    size_t digits = strspn(text, "0123456789abcdefABCDEF");
    return digits == DIP_SHA256_HEX_BYTES - 1 && text[digits] == '\0';
}

enum dip_status dip__expect_read(const char *text, struct dip_why *why,
                                 char ret_sha256[DIP_SHA256_HEX_BYTES])
{
    struct dip_map map;
    if (is_hex(text)) {
        for (size_t i = 0; i < DIP_SHA256_HEX_BYTES; i++)
            ret_sha256[i] = (char)tolower((unsigned char)text[i]);
        return DIP_OK;
    }
    DIP_TRY(dip_map_open(text, why, &map));
    enum dip_status status = dip_sha256_hex(map.data, map.bytes, ret_sha256);
    dip_map_close(&map);
    return status ? dip_fail(why, status, "no memory to hash %s", text) : DIP_OK;
}

enum dip_status dip__expect_meet(const char *expected, const char *sha256, struct dip_why *why)
{
    if (strcmp(expected, sha256) == 0)
        return DIP_OK;
    return dip_fail(why, DIP_CORRUPT, "the image's SHA-256 is %s; --expect says %s", sha256,
                    expected);
}
