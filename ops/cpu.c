/* ops/cpu.c - the CPU backend: its memory, its threads, its choice of kernels.
 *
 * Every job is a range of units that own their outputs (kernels/kernels.h). The range is cut into
 * as many equal parts as there are threads, or fewer when the job is small; nothing about the cut
 * can be seen in the results. Calls return when the work is done. */
#include "ops/cpu.h"

#include <cpuid.h>
#include <string.h>
#include <sys/mman.h>

#include "base/assert.h"
#include "base/pool.h"

/* ---- families of kernels ---- */

#define TRAMPOLINE_CPU(op)                                                                         \
    static void plain_##op(const void *job, int64_t begin, int64_t end, void *scratch)             \
    {                                                                                              \
        dip_cpu_##op(job, begin, end, scratch);                                                    \
    }
#define TRAMPOLINE_AVX2(op)                                                                        \
    static void avx2_##op(const void *job, int64_t begin, int64_t end, void *scratch)              \
    {                                                                                              \
        dip_avx2_##op(job, begin, end, scratch);                                                   \
    }
#define TRAMPOLINE_AVX512(op)                                                                      \
    static void avx512_##op(const void *job, int64_t begin, int64_t end, void *scratch)            \
    {                                                                                              \
        dip_avx512_##op(job, begin, end, scratch);                                                 \
    }
DIP_KERNEL_LIST(TRAMPOLINE_CPU)
DIP_KERNEL_FAST_LIST(TRAMPOLINE_AVX2)
DIP_KERNEL_WIDE_LIST(TRAMPOLINE_AVX2)
DIP_KERNEL_WIDE_LIST(TRAMPOLINE_AVX512)
TRAMPOLINE_AVX2(ceiling_fma)
TRAMPOLINE_AVX512(ceiling_fma)

/* clang-format off */
#define FIELD_CPU(op) .op = plain_##op,
#define FIELD_AVX2(op) .op = avx2_##op,
#define FIELD_AVX512(op) .op = avx512_##op,
static const struct dip__cpu_kernels plain_kernels = {
    .class_name = "cpu-plain",
    DIP_KERNEL_LIST(FIELD_CPU)
};
static const struct dip__cpu_kernels avx2_kernels = {
    .class_name = "cpu-avx2",
    DIP_KERNEL_SLOW_LIST(FIELD_CPU)
    DIP_KERNEL_FAST_LIST(FIELD_AVX2)
    DIP_KERNEL_WIDE_LIST(FIELD_AVX2)
    FIELD_AVX2(ceiling_fma)
};
/* The same class: a wider register holds more outputs, and changes none. */
static const struct dip__cpu_kernels avx512_kernels = {
    .class_name = "cpu-avx2",
    DIP_KERNEL_SLOW_LIST(FIELD_CPU)
    DIP_KERNEL_FAST_LIST(FIELD_AVX2)
    DIP_KERNEL_WIDE_LIST(FIELD_AVX512)
    FIELD_AVX512(ceiling_fma)
};
/* clang-format on */

static bool has_f16c(void)
{
    unsigned a = 0;
    unsigned b = 0;
    unsigned c = 0;
    unsigned d = 0;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

static bool has_avx2(void)
{
    return has_f16c() && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}

const struct dip__cpu_kernels *dip__cpu_kernels(enum dip__cpu_family family)
{
    if (family == DIP__CPU_PLAIN || !has_avx2())
        return &plain_kernels;
    return family == DIP__CPU_BEST && has_avx512() ? &avx512_kernels : &avx2_kernels;
}

/* ---- threads ---- */

/* Below this a second thread costs more in waking up than it saves. */
static const double PART_NS_MIN = 10000.0;

struct cut {
    dip__kernel_fn kernel;
    const void *job;
    int64_t units;
    char *scratch;
};

static void run_part(void *context, int part, int part_count)
{
    const struct cut *cut = context;
    int64_t begin = cut->units * part / part_count;
    int64_t end = cut->units * (part + 1) / part_count;
    cut->kernel(cut->job, begin, end, cut->scratch + (size_t)part * DIP_KERNEL_SCRATCH_BYTES);
}

void dip__cpu_run(struct dip_stream *s, dip__kernel_fn kernel, const void *job, int64_t units,
                  double unit_ns)
{
    struct cut cut = {.kernel = kernel, .job = job, .units = units, .scratch = s->scratch.base};
    double work_ns = (double)units * unit_ns;
    double part_ns_min = s->device->part_ns_min;
    int parts = s->device->threads;
    if (work_ns < part_ns_min * parts)
        parts = work_ns < part_ns_min ? 1 : (int)(work_ns / part_ns_min);
    if (units < parts)
        parts = (int)units;
    dip_pool_run(s->device->pool, run_part, &cut, parts);
}

/* ---- memory ---- */

enum { HUGE_BYTES_MIN = 64 << 20 };

/* Mapped rather than allocated: zeroed, aligned, and resident only as far as it is used. */
static enum dip_status map(size_t bytes, struct dip_mem *ret_mem)
{
    size_t size = bytes ? bytes : 1;
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
        return DIP_NO_MEMORY;
    *ret_mem = (struct dip_mem){.base = base, .bytes = size};
    return DIP_OK;
}

/* Large pages for large models: their images are walked by channel, tens of KB from pixel to pixel.
 * Small models would only pay for clearing them. */
static enum dip_status reserve(struct dip_device *device, size_t bytes, struct dip_mem *ret_mem)
{
    (void)device;
    DIP_TRY(map(bytes, ret_mem));
    if (bytes >= HUGE_BYTES_MIN)
        (void)madvise(ret_mem->base, bytes, MADV_HUGEPAGE); /* a wish: refusal changes nothing */
    return DIP_OK;
}

static void release(struct dip_device *device, struct dip_mem *mem)
{
    (void)device;
    munmap(mem->base, mem->bytes);
}

static enum dip_status wait(struct dip_stream *s)
{
    (void)s;
    return DIP_OK;
}

/* Runs of whichever view has its row end first. */
static enum dip_status copy(struct dip_stream *s, struct dip_tensor to, struct dip_tensor from)
{
    (void)s;
    size_t size = dip_dtype_bytes(to.dtype);
    int64_t to_columns = dip_tensor_columns(to);
    int64_t from_columns = dip_tensor_columns(from);
    int64_t count = dip_tensor_count(to);
    for (int64_t done = 0; done < count;) {
        int64_t to_left = to_columns - done % to_columns;
        int64_t from_left = from_columns - done % from_columns;
        int64_t run = to_left < from_left ? to_left : from_left;
        int64_t to_at = done / to_columns * to.row_stride + done % to_columns;
        int64_t from_at = done / from_columns * from.row_stride + done % from_columns;
        memmove((char *)to.data + (size_t)to_at * size,
                (const char *)from.data + (size_t)from_at * size, (size_t)run * size);
        done += run;
    }
    return DIP_OK;
}

static enum dip_status fill(struct dip_stream *s, struct dip_tensor to, float value)
{
    (void)s;
    for (int64_t r = 0; r < dip_tensor_rows(to); r++) {
        float *row = (float *)to.data + r * to.row_stride;
        for (int64_t c = 0; c < dip_tensor_columns(to); c++)
            row[c] = value;
    }
    return DIP_OK;
}

enum { FINITE_UNITS_MAX = 64 };

static enum dip_status check_finite(struct dip_stream *s, struct dip_tensor t, bool *ret_is_finite)
{
    bool bad[FINITE_UNITS_MAX] = {false}; /* one per unit: nobody shares a flag */
    int64_t rows = dip_tensor_rows(t);
    struct dip_job_check_finite job = {
        .data = t.data,
        .dtype = t.dtype,
        .row_count = rows,
        .column_count = dip_tensor_columns(t),
        .stride = t.row_stride,
        .unit_rows = dip__pieces(rows, FINITE_UNITS_MAX),
        .ret_bad = bad,
    };
    double unit_ns = dip__bytes_ns(4.0 * (double)(job.unit_rows * job.column_count));
    int64_t units = dip__pieces(rows, job.unit_rows);
    dip__cpu_run(s, s->device->kernels->check_finite, &job, units, unit_ns);
    bool is_finite = true;
    for (int64_t i = 0; i < units; i++)
        is_finite = is_finite && !bad[i];
    *ret_is_finite = is_finite;
    return DIP_OK;
}

/* ---- device and stream ---- */

static void close_device(struct dip_device *device)
{
    dip_pool_free(device->pool);
}

static enum dip_status stream_open(struct dip_stream *stream)
{
    size_t bytes = (size_t)stream->device->threads * DIP_KERNEL_SCRATCH_BYTES;
    return map(bytes, &stream->scratch);
}

static void stream_close(struct dip_stream *stream)
{
    release(stream->device, &stream->scratch);
}

#define ENTRY(op) .op = dip__cpu_##op,
static const struct dip_ops cpu_ops = {.name = "cpu",
                                       .close = close_device,
                                       .stream_open = stream_open,
                                       .stream_close = stream_close,
                                       .reserve = reserve,
                                       .release = release,
                                       .wait = wait,
                                       .copy = copy,
                                       .fill = fill,
                                       .check_finite = check_finite,
                                       DIP_OPS_LIST(ENTRY)};

enum dip_status dip__cpu_open(struct dip_device *device, int threads, enum dip__cpu_family family,
                              struct dip_why *why)
{
    if (threads <= 0)
        threads = dip_cpu_count();
    if (threads > DIP_THREADS_MAX)
        return dip_fail(why, DIP_LIMIT, "%d threads asked for; at most %d are possible", threads,
                        DIP_THREADS_MAX);
    enum dip_status status = dip_pool_new(threads, &device->pool);
    if (status)
        return dip_fail(why, status, "%d compute threads could not be started", threads);
    device->ops = &cpu_ops;
    device->kernels = dip__cpu_kernels(family);
    device->class_name = device->kernels->class_name;
    device->threads = threads;
    device->activation = DIP_F32;
    device->part_ns_min = PART_NS_MIN;
    return DIP_OK;
}
