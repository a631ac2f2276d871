/* kernels/cuda/decode.cu - what a decode step does around the model, so that no step waits for the
 * host.
 *
 * begin writes, for every row of the bucket, where it stands and how it draws; end files what came
 * out and moves the slots on. Both run inside the step's graph, whose arguments never change: what
 * changes lies in struct dip_cuda_slot. A row whose slot does not run is computed like any other
 * and forgotten: a bucket has one graph, however many of its rows are alive.
 *
 * The uniform of image token k is Philox4x32-10 (Salmon et al. 2011) of (seed, image, token
 * purpose, k), bit for bit that of base/rng.c.
 *
 * Bytes: a few KB a row. Predicted 2 us each, of which latency is all. */
#include "kernels/cuda/device.h"

enum { THREADS = 256, PURPOSE_TOKEN = 1 }; /* DIP_RNG_TOKEN */

static __device__ float token_uniform(uint64_t seed, uint32_t image_index, uint32_t token)
{
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    uint32_t c0 = token, c1 = 0, c2 = image_index, c3 = PURPOSE_TOKEN;
    for (int round = 0; round < 10; round++) {
        uint32_t n0 = __umulhi(0xcd9e8d57u, c2) ^ c1 ^ k0, n1 = 0xcd9e8d57u * c2;
        uint32_t n2 = __umulhi(0xd2511f53u, c0) ^ c3 ^ k1, n3 = 0xd2511f53u * c0;
        c0 = n0, c1 = n1, c2 = n2, c3 = n3;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    return (float)(c0 >> 8) * 0x1p-24f;
}

/* One block a row. */
static __global__ void __launch_bounds__(THREADS) begin_kernel(struct dip_cuda_decode_begin j)
{
    int64_t r = blockIdx.x;
    int32_t slot_index = j.row_slots[r];
    const struct dip_cuda_slot &slot = j.slots[slot_index];
    bool is_running = slot.state == DIP_CUDA_SLOT_RUNNING;
    const float *last = (const float *)j.last.data + slot_index * j.last.stride;
    for (int64_t c = threadIdx.x; c < j.last.columns; c += THREADS)
        dip__put(j.drawing.data, j.drawing.dtype, r * j.drawing.stride + c, last[c]);
    if (threadIdx.x > 0)
        return;
    struct dip_kernel_draw draw = {1.0f, 1, 1.0f, 0.0f}; /* greedy */
    if (is_running) {
        draw.temperature = slot.temperature;
        draw.top_k = slot.top_k;
        draw.top_p = slot.top_p;
        draw.uniform = token_uniform(slot.seed, slot.image_index, (uint32_t)slot.token);
    }
    if (r == 0)
        *j.step += 1;
    j.draws[r] = draw;
    j.rows[r].slot = slot_index;
    j.rows[r].position = is_running ? slot.position : (int32_t)j.capacity - 1;
}

enum dip_status dip_cuda_decode_begin(struct CUstream_st *stream,
                                      const struct dip_cuda_decode_begin *job)
{
    return dip__launch(stream, begin_kernel, dim3((unsigned int)job->row_count), THREADS, 0, *job);
}

/* ---- end ---- */

static __device__ bool is_end_id(const struct dip_cuda_decode_end &j, int32_t id)
{
    for (int i = 0; i < j.eos_count; i++)
        if (j.eos_ids[i] == id)
            return true;
    return false;
}

/* Files the state of row r and says whether the calling thread saw it broken. */
static __device__ bool file_state(const struct dip_cuda_decode_end &j, int64_t r, float *hinge)
{
    const float *hidden = (const float *)j.hidden.data + r * j.hidden.stride;
    float *last = (float *)j.last.data + j.row_slots[r] * j.last.stride;
    bool is_broken = false;
    for (int64_t c = threadIdx.x; c < j.hidden.columns; c += THREADS) {
        float x = hidden[c];
        is_broken = is_broken || (__float_as_uint(x) & 0x7f800000u) == 0x7f800000u;
        last[c] = x;
        if (hinge)
            hinge[c] = x;
    }
    return is_broken;
}

static __device__ void move_on(struct dip_cuda_slot *slot, int32_t id, bool is_broken,
                               const struct dip_cuda_decode_end &j)
{
    if (id < 0) {
        slot->state = DIP_CUDA_SLOT_BROKEN;
        return;
    }
    slot->position++;
    slot->token++;
    slot->hinge_row++;
    if (is_broken)
        slot->state = DIP_CUDA_SLOT_BROKEN;
    else if (slot->position >= slot->end || is_end_id(j, id))
        slot->state = DIP_CUDA_SLOT_DONE;
}

/* One block a row. */
static __global__ void __launch_bounds__(THREADS) end_kernel(struct dip_cuda_decode_end j)
{
    int64_t r = blockIdx.x;
    struct dip_cuda_slot *slot = &j.slots[j.row_slots[r]];
    bool is_running = slot->state == DIP_CUDA_SLOT_RUNNING;
    bool is_drawn = is_running && j.ids[r] >= 0;
    float *hinge = slot->hinge ? slot->hinge + slot->hinge_row * j.hidden.columns : NULL;
    int is_broken = __syncthreads_or(is_drawn && file_state(j, r, hinge));
    if (threadIdx.x > 0)
        return;
    int32_t id = is_running ? j.ids[r] : -1;
    if (is_running)
        move_on(slot, id, is_broken != 0, j);
    uint32_t turn = (*j.step - 1) % (uint32_t)j.ring_depth;
    int32_t *entry = j.ring + (turn * j.row_count + r) * 2;
    entry[0] = id;
    entry[1] = slot->state;
}

enum dip_status dip_cuda_decode_end(struct CUstream_st *stream,
                                    const struct dip_cuda_decode_end *job)
{
    if (job->eos_count < 0 || job->eos_count > DIP_CUDA_EOS_MAX)
        return DIP_UNSUPPORTED;
    return dip__launch(stream, end_kernel, dim3((unsigned int)job->row_count), THREADS, 0, *job);
}
