/* base/dtype.c - sizes, names and scalar conversions of element types. */
#include "base/dtype.h"

#include "base/assert.h"

size_t dip_dtype_bytes(enum dip_dtype dtype)
{
    static const size_t bytes[DIP_DTYPE_COUNT] = {
        [DIP_F32] = 4, [DIP_BF16] = 2, [DIP_F16] = 2, [DIP_I32] = 4, [DIP_U8] = 1,
    };
    dip_assert((unsigned)dtype < DIP_DTYPE_COUNT);
    return bytes[dtype];
}

const char *dip_dtype_name(enum dip_dtype dtype)
{
    static const char *const names[DIP_DTYPE_COUNT] = {
        [DIP_F32] = "F32", [DIP_BF16] = "BF16", [DIP_F16] = "F16",
        [DIP_I32] = "I32", [DIP_U8] = "U8",
    };
    dip_assert((unsigned)dtype < DIP_DTYPE_COUNT);
    return names[dtype];
}

uint16_t dip_bf16_from_f32(float value)
{
    uint32_t bits = dip_f32_bits(value);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40); /* a quiet NaN: cutting could leave an infinity */
    uint32_t is_odd = bits >> 16 & 1;
    return (uint16_t)((bits + 0x7fff + is_odd) >> 16);
}

float dip_f32_from_f16(uint16_t bits)
{
    uint32_t sign = (uint32_t)(bits & 0x8000) << 16;
    uint32_t magnitude = bits & 0x7fff;
    if (magnitude >= 0x7c00) /* infinity or NaN */
        return dip_f32_from_bits(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
    if (magnitude >= 0x400) /* normal: move the exponent from bias 15 to bias 127 */
        return dip_f32_from_bits(sign | (magnitude + ((127 - 15) << 10)) << 13);
    float value = (float)magnitude * 0x1p-24f; /* subnormal or zero: a multiple of 2^-24 */
    return sign ? -value : value;
}

float dip_f32_at(enum dip_dtype dtype, const void *data, size_t index)
{
    switch (dtype) {
    case DIP_F32:
        return ((const float *)data)[index];
    case DIP_BF16:
        return dip_f32_from_bf16(((const uint16_t *)data)[index]);
    case DIP_F16:
        return dip_f32_from_f16(((const uint16_t *)data)[index]);
    default:
        dip_assert(!"a dtype of weights");
        return 0;
    }
}
