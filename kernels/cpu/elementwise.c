/* kernels/cpu/elementwise.c - the definitions of what works on one element at a time. */
#include "kernels/cpu/plain.h"

void dip_cpu_add(const struct dip_job_add *j, int64_t begin, int64_t end, void *scratch)
{
    (void)scratch;
    for (int64_t r = begin; r < end; r++) {
        float *sum = j->sum + r * j->sum_stride;
        const float *x = j->x + r / j->x_rows_per_item * j->x_stride;
        const float *gate = j->gate ? j->gate + r / j->rows_per_item * j->gate_stride : NULL;
        for (int64_t c = 0; c < j->column_count; c++)
            sum[c] += gate ? gate[c] * x[c] : x[c];
    }
}

void dip_cpu_silu_mul(const struct dip_job_silu_mul *j, int64_t begin, int64_t end, void *scratch)
{
    (void)scratch;
    for (int64_t r = begin; r < end; r++) {
        const float *gate = j->gate + r * j->gate_stride;
        const float *up = j->up + r * j->up_stride;
        float *out = j->out + r * j->out_stride;
        for (int64_t c = 0; c < j->column_count; c++)
            out[c] = (float)(dip__silu(gate[c]) * up[c]);
    }
}

void dip_cpu_activate(const struct dip_job_activate *j, int64_t begin, int64_t end, void *scratch)
{
    (void)scratch;
    for (int64_t r = begin; r < end; r++)
        for (int64_t c = 0; c < j->column_count; c++)
            j->out[r * j->out_stride + c] =
                (float)dip__activate(j->act, j->in[r * j->in_stride + c]);
}

void dip_cpu_blend(const struct dip_job_blend *j, int64_t begin, int64_t end, void *scratch)
{
    (void)scratch;
    for (int64_t e = begin; e < end; e++) {
        int64_t item = e / j->item_elements;
        float sum = j->coefficients[item] * j->in[0][e];
        for (int i = 1; i < j->count; i++) {
            float product = j->coefficients[i * j->item_count + item] * j->in[i][e];
            sum += product;
        }
        j->out[e] = sum;
    }
}

void dip_cpu_guide(const struct dip_job_guide *j, int64_t begin, int64_t end, void *scratch)
{
    (void)scratch;
    for (int64_t e = begin; e < end; e++) {
        float step = j->scale * (j->cond[e] - j->uncond[e]);
        j->out[e] = j->uncond[e] + step;
    }
}

void dip_cpu_check_finite(const struct dip_job_check_finite *j, int64_t begin, int64_t end,
                          void *scratch)
{
    (void)scratch;
    for (int64_t unit = begin; unit < end; unit++) {
        int64_t row_end = dip__min((unit + 1) * j->unit_rows, j->row_count);
        for (int64_t r = unit * j->unit_rows; r < row_end; r++)
            for (int64_t c = 0; c < j->column_count; c++)
                if (!isfinite(dip_f32_at(j->dtype, j->data, (size_t)(r * j->stride + c))))
                    j->ret_bad[unit] = true;
    }
}
