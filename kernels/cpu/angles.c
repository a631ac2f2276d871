/* kernels/cpu/angles.c - timestep features and rotary embedding: where cosines come from.
 *
 * The angles are products rounded to f32, because the reference rounds them: at t = 1000 one unit
 * in the last place of the angle moves its cosine by 6e-5, far more than any tolerance. The cosine
 * of a given f32 angle is then taken in f64 and rounded once. */
#include "kernels/cpu/plain.h"

void dip_cpu_sinusoid(const struct dip_job_sinusoid *j, int64_t begin, int64_t end, void *scratch)
{
    (void)scratch;
    const float minus_log_period = -9.210340371976184f; /* -ln(10000) */
    for (int64_t r = begin; r < end; r++) {
        float *out = j->out + r * j->out_stride;
        for (int64_t i = 0; i < j->half; i++) {
            float exponent = minus_log_period * (float)i / (float)j->half;
            float frequency = (float)exp((double)exponent);
            float angle = j->t[r] * frequency;
            out[i] = (float)cos((double)angle);
            out[j->half + i] = (float)sin((double)angle);
        }
    }
}

static void rope_head(const struct dip_job_rope *j, float *x, float position)
{
    int64_t half = j->head_dim / 2;
    double squares = 0.0;
    for (int64_t c = 0; c < j->head_dim; c++)
        squares += (double)x[c] * x[c];
    double scale = 1.0 / sqrt(squares / (double)j->head_dim + j->eps);
    for (int64_t c = 0; c < half; c++) {
        float angle = position * j->inv_freq[c];
        double cosine = (float)cos((double)angle);
        double sine = (float)sin((double)angle);
        double a = x[c] * scale * dip__param_at(j->weight, c);
        double b = x[c + half] * scale * dip__param_at(j->weight, c + half);
        x[c] = (float)(a * cosine - b * sine);
        x[c + half] = (float)(b * cosine + a * sine);
    }
}

void dip_cpu_rope(const struct dip_job_rope *j, int64_t begin, int64_t end, void *scratch)
{
    (void)scratch;
    for (int64_t r = begin; r < end; r++)
        for (int64_t head = 0; head < j->head_count; head++)
            rope_head(j, j->x + r * j->x_stride + head * j->head_dim, (float)j->rows[r].position);
}
