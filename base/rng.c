/* base/rng.c - Philox4x32-10 and normals by Box-Muller.
 *
 * The logarithm, sine and cosine below are plain series in f64 with fixed order of operations: good
 * to about 1e-15, which is far below half a unit of the f32 they are rounded to, and the same bits
 * on every machine with IEEE 754 arithmetic. Square root is exactly rounded by the standard. */
#include "base/rng.h"

#include <math.h>
#include <string.h>

static void philox_round(uint32_t c[4], const uint32_t k[2])
{
    uint64_t a = (uint64_t)0xd2511f53u * c[0];
    uint64_t b = (uint64_t)0xcd9e8d57u * c[2];
    uint32_t next[4] = {(uint32_t)(b >> 32) ^ c[1] ^ k[0], (uint32_t)b,
                        (uint32_t)(a >> 32) ^ c[3] ^ k[1], (uint32_t)a};
    memcpy(c, next, sizeof next);
}

void dip_rng_words(const struct dip_rng_key *key, uint64_t position, uint32_t ret_words[4])
{
    uint32_t k[2] = {(uint32_t)key->seed, (uint32_t)(key->seed >> 32)};
    uint32_t c[4] = {(uint32_t)position, (uint32_t)(position >> 32), key->image_index,
                     (uint32_t)key->purpose};
    for (int round = 0; round < 10; round++) {
        philox_round(c, k);
        k[0] += 0x9e3779b9u;
        k[1] += 0xbb67ae85u;
    }
    memcpy(ret_words, c, sizeof c);
}

float dip_rng_uniform(const struct dip_rng_key *key, uint64_t position)
{
    uint32_t words[4];
    dip_rng_words(key, position, words);
    return (float)(words[0] >> 8) * 0x1p-24f;
}

/* ln((word + 1/2) / 2^32). With x = m 2^e, m in [1/sqrt 2, sqrt 2): ln x = e ln 2 + 2 atanh(t),
 * t = (m - 1) / (m + 1), |t| < 0.172, so the term left out (t^23 / 23) is below 1e-18. */
static double log_of_word(uint32_t word)
{
    double x = ((double)word + 0.5) * 0x1p-32;
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int e = (int)(bits >> 52) - 1023;
    bits = (bits & ((UINT64_C(1) << 52) - 1)) | UINT64_C(1023) << 52;
    double m;
    memcpy(&m, &bits, sizeof m);
    if (m > 1.4142135623730951) {
        m *= 0.5;
        e++;
    }
    double t = (m - 1) / (m + 1);
    double t2 = t * t;
    double sum = 0;
    for (int odd = 21; odd >= 1; odd -= 2)
        sum = sum * t2 + 1.0 / odd;
    /* ln 2 in two parts: the first has trailing zeros, so its product with e is exact. */
    return e * 0x1.62e42fee00000p-1 + (2 * t * sum + e * 0x1.a39ef35793c76p-33);
}

/* cos and sin of 2 pi word / 2^32. The turn is cut into quarters in integers, exactly; the rest is
 * an angle within pi/4 of zero, where the Taylor terms left out are below 1e-17. */
static void cos_sin_of_word(uint32_t word, double *ret_cos, double *ret_sin)
{
    uint32_t quarter = (word + (UINT32_C(1) << 29)) >> 30;
    int32_t rest = (int32_t)(word - (quarter << 30)); /* in [-2^29, 2^29) */
    double x = (double)rest * (0x1.921fb54442d18p+2 * 0x1p-32);
    double x2 = x * x;
    double cosine = 1;
    double sine = 1;
    for (int n = 18; n >= 2; n -= 2) {
        cosine = 1 - cosine * x2 / (n * (n - 1));
        sine = 1 - sine * x2 / (n * (n + 1));
    }
    sine *= x;
    switch (quarter & 3) {
    case 0:
        *ret_cos = cosine;
        *ret_sin = sine;
        break;
    case 1:
        *ret_cos = -sine;
        *ret_sin = cosine;
        break;
    case 2:
        *ret_cos = -cosine;
        *ret_sin = -sine;
        break;
    default:
        *ret_cos = sine;
        *ret_sin = -cosine;
        break;
    }
}

static void normal_pair(uint32_t radius_word, uint32_t angle_word, float out[2])
{
    double radius = sqrt(-2 * log_of_word(radius_word));
    double cosine;
    double sine;
    cos_sin_of_word(angle_word, &cosine, &sine);
    out[0] = (float)(radius * cosine);
    out[1] = (float)(radius * sine);
}

void dip_rng_normals(const struct dip_rng_key *key, float *out, size_t count)
{
    for (size_t first = 0; first < count; first += 4) {
        uint32_t words[4];
        float four[4];
        dip_rng_words(key, first / 4, words);
        normal_pair(words[0], words[1], four);
        normal_pair(words[2], words[3], four + 2);
        size_t left = count - first;
        memcpy(out + first, four, (left < 4 ? left : 4) * sizeof four[0]);
    }
}
