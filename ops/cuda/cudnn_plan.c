/* ops/cuda/cudnn_plan.c - see ops/cuda/cudnn_plan.h. */
#ifdef DIP_CUDA_CUDNN

#include "ops/cuda/cudnn_plan.h"

#include <dlfcn.h>
#include <stdio.h>

#include "base/assert.h"

enum { CHOICES_MAX = 12, RANK = 4, ALIGNMENT = 16 };

/* Names of the tensors that have memory; virtual ones are numbered from VIRTUAL on. */
enum { X = 1, W, BIAS, Y, VIRTUAL };

/* ---- loading ---- */

enum dip_status dip__cudnn_load(const char *path, struct dip_why *why,
                                struct dip__cudnn_api *ret_api)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    const char *missing = NULL;
    if (!library) {
        const char *reason = dlerror();
        return dip_fail(why, DIP_UNSUPPORTED, "cuDNN cannot be loaded: %s", reason ? reason : path);
    }
#define FIND(function)                                                                             \
    *(void **)&ret_api->function = dlsym(library, #function);                                      \
    missing = ret_api->function ? missing : #function;
    DIP__CUDNN_LIST(FIND)
#undef FIND
    if (missing) {
        dlclose(library);
        return dip_fail(why, DIP_UNSUPPORTED, "%s is no cuDNN 9: it has no %s", path, missing);
    }
    return DIP_OK;
}

/* ---- descriptors ---- */

/* A plan in the making. The first failure stays; everything behind it does nothing. */
struct maker {
    const struct dip__cudnn_api *api;
    const struct dip__cudnn_owner *owner;
    struct dip__cudnn_plan *plan;
    cudnnStatus_t status;
    int64_t name_next; /* of a virtual tensor */
};

static cudnnBackendDescriptor_t make(struct maker *m, cudnnBackendDescriptorType_t type)
{
    struct dip__cudnn_plan *plan = m->plan;
    cudnnBackendDescriptor_t made = NULL;
    dip_assert(plan->made_count < DIP__CUDNN_DESCRIPTORS_MAX);
    if (m->status == CUDNN_STATUS_SUCCESS)
        m->status = m->api->cudnnBackendCreateDescriptor(type, &made);
    if (m->status == CUDNN_STATUS_SUCCESS)
        plan->made[plan->made_count++] = made;
    return made;
}

static void set(struct maker *m, cudnnBackendDescriptor_t of, cudnnBackendAttributeName_t name,
                cudnnBackendAttributeType_t type, int64_t count, const void *values)
{
    if (m->status == CUDNN_STATUS_SUCCESS)
        m->status = m->api->cudnnBackendSetAttribute(of, name, type, count, values);
}

static void set_link(struct maker *m, cudnnBackendDescriptor_t of, cudnnBackendAttributeName_t name,
                     cudnnBackendDescriptor_t to)
{
    set(m, of, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &to);
}

static void finish(struct maker *m, cudnnBackendDescriptor_t descriptor)
{
    if (m->status == CUDNN_STATUS_SUCCESS)
        m->status = m->api->cudnnBackendFinalize(descriptor);
}

/* ---- the graph ---- */

struct shape {
    int64_t dims[RANK]; /* N, C, H, W, the order that cuDNN names them in */
    int64_t strides[RANK];
};

/* Every `step`-th pixel of a picture with channels fastest. */
static struct shape picture(int64_t channels, int64_t height, int64_t width, int64_t step)
{
    int64_t row = step * width * channels;
    return (struct shape){.dims = {1, channels, height, width},
                          .strides = {step * height * row, 1, step * row, step * channels}};
}

static struct shape filter(const struct dip__cudnn_conv *c)
{
    int64_t row = c->edge * c->in_channels;
    return (struct shape){.dims = {c->out_channels, c->in_channels, c->edge, c->edge},
                          .strides = {c->edge * row, 1, row, c->in_channels}};
}

static struct shape result(const struct dip__cudnn_conv *c)
{
    int64_t height = (c->height + c->pad_before[0] + c->pad_after[0] - c->edge) / c->stride + 1;
    int64_t width = (c->width + c->pad_before[1] + c->pad_after[1] - c->edge) / c->stride + 1;
    return picture(c->out_channels, height, width, c->out_step);
}

static cudnnBackendDescriptor_t tensor(struct maker *m, int64_t name, cudnnDataType_t type,
                                       const struct shape *shape)
{
    cudnnBackendDescriptor_t t = make(m, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    int64_t alignment = ALIGNMENT;
    bool is_virtual = name >= VIRTUAL;
    set(m, t, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &name);
    set(m, t, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    set(m, t, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
    set(m, t, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, RANK, shape->dims);
    set(m, t, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, RANK, shape->strides);
    set(m, t, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &is_virtual);
    finish(m, t);
    return t;
}

/* Where the next operation writes: memory after the last one, registers before. */
static cudnnBackendDescriptor_t output(struct maker *m, bool is_last)
{
    struct shape y = result(&m->plan->conv);
    if (is_last)
        return tensor(m, Y, CUDNN_DATA_BFLOAT16, &y);
    struct shape dense = picture(y.dims[1], y.dims[2], y.dims[3], 1);
    return tensor(m, m->name_next++, CUDNN_DATA_FLOAT, &dense);
}

static cudnnBackendDescriptor_t convolve(struct maker *m, cudnnBackendDescriptor_t y)
{
    const struct dip__cudnn_conv *c = &m->plan->conv;
    static const int64_t ones[2] = {1, 1};
    const int64_t axes = 2;
    const int64_t strides[2] = {c->stride, c->stride};
    const float one = 1.0f;
    const float zero = 0.0f;
    cudnnDataType_t sums = CUDNN_DATA_FLOAT;
    cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    struct shape x = picture(c->in_channels, c->height, c->width, 1);
    struct shape w = filter(c);
    cudnnBackendDescriptor_t conv = make(m, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
    set(m, conv, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &sums);
    set(m, conv, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
    set(m, conv, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, &axes);
    set(m, conv, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 2, ones);
    set(m, conv, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, 2, strides);
    set(m, conv, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, 2, c->pad_before);
    set(m, conv, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, 2, c->pad_after);
    finish(m, conv);
    cudnnBackendDescriptor_t op = make(m, CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR);
    set_link(m, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, conv);
    set_link(m, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
             tensor(m, X, CUDNN_DATA_BFLOAT16, &x));
    set_link(m, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
             tensor(m, W, CUDNN_DATA_BFLOAT16, &w));
    set_link(m, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, y);
    set(m, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_TYPE_FLOAT, 1, &one);
    set(m, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, CUDNN_TYPE_FLOAT, 1, &zero);
    finish(m, op);
    return op;
}

/* y = x + b, or y = mode(x) when b is NULL. */
static cudnnBackendDescriptor_t pointwise(struct maker *m, cudnnPointwiseMode_t mode,
                                          cudnnBackendDescriptor_t x, cudnnBackendDescriptor_t b,
                                          cudnnBackendDescriptor_t y)
{
    cudnnDataType_t precision = CUDNN_DATA_FLOAT;
    cudnnBackendDescriptor_t kind = make(m, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    set(m, kind, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    set(m, kind, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &precision);
    finish(m, kind);
    cudnnBackendDescriptor_t op = make(m, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    set_link(m, op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, kind);
    set_link(m, op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
    if (b)
        set_link(m, op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b);
    set_link(m, op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
    finish(m, op);
    return op;
}

static cudnnPointwiseMode_t mode_of(enum dip_act act)
{
    dip_assert(act != DIP_ACT_NONE);
    return act == DIP_ACT_SILU   ? CUDNN_POINTWISE_SWISH_FWD
           : act == DIP_ACT_RELU ? CUDNN_POINTWISE_RELU_FWD
                                 : CUDNN_POINTWISE_GELU_APPROX_TANH_FWD;
}

/* The operations in their order, each but the last into registers. */
static cudnnBackendDescriptor_t graph(struct maker *m)
{
    const struct dip__cudnn_conv *c = &m->plan->conv;
    enum dip_act act = m->plan->is_act_apart ? DIP_ACT_NONE : (enum dip_act)c->act;
    cudnnBackendDescriptor_t ops[3];
    int count = 0;
    cudnnBackendDescriptor_t x = output(m, !c->has_bias && act == DIP_ACT_NONE);
    ops[count++] = convolve(m, x);
    if (c->has_bias) {
        struct shape channels = picture(c->out_channels, 1, 1, 1);
        cudnnBackendDescriptor_t bias = tensor(m, BIAS, CUDNN_DATA_BFLOAT16, &channels);
        cudnnBackendDescriptor_t y = output(m, act == DIP_ACT_NONE);
        ops[count++] = pointwise(m, CUDNN_POINTWISE_ADD, x, bias, y);
        x = y;
    }
    if (act != DIP_ACT_NONE)
        ops[count++] = pointwise(m, mode_of(act), x, NULL, output(m, true));
    cudnnBackendDescriptor_t all = make(m, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    set(m, all, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, count, ops);
    if (m->owner->handle)
        set(m, all, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &m->owner->handle);
    finish(m, all);
    return all;
}

/* ---- the choice ---- */

/* Tensor cores, and nothing else that touches the bits: no FFT, no Winograd, no sums whose order or
 * precision is the engine's secret. */
static bool keeps_promises(struct maker *m, cudnnBackendDescriptor_t engine)
{
    cudnnBackendNumericalNote_t notes[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
    int64_t count = 0;
    if (m->api->cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE,
                                         CUDNN_TYPE_NUMERICAL_NOTE, CUDNN_NUMERICAL_NOTE_TYPE_COUNT,
                                         &count, notes))
        return false;
    for (int64_t i = 0; i < count; i++)
        if (notes[i] != CUDNN_NUMERICAL_NOTE_TENSOR_CORE &&
            notes[i] != CUDNN_NUMERICAL_NOTE_STRICT_NAN_PROP)
            return false;
    return true;
}

/* Whether this choice becomes the plan; one that does not costs nothing but the time. */
static bool try_choice(struct maker *m, cudnnBackendDescriptor_t choice, int64_t workspace_max)
{
    const struct dip__cudnn_api *api = m->api;
    struct dip__cudnn_plan *plan = m->plan;
    int64_t count = 0;
    int64_t bytes = 0;
    cudnnBackendDescriptor_t engine = make(m, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    cudnnBackendDescriptor_t execution = make(m, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    if (m->status ||
        api->cudnnBackendGetAttribute(choice, CUDNN_ATTR_ENGINECFG_ENGINE,
                                      CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &count, &engine) ||
        !keeps_promises(m, engine))
        return false;
    set_link(m, execution, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, choice);
    if (m->owner->handle)
        set(m, execution, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1,
            &m->owner->handle);
    else
        set_link(m, execution, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, m->owner->described);
    if (m->status || api->cudnnBackendFinalize(execution) ||
        api->cudnnBackendGetAttribute(execution, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                                      CUDNN_TYPE_INT64, 1, &count, &bytes) ||
        bytes > workspace_max)
        return false;
    if (api->cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1,
                                      &count, &plan->engine))
        plan->engine = -1;
    plan->workspace_bytes = bytes;
    plan->execution = execution;
    return true;
}

/* The first of the heuristics' choices that will do. */
static void choose(struct maker *m, int64_t workspace_max)
{
    cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
    cudnnBackendDescriptor_t choices[CHOICES_MAX];
    int64_t count = 0;
    cudnnBackendDescriptor_t heuristics = make(m, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    set_link(m, heuristics, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph(m));
    set(m, heuristics, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    if (!m->owner->handle)
        set_link(m, heuristics, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, m->owner->described);
    finish(m, heuristics);
    for (int i = 0; i < CHOICES_MAX; i++)
        choices[i] = make(m, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    if (m->status == CUDNN_STATUS_SUCCESS)
        m->status = m->api->cudnnBackendGetAttribute(heuristics, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                                     CUDNN_TYPE_BACKEND_DESCRIPTOR, CHOICES_MAX,
                                                     &count, choices);
    for (int64_t i = 0; i < count && m->status == CUDNN_STATUS_SUCCESS; i++)
        if (try_choice(m, choices[i], workspace_max))
            return;
    if (m->status == CUDNN_STATUS_SUCCESS)
        m->status = CUDNN_STATUS_NOT_SUPPORTED;
}

static cudnnStatus_t attempt(const struct dip__cudnn_api *api, const struct dip__cudnn_owner *owner,
                             int64_t workspace_max, struct dip__cudnn_plan *plan)
{
    struct maker m = {.api = api, .owner = owner, .plan = plan, .name_next = VIRTUAL};
    choose(&m, workspace_max);
    return m.status;
}

/* ---- plans ---- */

static void release(const struct dip__cudnn_api *api, struct dip__cudnn_plan *plan)
{
    while (plan->made_count > 0)
        (void)api->cudnnBackendDestroyDescriptor(plan->made[--plan->made_count]);
    plan->execution = NULL;
}

enum dip_status dip__cudnn_plan_make(const struct dip__cudnn_api *api,
                                     const struct dip__cudnn_owner *owner,
                                     const struct dip__cudnn_conv *conv, int64_t workspace_max,
                                     struct dip_why *why, struct dip__cudnn_plan *plan)
{
    char reason[160] = "";
    plan->conv = *conv;
    cudnnStatus_t status = attempt(api, owner, workspace_max, plan);
    if (status && conv->act != DIP_ACT_NONE) {
        release(api, plan);
        plan->is_act_apart = true;
        status = attempt(api, owner, workspace_max, plan);
    }
    if (status == CUDNN_STATUS_SUCCESS)
        return DIP_OK;
    release(api, plan);
    api->cudnnGetLastErrorString(reason, sizeof reason);
    return dip_fail(why, DIP_UNSUPPORTED,
                    "cuDNN has no plan for a %lld x %lld convolution of %lld x %lld pixels from "
                    "%lld to %lld channels (status %d%s%s)",
                    (long long)conv->edge, (long long)conv->edge, (long long)conv->height,
                    (long long)conv->width, (long long)conv->in_channels,
                    (long long)conv->out_channels, (int)status, reason[0] ? ": " : "", reason);
}

void dip__cudnn_plan_free(const struct dip__cudnn_api *api, struct dip__cudnn_plan *plan)
{
    release(api, plan);
}

enum dip_status dip__cudnn_plan_run(const struct dip__cudnn_api *api, cudnnHandle_t handle,
                                    const struct dip__cudnn_plan *plan,
                                    const struct dip__cudnn_operands *operands)
{
    static const int64_t names[] = {X, W, Y, BIAS};
    const void *data[] = {operands->x, operands->w, operands->y, operands->bias};
    int64_t count = plan->conv.has_bias ? 4 : 3;
    struct dip__cudnn_plan call = {0}; /* owns the pack for as long as it takes */
    struct maker m = {.api = api, .plan = &call};
    cudnnBackendDescriptor_t pack = make(&m, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
    set(&m, pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, count, names);
    set(&m, pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, count, data);
    set(&m, pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &operands->workspace);
    finish(&m, pack);
    if (m.status == CUDNN_STATUS_SUCCESS)
        m.status = api->cudnnBackendExecute(handle, plan->execution, pack);
    release(api, &call);
    return m.status == CUDNN_STATUS_SUCCESS ? DIP_OK : DIP_DEVICE;
}

#endif
