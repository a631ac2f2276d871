/* tests/fuzz/registry.c - any bytes as the value of a registry's key: refused, or something that
 * can be written again and is then the same. */
#include <string.h>

#include "base/assert.h"
#include "net/registry_values.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes);

static void check_member(const char *text)
{
    char value[DIP_MEMBER_VALUE_BYTES];
    struct dip_registry_member one = {0}, two = {0};
    if (dip_registry_decode_member("m", text, NULL, &one))
        return;
    enum dip_status status = dip_registry_encode_member(&one, value);
    if (status == DIP_LIMIT)
        return; /* its characters need more room when written out */
    dip_assert(status == DIP_OK);
    dip_assert(dip_registry_decode_member("m", value, NULL, &two) == DIP_OK);
    dip_assert(memcmp(&one, &two, sizeof one) == 0);
}

static void check_leader(const char *text)
{
    char value[DIP_MEMBER_VALUE_BYTES];
    struct dip_registry_leader one = {0}, two = {0};
    if (dip_registry_decode_leader(text, NULL, &one))
        return;
    dip_assert(dip_registry_encode_leader(&one, value) == DIP_OK);
    dip_assert(dip_registry_decode_leader(value, NULL, &two) == DIP_OK);
    dip_assert(memcmp(&one, &two, sizeof one) == 0);
}

static void check_group(const char *text)
{
    char value[DIP_MEMBER_VALUE_BYTES];
    struct dip_registry_group one = {0}, two = {0};
    if (dip_registry_decode_group("g", text, NULL, &one))
        return;
    dip_assert(dip_registry_encode_group(&one, value) == DIP_OK);
    dip_assert(dip_registry_decode_group("g", value, NULL, &two) == DIP_OK);
    dip_assert(memcmp(&one, &two, sizeof one) == 0);
}

static void check_drain(const char *text)
{
    char value[DIP_MEMBER_VALUE_BYTES];
    struct dip_registry_drain one = {0}, two = {0};
    if (dip_registry_decode_drain(text, NULL, &one))
        return;
    enum dip_status status = dip_registry_encode_drain(&one, value);
    if (status == DIP_LIMIT)
        return;
    dip_assert(status == DIP_OK);
    dip_assert(dip_registry_decode_drain(value, NULL, &two) == DIP_OK);
    dip_assert(memcmp(&one, &two, sizeof one) == 0);
}

/* The first byte says what it shall be. */
int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes)
{
    char text[DIP_MEMBER_VALUE_BYTES + 8];
    if (bytes == 0 || bytes > sizeof text)
        return 0;
    memcpy(text, data + 1, bytes - 1);
    text[bytes - 1] = '\0';
    switch (data[0]) {
    case 'm':
        check_member(text);
        break;
    case 'l':
        check_leader(text);
        break;
    case 'g':
        check_group(text);
        break;
    default:
        check_drain(text);
    }
    return 0;
}
