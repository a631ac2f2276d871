/* tests/cuda_emulator/dip_emulated_ptx.h - twins of the instructions in kernels/cuda/ptx.h.
 *
 * Each does what the PTX manual says of its instruction, lane by lane. */
#pragma once

#include <dip_emulated_device.h>

void dip_emulator_copy_async(void *to, const void *from, unsigned int bytes);
void dip_emulator_copy_commit(void);
void dip_emulator_copy_wait(int left);

static inline void *dip__shared(void)
{
    return dip_emulator_shared();
}

static inline void dip__wait_inputs(void)
{
}

static inline void dip__let_next_begin(void)
{
}

/* cvt.rn.bf16.f32: nearest even, NaN becomes 0x7fff. */
static inline uint32_t dip__bf16_bits(float x)
{
    uint32_t bits = __float_as_uint(x);
    if (x != x)
        return 0x7fff;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

static inline uint32_t dip__bf16x2(float low, float high)
{
    return dip__bf16_bits(low) | dip__bf16_bits(high) << 16;
}

static inline float dip__f32_of_f16(uint16_t bits)
{
    uint32_t sign = (uint32_t)(bits & 0x8000) << 16;
    uint32_t exponent = bits >> 10 & 31, fraction = bits & 0x3ff;
    if (exponent == 31)
        return __uint_as_float(sign | 0x7f800000 | fraction << 13);
    if (exponent == 0) {
        float magnitude = (float)fraction * 0x1p-24f;
        return sign ? -magnitude : magnitude;
    }
    return __uint_as_float(sign | (exponent + 112) << 23 | fraction << 13);
}

/* cvt.rn.f16.f32: nearest even, NaN becomes 0x7fff. */
static inline uint16_t dip__f16_bits(float x)
{
    uint32_t sign = __float_as_uint(x) >> 16 & 0x8000;
    double size = fabs((double)x);
    if (x != x)
        return 0x7fff;
    if (size >= 65520.0)
        return (uint16_t)(sign | 0x7c00);
    int exponent = size < 0x1p-14 ? -14 : ilogb(size);
    double steps = rint(ldexp(size, 10 - exponent)); /* 1024 and more when normal */
    return (uint16_t)(sign | (uint32_t)(steps + (exponent + 14) * 1024.0));
}

static inline uint4 dip__load_stream(const void *from)
{
    uint4 value;
    memcpy(&value, from, sizeof value);
    return value;
}

static inline void dip__copy_async(void *to, const void *from, bool is_there)
{
    dip_emulator_copy_async(to, from, is_there ? 16 : 0);
}
static inline void dip__copy_commit(void)
{
    dip_emulator_copy_commit();
}
template <int LEFT> static inline void dip__copy_wait(void)
{
    dip_emulator_copy_wait(LEFT);
}

/* mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32, fragments as the manual draws them:
 * lane = 4 g + t holds of A the rows g and g + 8, columns 2t, 2t+1, 2t+8, 2t+9; of B those rows of
 * column g; of C the rows g and g + 8 of columns 2t, 2t+1. Summed one k after another, so that
 * a kernel that hands the same numbers over in another order shows. */
static inline void dip__mma(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    uint32_t given[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    const char *slots =
        (const char *)dip_emulator_exchange(0xffffffffu, given, sizeof given, "mma");
    unsigned int g = dip_emulator_lane() / 4, t = dip_emulator_lane() % 4;
    for (unsigned int k = 0; k < 16; k++) {
        unsigned int half = k / 8, part = k % 8 / 2, shift = 16 * (k % 2);
        uint32_t of_a[4], of_b[2][2];
        memcpy(of_a, slots + (4 * g + part) * 64, sizeof of_a);
        for (unsigned int column = 0; column < 2; column++)
            memcpy(of_b[column], slots + (4 * (2 * t + column) + part) * 64 + 16, 8);
        float low = __uint_as_float(of_a[2 * half] >> shift << 16);
        float high = __uint_as_float(of_a[2 * half + 1] >> shift << 16);
        for (unsigned int column = 0; column < 2; column++) {
            float x = __uint_as_float(of_b[column][half] >> shift << 16);
            c[column] += low * x; /* a product of two bf16 is exact */
            c[2 + column] += high * x;
        }
    }
}

/* ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 */
static inline void dip__load_transposed(uint32_t to[4], const void *row)
{
    const char *slots =
        (const char *)dip_emulator_exchange(0xffffffffu, &row, sizeof row, "ldmatrix");
    unsigned int g = dip_emulator_lane() / 4, t = dip_emulator_lane() % 4;
    for (unsigned int matrix = 0; matrix < 4; matrix++) {
        const uint16_t *rows[2];
        memcpy(&rows[0], slots + (8 * matrix + 2 * t) * 64, sizeof rows[0]);
        memcpy(&rows[1], slots + (8 * matrix + 2 * t + 1) * 64, sizeof rows[1]);
        to[matrix] = rows[0][g] | (uint32_t)rows[1][g] << 16;
    }
}
