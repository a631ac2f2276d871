/* base/crc32c.c - by the CPU's instruction where there is one, else four bits at a time. */
#include "base/crc32c.h"

#include <string.h>

/* The remainders of 0..15, reflected polynomial 0x82f63b78. */
static const uint32_t remainders[16] = {
    0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
    0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9, 0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
};

static uint32_t crc_plain(uint32_t crc, const unsigned char *at, size_t bytes)
{
    for (; bytes > 0; bytes--) {
        crc ^= *at++;
        crc = crc >> 4 ^ remainders[crc & 15];
        crc = crc >> 4 ^ remainders[crc & 15];
    }
    return crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc_fast(uint32_t crc, const unsigned char *at,
                                                           size_t bytes)
{
    uint64_t wide = crc;
    for (; bytes >= sizeof wide; bytes -= sizeof wide, at += sizeof wide) {
        uint64_t word;
        memcpy(&word, at, sizeof word);
        wide = __builtin_ia32_crc32di(wide, word);
    }
    return crc_plain((uint32_t)wide, at, bytes);
}
#endif

uint32_t dip_crc32c(const void *data, size_t bytes)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2"))
        return ~crc_fast(~0u, data, bytes);
#endif
    return ~crc_plain(~0u, data, bytes);
}
