/* kernels/cpu/sample.c - the definition of drawing a token, and the part of it that is never
 * re-implemented.
 *
 * Rule, in this order (the generation library of the reference, model contract 3.4):
 *   1. value = logit / temperature, in f32
 *   2. top-k: threshold = k-th largest value; everything below it goes, ties at it stay
 *   3. top-p: over what is left, softmax; from the smallest upwards, entries whose inclusive
 *      cumulative probability is <= 1 - top_p go; the largest always stays
 *   4. softmax over what is left; inverse of its distribution function at `uniform`, descending
 * Equal values are ordered by id, lower first; so among equals at the nucleus' edge the higher ids
 * go first. top_k 1 is greedy: the lowest id among the largest.
 *
 * Weights and sums are f64 with an exponential of our own, in sorted order: the draw depends
 * neither on the C library nor on how candidates were found. */
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/draw.h"
#include "kernels/cpu/plain.h"

/* exp(x) for x <= 0: x = n ln 2 + r, Taylor in r to degree 13 (error below 2^-53), times 2^n. */
static double exp_down(double x)
{
    static const double inverse_factorials[] = {1.0,
                                                1.0,
                                                1.0 / 2.0,
                                                1.0 / 6.0,
                                                1.0 / 24.0,
                                                1.0 / 120.0,
                                                1.0 / 720.0,
                                                1.0 / 5040.0,
                                                1.0 / 40320.0,
                                                1.0 / 362880.0,
                                                1.0 / 3628800.0,
                                                1.0 / 39916800.0,
                                                1.0 / 479001600.0,
                                                1.0 / 6227020800.0};
    if (!(x > -708.0))
        return 0.0;
    double n = rint(x * 1.4426950408889634);
    double r = x - n * 0.693147180369123816490; /* ln 2 with its last 32 bits zero: exact product */
    r -= n * 1.90821492927058770002e-10;
    double sum = inverse_factorials[13];
    for (int i = 12; i >= 0; i--)
        sum = sum * r + inverse_factorials[i];
    uint64_t bits = (uint64_t)(1023 + (int64_t)n) << 52;
    double power;
    memcpy(&power, &bits, sizeof power);
    return sum * power;
}

static int64_t keep_top_k(const struct dip__candidate *sorted, int64_t count, int64_t top_k)
{
    if (top_k <= 0 || top_k >= count)
        return count;
    float threshold = sorted[top_k - 1].value;
    while (top_k < count && sorted[top_k].value == threshold)
        top_k++;
    return top_k;
}

static double sum_of(const double *weights, int64_t count)
{
    double total = 0.0;
    for (int64_t i = 0; i < count; i++)
        total += weights[i];
    return total;
}

static int64_t keep_top_p(const double *weights, int64_t count, float top_p)
{
    if (top_p >= 1.0f)
        return count;
    double limit = (1.0 - (double)top_p) * sum_of(weights, count);
    double cumulative = 0.0;
    for (; count > 1; count--) {
        cumulative += weights[count - 1];
        if (cumulative > limit)
            break;
    }
    return count;
}

int32_t dip__draw_pick(const struct dip__candidate *sorted, int64_t count,
                       const struct dip_kernel_draw *draw, double *weights)
{
    if (draw->top_k == 1)
        return sorted[0].id;
    count = keep_top_k(sorted, count, draw->top_k);
    /* Relative to the largest value; an infinite largest value takes everything. */
    for (int64_t i = 0; i < count; i++)
        weights[i] = sorted[i].value == sorted[0].value
                         ? 1.0
                         : exp_down((double)sorted[i].value - (double)sorted[0].value);
    count = keep_top_p(weights, count, draw->top_p);
    double target = (double)draw->uniform * sum_of(weights, count);
    double cumulative = 0.0;
    for (int64_t i = 0; i < count - 1; i++) {
        cumulative += weights[i];
        if (cumulative > target)
            return sorted[i].id;
    }
    return sorted[count - 1].id;
}

static int compare(const void *left, const void *right)
{
    const struct dip__candidate *a = left;
    const struct dip__candidate *b = right;
    if (a->value != b->value)
        return a->value > b->value ? -1 : 1;
    return a->id < b->id ? -1 : a->id > b->id;
}

void dip_cpu_sample(const struct dip_job_sample *j, int64_t begin, int64_t end, void *scratch)
{
    struct dip__candidate *all = scratch;
    double *weights = (double *)(void *)(all + j->vocab_count);
    for (int64_t r = begin; r < end; r++) {
        const float *logits = j->logits + r * j->logits_stride;
        for (int64_t v = 0; v < j->vocab_count; v++)
            all[v] = (struct dip__candidate){
                .value = dip__draw_value(logits[v], j->draws[r].temperature), .id = (int32_t)v};
        qsort(all, (size_t)j->vocab_count, sizeof *all, compare);
        j->ids[r] = dip__draw_pick(all, j->vocab_count, &j->draws[r], weights);
    }
}
