/* tests/unit/crc32c.c - the published check value, and the same at every length and alignment. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/crc32c.h"

/* Bit by bit, from the definition. */
static uint32_t crc_slow(const unsigned char *at, size_t bytes)
{
    uint32_t crc = ~0u;
    for (size_t i = 0; i < bytes; i++) {
        crc ^= at[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
    }
    return ~crc;
}

static void the_check_value(void **state)
{
    (void)state;
    unsigned char zeros[32] = {0};
    assert_int_equal(dip_crc32c("123456789", 9), 0xe3069283u);      /* RFC 3720's catalogue */
    assert_int_equal(dip_crc32c(zeros, sizeof zeros), 0x8a9136aau); /* RFC 3720, B.4 */
    assert_int_equal(dip_crc32c("", 0), 0);
}

static void every_length_and_alignment(void **state)
{
    (void)state;
    unsigned char data[96];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (unsigned char)(i * 131 + 7);
    for (size_t from = 0; from < 9; from++)
        for (size_t bytes = 0; from + bytes <= sizeof data; bytes++)
            assert_int_equal(dip_crc32c(data + from, bytes), crc_slow(data + from, bytes));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_check_value),
        cmocka_unit_test(every_length_and_alignment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
