/* kernels/cpu/norm.c - the definition of the two normalisations. */
#include "kernels/cpu/plain.h"

static void rms_group(const struct dip_job_norm_rms *j, const float *in, float *out)
{
    double squares = 0.0;
    for (int64_t c = 0; c < j->group; c++)
        squares += (double)in[c] * in[c];
    double scale = 1.0 / sqrt(squares / (double)j->group + j->eps);
    for (int64_t c = 0; c < j->group; c++) {
        double y = in[c] * scale * dip__param_at(j->weight, c);
        if (j->bias.data)
            y += dip__param_at(j->bias, c);
        float rounded = (float)dip__activate(j->act, y);
        out[c] = j->is_added ? out[c] + rounded : rounded;
    }
}

void dip_cpu_norm_rms(const struct dip_job_norm_rms *j, int64_t begin, int64_t end, void *scratch)
{
    (void)scratch;
    for (int64_t r = begin; r < end; r++)
        for (int64_t c = 0; c < j->column_count; c += j->group)
            rms_group(j, j->in + r * j->in_stride + c, j->out + r * j->out_stride + c);
}

static void layer_row(const struct dip_job_norm_layer *j, const float *in, const float *scale,
                      const float *shift, float *out)
{
    double count = (double)j->column_count;
    double mean = 0.0;
    for (int64_t c = 0; c < j->column_count; c++)
        mean += in[c];
    mean /= count;
    double variance = 0.0;
    for (int64_t c = 0; c < j->column_count; c++)
        variance += (in[c] - mean) * (in[c] - mean);
    double factor = 1.0 / sqrt(variance / count + j->eps);
    for (int64_t c = 0; c < j->column_count; c++)
        out[c] = (float)((in[c] - mean) * factor * (1.0 + scale[c]) + shift[c]);
}

void dip_cpu_norm_layer(const struct dip_job_norm_layer *j, int64_t begin, int64_t end,
                        void *scratch)
{
    (void)scratch;
    for (int64_t r = begin; r < end; r++) {
        int64_t item = r / j->rows_per_item;
        layer_row(j, j->in + r * j->in_stride, j->scale + item * j->scale_stride,
                  j->shift + item * j->shift_stride, j->out + r * j->out_stride);
    }
}
