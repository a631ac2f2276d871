/* base/rng.h - counter-based randomness: the same (seed, image, purpose, position) gives the same
 * numbers everywhere.
 *
 * Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). There is no
 * state to advance, so order of calls, batching, retries and threads cannot change a draw. Key =
 * seed; counter = (position low, position high, image index, purpose). Uniforms and normals use
 * only operations whose rounding is fixed by IEEE 754 plus our own logarithm and sine series, so
 * they do not depend on the C library. */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum dip_rng_purpose {
    DIP_RNG_TOKEN = 1, /* position = index of the sampled image token */
    DIP_RNG_NOISE = 2, /* position = index of the element of the initial latent, over 4 */
    DIP_RNG_TEST = 3,
};

struct dip_rng_key {
    uint64_t seed;
    uint32_t image_index;
    enum dip_rng_purpose purpose;
};

/* Four raw 32-bit words for a position. */
void dip_rng_words(const struct dip_rng_key *key, uint64_t position, uint32_t ret_words[4]);

/* One uniform in [0, 1) with 24 bits, exact in f32. */
float dip_rng_uniform(const struct dip_rng_key *key, uint64_t position);

/* Fills out[count] with standard normals (Box-Muller on 32-bit uniforms, f64 inside, rounded once
 * to f32). */
void dip_rng_normals(const struct dip_rng_key *key, float *out, size_t count);
