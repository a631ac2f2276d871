/* kernels/cuda/sample.cu - drawing a token without sorting the vocabulary and without the host.
 *
 * The rule and the ids are those of kernels/cpu/sample.c, for the same bits, always: temperature,
 * top-k with ties, nucleus, inverse of the distribution at a given uniform, equal values by id.
 *
 * A value's bits, turned so that the order of numbers is that of integers, are selected by radix
 * (Alabi et al. 2012): three passes over the row count 11, 11 and 10 bits of those that agree with
 * the threshold so far, a fourth appends what is not below the k-th largest to a list, in any
 * order. One block then sorts the list by (value descending, id ascending) - a bitonic network in
 * shared memory, 2,048 keys for the usual top-k - and draws from it. Counts are integers, so
 * atomics cost no determinism. A greedy row only keeps its smallest (value, id) key.
 *
 * The CPU adds weights one after another in f64. Here 1,024 threads add pieces; if any comparison
 * with a sum comes closer than the error that either order can have (8 n 2^-53 of the total), one
 * thread does it again in the CPU's order. So the id never depends on the difference, and once in
 * some 10^9 draws it costs 0.2 ms.
 *
 * Bytes: four reads of 4 V a row, 0.87 MB each for V = 217,210, all but the first from the second
 * cache. Predicted on a H200: 14 us for one row (memset and five launches, each near its latency),
 * 45 us for 64. A list longer than LIST_MAX (top_k 0, or thousands of ties) is sorted in device
 * memory by a single block, which takes tens of milliseconds at 217,210: right, and not meant for
 * more than tests. */
#include "kernels/cuda/device.h"

enum {
    BINS = 2048,
    PASSES = 3,
    COUNT_THREADS = 256,
    COUNT_ELEMENTS = 8192, /* of a row, a block */
    DRAW_THREADS = 1024,
    LIST_MAX = 4096,
};

/* Of a row, in scratch. Zeroed by the launcher, so `best` holds the complement of the key. */
struct row_state {
    unsigned int bins[PASSES][BINS];
    unsigned int count; /* of the list */
    unsigned int pad;
    unsigned long long best;
    unsigned long long list[LIST_MAX];
};

/* What all kernels of a draw share. */
struct draw_job {
    struct dip_cuda_view logits;
    const struct dip_kernel_draw *draws;
    struct row_state *states;
    unsigned long long *large; /* room for one sorted row: keys, then weights */
    int64_t large_keys;        /* a power of two */
    int32_t *ids;              /* NULL: tell what is found instead */
    int32_t *found;
    int64_t room, found_stride;
    int32_t first_id;
};

/* ---- keys: small is likely ---- */

/* NaN counts as minus infinity, -0 as +0; as in kernels/cpu/draw.h. */
static __device__ __forceinline__ float draw_value(float logit, float temperature)
{
    float value = __fdiv_rn(logit, temperature);
    if (value != value)
        return -INFINITY;
    return value == 0.0f ? 0.0f : value;
}

/* Rises with the value. */
static __device__ __forceinline__ unsigned int order_of(float value)
{
    unsigned int bits = __float_as_uint(value);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static __device__ __forceinline__ unsigned long long key_of(unsigned int order, unsigned int id)
{
    return (unsigned long long)~order << 32 | id;
}

static __device__ __forceinline__ float value_of(unsigned long long key)
{
    unsigned int order = ~(unsigned int)(key >> 32);
    return __uint_as_float(order & 0x80000000u ? order & 0x7fffffffu : ~order);
}

static __device__ __forceinline__ int id_of(unsigned long long key)
{
    return (int)(unsigned int)key;
}

/* ---- which value is the k-th ---- */

static __device__ __forceinline__ int pass_shift(int pass)
{
    return pass == 0 ? 21 : pass == 1 ? 10 : 0;
}

static __device__ __forceinline__ unsigned int pass_bins(int pass)
{
    return pass == 2 ? 1024 : 2048;
}

struct search {
    unsigned int prefix; /* bits of the threshold known so far, in place */
    unsigned int left;   /* the threshold is the left-th largest of what agrees with them */
};

struct search_room {
    unsigned int warps[COUNT_THREADS / 32];
    struct search found;
};

/* One more digit of the threshold, by all COUNT_THREADS threads: each has eight bins, the first
 * thread the largest, and one of them finds its own where the count from above reaches `left`. */
static __device__ __forceinline__ void search_digit(struct search *s, const unsigned int *bins,
                                                    int pass, struct search_room *room)
{
    enum { OWN = BINS / COUNT_THREADS };
    int lane = (int)threadIdx.x % 32, first = BINS - OWN * ((int)threadIdx.x + 1);
    unsigned int own[OWN], sum = 0;
#pragma unroll
    for (int i = 0; i < OWN; i++)
        sum += own[i] = bins[first + i];
    unsigned int running = sum;
    for (int apart = 1; apart < 32; apart *= 2) {
        unsigned int other = __shfl_up_sync(0xffffffffu, running, apart);
        running += lane >= apart ? other : 0;
    }
    if (lane == 31)
        room->warps[threadIdx.x / 32] = running;
    __syncthreads();
    unsigned int above = running - sum;
    for (int warp = 0; warp < (int)threadIdx.x / 32; warp++)
        above += room->warps[warp];
    if (above < s->left && above + sum >= s->left) {
        int i = OWN - 1;
        while (above + own[i] < s->left)
            above += own[i--];
        room->found.prefix = s->prefix | (unsigned int)(first + i) << pass_shift(pass);
        room->found.left = s->left - above;
    }
    __syncthreads();
    *s = room->found;
    __syncthreads();
}

static __device__ __forceinline__ bool is_everything(int32_t top_k, int64_t vocab)
{
    return top_k <= 0 || top_k >= vocab;
}

/* What `passes` passes of counting have found. */
static __device__ __forceinline__ struct search
search_of(const struct row_state *state, int32_t top_k, int passes, struct search_room *room)
{
    struct search s = {0, (unsigned int)top_k};
    for (int pass = 0; pass < passes; pass++)
        search_digit(&s, state->bins[pass], pass, room);
    return s;
}

/* grid: pieces of a row, rows. */
static __global__ void __launch_bounds__(COUNT_THREADS) count_kernel(struct draw_job j, int pass)
{
    __shared__ unsigned int bins[BINS];
    __shared__ struct search_room room;
    int64_t row = blockIdx.y;
    struct dip_kernel_draw draw = j.draws[row];
    if (draw.top_k == 1 || is_everything(draw.top_k, j.logits.columns))
        return;
    struct row_state *state = &j.states[row];
    struct search s = search_of(state, draw.top_k, pass, &room);
    for (int i = (int)threadIdx.x; i < BINS; i += COUNT_THREADS)
        bins[i] = 0;
    __syncthreads();
    const float *logits = (const float *)j.logits.data + row * j.logits.stride;
    int64_t first = (int64_t)blockIdx.x * COUNT_ELEMENTS;
    int64_t last = min(first + COUNT_ELEMENTS, j.logits.columns);
    int shift = pass_shift(pass);
    for (int64_t c = first + threadIdx.x; c < last; c += COUNT_THREADS) {
        unsigned int order = order_of(draw_value(logits[c], draw.temperature));
        bool is_near =
            pass == 0 || order >> pass_shift(pass - 1) == s.prefix >> pass_shift(pass - 1);
        if (is_near)
            atomicAdd(&bins[order >> shift & (pass_bins(pass) - 1)], 1u);
    }
    __syncthreads();
    for (int i = (int)threadIdx.x; i < BINS; i += COUNT_THREADS)
        if (bins[i])
            atomicAdd(&state->bins[pass][i], bins[i]);
}

/* ---- the list ---- */

/* Appends the keys of the lanes that have one; whole warps call it. */
static __device__ __forceinline__ void append(struct row_state *state, bool is_in,
                                              unsigned long long key)
{
    unsigned int lanes = __ballot_sync(0xffffffffu, is_in);
    if (!lanes)
        return;
    int lane = (int)threadIdx.x % 32, first = __ffs((int)lanes) - 1;
    unsigned int at = 0;
    if (lane == first)
        at = atomicAdd(&state->count, (unsigned int)__popc(lanes));
    at = __shfl_sync(0xffffffffu, at, first);
    at += (unsigned int)__popc(lanes & ((1u << lane) - 1));
    if (is_in && at < LIST_MAX)
        state->list[at] = key;
}

static __global__ void __launch_bounds__(COUNT_THREADS) collect_kernel(struct draw_job j)
{
    __shared__ struct search_room room;
    int64_t row = blockIdx.y;
    struct dip_kernel_draw draw = j.draws[row];
    struct row_state *state = &j.states[row];
    unsigned int threshold = 0;
    if (draw.top_k != 1 && !is_everything(draw.top_k, j.logits.columns))
        threshold = search_of(state, draw.top_k, PASSES, &room).prefix;
    const float *logits = (const float *)j.logits.data + row * j.logits.stride;
    int64_t first = (int64_t)blockIdx.x * COUNT_ELEMENTS;
    unsigned long long best = 0;
    for (int64_t c = first + threadIdx.x; c < first + COUNT_ELEMENTS; c += COUNT_THREADS) {
        bool is_in = c < j.logits.columns;
        unsigned int order = is_in ? order_of(draw_value(logits[c], draw.temperature)) : 0;
        unsigned long long key = key_of(order, (unsigned int)c);
        if (draw.top_k == 1)
            best = is_in ? max(best, ~key) : best;
        else
            append(state, is_in && order >= threshold, key);
    }
    if (best)
        atomicMax(&state->best, best);
}

/* ---- sorting ---- */

/* Bitonic: keys[0 .. count), a power of two, ascending, by the whole block. */
static __device__ void sort_keys(unsigned long long *keys, int64_t count)
{
    for (int64_t run = 2; run <= count; run *= 2) {
        for (int64_t apart = run / 2; apart > 0; apart /= 2) {
            __syncthreads();
            for (int64_t i = threadIdx.x; i < count / 2; i += DRAW_THREADS) {
                int64_t low = 2 * i - (i & (apart - 1)), high = low + apart;
                unsigned long long a = keys[low], b = keys[high];
                bool is_up = (low & run) == 0;
                if ((a > b) == is_up) {
                    keys[low] = b;
                    keys[high] = a;
                }
            }
        }
    }
    __syncthreads();
}

static __device__ __forceinline__ int64_t power_of_two_from(int64_t n)
{
    int64_t power = 1;
    while (power < n)
        power *= 2;
    return power;
}

/* ---- drawing ---- */

/* exp(x) for x <= 0, operation by operation that of kernels/cpu/sample.c. */
static __device__ double exp_down(double x)
{
    const double inverse_factorials[] = {1.0,
                                         1.0,
                                         1.0 / 2.0,
                                         1.0 / 6.0,
                                         1.0 / 24.0,
                                         1.0 / 120.0,
                                         1.0 / 720.0,
                                         1.0 / 5040.0,
                                         1.0 / 40320.0,
                                         1.0 / 362880.0,
                                         1.0 / 3628800.0,
                                         1.0 / 39916800.0,
                                         1.0 / 479001600.0,
                                         1.0 / 6227020800.0};
    if (!(x > -708.0))
        return 0.0;
    double n = rint(__dmul_rn(x, 1.4426950408889634));
    double r = __dsub_rn(x, __dmul_rn(n, 0.693147180369123816490));
    r = __dsub_rn(r, __dmul_rn(n, 1.90821492927058770002e-10));
    double sum = inverse_factorials[13];
#pragma unroll
    for (int i = 12; i >= 0; i--)
        sum = __dadd_rn(__dmul_rn(sum, r), inverse_factorials[i]);
    return __dmul_rn(sum, __longlong_as_double((long long)(1023 + (long long)n) << 52));
}

/* Of sorted keys[0 .. count), how many the top_k keeps. */
static __device__ int64_t keep_top_k(const unsigned long long *keys, int64_t count, int64_t top_k)
{
    if (top_k <= 0 || top_k >= count)
        return count;
    if (top_k == 1)
        return 1;
    unsigned int threshold = (unsigned int)(keys[top_k - 1] >> 32);
    while (top_k < count && (unsigned int)(keys[top_k] >> 32) == threshold)
        top_k++;
    return top_k;
}

/* The CPU's order, for the rare draw that depends on it; by one thread. */
static __device__ int64_t pick_in_order(const double *weights, int64_t count, float top_p,
                                        float uniform)
{
    double total = 0.0;
    for (int64_t i = 0; i < count; i++)
        total = __dadd_rn(total, weights[i]);
    if (top_p < 1.0f) {
        double limit = __dmul_rn(__dsub_rn(1.0, (double)top_p), total), cumulative = 0.0;
        for (; count > 1; count--) {
            cumulative = __dadd_rn(cumulative, weights[count - 1]);
            if (cumulative > limit)
                break;
        }
        total = 0.0;
        for (int64_t i = 0; i < count; i++)
            total = __dadd_rn(total, weights[i]);
    }
    double target = __dmul_rn((double)uniform, total), cumulative = 0.0;
    for (int64_t i = 0; i < count - 1; i++) {
        cumulative = __dadd_rn(cumulative, weights[i]);
        if (cumulative > target)
            return i;
    }
    return count - 1;
}

/* What the block knows of the sums: each thread has weights [first, last), `before` is the sum of
 * what lies in front of them. */
struct pieces {
    int64_t first, last;
    double before, total;
};

struct pick_room {
    double sums[DRAW_THREADS];
    unsigned long long kept; /* how many the nucleus keeps */
    unsigned long long picked;
    int is_close;
};

static __device__ struct pieces sum_pieces(const double *weights, int64_t count,
                                           struct pick_room *room)
{
    int64_t length = (count + DRAW_THREADS - 1) / DRAW_THREADS;
    struct pieces p = {min((int64_t)threadIdx.x * length, count), 0, 0.0, 0.0};
    p.last = min(p.first + length, count);
    double own = 0.0;
    for (int64_t i = p.first; i < p.last; i++)
        own += weights[i];
    double sum = own;
    for (int apart = 1; apart < DRAW_THREADS; apart *= 2) { /* running sums over the threads */
        room->sums[threadIdx.x] = sum;
        __syncthreads();
        if ((int)threadIdx.x >= apart)
            sum += room->sums[threadIdx.x - apart];
        __syncthreads();
    }
    room->sums[threadIdx.x] = sum;
    __syncthreads();
    p.total = room->sums[DRAW_THREADS - 1];
    p.before = sum - own;
    __syncthreads();
    return p;
}

/* The index drawn, or -1 when a comparison was too close to call. All threads call it and get it.
 */
static __device__ int64_t pick_in_pieces(const double *weights, int64_t count, float top_p,
                                         float uniform, struct pick_room *room)
{
    struct pieces p = sum_pieces(weights, count, room);
    double close = 8.0 * (double)(count + 16) * 0x1p-53 * p.total;
    if (threadIdx.x == 0) {
        room->kept = top_p < 1.0f ? 1 : (unsigned long long)count;
        room->picked = 0;
        room->is_close = 0;
    }
    __syncthreads();
    if (top_p < 1.0f) { /* keeps index i while the sum from i to the end is over the limit */
        double limit = (1.0 - (double)top_p) * p.total, before = p.before;
        for (int64_t i = p.first; i < p.last; i++) {
            double rest = p.total - before;
            if (i > 0 && fabs(rest - limit) <= close)
                atomicOr(&room->is_close, 1);
            if (rest > limit)
                atomicMax(&room->kept, (unsigned long long)i + 1);
            before += weights[i];
        }
        __syncthreads();
    }
    int64_t kept = (int64_t)room->kept;
    double total = 0.0;
    if (kept - 1 >= p.first && kept - 1 < p.last) { /* the thread that holds the last kept one */
        total = p.before;
        for (int64_t i = p.first; i < kept; i++)
            total += weights[i];
        room->sums[0] = total;
    }
    __syncthreads();
    double target = (double)uniform * room->sums[0], sum = p.before;
    for (int64_t i = p.first; i < p.last && i < kept - 1; i++) {
        sum += weights[i];
        if (fabs(sum - target) <= close)
            atomicOr(&room->is_close, 1);
        if (sum <= target)
            atomicMax(&room->picked, (unsigned long long)i + 1);
    }
    __syncthreads();
    int64_t picked = room->is_close ? -1 : (int64_t)room->picked;
    __syncthreads();
    return picked;
}

/* The id drawn from sorted keys[0 .. count). */
static __device__ int draw_id(const unsigned long long *keys, int64_t count,
                              const struct dip_kernel_draw &draw, double *weights,
                              struct pick_room *room)
{
    count = keep_top_k(keys, count, draw.top_k);
    float first = value_of(keys[0]);
    for (int64_t i = threadIdx.x; i < count; i += DRAW_THREADS) {
        float value = value_of(keys[i]);
        weights[i] = value == first ? 1.0 : exp_down((double)value - (double)first);
    }
    __syncthreads();
    int64_t index = pick_in_pieces(weights, count, draw.top_p, draw.uniform, room);
    if (index < 0) {
        if (threadIdx.x == 0)
            room->picked =
                (unsigned long long)pick_in_order(weights, count, draw.top_p, draw.uniform);
        __syncthreads();
        index = (int64_t)room->picked;
    }
    return id_of(keys[index]);
}

/* One row of `found`, as dip__draw_tell writes it. */
static __device__ void tell(const struct draw_job &j, int64_t row, const unsigned long long *keys,
                            int64_t count)
{
    int32_t *found = j.found + row * j.found_stride;
    count = keep_top_k(keys, count, j.draws[row].top_k);
    if (threadIdx.x == 0)
        found[0] = (int32_t)count;
    for (int64_t i = threadIdx.x; i < count && i < j.room; i += DRAW_THREADS) {
        found[1 + 2 * i] = (int32_t)__float_as_uint(value_of(keys[i]));
        found[2 + 2 * i] = j.first_id + id_of(keys[i]);
    }
}

static __device__ void finish(const struct draw_job &j, int64_t row, const unsigned long long *keys,
                              int64_t count, double *weights, struct pick_room *room)
{
    if (!j.ids) {
        tell(j, row, keys, count);
        return;
    }
    int id = draw_id(keys, count, j.draws[row], weights, room);
    if (threadIdx.x == 0)
        j.ids[row] = id;
}

/* A row whose list was too short: every value is a key, and all are sorted. */
static __device__ void draw_large(const struct draw_job &j, int64_t row, struct pick_room *room)
{
    const float *logits = (const float *)j.logits.data + row * j.logits.stride;
    for (int64_t i = threadIdx.x; i < j.large_keys; i += DRAW_THREADS)
        j.large[i] =
            i < j.logits.columns
                ? key_of(order_of(draw_value(logits[i], j.draws[row].temperature)), (unsigned int)i)
                : ~0ull;
    sort_keys(j.large, j.large_keys);
    finish(j, row, j.large, j.logits.columns, (double *)(j.large + j.large_keys), room);
    __syncthreads();
}

/* One block a row, and a last one for the rows that do not fit, one after another. */
static __global__ void __launch_bounds__(DRAW_THREADS) draw_kernel(struct draw_job j)
{
    __shared__ struct pick_room room;
    unsigned long long *keys = (unsigned long long *)dip__shared();
    double *weights = (double *)(keys + LIST_MAX);
    int64_t row = blockIdx.x;
    if (row == j.logits.rows) {
        for (row = 0; row < j.logits.rows; row++)
            if (j.states[row].count > LIST_MAX)
                draw_large(j, row, &room);
        return;
    }
    const struct row_state *state = &j.states[row];
    int64_t count = state->count;
    if (count > LIST_MAX)
        return;
    if (j.draws[row].top_k == 1) {
        count = 1;
        if (threadIdx.x == 0)
            keys[0] = ~state->best;
        __syncthreads();
    } else {
        int64_t padded = power_of_two_from(count);
        for (int64_t i = threadIdx.x; i < padded; i += DRAW_THREADS)
            keys[i] = i < count ? state->list[i] : ~0ull;
        sort_keys(keys, padded);
    }
    finish(j, row, keys, count, weights, &room);
}

/* ---- launching ---- */

enum { DRAW_SHARED_BYTES = LIST_MAX * 16 };

static enum dip_status draw_rows(struct CUstream_st *stream, struct draw_job j, void *scratch)
{
    int64_t rows = j.logits.rows;
    j.large_keys = 1;
    while (j.large_keys < j.logits.columns)
        j.large_keys *= 2;
    size_t states_bytes = (size_t)rows * sizeof(struct row_state);
    if (rows > DIP_CUDA_SAMPLE_ROWS_MAX || j.logits.columns > DIP_KERNEL_VOCAB_MAX ||
        states_bytes + (size_t)j.large_keys * 16 > DIP_CUDA_SCRATCH_BYTES)
        return DIP_UNSUPPORTED;
    j.states = (struct row_state *)scratch;
    j.large = (unsigned long long *)((char *)scratch + states_bytes);
    if (cudaMemsetAsync(scratch, 0, states_bytes, stream))
        return DIP_DEVICE;
    dim3 pieces((unsigned int)dip__pieces(j.logits.columns, COUNT_ELEMENTS), (unsigned int)rows);
    for (int pass = 0; pass < PASSES; pass++)
        DIP_TRY(dip__launch(stream, count_kernel, pieces, COUNT_THREADS, 0, j, pass));
    DIP_TRY(dip__launch(stream, collect_kernel, pieces, COUNT_THREADS, 0, j));
    return dip__launch(stream, draw_kernel, dim3((unsigned int)rows + 1), DRAW_THREADS,
                       DRAW_SHARED_BYTES, j);
}

enum dip_status dip_cuda_sample(struct CUstream_st *stream, const struct dip_cuda_sample *job)
{
    struct draw_job j = {};
    j.logits = job->logits;
    j.draws = job->draws;
    j.ids = job->ids;
    return draw_rows(stream, j, job->scratch);
}

enum dip_status dip_cuda_sample_select(struct CUstream_st *stream,
                                       const struct dip_cuda_sample_select *job)
{
    struct draw_job j = {};
    j.logits = job->logits;
    j.draws = job->draws;
    j.found = job->found;
    j.room = job->room;
    j.found_stride = job->found_stride;
    j.first_id = job->first_id;
    return draw_rows(stream, j, job->scratch);
}

/* ---- merge ---- */

/* grid: rows. room_keys keys and as many weights a row; in scratch when shared memory is too small.
 */
static __global__ void __launch_bounds__(DRAW_THREADS)
    merge_kernel(struct dip_cuda_sample_merge j, int64_t room_keys)
{
    __shared__ struct pick_room room;
    int64_t row = blockIdx.x;
    bool is_small = room_keys <= LIST_MAX;
    unsigned long long *keys = is_small ? (unsigned long long *)dip__shared()
                                        : (unsigned long long *)j.scratch + row * 2 * room_keys;
    double *weights = (double *)(keys + room_keys);
    int64_t count = 0;
    for (int64_t rank = 0; rank < j.rank_count; rank++) {
        const int32_t *found = j.found + rank * j.rank_stride + row * (1 + 2 * j.room);
        int64_t here = found[0];
        if (here > j.room) { /* the same for all threads */
            if (threadIdx.x == 0)
                j.ids[row] = -1;
            return;
        }
        for (int64_t i = threadIdx.x; i < here; i += DRAW_THREADS)
            keys[count + i] = key_of(order_of(__uint_as_float((unsigned int)found[1 + 2 * i])),
                                     (unsigned int)found[2 + 2 * i]);
        count += here;
    }
    int64_t padded = power_of_two_from(count);
    for (int64_t i = count + threadIdx.x; i < padded; i += DRAW_THREADS)
        keys[i] = ~0ull;
    sort_keys(keys, padded);
    int id = draw_id(keys, count, j.draws[row], weights, &room);
    if (threadIdx.x == 0)
        j.ids[row] = id;
}

enum dip_status dip_cuda_sample_merge(struct CUstream_st *stream,
                                      const struct dip_cuda_sample_merge *job)
{
    int64_t room_keys = 1;
    while (room_keys < job->rank_count * job->room)
        room_keys *= 2;
    bool is_small = room_keys <= LIST_MAX;
    if (!is_small && job->row_count * room_keys * 16 > DIP_CUDA_SCRATCH_BYTES)
        return DIP_UNSUPPORTED;
    return dip__launch(stream, merge_kernel, dim3((unsigned int)job->row_count), DRAW_THREADS,
                       is_small ? (size_t)room_keys * 16 : 0, *job, room_keys);
}
