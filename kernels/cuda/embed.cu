/* kernels/cuda/embed.cu - rows of a table picked by ids.
 *
 * out[r, :] = table[ids[r], :] in out's type. Bound by memory and, with the few rows of a decode
 * step, by the latency of two dependent reads (predicted 2 us a launch). The id is read from device
 * memory: the step that drew it need not come back to the host. */
#include "kernels/cuda/device.h"

struct embed {
    struct dip_cuda_embed j;
    bool is_wide;

    __device__ void run(const struct dip__spot &at) const
    {
        float x[DIP__CHUNK];
        int32_t id = j.ids[at.row];
        if (id >= 0 && id < j.table_rows) {
            dip__load8(x, j.table.data, j.table.dtype, id * j.table_stride + at.column, at.count,
                       is_wide);
        } else { /* a broken id must not become a picture */
            for (int e = 0; e < DIP__CHUNK; e++)
                x[e] = __uint_as_float(0x7fc00000u);
        }
        dip__store_spot(j.out, at, is_wide, x);
    }
};

enum dip_status dip_cuda_embed(struct CUstream_st *stream, const struct dip_cuda_embed *job)
{
    struct embed work = {*job,
                         dip__is_view_aligned(&job->out) &&
                             dip__is_aligned(job->table.data, job->table_stride, job->table.dtype)};
    return dip__run_chunks(stream, work, job->out.rows, job->out.columns);
}
