/* base/sha256.h - SHA-256 of a buffer as lower-case hex (libcrypto underneath). */
#pragma once

#include <stddef.h>

#include "base/status.h"

enum { DIP_SHA256_HEX_BYTES = 65 }; /* with the terminator */

DIP_MUST_USE enum dip_status dip_sha256_hex(const void *data, size_t bytes,
                                            char ret_hex[DIP_SHA256_HEX_BYTES]);
