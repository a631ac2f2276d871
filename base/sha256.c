/* base/sha256.c - SHA-256 through libcrypto, which uses the CPU's own instructions for it.
 *
 * The low-level functions, not EVP: starting the library behind EVP costs some 6000 allocations and
 * a few milliseconds of every process, and it crashes when one of those fails. */
#include "base/sha256.h"

#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/sha.h>

enum dip_status dip_sha256_hex(const void *data, size_t bytes, char ret_hex[DIP_SHA256_HEX_BYTES])
{
    static const char digits[] = "0123456789abcdef";
    unsigned char digest[SHA256_DIGEST_LENGTH];
    SHA256_CTX context;
    if (SHA256_Init(&context) != 1 || SHA256_Update(&context, data, bytes) != 1 ||
        SHA256_Final(digest, &context) != 1)
        return DIP_UNSUPPORTED; /* no build of the library that we know does this */
    for (int i = 0; i < SHA256_DIGEST_LENGTH; i++) {
        ret_hex[2 * i] = digits[digest[i] >> 4];
        ret_hex[2 * i + 1] = digits[digest[i] & 15];
    }
    ret_hex[DIP_SHA256_HEX_BYTES - 1] = '\0';
    return DIP_OK;
}
