/* kernels/cuda/conv.cu - convolutions of NHWC images as tiles of a product (implicit GEMM).
 *
 *   out[pixel, Co] = act(sum over taps, Ci of weight[Co, tap, Ci] in[pixel under tap, Ci] + bias)
 *
 * The tiles are those of the linear product (product.h): a row is an output pixel, and its k-th
 * element lies under tap k / Ci. Eight neighbouring channels are 16 bytes of one pixel, so a tile
 * is fetched by the same copies; the padding is their zero fill. Weights are packed once with
 * channels fastest, because the checkpoint has taps fastest.
 *
 * Enlarging by two and then convolving is four convolutions of the small image, one for each
 * parity of the output pixel: taps that fall on the same pixel are summed when the weights are
 * packed. 3 x 3 becomes 2 x 2, 4 taps for 9, and the enlarged image is never written. The sums are
 * rounded to the packed type once, which with BF16 is half a unit in a weight, as if the
 * checkpoint had stored them so.
 *
 * Flops 2 pixels Co Ci taps; activations are read once a tap, from the second cache but for the
 * first. Bound by tensor cores from 64 channels up. DC-AE at 1,024 px is 7.4 TFLOP: predicted 24 ms
 * on a H200 at what mma.sync can do; the last convolution, to 3 channels, uses 3 of 64 output
 * lines and costs 0.5 ms of it. wgmma with im2col TMA is what would go further.
 * Tried: nothing yet on a GPU. */
#include "kernels/cuda/product.h"

static int packed_edge(int edge, int upsample)
{
    return upsample == 2 ? (edge + 1) / 2 : edge;
}

/* ---- packing ---- */

enum { PACK_THREADS = 256 };

/* The stored tap `tap` of an edge belongs to this tap of the phase. */
static __device__ __forceinline__ int packed_tap(int tap, int edge, int phase)
{
    int half = edge / 2;
    return dip__half_down(phase + tap - half) - dip__half_down(phase - half);
}

/* One thread a packed weight; stored taps are added in order. */
static __global__ void __launch_bounds__(PACK_THREADS)
    pack_kernel(struct dip_cuda_conv_pack j, int to_edge, int64_t count)
{
    int64_t index = (int64_t)blockIdx.x * PACK_THREADS + threadIdx.x;
    if (index >= count)
        return;
    int64_t channel = index % j.in_channels, rest = index / j.in_channels;
    int tap = (int)(rest % (to_edge * to_edge));
    rest /= to_edge * to_edge;
    int64_t out = rest % j.out_channels;
    int phase = (int)(rest / j.out_channels);
    float sum = 0.0f;
    for (int stored = 0; stored < j.edge * j.edge; stored++) {
        int y = stored / j.edge, x = stored % j.edge;
        if (j.upsample == 2) {
            y = packed_tap(y, j.edge, phase / 2);
            x = packed_tap(x, j.edge, phase % 2);
        }
        if (y * to_edge + x == tap)
            sum += dip__at(j.weight.data, j.weight.dtype,
                           (out * j.in_channels + channel) * j.edge * j.edge + stored);
    }
    dip__put(j.packed, j.packed_dtype, index, sum);
}

static int64_t packed_count(const struct dip_cuda_conv_pack *job)
{
    int64_t edge = packed_edge(job->edge, job->upsample);
    return (job->upsample == 2 ? 4 : 1) * job->out_channels * edge * edge * job->in_channels;
}

size_t dip_cuda_conv_packed_bytes(const struct dip_cuda_conv_pack *job)
{
    return (size_t)packed_count(job) * dip__dtype_size(job->packed_dtype);
}

enum dip_status dip_cuda_conv_pack(struct CUstream_st *stream, const struct dip_cuda_conv_pack *job)
{
    int64_t count = packed_count(job), blocks = dip__pieces(count, PACK_THREADS);
    if (blocks > INT32_MAX)
        return DIP_UNSUPPORTED;
    return dip__launch(stream, pack_kernel, dim3((unsigned int)blocks), PACK_THREADS, 0, *job,
                       packed_edge(job->edge, job->upsample), count);
}

/* ---- convolving ---- */

static struct dip__product product_of(const struct dip_cuda_conv *job)
{
    struct dip__product p = {};
    p.out = job->out;
    p.in = job->in;
    p.weight = job->packed;
    p.bias = job->bias;
    p.act = job->act;
    p.out_count = job->out.columns;
    p.channels = (int)job->in.columns;
    p.edge = packed_edge(job->edge, job->upsample);
    p.length = (int64_t)p.edge * p.edge * p.channels;
    p.stride = job->stride;
    p.upsample = job->upsample;
    p.height = (int)job->height;
    p.width = (int)job->width;
    p.grid_height = (int)((job->height + job->stride - 1) / job->stride);
    p.grid_width = (int)((job->width + job->stride - 1) / job->stride);
    p.row_count = job->batch * p.grid_height * p.grid_width;
    p.is_in_wide = p.channels % DIP__CHUNK == 0 && dip__is_view_aligned(&job->in);
    p.is_weight_wide = p.length % DIP__CHUNK == 0 && (uintptr_t)job->packed.data % 16 == 0;
    p.is_out_wide = dip__is_view_aligned(&job->out) && (uintptr_t)job->bias.data % 16 == 0;
    return p;
}

enum dip_status dip_cuda_conv(struct CUstream_st *stream, const struct dip_cuda_conv *job)
{
    struct dip__product p = product_of(job);
    int phases = job->upsample == 2 ? 4 : 1;
    if (p.length > INT32_MAX || p.row_count > INT32_MAX)
        return DIP_UNSUPPORTED;
    bool is_tensor = job->in.dtype == DIP_BF16 && job->packed.dtype == DIP_BF16;
    return dip__product_run(stream, &p, phases, is_tensor);
}
