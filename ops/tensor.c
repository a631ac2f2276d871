/* ops/tensor.c - views: making them, cutting them, asking them. */
#include "base/assert.h"
#include "ops/ops.h"

static struct dip_tensor view(void *data, enum dip_dtype dtype, int rank, const int64_t *dims)
{
    struct dip_tensor t = {.data = data, .dtype = dtype, .rank = rank, .dims = {1, 1, 1, 1}};
    for (int i = 0; i < rank; i++) {
        dip_assert(dims[i] >= 0);
        t.dims[i] = dims[i];
    }
    t.row_stride = t.dims[rank - 1];
    return t;
}

struct dip_tensor dip_tensor_1d(void *data, enum dip_dtype dtype, int64_t count)
{
    return view(data, dtype, 1, &count);
}

struct dip_tensor dip_rows(void *data, enum dip_dtype dtype, int64_t rows, int64_t columns)
{
    return view(data, dtype, 2, (int64_t[]){rows, columns});
}

struct dip_tensor dip_image(void *data, enum dip_dtype dtype, int64_t batch, int64_t height,
                            int64_t width, int64_t channels)
{
    return view(data, dtype, 4, (int64_t[]){batch, height, width, channels});
}

static void *at(struct dip_tensor t, int64_t element)
{
    return (char *)t.data + (size_t)element * dip_dtype_bytes(t.dtype);
}

struct dip_tensor dip_rows_slice(struct dip_tensor t, int64_t first, int64_t count)
{
    dip_assert(first >= 0);
    dip_assert(count >= 0);
    dip_assert(first + count <= dip_tensor_rows(t));
    struct dip_tensor slice =
        dip_rows(at(t, first * t.row_stride), t.dtype, count, dip_tensor_columns(t));
    slice.row_stride = t.row_stride;
    return slice;
}

struct dip_tensor dip_columns_slice(struct dip_tensor t, int64_t first, int64_t count)
{
    dip_assert(first >= 0);
    dip_assert(count >= 0);
    dip_assert(first + count <= dip_tensor_columns(t));
    t.data = at(t, first);
    t.dims[t.rank - 1] = count;
    return t;
}

int64_t dip_tensor_rows(struct dip_tensor t)
{
    int64_t rows = 1;
    for (int i = 0; i < t.rank - 1; i++)
        rows *= t.dims[i];
    return rows;
}

int64_t dip_tensor_columns(struct dip_tensor t)
{
    return t.dims[t.rank - 1];
}

int64_t dip_tensor_count(struct dip_tensor t)
{
    return dip_tensor_rows(t) * dip_tensor_columns(t);
}

bool dip_tensor_is_dense(struct dip_tensor t)
{
    return t.row_stride == dip_tensor_columns(t) || dip_tensor_rows(t) == 1;
}
