/* ops/cuda/cudnn.c - the decoder's convolutions through cuDNN, where it is.
 *
 * Plans are made at the start, between dip_plans_begin and dip_plans_end, for the pictures that the
 * model makes by itself: some take cuDNN seconds to compile. From then on none is made and nothing
 * is allocated: a convolution that has a plan is computed by it, any other by our own kernel
 * (kernels/cuda/conv.cu). Which of them it is follows from its shape and from what the process was
 * started for, never from what came before.
 *
 * A plan computes one picture; a batch is that many calls. An enlarging convolution is four, one
 * for each parity of the output pixel, on the weights that weight.c has packed for the own kernel:
 *
 *     parity 0 of an axis: taps at i - 1, i        one row of padding before
 *     parity 1:            taps at i, i + 1        one row of padding after
 *
 * Each writes every other pixel of every other row. Weights are [Co, taps, Ci] in both hands. */
#include "ops/cuda/entries.h"

#ifdef DIP_CUDA_CUDNN

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ops/cuda/cudnn_plan.h"

enum {
    PLANS_MAX = 96, /* DC-AE has 29 at one size */
    PHASES = 4,
    WORKSPACE_BYTES_MAX = 1 << 30, /* DC-AE at 1,024 pixels takes 67 MB */
    VECTOR = 8,                    /* channels that are moved at a time */
};

struct dip__cudnn {
    struct dip__cudnn_api api;
    struct dip__cudnn_owner owner;
    struct dip__cudnn_plan plans[PLANS_MAX];
    int count;
    struct dip_mem workspace; /* as large as the largest plan wants it */
    bool is_planning;
};

/* ---- life ---- */

#ifdef DIP_CUDA_EMULATED
static const char *const STANDARD_NAME = NULL; /* the real one knows no emulated memory */
#else
static const char *const STANDARD_NAME = "libcudnn.so.9";
#endif

/* NULL: our own kernels. */
static const char *library_name(const struct dip_device *device,
                                const struct dip_device_options *options)
{
    const char *wish = options->cudnn ? options->cudnn : "auto";
    if (device->activation != DIP_BF16 || strcmp(wish, "off") == 0)
        return NULL; /* f32 is for parity with the CPU */
    return strcmp(wish, "auto") == 0 ? STANDARD_NAME : wish;
}

static enum dip_status open_library(const char *name, struct dip_why *why,
                                    struct dip__cudnn **ret_cudnn)
{
    struct dip__cudnn *cudnn = calloc(1, sizeof *cudnn);
    if (!cudnn)
        return dip_fail(why, DIP_NO_MEMORY, "no memory for cuDNN's plans");
    enum dip_status status = dip__cudnn_load(name, why, &cudnn->api);
    if (!status && cudnn->api.cudnnCreate(&cudnn->owner.handle) != CUDNN_STATUS_SUCCESS) {
        char reason[160] = "";
        cudnn->api.cudnnGetLastErrorString(reason, sizeof reason);
        status = dip_fail(why, DIP_UNSUPPORTED, "cuDNN does not start: %s", reason);
    }
    if (status)
        free(cudnn);
    else
        *ret_cudnn = cudnn;
    return status;
}

enum dip_status dip__cuda_cudnn_open(struct dip_device *device,
                                     const struct dip_device_options *options)
{
    struct dip__cuda *cuda = dip__cuda(device);
    const char *name = library_name(device, options);
    struct dip_why why = {0};
    if (!name)
        return DIP_OK;
    enum dip_status status = open_library(name, &why, &cuda->cudnn);
    if (status == DIP_UNSUPPORTED)
        return snprintf(device->remark.text, sizeof device->remark.text,
                        "convolutions are our own kernels: %.180s", why.text) < 0
                   ? status
                   : DIP_OK;
    return status;
}

void dip__cuda_cudnn_close(struct dip_device *device)
{
    struct dip__cudnn *cudnn = dip__cuda(device)->cudnn;
    if (!cudnn)
        return;
    for (int i = 0; i < cudnn->count; i++)
        dip__cudnn_plan_free(&cudnn->api, &cudnn->plans[i]);
    if (cudnn->workspace.base)
        dip__cuda_release(device, &cudnn->workspace);
    (void)cudnn->api.cudnnDestroy(cudnn->owner.handle);
    free(cudnn);
}

size_t dip__cuda_cudnn_version(const struct dip_device *device)
{
    const struct dip__cudnn *cudnn = dip__cuda(device)->cudnn;
    return cudnn ? cudnn->api.cudnnGetVersion() : 0;
}

bool dip__cuda_plans_begin(struct dip_stream *s)
{
    struct dip__cudnn *cudnn = dip__cuda(s->device)->cudnn;
    if (cudnn)
        cudnn->is_planning = true;
    return cudnn != NULL;
}

void dip__cuda_plans_end(struct dip_stream *s)
{
    dip__cuda(s->device)->cudnn->is_planning = false;
}

/* ---- plans ---- */

static bool is_dense(const struct dip_tensor *t)
{
    return (uintptr_t)t->data % 16 == 0 && dip_tensor_columns(*t) % VECTOR == 0 &&
           dip_tensor_is_dense(*t);
}

/* Of its types and places; nothing here depends on the batch. */
static bool is_for_cudnn(const struct dip_conv_args *a)
{
    return a->in.dtype == DIP_BF16 && a->out.dtype == DIP_BF16 && a->weight.dtype == DIP_BF16 &&
           is_dense(&a->in) && is_dense(&a->out) && (uintptr_t)a->weight.data % 16 == 0 &&
           (!a->bias || (a->bias->dtype == DIP_BF16 && (uintptr_t)a->bias->data % 16 == 0));
}

static struct dip__cudnn_conv describe(const struct dip_conv_args *a, int phase)
{
    bool is_enlarging = a->upsample == 2;
    int64_t half = a->weight.dims[2] / 2;
    struct dip__cudnn_conv c = {.height = a->in.dims[1],
                                .width = a->in.dims[2],
                                .in_channels = a->in.dims[3],
                                .out_channels = a->out.dims[3],
                                .edge = is_enlarging ? half + 1 : a->weight.dims[2],
                                .stride = a->stride,
                                .pad_before = {half, half},
                                .pad_after = {half, half},
                                .out_step = a->upsample,
                                .has_bias = a->bias != NULL,
                                .act = a->act};
    const int64_t parity[2] = {phase / 2, phase % 2};
    for (int axis = 0; axis < 2 && is_enlarging; axis++) {
        /* The first tap stands at (parity - half) / 2 rounded down, as packed_tap counts. */
        c.pad_before[axis] = (half - parity[axis] + 1) / 2;
        c.pad_after[axis] = half - c.pad_before[axis];
    }
    return c;
}

static struct dip__cudnn_plan *plan_find(struct dip__cudnn *cudnn,
                                         const struct dip__cudnn_conv *conv)
{
    for (int i = 0; i < cudnn->count; i++)
        if (memcmp(&cudnn->plans[i].conv, conv, sizeof *conv) == 0)
            return &cudnn->plans[i];
    return NULL;
}

/* Plans share one workspace: they run one after the other. What uses the old one is waited for by
 * its release. */
static enum dip_status workspace_grow(struct dip_device *device, int64_t bytes)
{
    struct dip_mem *workspace = &dip__cuda(device)->cudnn->workspace;
    if ((size_t)bytes <= workspace->bytes && workspace->base)
        return DIP_OK;
    if (workspace->base)
        dip__cuda_release(device, workspace);
    *workspace = (struct dip_mem){0};
    return dip__cuda_reserve(device, (size_t)bytes, workspace);
}

/* A plan that could not be made is remembered as such, and said once. */
static struct dip__cudnn_plan *plan_make(struct dip_device *device,
                                         const struct dip__cudnn_conv *conv)
{
    struct dip__cudnn *cudnn = dip__cuda(device)->cudnn;
    struct dip_why why = {0};
    if (!cudnn->is_planning || cudnn->count == PLANS_MAX)
        return NULL;
    struct dip__cudnn_plan *plan = &cudnn->plans[cudnn->count++];
    enum dip_status status =
        dip__cudnn_plan_make(&cudnn->api, &cudnn->owner, conv, WORKSPACE_BYTES_MAX, &why, plan);
    if (!status && workspace_grow(device, plan->workspace_bytes)) {
        status =
            dip_fail(&why, DIP_NO_MEMORY, "no memory for cuDNN's workspace: %s", device->note.text);
        dip__cudnn_plan_free(&cudnn->api, plan);
    }
    if (status && !device->remark.text[0])
        device->remark = why;
    return plan;
}

/* All phases or none. */
static bool plans_of(struct dip_device *device, const struct dip_conv_args *a,
                     const struct dip__cudnn_plan *ret_plans[PHASES])
{
    struct dip__cudnn *cudnn = dip__cuda(device)->cudnn;
    bool is_complete = cudnn && is_for_cudnn(a);
    for (int i = 0; is_complete && i < (a->upsample == 2 ? PHASES : 1); i++) {
        struct dip__cudnn_conv conv = describe(a, i);
        struct dip__cudnn_plan *plan = plan_find(cudnn, &conv);
        ret_plans[i] = plan ? plan : plan_make(device, &conv);
        is_complete = ret_plans[i] && ret_plans[i]->execution;
    }
    return is_complete;
}

/* ---- computing ---- */

static size_t bytes_of(int64_t elements)
{
    return (size_t)elements * sizeof(uint16_t);
}

/* One picture by one phase. */
static enum dip_status run(struct dip_stream *s, const struct dip_conv_args *a,
                           const struct dip__cudnn_plan *plan, int64_t image, int phase)
{
    const struct dip__cudnn *cudnn = dip__cuda(s->device)->cudnn;
    int64_t Ci = a->in.dims[3];
    int64_t Co = a->out.dims[3];
    int64_t pixel = phase / 2 * a->out.dims[2] + phase % 2;
    struct dip__cudnn_operands operands = {
        .x = (char *)a->in.data + bytes_of(image * a->in.dims[1] * a->in.dims[2] * Ci),
        .w = (char *)a->weight.data + bytes_of(phase * Co * plan->conv.edge * plan->conv.edge * Ci),
        .bias = a->bias ? a->bias->data : NULL,
        .y = (char *)a->out.data + bytes_of((image * a->out.dims[1] * a->out.dims[2] + pixel) * Co),
        .workspace = cudnn->workspace.base};
    return dip__cudnn_plan_run(&cudnn->api, cudnn->owner.handle, plan, &operands);
}

static enum dip_status refuse(struct dip_device *device)
{
    char reason[160] = "";
    char what[200];
    dip__cuda(device)->cudnn->api.cudnnGetLastErrorString(reason, sizeof reason);
    snprintf(what, sizeof what, "a convolution of cuDNN: %s", reason);
    cudaError_t error = cudaGetLastError();
    return dip__cuda_check(device, error != cudaSuccess ? error : cudaErrorUnknown, what);
}

bool dip__cuda_cudnn_takes(struct dip_stream *s, const struct dip_conv_args *a)
{
    const struct dip__cudnn_plan *plans[PHASES];
    return plans_of(s->device, a, plans);
}

enum dip_status dip__cuda_cudnn_conv(struct dip_stream *s, const struct dip_conv_args *a)
{
    const struct dip__cudnn *cudnn = dip__cuda(s->device)->cudnn;
    const struct dip__cudnn_plan *plans[PHASES] = {NULL};
    if (dip__cuda(s->device)->is_dead || !plans_of(s->device, a, plans))
        return DIP_DEVICE;
    if (cudnn->api.cudnnSetStream(cudnn->owner.handle, dip__cuda_stream(s)->stream))
        return refuse(s->device);
    for (int64_t image = 0; image < a->in.dims[0]; image++)
        for (int phase = 0; phase < (a->upsample == 2 ? PHASES : 1); phase++)
            if (run(s, a, plans[phase], image, phase))
                return refuse(s->device);
    if (!plans[0]->is_act_apart)
        return DIP_OK;
    return dip__cuda_activate(
        s, &(struct dip_activate_args){.out = a->out, .in = a->out, .act = a->act});
}

#else

enum dip_status dip__cuda_cudnn_open(struct dip_device *device,
                                     const struct dip_device_options *options)
{
    (void)device;
    (void)options;
    return DIP_OK;
}

void dip__cuda_cudnn_close(struct dip_device *device)
{
    (void)device;
}

size_t dip__cuda_cudnn_version(const struct dip_device *device)
{
    (void)device;
    return 0;
}

bool dip__cuda_plans_begin(struct dip_stream *s)
{
    (void)s;
    return false;
}

void dip__cuda_plans_end(struct dip_stream *s)
{
    (void)s;
}

bool dip__cuda_cudnn_takes(struct dip_stream *s, const struct dip_conv_args *a)
{
    (void)s;
    (void)a;
    return false;
}

enum dip_status dip__cuda_cudnn_conv(struct dip_stream *s, const struct dip_conv_args *a)
{
    (void)s;
    (void)a;
    return DIP_UNSUPPORTED;
}

#endif
