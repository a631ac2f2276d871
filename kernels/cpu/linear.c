/* kernels/cpu/linear.c - the definition of the linear product. */
#include "kernels/cpu/plain.h"

enum { TREE_LEVELS_MAX = 11 }; /* log2(DIP_KERNEL_LINEAR_CHUNKS_MAX) + 1 */

static float chunk_sum(const struct dip_job_linear *j, int64_t row, int64_t column, int64_t chunk)
{
    int64_t length = j->in_count / j->chunk_count;
    const float *in = j->in + row * j->in_stride;
    double sum = 0.0;
    for (int64_t k = chunk * length; k < (chunk + 1) * length; k++)
        sum += (double)in[k] * dip__param_at(j->weight, column * j->weight_stride + k);
    return (float)sum; /* chunk sums travel between ranks as f32 */
}

/* Pairwise: neighbours join, then pairs, so that a rank that owns a power of two of chunks owns a
 * whole sub-tree. The stack holds one finished sub-tree per set bit of the chunks so far. */
static float output(const struct dip_job_linear *j, int64_t row, int64_t column)
{
    float stack[TREE_LEVELS_MAX] = {0};
    int depth = 0;
    for (int chunk = 0; chunk < j->chunk_count; chunk++) {
        stack[depth++] = chunk_sum(j, row, column, chunk);
        for (int carry = chunk; carry & 1; carry >>= 1, depth--)
            stack[depth - 2] += stack[depth - 1];
    }
    double y = stack[0];
    if (j->bias.data)
        y += dip__param_at(j->bias, column);
    return (float)dip__activate(j->act, y);
}

static void tile(const struct dip_job_linear *j, int64_t row, int64_t column)
{
    int64_t row_end = dip__min(row + j->unit_rows, j->row_count);
    int64_t column_end = dip__min(column + j->unit_columns, j->out_count);
    for (int64_t r = row; r < row_end; r++) {
        float *out = j->out + r * j->out_stride;
        for (int64_t n = column; n < column_end; n++) {
            float y = output(j, r, n);
            out[n] = j->is_added ? out[n] + y : y;
        }
    }
}

void dip_cpu_linear(const struct dip_job_linear *j, int64_t begin, int64_t end, void *scratch)
{
    (void)scratch;
    int64_t row_blocks = (j->row_count + j->unit_rows - 1) / j->unit_rows;
    for (int64_t unit = begin; unit < end; unit++)
        tile(j, unit % row_blocks * j->unit_rows, unit / row_blocks * j->unit_columns);
}
