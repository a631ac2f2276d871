/* base/crc32c.h - CRC-32C (Castagnoli) of a buffer: was this chunk changed on its way?
 *
 * The checksum of iSCSI and ext4, which x86 has an instruction for. Finds accidents, not attacks.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

uint32_t dip_crc32c(const void *data, size_t bytes);
