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

int64_t dip__draw_keep(const struct dip__candidate *sorted, int64_t count, int64_t top_k)
{
    if (top_k <= 0 || top_k >= count)
        return count;
    if (top_k == 1)
        return 1;
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
    count = dip__draw_keep(sorted, count, draw->top_k);
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

static void sort_row(const float *logits, int64_t count, float temperature,
                     struct dip__candidate *all)
{
    for (int64_t v = 0; v < count; v++)
        all[v] = (struct dip__candidate){.value = dip__draw_value(logits[v], temperature),
                                         .id = (int32_t)v};
    qsort(all, (size_t)count, sizeof *all, compare);
}

void dip_cpu_sample(const struct dip_job_sample *j, int64_t begin, int64_t end, void *scratch)
{
    struct dip__candidate *all = scratch;
    double *weights = (double *)(void *)(all + j->vocab_count);
    for (int64_t r = begin; r < end; r++) {
        sort_row(j->logits + r * j->logits_stride, j->vocab_count, j->draws[r].temperature, all);
        j->ids[r] = dip__draw_pick(all, j->vocab_count, &j->draws[r], weights);
    }
}

/* ---- a vocabulary in slices ---- */

void dip__draw_tell(const struct dip__candidate *sorted, int64_t count,
                    const struct dip_job_sample_select *j, int64_t row)
{
    int32_t *found = j->found + row * j->found_stride;
    count = dip__draw_keep(sorted, count, j->draws[row].top_k);
    found[0] = (int32_t)count;
    for (int64_t i = 0; i < count && i < j->room; i++) {
        found[1 + 2 * i] = (int32_t)dip_f32_bits(sorted[i].value);
        found[2 + 2 * i] = j->first_id + sorted[i].id;
    }
}

void dip_cpu_sample_select(const struct dip_job_sample_select *j, int64_t begin, int64_t end,
                           void *scratch)
{
    struct dip__candidate *all = scratch;
    for (int64_t r = begin; r < end; r++) {
        sort_row(j->logits + r * j->logits_stride, j->vocab_count, j->draws[r].temperature, all);
        dip__draw_tell(all, j->vocab_count, j, r);
    }
}

/* What one rank has found in a row, and how far the merge has come in it. */
struct slice {
    const int32_t *next;
    int64_t left;
};

static struct dip__candidate candidate_at(const int32_t *pair)
{
    return (struct dip__candidate){.value = dip_f32_from_bits((uint32_t)pair[0]), .id = pair[1]};
}

/* The slices' candidates in one order, until no more of them can be drawn: a value below that of
 * the top_k-th ends it. Slices come in order of ids, so the first of equals is the lower id. */
static int64_t merge(struct slice *slices, int64_t rank_count, int64_t top_k,
                     struct dip__candidate *merged)
{
    for (int64_t count = 0;; count++) {
        struct slice *first = NULL;
        struct dip__candidate best = {0};
        for (int64_t n = 0; n < rank_count; n++) {
            if (slices[n].left == 0)
                continue;
            struct dip__candidate head = candidate_at(slices[n].next);
            if (first && !(head.value > best.value))
                continue;
            first = &slices[n];
            best = head;
        }
        if (!first || (top_k > 0 && count >= top_k && best.value != merged[top_k - 1].value))
            return count;
        merged[count] = best;
        first->next += 2;
        first->left--;
    }
}

void dip_cpu_sample_merge(const struct dip_job_sample_merge *j, int64_t begin, int64_t end,
                          void *scratch)
{
    struct dip__candidate *merged = scratch;
    double *weights = (double *)(void *)(merged + j->rank_count * j->room);
    for (int64_t r = begin; r < end; r++) {
        struct slice slices[DIP_KERNEL_SAMPLE_RANKS_MAX];
        bool is_whole = true;
        for (int64_t n = 0; n < j->rank_count; n++) {
            const int32_t *found = j->found + n * j->rank_stride + r * (1 + 2 * j->room);
            slices[n] = (struct slice){.next = found + 1, .left = found[0]};
            is_whole = is_whole && found[0] <= j->room;
        }
        j->ids[r] = -1;
        if (!is_whole)
            continue;
        int64_t count = merge(slices, j->rank_count, j->draws[r].top_k, merged);
        j->ids[r] = dip__draw_pick(merged, count, &j->draws[r], weights);
    }
}
