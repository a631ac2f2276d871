/* kernels/cuda/sampler.cu - the two ends of a sampler's step, for pictures at steps of their own.
 *
 *   begin   the items' latents side by side, their timesteps, a clean slate
 *   end     v = u + g (c - u); x0 = x + a v; x' = c0 x + c1 v, or c0 x + c1 x0 (+ c2 x0 before)
 *
 * Every product and sum is rounded in the order of guide and blend, whose launches these replace
 * (five or six a picture): the bits are theirs. Where an item's latent lies and what its
 * coefficients are is read from device memory, so a recorded step is everybody's.
 *
 * Bytes: 28 an element, 0.9 MB a picture of 1,024 px: a launch's 2 us. Tried: nothing yet on a GPU.
 */
#include "kernels/cuda/device.h"

struct begin {
    struct dip_cuda_sampler_begin j;
    bool is_wide;

    __device__ void run(const struct dip__spot &at) const
    {
        const struct dip_cuda_sampler_item &item = j.items[at.row];
        float x[DIP__CHUNK];
        if (at.column == 0) {
            j.t[at.row] = item.timestep;
            j.is_bad[at.row] = 0;
        }
        dip__load8(x, item.latent, DIP_F32, at.column, at.count, is_wide);
        dip__store_spot(j.latent, at, is_wide, x);
    }
};

/* The items' own latents are aligned like everything that is reserved, or like the batch's rows. */
static bool is_row_aligned(const struct dip_cuda_view *v)
{
    return !v->data || ((uintptr_t)v->data % 16 == 0 && v->columns % 4 == 0);
}

enum dip_status dip_cuda_sampler_begin(struct CUstream_st *stream,
                                       const struct dip_cuda_sampler_begin *job)
{
    struct begin work = {*job, is_row_aligned(&job->latent)};
    return dip__run_chunks(stream, work, job->latent.rows, job->latent.columns);
}

struct end {
    struct dip_cuda_sampler_end j;
    bool is_wide;

    /* v where it lies, and in v. */
    __device__ void guide(const struct dip_cuda_sampler_item &item, const struct dip__spot &at,
                          float v[DIP__CHUNK]) const
    {
        float uncond[DIP__CHUNK];
        dip__load_spot(v, j.cond, at, is_wide);
        if (item.guidance != 1.0f) {
            dip__load_spot(uncond, j.uncond, at, is_wide);
#pragma unroll
            for (int e = 0; e < DIP__CHUNK; e++)
                v[e] = dip__guided(uncond[e], v[e], item.guidance);
        }
        dip__store_spot(j.velocity, at, is_wide, v);
    }

    __device__ void run(const struct dip__spot &at) const
    {
        const struct dip_cuda_sampler_item item = j.items[at.row];
        float v[DIP__CHUNK], x[DIP__CHUNK], clean[DIP__CHUNK], previous[DIP__CHUNK] = {0};
        guide(item, at, v);
        dip__load8(x, item.latent, DIP_F32, at.column, at.count, is_wide);
        if (item.rule == DIP_CUDA_SAMPLER_SECOND)
            dip__load8(previous, item.clean_previous, DIP_F32, at.column, at.count, is_wide);
#pragma unroll
        for (int e = 0; e < DIP__CHUNK; e++) {
            clean[e] = __fadd_rn(x[e], __fmul_rn(item.to_clean, v[e]));
            float slope = item.rule == DIP_CUDA_SAMPLER_STRAIGHT ? v[e] : clean[e];
            x[e] = __fadd_rn(__fmul_rn(item.c[0], x[e]), __fmul_rn(item.c[1], slope));
            if (item.rule == DIP_CUDA_SAMPLER_SECOND)
                x[e] = __fadd_rn(x[e], __fmul_rn(item.c[2], previous[e]));
            if (e >= at.count)
                x[e] = 0.0f;
        }
        dip__store8(item.clean, DIP_F32, at.column, at.count, is_wide, clean);
        dip__store8(item.latent, DIP_F32, at.column, at.count, is_wide, x);
        if (dip__is_any_bad(x))
            atomicOr(&j.is_bad[at.row], 1u);
    }
};

enum dip_status dip_cuda_sampler_end(struct CUstream_st *stream,
                                     const struct dip_cuda_sampler_end *job)
{
    struct end work = {*job, is_row_aligned(&job->velocity) && is_row_aligned(&job->uncond) &&
                                 is_row_aligned(&job->cond)};
    return dip__run_chunks(stream, work, job->velocity.rows, job->velocity.columns);
}
