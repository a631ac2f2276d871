/* base/dtype.h - element types of tensors and the exact conversions between them.
 *
 * bf16 is the upper half of an f32; rounding is to nearest, ties to even. f16 is IEEE binary16. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum dip_dtype { DIP_F32, DIP_BF16, DIP_F16, DIP_I32, DIP_U8, DIP_DTYPE_COUNT };

/* Bytes of one element. */
size_t dip_dtype_bytes(enum dip_dtype dtype);

/* Name as safetensors writes it: "F32", "BF16", "F16", "I32", "U8". */
const char *dip_dtype_name(enum dip_dtype dtype);

static inline float dip_f32_from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t dip_f32_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float dip_f32_from_bf16(uint16_t bits)
{
    return dip_f32_from_bits((uint32_t)bits << 16);
}

/* Nearest even; NaN stays NaN. */
uint16_t dip_bf16_from_f32(float value);

/* Exact for every binary16 value, subnormals included. */
float dip_f32_from_f16(uint16_t bits);

/* Element `index` of an array of `dtype` (F32, BF16 or F16) as f32. */
float dip_f32_at(enum dip_dtype dtype, const void *data, size_t index);
