/* tests/cuda_emulator/cudnn/played.cpp - a small cuDNN for the emulated GPU: libcudnn-played.so.
 *
 * It takes the calls of the graph API that the plug-in makes, and nothing that cuDNN would not
 * take: an attribute of the wrong kind, a descriptor that is not finalized, shapes that do not fit,
 * a virtual tensor that nobody wrote, a pointer that is missing or not aligned are errors with a
 * sentence. Execution reads every tensor by its strides, so a wrong layout gives wrong numbers.
 * Sums and virtual tensors are f32; what is written to memory is rounded to its type.
 *
 * A test tells it what to play (cudnn_play) and reads back what it was asked for (cudnn_played). */
#include <cudnn_graph.h>

#include <dlfcn.h>
#include <link.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

/* What goes wrong, by a test's wish. The same numbers are in tests/unit/cudnn.c. */
enum play {
    PLAY_WELL,
    PLAY_NO_ENGINE,     /* the heuristics know none */
    PLAY_NO_FUSED_ACT,  /* none for a graph with an activation */
    PLAY_ROUGH_FIRST,   /* the first choice does not keep its order of sums */
    PLAY_GREEDY_FIRST,  /* the first choice wants more workspace than there is */
    PLAY_BROKEN_FIRST,  /* the first choice's plan cannot be finalized */
    PLAY_NO_START,      /* no handle */
    PLAY_FAIL_EXECUTION /* of every plan */
};

struct cudnnContext {
    cudaStream_t stream;
};

namespace
{

struct attribute {
    cudnnBackendAttributeType_t type;
    int64_t count;
    std::vector<char> bytes;
};

struct descriptor {
    cudnnBackendDescriptorType_t type;
    bool is_final;
    std::map<int, attribute> set;
    int choice; /* of an ENGINECFG, an ENGINE or a plan */
    descriptor *graph;
};

/* A tensor or an operation, copied when a plan is made: the caller may drop its descriptors. */
struct tensor {
    int64_t id, dims[4], strides[4], alignment;
    cudnnDataType_t type;
    bool is_virtual;
    char *data;
};
struct operation {
    bool is_conv;
    cudnnPointwiseMode_t mode;
    int64_t x, b, y; /* ids; of a convolution b is the filter. 0: none */
    int64_t before[2], after[2], strides[2], dilations[2];
};
struct program {
    std::map<int64_t, tensor> tensors;
    std::vector<operation> operations;
};

int played = PLAY_WELL;
std::string last_error, last_graph;
int plans_made, executions;
const int64_t CHOICES = 3, GREEDY_BYTES = INT64_C(1) << 40, WORKSPACE_BYTES = 4096;

cudnnStatus_t fail(cudnnStatus_t status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

cudnnStatus_t fail(cudnnStatus_t status, const char *format, ...)
{
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    last_error = text;
    return status;
}

/* ---- what may be set ---- */

struct rule {
    cudnnBackendDescriptorType_t of;
    cudnnBackendAttributeName_t name;
    cudnnBackendAttributeType_t type;
    int64_t count_min, count_max;
    bool is_needed;
};

const rule rules[] = {
#define OF(descriptor) CUDNN_BACKEND_##descriptor##_DESCRIPTOR
#define RULE(of, name, type, least, most, needed)                                                  \
    {OF(of), CUDNN_ATTR_##name, CUDNN_TYPE_##type, least, most, needed},
    RULE(TENSOR, TENSOR_UNIQUE_ID, INT64, 1, 1,
         true) RULE(TENSOR, TENSOR_DATA_TYPE, DATA_TYPE, 1, 1,
                    true) RULE(TENSOR, TENSOR_BYTE_ALIGNMENT, INT64, 1, 1,
                               true) RULE(TENSOR, TENSOR_DIMENSIONS, INT64, 4, 4,
                                          true) RULE(TENSOR, TENSOR_STRIDES, INT64, 4, 4, true)
        RULE(TENSOR, TENSOR_IS_VIRTUAL, BOOLEAN, 1, 1,
             false) RULE(CONVOLUTION, CONVOLUTION_COMP_TYPE, DATA_TYPE, 1, 1, true)
            RULE(CONVOLUTION, CONVOLUTION_CONV_MODE, CONVOLUTION_MODE, 1, 1,
                 true) RULE(CONVOLUTION, CONVOLUTION_SPATIAL_DIMS, INT64, 1, 1, true)
                RULE(CONVOLUTION, CONVOLUTION_DILATIONS, INT64, 2, 2,
                     true) RULE(CONVOLUTION, CONVOLUTION_FILTER_STRIDES, INT64, 2, 2, true)
                    RULE(CONVOLUTION, CONVOLUTION_PRE_PADDINGS, INT64, 2, 2,
                         true) RULE(CONVOLUTION, CONVOLUTION_POST_PADDINGS, INT64, 2, 2, true)
                        RULE(POINTWISE, POINTWISE_MODE, POINTWISE_MODE, 1, 1,
                             true) RULE(POINTWISE, POINTWISE_MATH_PREC, DATA_TYPE, 1, 1, true)
                            RULE(OPERATION_CONVOLUTION_FORWARD,
                                 OPERATION_CONVOLUTION_FORWARD_CONV_DESC, BACKEND_DESCRIPTOR, 1, 1,
                                 true) RULE(OPERATION_CONVOLUTION_FORWARD,
                                            OPERATION_CONVOLUTION_FORWARD_X, BACKEND_DESCRIPTOR, 1,
                                            1, true) RULE(OPERATION_CONVOLUTION_FORWARD,
                                                          OPERATION_CONVOLUTION_FORWARD_W,
                                                          BACKEND_DESCRIPTOR, 1, 1, true)
                                RULE(OPERATION_CONVOLUTION_FORWARD, OPERATION_CONVOLUTION_FORWARD_Y,
                                     BACKEND_DESCRIPTOR, 1, 1,
                                     true) RULE(OPERATION_CONVOLUTION_FORWARD,
                                                OPERATION_CONVOLUTION_FORWARD_ALPHA, FLOAT, 1, 1,
                                                true) RULE(OPERATION_CONVOLUTION_FORWARD,
                                                           OPERATION_CONVOLUTION_FORWARD_BETA,
                                                           FLOAT, 1, 1, true)
                                    RULE(OPERATION_POINTWISE, OPERATION_POINTWISE_PW_DESCRIPTOR,
                                         BACKEND_DESCRIPTOR, 1, 1,
                                         true) RULE(OPERATION_POINTWISE, OPERATION_POINTWISE_XDESC,
                                                    BACKEND_DESCRIPTOR, 1, 1, true)
                                        RULE(OPERATION_POINTWISE, OPERATION_POINTWISE_BDESC,
                                             BACKEND_DESCRIPTOR, 1,
                                             1, false) RULE(OPERATION_POINTWISE,
                                                            OPERATION_POINTWISE_YDESC,
                                                            BACKEND_DESCRIPTOR, 1, 1, true)
                                            RULE(OPERATIONGRAPH, OPERATIONGRAPH_HANDLE, HANDLE, 1,
                                                 1, true) RULE(OPERATIONGRAPH, OPERATIONGRAPH_OPS,
                                                               BACKEND_DESCRIPTOR, 1, 8, true)
                                                RULE(ENGINEHEUR, ENGINEHEUR_OPERATION_GRAPH,
                                                     BACKEND_DESCRIPTOR, 1, 1,
                                                     true) RULE(ENGINEHEUR, ENGINEHEUR_MODE,
                                                                HEUR_MODE, 1, 1, true)
                                                    RULE(EXECUTION_PLAN, EXECUTION_PLAN_HANDLE,
                                                         HANDLE, 1, 1,
                                                         true) RULE(EXECUTION_PLAN,
                                                                    EXECUTION_PLAN_ENGINE_CONFIG,
                                                                    BACKEND_DESCRIPTOR, 1, 1, true)
                                                        RULE(VARIANT_PACK, VARIANT_PACK_UNIQUE_IDS,
                                                             INT64, 1, 16, true)
                                                            RULE(VARIANT_PACK,
                                                                 VARIANT_PACK_DATA_POINTERS,
                                                                 VOID_PTR, 1, 16, true)
                                                                RULE(VARIANT_PACK,
                                                                     VARIANT_PACK_WORKSPACE,
                                                                     VOID_PTR, 1, 1, true)
#undef RULE
#undef OF
};

size_t size_of(cudnnBackendAttributeType_t type)
{
    switch (type) {
    case CUDNN_TYPE_BOOLEAN:
        return sizeof(bool);
    case CUDNN_TYPE_INT64:
        return sizeof(int64_t);
    case CUDNN_TYPE_HANDLE:
    case CUDNN_TYPE_VOID_PTR:
    case CUDNN_TYPE_BACKEND_DESCRIPTOR:
        return sizeof(void *);
    default:
        return sizeof(int32_t); /* enumerations and floats */
    }
}

template <class T> std::vector<T> values(const descriptor *d, cudnnBackendAttributeName_t name)
{
    auto found = d->set.find(name);
    if (found == d->set.end())
        return {};
    std::vector<T> list((size_t)found->second.count);
    memcpy((void *)list.data(), found->second.bytes.data(), found->second.bytes.size());
    return list;
}

template <class T> T value(const descriptor *d, cudnnBackendAttributeName_t name)
{
    std::vector<T> list = values<T>(d, name);
    return list.empty() ? T() : list[0];
}

descriptor *link_of(const descriptor *d, cudnnBackendAttributeName_t name)
{
    return value<descriptor *>(d, name);
}

/* ---- what is finalized ---- */

tensor tensor_of(const descriptor *d)
{
    tensor t = {};
    t.id = value<int64_t>(d, CUDNN_ATTR_TENSOR_UNIQUE_ID);
    t.type = value<cudnnDataType_t>(d, CUDNN_ATTR_TENSOR_DATA_TYPE);
    t.alignment = value<int64_t>(d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT);
    t.is_virtual = value<char>(d, CUDNN_ATTR_TENSOR_IS_VIRTUAL) != 0;
    std::vector<int64_t> dims = values<int64_t>(d, CUDNN_ATTR_TENSOR_DIMENSIONS);
    std::vector<int64_t> strides = values<int64_t>(d, CUDNN_ATTR_TENSOR_STRIDES);
    for (size_t i = 0; i < 4; i++) {
        t.dims[i] = dims[i];
        t.strides[i] = strides[i];
    }
    return t;
}

/* Channels fastest, then columns, rows, pictures, none of which overlap. */
cudnnStatus_t finish_tensor(const descriptor *d)
{
    tensor t = tensor_of(d);
    static const int order[4] = {1, 3, 2, 0};
    int64_t least = 1;
    if (t.id == 0)
        return fail(CUDNN_STATUS_BAD_PARAM, "a tensor needs an id");
    if (t.alignment < 1 || (t.alignment & (t.alignment - 1)))
        return fail(CUDNN_STATUS_BAD_PARAM, "an alignment is a power of two");
    for (int i : order) {
        if (t.dims[i] < 1 || t.strides[i] < least)
            return fail(CUDNN_STATUS_BAD_PARAM, "dimension %d of tensor %lld: %lld every %lld", i,
                        (long long)t.id, (long long)t.dims[i], (long long)t.strides[i]);
        least = t.strides[i] * t.dims[i];
    }
    return t.strides[1] == 1 ? CUDNN_STATUS_SUCCESS
                             : fail(CUDNN_STATUS_NOT_SUPPORTED, "channels are not the fastest");
}

cudnnStatus_t finish_conv(const descriptor *d)
{
    tensor x = tensor_of(link_of(d, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X));
    tensor w = tensor_of(link_of(d, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W));
    tensor y = tensor_of(link_of(d, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y));
    const descriptor *c = link_of(d, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC);
    std::vector<int64_t> before = values<int64_t>(c, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS);
    std::vector<int64_t> after = values<int64_t>(c, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS);
    std::vector<int64_t> strides = values<int64_t>(c, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES);
    std::vector<int64_t> dilations = values<int64_t>(c, CUDNN_ATTR_CONVOLUTION_DILATIONS);
    if (value<float>(d, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA) != 1.0f ||
        value<float>(d, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA) != 0.0f)
        return fail(CUDNN_STATUS_NOT_SUPPORTED, "only y = conv(x)");
    if (value<cudnnConvolutionMode_t>(c, CUDNN_ATTR_CONVOLUTION_CONV_MODE) !=
            CUDNN_CROSS_CORRELATION ||
        value<cudnnDataType_t>(c, CUDNN_ATTR_CONVOLUTION_COMP_TYPE) != CUDNN_DATA_FLOAT)
        return fail(CUDNN_STATUS_NOT_SUPPORTED, "only correlation, summed in f32");
    if (x.is_virtual || w.is_virtual || x.dims[1] != w.dims[1] || y.dims[1] != w.dims[0] ||
        x.dims[0] != y.dims[0])
        return fail(CUDNN_STATUS_BAD_PARAM, "channels or pictures do not fit");
    for (size_t i = 0; i < 2; i++) {
        int64_t reach = dilations[i] * (w.dims[2 + i] - 1) + 1;
        int64_t room = x.dims[2 + i] + before[i] + after[i] - reach;
        if (room < 0 || y.dims[2 + i] != room / strides[i] + 1)
            return fail(CUDNN_STATUS_BAD_PARAM, "axis %zu of the result is %lld", i,
                        (long long)y.dims[2 + i]);
    }
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t finish_pointwise(const descriptor *d)
{
    const descriptor *kind = link_of(d, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR);
    bool is_sum =
        value<cudnnPointwiseMode_t>(kind, CUDNN_ATTR_POINTWISE_MODE) == CUDNN_POINTWISE_ADD;
    const descriptor *other = link_of(d, CUDNN_ATTR_OPERATION_POINTWISE_BDESC);
    tensor x = tensor_of(link_of(d, CUDNN_ATTR_OPERATION_POINTWISE_XDESC));
    tensor y = tensor_of(link_of(d, CUDNN_ATTR_OPERATION_POINTWISE_YDESC));
    if (is_sum != (other != NULL))
        return fail(CUDNN_STATUS_BAD_PARAM, "a sum has two terms, and nothing else has");
    for (int i = 0; i < 4; i++)
        if (x.dims[i] != y.dims[i])
            return fail(CUDNN_STATUS_BAD_PARAM, "dimension %d changes on the way", i);
    for (int i = 0; other && i < 4; i++) {
        tensor b = tensor_of(other);
        if (b.dims[i] != 1 && b.dims[i] != x.dims[i])
            return fail(CUDNN_STATUS_BAD_PARAM, "dimension %d of a term is %lld", i,
                        (long long)b.dims[i]);
    }
    return CUDNN_STATUS_SUCCESS;
}

/* ---- programs ---- */

bool add_tensor(program &p, const descriptor *d)
{
    tensor t = tensor_of(d);
    auto known = p.tensors.find(t.id);
    if (known != p.tensors.end())
        return memcmp(known->second.dims, t.dims, sizeof t.dims) == 0 &&
               memcmp(known->second.strides, t.strides, sizeof t.strides) == 0 &&
               known->second.type == t.type && known->second.is_virtual == t.is_virtual;
    p.tensors[t.id] = t;
    return true;
}

operation conv_of(const descriptor *d)
{
    operation o = {};
    const descriptor *c = link_of(d, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC);
    o.is_conv = true;
    for (size_t i = 0; i < 2; i++) {
        o.before[i] = values<int64_t>(c, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS)[i];
        o.after[i] = values<int64_t>(c, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS)[i];
        o.strides[i] = values<int64_t>(c, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES)[i];
        o.dilations[i] = values<int64_t>(c, CUDNN_ATTR_CONVOLUTION_DILATIONS)[i];
    }
    return o;
}

/* False: two tensors share an id, or one is read before it is written. */
bool program_of(const descriptor *graph, program &p)
{
    std::map<int64_t, bool> written;
    for (const descriptor *d : values<descriptor *>(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS)) {
        bool is_conv = d->type == CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR;
        operation o = is_conv ? conv_of(d) : operation();
        const descriptor *x = link_of(d, is_conv ? CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X
                                                 : CUDNN_ATTR_OPERATION_POINTWISE_XDESC);
        const descriptor *b = link_of(d, is_conv ? CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W
                                                 : CUDNN_ATTR_OPERATION_POINTWISE_BDESC);
        const descriptor *y = link_of(d, is_conv ? CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y
                                                 : CUDNN_ATTR_OPERATION_POINTWISE_YDESC);
        if (!is_conv)
            o.mode = value<cudnnPointwiseMode_t>(
                link_of(d, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR),
                CUDNN_ATTR_POINTWISE_MODE);
        for (const descriptor *t : {x, b, y})
            if (t && !add_tensor(p, t))
                return false;
        o.x = tensor_of(x).id;
        o.b = b ? tensor_of(b).id : 0;
        o.y = tensor_of(y).id;
        if ((p.tensors[o.x].is_virtual && !written[o.x]) || written[o.y])
            return false;
        written[o.y] = true;
        p.operations.push_back(o);
    }
    return !p.tensors[p.operations.back().y].is_virtual;
}

std::string text_of(const tensor &t)
{
    char text[128];
    snprintf(text, sizeof text, "%lldx%lldx%lldx%lld/%lld,%lld,%lld,%lld", (long long)t.dims[0],
             (long long)t.dims[1], (long long)t.dims[2], (long long)t.dims[3],
             (long long)t.strides[0], (long long)t.strides[1], (long long)t.strides[2],
             (long long)t.strides[3]);
    return text;
}

std::string text_of(program &p, int choice)
{
    std::string text;
    for (const operation &o : p.operations) {
        char more[160];
        if (o.is_conv) {
            snprintf(more, sizeof more, "conv %lld,%lld+%lld,%lld by %lld ", (long long)o.before[0],
                     (long long)o.before[1], (long long)o.after[0], (long long)o.after[1],
                     (long long)o.strides[0]);
            text += more + text_of(p.tensors[o.x]) + " * " + text_of(p.tensors[o.b]);
        } else {
            text += o.mode == CUDNN_POINTWISE_ADD         ? " + bias"
                    : o.mode == CUDNN_POINTWISE_RELU_FWD  ? " relu"
                    : o.mode == CUDNN_POINTWISE_SWISH_FWD ? " silu"
                                                          : " gelu";
        }
    }
    return text + " = " + text_of(p.tensors[p.operations.back().y]) + " engine " +
           std::to_string(choice);
}

/* ---- execution ---- */

float read(const tensor &t, int64_t at)
{
    if (t.type == CUDNN_DATA_FLOAT)
        return ((const float *)(const void *)t.data)[at];
    uint32_t bits = (uint32_t)((const uint16_t *)(const void *)t.data)[at] << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

void write(const tensor &t, int64_t at, float f)
{
    if (t.type == CUDNN_DATA_FLOAT) {
        ((float *)(void *)t.data)[at] = f;
        return;
    }
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    bits += 0x7fff + (bits >> 16 & 1);
    ((uint16_t *)(void *)t.data)[at] = (uint16_t)(bits >> 16);
}

int64_t offset(const tensor &t, int64_t n, int64_t c, int64_t h, int64_t w)
{
    return n % t.dims[0] * t.strides[0] + c % t.dims[1] * t.strides[1] +
           h % t.dims[2] * t.strides[2] + w % t.dims[3] * t.strides[3];
}

float convolved(const operation &o, const tensor &x, const tensor &w, const int64_t at[4])
{
    float sum = 0.0f;
    for (int64_t r = 0; r < w.dims[2]; r++)
        for (int64_t s = 0; s < w.dims[3]; s++) {
            int64_t h = at[2] * o.strides[0] - o.before[0] + r * o.dilations[0];
            int64_t v = at[3] * o.strides[1] - o.before[1] + s * o.dilations[1];
            if (h < 0 || h >= x.dims[2] || v < 0 || v >= x.dims[3])
                continue;
            for (int64_t c = 0; c < x.dims[1]; c++)
                sum += read(x, offset(x, at[0], c, h, v)) * read(w, offset(w, at[1], c, r, s));
        }
    return sum;
}

float pointwise(cudnnPointwiseMode_t mode, float x, float b)
{
    switch (mode) {
    case CUDNN_POINTWISE_ADD:
        return x + b;
    case CUDNN_POINTWISE_RELU_FWD:
        return x > 0 ? x : 0;
    case CUDNN_POINTWISE_SWISH_FWD:
        return x / (1.0f + expf(-x));
    default:
        return 0.5f * x * (1.0f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
    }
}

void run_one(program &p, const operation &o)
{
    const tensor &x = p.tensors[o.x], &y = p.tensors[o.y];
    int64_t at[4];
    for (at[0] = 0; at[0] < y.dims[0]; at[0]++)
        for (at[2] = 0; at[2] < y.dims[2]; at[2]++)
            for (at[3] = 0; at[3] < y.dims[3]; at[3]++)
                for (at[1] = 0; at[1] < y.dims[1]; at[1]++) {
                    float f =
                        o.is_conv
                            ? convolved(o, x, p.tensors[o.b], at)
                            : pointwise(o.mode, read(x, offset(x, at[0], at[1], at[2], at[3])),
                                        o.b ? read(p.tensors[o.b], offset(p.tensors[o.b], at[0],
                                                                          at[1], at[2], at[3]))
                                            : 0);
                    write(y, offset(y, at[0], at[1], at[2], at[3]), f);
                }
}

void run_program(void *owned)
{
    std::unique_ptr<program> p((program *)owned);
    std::vector<std::unique_ptr<char[]>> registers;
    for (auto &entry : p->tensors) {
        tensor &t = entry.second;
        if (!t.is_virtual)
            continue;
        registers.emplace_back(new char[(size_t)(t.dims[0] * t.strides[0]) * sizeof(float)]);
        t.data = registers.back().get();
    }
    for (const operation &o : p->operations)
        run_one(*p, o);
}

typedef void (*enqueue_fn)(cudaStream_t stream, void (*function)(void *), void *data);

int find_plugin(struct dl_phdr_info *info, size_t bytes, void *found)
{
    (void)bytes;
    if (strstr(info->dlpi_name, "libdiptych-cuda"))
        *(std::string *)found = info->dlpi_name;
    return 0;
}

/* The emulated GPU is a part of the plug-in that has loaded us, out of a linker's sight. */
enqueue_fn find_enqueue(void)
{
    std::string path;
    dl_iterate_phdr(find_plugin, &path);
    void *plugin = path.empty() ? NULL : dlopen(path.c_str(), RTLD_NOW | RTLD_NOLOAD);
    void *symbol = plugin ? dlsym(plugin, "dip_emulator_enqueue") : NULL;
    if (plugin)
        dlclose(plugin);
    return (enqueue_fn)symbol;
}

cudnnStatus_t bind(program &p, const descriptor *pack)
{
    std::vector<int64_t> ids = values<int64_t>(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
    std::vector<char *> data = values<char *>(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS);
    if (ids.size() != data.size())
        return fail(CUDNN_STATUS_BAD_PARAM, "%zu ids, %zu pointers", ids.size(), data.size());
    for (size_t i = 0; i < ids.size(); i++)
        if (p.tensors.count(ids[i]))
            p.tensors[ids[i]].data = data[i];
    for (auto &entry : p.tensors) {
        tensor &t = entry.second;
        if (t.is_virtual == (t.data != NULL))
            return fail(CUDNN_STATUS_BAD_PARAM, "tensor %lld: memory goes with what is not virtual",
                        (long long)t.id);
        if ((uintptr_t)t.data % (uintptr_t)t.alignment)
            return fail(CUDNN_STATUS_BAD_PARAM, "tensor %lld is not aligned", (long long)t.id);
    }
    return value<void *>(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE)
               ? CUDNN_STATUS_SUCCESS
               : fail(CUDNN_STATUS_BAD_PARAM, "the plan's workspace is missing");
}

/* ---- choices ---- */

int64_t choices_of(const descriptor *graph)
{
    program p;
    if (played == PLAY_NO_ENGINE || !program_of(graph, p))
        return 0;
    const operation &last = p.operations.back();
    bool is_acting = !last.is_conv && last.mode != CUDNN_POINTWISE_ADD;
    return played == PLAY_NO_FUSED_ACT && is_acting ? 0 : CHOICES;
}

cudnnStatus_t finish(descriptor *d)
{
    program p;
    for (const rule &r : rules)
        if (r.of == d->type && r.is_needed && !d->set.count(r.name))
            return fail(CUDNN_STATUS_BAD_PARAM, "attribute %d was not set", (int)r.name);
    switch (d->type) {
    case CUDNN_BACKEND_TENSOR_DESCRIPTOR:
        return finish_tensor(d);
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR:
        return finish_conv(d);
    case CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR:
        return finish_pointwise(d);
    case CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR:
        return program_of(d, p)
                   ? CUDNN_STATUS_SUCCESS
                   : fail(CUDNN_STATUS_BAD_PARAM, "operations do not follow each other");
    case CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR:
        d->graph = link_of(d, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH);
        return CUDNN_STATUS_SUCCESS;
    case CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR:
        d->graph = link_of(d, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG)->graph;
        d->choice = link_of(d, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG)->choice;
        if (played == PLAY_BROKEN_FIRST && d->choice == 0)
            return fail(CUDNN_STATUS_NOT_SUPPORTED, "played: this engine cannot");
        plans_made++;
        return CUDNN_STATUS_SUCCESS;
    default:
        return CUDNN_STATUS_SUCCESS;
    }
}

/* Descriptors that the library fills are handed in empty. */
cudnnStatus_t fill_choices(const descriptor *d, int64_t count, int64_t *got, void *elements)
{
    int64_t known = choices_of(d->graph);
    descriptor **list = (descriptor **)elements;
    *got = known < count ? known : count;
    for (int64_t i = 0; i < *got; i++) {
        if (list[i]->type != CUDNN_BACKEND_ENGINECFG_DESCRIPTOR)
            return fail(CUDNN_STATUS_BAD_PARAM, "results go into engine configurations");
        list[i]->graph = d->graph;
        list[i]->choice = (int)i;
        list[i]->is_final = true;
    }
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t fill_notes(const descriptor *d, int64_t count, int64_t *got, void *elements)
{
    cudnnBackendNumericalNote_t *notes = (cudnnBackendNumericalNote_t *)elements;
    bool is_rough = played == PLAY_ROUGH_FIRST && d->choice == 0;
    *got = is_rough ? 2 : 1;
    if (count < *got)
        return fail(CUDNN_STATUS_BAD_PARAM, "too little room");
    notes[0] = CUDNN_NUMERICAL_NOTE_TENSOR_CORE;
    if (is_rough)
        notes[1] = CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC;
    return CUDNN_STATUS_SUCCESS;
}

} // namespace

/* ---- the interface ---- */

EXPORT size_t cudnnGetVersion(void)
{
    return 90000; /* played */
}

EXPORT void cudnnGetLastErrorString(char *message, size_t bytes_max)
{
    snprintf(message, bytes_max, "%s", last_error.c_str());
}

EXPORT cudnnStatus_t cudnnCreate(cudnnHandle_t *handle)
{
    if (played == PLAY_NO_START)
        return fail(CUDNN_STATUS_NOT_INITIALIZED, "played: it does not start");
    *handle = new cudnnContext();
    return CUDNN_STATUS_SUCCESS;
}

EXPORT cudnnStatus_t cudnnDestroy(cudnnHandle_t handle)
{
    delete handle;
    return CUDNN_STATUS_SUCCESS;
}

EXPORT cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream)
{
    handle->stream = stream;
    return CUDNN_STATUS_SUCCESS;
}

EXPORT cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type,
                                                  cudnnBackendDescriptor_t *made)
{
    *made = new descriptor{type, false, {}, 0, NULL};
    return CUDNN_STATUS_SUCCESS;
}

EXPORT cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t d)
{
    delete (descriptor *)d;
    return CUDNN_STATUS_SUCCESS;
}

EXPORT cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t of,
                                              cudnnBackendAttributeName_t name,
                                              cudnnBackendAttributeType_t type, int64_t count,
                                              const void *elements)
{
    descriptor *d = (descriptor *)of;
    if (!d || d->is_final)
        return fail(CUDNN_STATUS_BAD_PARAM, "attribute %d of a finalized descriptor", (int)name);
    for (const rule &r : rules) {
        if (r.of != d->type || r.name != name)
            continue;
        if (r.type != type || count < r.count_min || count > r.count_max)
            return fail(CUDNN_STATUS_BAD_PARAM, "attribute %d: kind %d, %lld of them", (int)name,
                        (int)type, (long long)count);
        for (int64_t i = 0; type == CUDNN_TYPE_BACKEND_DESCRIPTOR && i < count; i++)
            if (!((descriptor *const *)elements)[i] ||
                !((descriptor *const *)elements)[i]->is_final)
                return fail(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED, "attribute %d: not finalized",
                            (int)name);
        const char *bytes = (const char *)elements;
        d->set[name] = {type, count,
                        std::vector<char>(bytes, bytes + (size_t)count * size_of(type))};
        return CUDNN_STATUS_SUCCESS;
    }
    return fail(CUDNN_STATUS_BAD_PARAM, "a descriptor %d has no attribute %d", (int)d->type,
                (int)name);
}

EXPORT cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t of)
{
    descriptor *d = (descriptor *)of;
    if (d->is_final)
        return fail(CUDNN_STATUS_BAD_PARAM, "finalized twice");
    cudnnStatus_t status = finish(d);
    d->is_final = status == CUDNN_STATUS_SUCCESS;
    return status;
}

EXPORT cudnnStatus_t cudnnBackendGetAttribute(const cudnnBackendDescriptor_t of,
                                              cudnnBackendAttributeName_t name,
                                              cudnnBackendAttributeType_t type, int64_t count,
                                              int64_t *got, void *elements)
{
    const descriptor *d = (const descriptor *)of;
    if (!d->is_final)
        return fail(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED, "attribute %d: not finalized", (int)name);
    if (name == CUDNN_ATTR_ENGINEHEUR_RESULTS && type == CUDNN_TYPE_BACKEND_DESCRIPTOR)
        return fill_choices(d, count, got, elements);
    if (name == CUDNN_ATTR_ENGINE_NUMERICAL_NOTE && type == CUDNN_TYPE_NUMERICAL_NOTE)
        return fill_notes(d, count, got, elements);
    *got = 1;
    if (name == CUDNN_ATTR_ENGINECFG_ENGINE && type == CUDNN_TYPE_BACKEND_DESCRIPTOR) {
        descriptor *engine = *(descriptor **)elements;
        engine->choice = d->choice;
        engine->is_final = true;
        return CUDNN_STATUS_SUCCESS;
    }
    if (type != CUDNN_TYPE_INT64)
        return fail(CUDNN_STATUS_BAD_PARAM, "attribute %d: kind %d", (int)name, (int)type);
    if (name == CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE)
        *(int64_t *)elements =
            played == PLAY_GREEDY_FIRST && d->choice == 0 ? GREEDY_BYTES : WORKSPACE_BYTES;
    else if (name == CUDNN_ATTR_ENGINE_GLOBAL_INDEX)
        *(int64_t *)elements = d->choice;
    else
        return fail(CUDNN_STATUS_BAD_PARAM, "attribute %d is not to be read", (int)name);
    return CUDNN_STATUS_SUCCESS;
}

EXPORT cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan,
                                         cudnnBackendDescriptor_t pack)
{
    const descriptor *d = (const descriptor *)plan;
    enqueue_fn enqueue = find_enqueue();
    if (!d->is_final || d->type != CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)
        return fail(CUDNN_STATUS_BAD_PARAM, "no plan");
    if (played == PLAY_FAIL_EXECUTION || !enqueue)
        return fail(CUDNN_STATUS_EXECUTION_FAILED, "played: the launch failed");
    std::unique_ptr<program> p(new program());
    if (!program_of(d->graph, *p))
        return fail(CUDNN_STATUS_INTERNAL_ERROR, "the graph has gone");
    cudnnStatus_t status = bind(*p, (const descriptor *)pack);
    if (status)
        return status;
    last_graph = text_of(*p, d->choice);
    executions++;
    enqueue(handle->stream, run_program, p.release());
    return CUDNN_STATUS_SUCCESS;
}

/* ---- for tests ---- */

EXPORT void cudnn_play(int what)
{
    played = what;
    last_graph.clear();
    plans_made = executions = 0;
}

/* The last graph that was executed, with its shapes, strides and the number of the choice. */
EXPORT const char *cudnn_played(int *ret_plans_made, int *ret_executions)
{
    *ret_plans_made = plans_made;
    *ret_executions = executions;
    return last_graph.c_str();
}
