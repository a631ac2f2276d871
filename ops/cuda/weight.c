/* ops/cuda/weight.c - weights from mapped files to device memory, once.
 *
 * What a product or a norm reads lies as stored, dense. A convolution's kernel is packed by the
 * device, in the type that its activations have; for that it first goes to the place of the
 * kernels' scratch, which is larger than any of them. */
#include "ops/cuda/entries.h"

static struct dip_cuda_conv_pack pack_of(const struct dip_device *device, struct dip_tensor weight,
                                         enum dip_weight_use use)
{
    return (struct dip_cuda_conv_pack){.packed_dtype = device->activation,
                                       .weight = {.dtype = weight.dtype},
                                       .out_channels = weight.dims[0],
                                       .in_channels = weight.dims[1],
                                       .edge = (int)weight.dims[2],
                                       .upsample = use == DIP_WEIGHT_CONV_UPSAMPLED ? 2 : 1};
}

size_t dip__cuda_weight_bytes(const struct dip_device *device, struct dip_tensor weight,
                              enum dip_weight_use use)
{
    if (use == DIP_WEIGHT_PLAIN)
        return (size_t)dip_tensor_count(weight) * dip_dtype_bytes(weight.dtype);
    struct dip_cuda_conv_pack job = pack_of(device, weight, use);
    return dip_cuda_conv_packed_bytes(&job);
}

/* The next weight may take its turn in the scratch: the stream keeps them in order. */
static enum dip_status pack(struct dip_stream *s, enum dip_weight_use use, void *at,
                            struct dip_tensor *weight)
{
    struct dip__cuda_stream *q = dip__cuda_stream(s);
    struct dip_tensor raw = *weight;
    size_t bytes = (size_t)dip_tensor_count(raw) * dip_dtype_bytes(raw.dtype);
    if (bytes > DIP_CUDA_SCRATCH_BYTES)
        return DIP_UNSUPPORTED;
    raw.data = q->scratch;
    DIP_TRY(dip__cuda_copy_up(s, raw, *weight));
    struct dip_cuda_conv_pack job = pack_of(s->device, *weight, use);
    job.packed = at;
    job.weight.data = q->scratch;
    weight->data = at;
    weight->dtype = job.packed_dtype;
    return dip__cuda_launched(s, dip_cuda_conv_pack(q->stream, &job), "conv_pack");
}

enum dip_status dip__cuda_weight_place(struct dip_stream *s, enum dip_weight_use use, void *at,
                                       struct dip_tensor *weight)
{
    if (use != DIP_WEIGHT_PLAIN)
        return pack(s, use, at, weight);
    struct dip_tensor placed = *weight;
    placed.data = at;
    placed.row_stride = dip_tensor_columns(placed);
    DIP_TRY(dip__cuda_copy_up(s, placed, *weight));
    *weight = placed;
    return DIP_OK;
}
