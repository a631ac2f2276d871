/* base/sha256.c - SHA-256 through libcrypto, which uses the CPU's own instructions for it. */
#include "base/sha256.h"

#include <openssl/err.h>
#include <openssl/evp.h>

enum dip_status dip_sha256_hex(const void *data, size_t bytes, char ret_hex[DIP_SHA256_HEX_BYTES])
{
    static const char digits[] = "0123456789abcdef";
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int length = 0;
    if (EVP_Digest(data, bytes, digest, &length, EVP_sha256(), NULL) != 1) {
        ERR_clear_error();    /* the library's own record of it, which nobody will read */
        return DIP_NO_MEMORY; /* the only way this fails with a built-in digest */
    }
    for (unsigned int i = 0; i < length; i++) {
        ret_hex[2 * i] = digits[digest[i] >> 4];
        ret_hex[2 * i + 1] = digits[digest[i] & 15];
    }
    ret_hex[DIP_SHA256_HEX_BYTES - 1] = '\0';
    return DIP_OK;
}
