/* ops/cuda/linear.c - matrix products on a GPU: our own kernels, and cuBLASLt for many rows.
 *
 * Which of them computes a product follows from its weight, its types and how many rows always come
 * together (rows_per_item), never from how many rows there are: a row's bits must not know its
 * company. For the same reason cuBLASLt is asked once for each (N, K, types, epilogue), at a fixed
 * number of rows and without splitting K, and keeps that algorithm for every call: its tiles then
 * only grow in number. tools/gpu-check hashes rows alone and in company.
 *
 * In cuBLASLt's column-major eyes out^T[N, R] = (weight^T)^T[N, K] in^T[K, R]. */
#include "ops/cuda/entries.h"

static enum dip_status own(struct dip_stream *s, const struct dip_linear_args *a)
{
    int64_t in_count = dip_tensor_columns(a->in);
    return DIP__CUDA_LAUNCH(s, linear, .out = dip__cuda_view(a->out), .in = dip__cuda_view(a->in),
                            .weight = dip__cuda_param(&a->weight), .bias = dip__cuda_param(a->bias),
                            .weight_stride = a->weight.rank == 2 ? a->weight.row_stride : in_count,
                            .chunk_count = a->chunk_count ? a->chunk_count : 1,
                            .act = (enum dip_kernel_act)a->act, .is_added = a->is_added,
                            .is_early = dip__cuda(s->device)->can_launch_early,
                            .scratch = dip__cuda_stream(s)->scratch);
}

/* Never many rows that always come together, so never the library's. */
enum dip_status dip__cuda_linear_normed(struct dip_stream *s,
                                        const struct dip_linear_normed_args *a)
{
    return DIP__CUDA_LAUNCH(s, linear, .out = dip__cuda_view(a->out), .in = dip__cuda_view(a->in),
                            .weight = dip__cuda_param(&a->weight),
                            .weight_stride = a->weight.row_stride, .chunk_count = 1,
                            .is_gated = a->is_gated, .norm_weight = dip__cuda_param(&a->norm),
                            .norm_eps = a->eps, .operand_dtype = a->normed.dtype,
                            .is_early = dip__cuda(s->device)->can_launch_early,
                            .scratch = dip__cuda_stream(s)->scratch);
}

#ifdef DIP_CUDA_CUBLASLT

#include <cublasLt.h>
#include <stdlib.h>

enum {
    LIBRARY_ROWS_MIN = 64, /* of an item */
    TYPICAL_ROWS = 2048,   /* that algorithms are chosen for */
    ALGORITHMS_MAX = 64,   /* different products of one process */
    ALIGNMENT = 16,        /* bytes, of everything a product touches */
};

struct algorithm {
    int64_t n, k;
    enum dip_dtype out;
    bool has_bias, is_added;
    bool is_usable; /* else our own kernel, always */
    cublasLtMatmulAlgo_t algo;
};

struct dip__cuda_library {
    cublasLtHandle_t handle;
    struct algorithm algorithms[ALGORITHMS_MAX];
    int count;
};

/* What one call describes to the library; destroyed by call_deinit, zeroed members too. */
struct call {
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t weight, in, out;
};

enum dip_status dip__cuda_library_open(struct dip_device *device)
{
    struct dip__cuda_library *library = calloc(1, sizeof *library);
    if (!library)
        return DIP_NO_MEMORY;
    if (cublasLtCreate(&library->handle) != CUBLAS_STATUS_SUCCESS) {
        free(library);
        return DIP_NO_MEMORY;
    }
    dip__cuda(device)->library = library;
    return DIP_OK;
}

void dip__cuda_library_close(struct dip_device *device)
{
    struct dip__cuda_library *library = dip__cuda(device)->library;
    if (!library)
        return;
    (void)cublasLtDestroy(library->handle);
    free(library);
}

static bool is_aligned(const void *data, int64_t stride, enum dip_dtype dtype)
{
    return (uintptr_t)data % ALIGNMENT == 0 &&
           stride * (int64_t)dip_dtype_bytes(dtype) % ALIGNMENT == 0;
}

/* Nothing here depends on the number of rows. */
static bool is_for_library(const struct dip_linear_args *a)
{
    bool is_wide = a->rows_per_item >= LIBRARY_ROWS_MIN && a->chunk_count <= 1;
    bool has_types = a->in.dtype == DIP_BF16 && a->weight.dtype == DIP_BF16 &&
                     (a->out.dtype == DIP_BF16 || (a->out.dtype == DIP_F32 && !a->bias)) &&
                     (!a->bias || a->bias->dtype == DIP_BF16);
    bool is_plain = a->act == DIP_ACT_NONE || !a->is_added; /* the act comes behind */
    int64_t k = dip_tensor_columns(a->in);
    int64_t stride = a->weight.rank == 2 ? a->weight.row_stride : k;
    return is_wide && has_types && is_plain && is_aligned(a->in.data, a->in.row_stride, DIP_BF16) &&
           is_aligned(a->weight.data, stride, DIP_BF16) &&
           is_aligned(a->out.data, a->out.row_stride, a->out.dtype);
}

static void call_deinit(struct call *c)
{
    if (c->product)
        (void)cublasLtMatmulDescDestroy(c->product);
    cublasLtMatrixLayout_t layouts[] = {c->weight, c->in, c->out};
    for (size_t i = 0; i < sizeof layouts / sizeof layouts[0]; i++)
        if (layouts[i])
            (void)cublasLtMatrixLayoutDestroy(layouts[i]);
}

static bool call_init(struct call *c, const struct dip_linear_args *a, int64_t rows)
{
    int64_t k = dip_tensor_columns(a->in);
    int64_t n = a->weight.dims[0];
    int64_t stride = a->weight.rank == 2 ? a->weight.row_stride : k;
    cublasOperation_t transposed = CUBLAS_OP_T;
    cudaDataType_t out = a->out.dtype == DIP_F32 ? CUDA_R_32F : CUDA_R_16BF;
    cublasLtEpilogue_t epilogue = a->bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    const void *bias = a->bias ? a->bias->data : NULL;
    *c = (struct call){0};
    return !cublasLtMatmulDescCreate(&c->product, CUBLAS_COMPUTE_32F, CUDA_R_32F) &&
           !cublasLtMatmulDescSetAttribute(c->product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                           sizeof transposed) &&
           !cublasLtMatmulDescSetAttribute(c->product, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                           sizeof epilogue) &&
           (!bias || !cublasLtMatmulDescSetAttribute(c->product, CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                                                     &bias, sizeof bias)) &&
           !cublasLtMatrixLayoutCreate(&c->weight, CUDA_R_16BF, (uint64_t)k, (uint64_t)n, stride) &&
           !cublasLtMatrixLayoutCreate(&c->in, CUDA_R_16BF, (uint64_t)k, (uint64_t)rows,
                                       a->in.row_stride) &&
           !cublasLtMatrixLayoutCreate(&c->out, out, (uint64_t)n, (uint64_t)rows,
                                       a->out.row_stride);
}

/* The library's first choice for the typical number of rows, every sum in one piece. */
static bool choose(struct dip__cuda_library *library, const struct dip_linear_args *a,
                   struct algorithm *ret_algorithm)
{
    struct call c;
    cublasLtMatmulPreference_t wish = NULL;
    cublasLtMatmulHeuristicResult_t found;
    int found_count = 0;
    size_t workspace = DIP_CUDA_SCRATCH_BYTES;
    uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_NONE;
    bool is_found =
        call_init(&c, a, TYPICAL_ROWS) && !cublasLtMatmulPreferenceCreate(&wish) &&
        !cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                              &workspace, sizeof workspace) &&
        !cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                              &schemes, sizeof schemes) &&
        !cublasLtMatmulAlgoGetHeuristic(library->handle, c.product, c.weight, c.in, c.out, c.out,
                                        wish, 1, &found, &found_count) &&
        found_count == 1;
    if (is_found)
        ret_algorithm->algo = found.algo;
    if (wish)
        (void)cublasLtMatmulPreferenceDestroy(wish);
    call_deinit(&c);
    return is_found;
}

/* NULL: our own kernel, for good. */
static const struct algorithm *algorithm_of(struct dip__cuda_library *library,
                                            const struct dip_linear_args *a)
{
    struct algorithm wanted = {.n = a->weight.dims[0],
                               .k = dip_tensor_columns(a->in),
                               .out = a->out.dtype,
                               .has_bias = a->bias != NULL,
                               .is_added = a->is_added};
    for (int i = 0; i < library->count; i++) {
        const struct algorithm *known = &library->algorithms[i];
        if (known->n == wanted.n && known->k == wanted.k && known->out == wanted.out &&
            known->has_bias == wanted.has_bias && known->is_added == wanted.is_added)
            return known->is_usable ? known : NULL;
    }
    if (library->count == ALGORITHMS_MAX)
        return NULL;
    wanted.is_usable = choose(library, a, &wanted);
    struct algorithm *kept = &library->algorithms[library->count++];
    *kept = wanted;
    return kept->is_usable ? kept : NULL;
}

static enum dip_status multiply(struct dip_stream *s, const struct dip_linear_args *a,
                                const struct algorithm *algorithm)
{
    struct dip__cuda_stream *q = dip__cuda_stream(s);
    struct dip__cuda_library *library = dip__cuda(s->device)->library;
    float one = 1.0f;
    float added = a->is_added ? 1.0f : 0.0f;
    struct call c;
    cublasStatus_t status = CUBLAS_STATUS_INTERNAL_ERROR;
    if (call_init(&c, a, dip_tensor_rows(a->in)))
        status = cublasLtMatmul(library->handle, c.product, &one, a->weight.data, c.weight,
                                a->in.data, c.in, &added, a->out.data, c.out, a->out.data, c.out,
                                &algorithm->algo, q->scratch, DIP_CUDA_SCRATCH_BYTES, q->stream);
    call_deinit(&c);
    if (status == CUBLAS_STATUS_SUCCESS)
        return DIP_OK;
    cudaError_t error = cudaGetLastError();
    return dip__cuda_check(s->device, error != cudaSuccess ? error : cudaErrorUnknown,
                           cublasLtGetStatusString(status));
}

enum dip_status dip__cuda_linear(struct dip_stream *s, const struct dip_linear_args *a)
{
    const struct algorithm *algorithm =
        is_for_library(a) ? algorithm_of(dip__cuda(s->device)->library, a) : NULL;
    if (!algorithm)
        return own(s, a);
    DIP_TRY(multiply(s, a, algorithm));
    if (a->act == DIP_ACT_NONE)
        return DIP_OK;
    return dip__cuda_activate(
        s, &(struct dip_activate_args){.out = a->out, .in = a->out, .act = a->act});
}

#else

enum dip_status dip__cuda_library_open(struct dip_device *device)
{
    (void)device;
    return DIP_OK;
}

void dip__cuda_library_close(struct dip_device *device)
{
    (void)device;
}

enum dip_status dip__cuda_linear(struct dip_stream *s, const struct dip_linear_args *a)
{
    return own(s, a);
}

#endif
