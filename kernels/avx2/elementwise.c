/* kernels/avx2/elementwise.c - what works on one element at a time, eight at a time.
 *
 * Bound by memory once rows are large. Lanes never meet, tails run under a mask. Additions and
 * blends round every product and sum like the definition, so their bits equal it. */
#include "kernels/avx2/simd.h"

void dip_avx2_embed(const struct dip_job_embed *j, int64_t begin, int64_t end, void *scratch)
{
    (void)scratch;
    for (int64_t r = begin; r < end; r++)
        dip__widen(j->table.dtype, j->table.data, j->ids[r] * j->table_stride, j->column_count,
                   j->out + r * j->out_stride);
}

void dip_avx2_add(const struct dip_job_add *j, int64_t begin, int64_t end, void *scratch)
{
    (void)scratch;
    for (int64_t r = begin; r < end; r++) {
        float *sum = j->sum + r * j->sum_stride;
        const float *x = j->x + r / j->x_rows_per_item * j->x_stride;
        const float *gate = j->gate ? j->gate + r / j->rows_per_item * j->gate_stride : NULL;
        for (int64_t c = 0; c < j->column_count; c += 8) {
            int64_t left = j->column_count - c;
            __m256 y = dip__get8(x + c, left);
            if (gate)
                y = _mm256_mul_ps(dip__get8(gate + c, left), y);
            dip__put8(sum + c, left, _mm256_add_ps(dip__get8(sum + c, left), y));
        }
    }
}

void dip_avx2_silu_mul(const struct dip_job_silu_mul *j, int64_t begin, int64_t end, void *scratch)
{
    (void)scratch;
    for (int64_t r = begin; r < end; r++) {
        const float *gate = j->gate + r * j->gate_stride;
        const float *up = j->up + r * j->up_stride;
        float *out = j->out + r * j->out_stride;
        for (int64_t c = 0; c < j->column_count; c += 8) {
            int64_t left = j->column_count - c;
            __m256 y =
                _mm256_mul_ps(dip__silu8(dip__get8(gate + c, left)), dip__get8(up + c, left));
            dip__put8(out + c, left, y);
        }
    }
}

void dip_avx2_activate(const struct dip_job_activate *j, int64_t begin, int64_t end, void *scratch)
{
    (void)scratch;
    for (int64_t r = begin; r < end; r++) {
        const float *in = j->in + r * j->in_stride;
        float *out = j->out + r * j->out_stride;
        for (int64_t c = 0; c < j->column_count; c += 8) {
            int64_t left = j->column_count - c;
            dip__put8(out + c, left, dip__activate8(j->act, dip__get8(in + c, left)));
        }
    }
}

/* Elements [e, end) of one item. */
static void blend_item(const struct dip_job_blend *j, int64_t item, int64_t e, int64_t end)
{
    __m256 coefficients[DIP_KERNEL_BLEND_MAX];
    for (int i = 0; i < j->count; i++)
        coefficients[i] = _mm256_set1_ps(j->coefficients[i * j->item_count + item]);
    for (; e < end; e += 8) {
        int64_t left = end - e;
        __m256 sum = _mm256_mul_ps(coefficients[0], dip__get8(j->in[0] + e, left));
        for (int i = 1; i < j->count; i++)
            sum = _mm256_add_ps(sum, _mm256_mul_ps(coefficients[i], dip__get8(j->in[i] + e, left)));
        dip__put8(j->out + e, left, sum);
    }
}

void dip_avx2_blend(const struct dip_job_blend *j, int64_t begin, int64_t end, void *scratch)
{
    (void)scratch;
    while (begin < end) {
        int64_t item = begin / j->item_elements;
        int64_t item_end = dip__min((item + 1) * j->item_elements, end);
        blend_item(j, item, begin, item_end);
        begin = item_end;
    }
}

void dip_avx2_guide(const struct dip_job_guide *j, int64_t begin, int64_t end, void *scratch)
{
    (void)scratch;
    __m256 scale = _mm256_set1_ps(j->scale);
    for (int64_t e = begin; e < end; e += 8) {
        int64_t left = end - e;
        __m256 uncond = dip__get8(j->uncond + e, left);
        __m256 step = _mm256_mul_ps(scale, _mm256_sub_ps(dip__get8(j->cond + e, left), uncond));
        dip__put8(j->out + e, left, _mm256_add_ps(uncond, step));
    }
}

/* Not finite: every bit of the exponent is set. */
static bool is_row_bad(enum dip_dtype dtype, const void *data, int64_t first, int64_t count)
{
    __m256i exponent = dtype == DIP_F32    ? _mm256_set1_epi32(0x7f800000)
                       : dtype == DIP_BF16 ? _mm256_set1_epi16(0x7f80)
                                           : _mm256_set1_epi16(0x7c00);
    int64_t size = dtype == DIP_F32 ? 4 : 2;
    const char *at = (const char *)data + first * size;
    __m256i found = _mm256_setzero_si256();
    for (int64_t left = count * size; left > 0; left -= 32, at += 32) {
        __m256i bits = _mm256_setzero_si256();
        if (left >= 32)
            bits = _mm256_loadu_si256((const __m256i *)at);
        else
            memcpy(&bits, at, (size_t)left);
        __m256i set = _mm256_and_si256(bits, exponent);
        found = _mm256_or_si256(found, dtype == DIP_F32 ? _mm256_cmpeq_epi32(set, exponent)
                                                        : _mm256_cmpeq_epi16(set, exponent));
    }
    return !_mm256_testz_si256(found, found);
}

void dip_avx2_check_finite(const struct dip_job_check_finite *j, int64_t begin, int64_t end,
                           void *scratch)
{
    (void)scratch;
    for (int64_t unit = begin; unit < end; unit++) {
        int64_t row_end = dip__min((unit + 1) * j->unit_rows, j->row_count);
        for (int64_t r = unit * j->unit_rows; r < row_end; r++)
            if (is_row_bad(j->dtype, j->data, r * j->stride, j->column_count))
                j->ret_bad[unit] = true;
    }
}
