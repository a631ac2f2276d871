/* kernels/cpu/attend_linear.c - the definition of ReLU linear attention.
 *
 *   state[d][e] = sum_n v_n[d] relu(k_n[e])      norm[e] = sum_n relu(k_n[e])
 *   out_n[d] = (state[d] . relu(q_n)) / (norm . relu(q_n) + 1e-15) */
#include <string.h>

#include "kernels/cpu/plain.h"

static double relu(float x)
{
    return x < 0.0f ? 0.0 : (double)x;
}

/* state: [head_dim + 1][head_dim], the last row is the norm. */
static void gather(const struct dip_job_attend_linear *j, const float *k, const float *v,
                   double *state)
{
    int64_t dim = j->head_dim;
    memset(state, 0, (size_t)((dim + 1) * dim) * sizeof *state);
    for (int64_t n = 0; n < j->rows_per_item; n++) {
        for (int64_t e = 0; e < dim; e++) {
            double weight = relu(k[n * j->k_stride + e]);
            for (int64_t d = 0; d < dim; d++)
                state[d * dim + e] += v[n * j->v_stride + d] * weight;
            state[dim * dim + e] += weight;
        }
    }
}

static void apply(const struct dip_job_attend_linear *j, const double *state, const float *q,
                  float *out)
{
    int64_t dim = j->head_dim;
    double norm = 1e-15;
    for (int64_t e = 0; e < dim; e++)
        norm += state[dim * dim + e] * relu(q[e]);
    for (int64_t d = 0; d < dim; d++) {
        double sum = 0.0;
        for (int64_t e = 0; e < dim; e++)
            sum += state[d * dim + e] * relu(q[e]);
        out[d] = (float)(sum / norm);
    }
}

void dip_cpu_attend_linear(const struct dip_job_attend_linear *j, int64_t begin, int64_t end,
                           void *scratch)
{
    double *state = scratch;
    for (int64_t unit = begin; unit < end; unit++) {
        int64_t head = unit % j->head_count;
        int64_t row = unit / j->head_count * j->rows_per_item;
        int64_t column = head * j->head_stride;
        gather(j, j->k + row * j->k_stride + column, j->v + row * j->v_stride + column, state);
        for (int64_t n = row; n < row + j->rows_per_item; n++)
            apply(j, state, j->q + n * j->q_stride + column,
                  j->out + n * j->out_stride + head * j->head_dim);
    }
}
