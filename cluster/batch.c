/* cluster/batch.c - the mean times of steps, and the best number of pictures by them. */
#include "cluster/batch.h"

#include <stdbool.h>
#include <stddef.h>

#include "base/assert.h"
#include "base/clock.h"

enum {
    MEAN_WEIGHT = 8,
    TRIES = 3, /* steps before a number is judged */
    REACH = 3, /* numbers above the best that are tried */
    PATIENCE_LEAST = 512,
    PATIENCE_MOST = 8192,
    OUTLIER_FACTOR = 2, /* one step that took longer counts as so many times the mean */
    GAIN_PARTS = 16,    /* a larger number must cost a part less for each picture */
};

/* Longer is a mistake of somebody's clock. */
#define MEASURED_NS_LONGEST (600 * DIP_SECOND_NS)
#define TRIED_NS_LONGEST    (8 * DIP_SECOND_NS)

static int least(int a, int b)
{
    return a < b ? a : b;
}

/* Of all numbers up to `most` that one is tried which is smallest. */
static bool is_open(const struct dip_batch_point *point)
{
    int patience = point->patience > 0 ? point->patience : PATIENCE_LEAST;
    return point->seen < TRIES || point->unseen >= patience;
}

/* Whether `count` pictures cost less each than `other`, which are fewer: step / count against
 * step / other, without the division. */
static bool pays(const struct dip_batch_curve *curve, int count, int other)
{
    int64_t each = curve->points[count - 1].step_ns * other;
    int64_t other_each = curve->points[other - 1].step_ns * count;
    return each < other_each - other_each / GAIN_PARTS;
}

/* By what was measured; 1 when nothing was. */
static int best_of(const struct dip_batch_curve *curve, int most)
{
    int best = 1;
    if (curve->points[0].seen < TRIES)
        return 1;
    for (int count = 2; count <= most; count++)
        if (curve->points[count - 1].seen >= TRIES && pays(curve, count, best))
            best = count;
    return best;
}

/* The largest number that is tried beside the best one. */
static int top_of(const struct dip_batch_curve *curve, int most, int best)
{
    int top = least(most, best + REACH);
    int64_t alone_ns = curve->points[0].step_ns;
    while (top > best && top * alone_ns > TRIED_NS_LONGEST)
        top--;
    return top;
}

static const struct dip_batch_curve *curve_find(const struct dip_batch *batch, int64_t kind)
{
    for (int i = 0; i < DIP_BATCH_CURVES; i++)
        if (kind > 0 && batch->curves[i].kind == kind)
            return &batch->curves[i];
    return NULL;
}

/* The one of this kind, or a free one, or the one that was not used for longest. */
static struct dip_batch_curve *curve_use(struct dip_batch *batch, int64_t kind)
{
    struct dip_batch_curve *curve = &batch->curves[0];
    for (int i = 0; i < DIP_BATCH_CURVES; i++) {
        if (batch->curves[i].kind == kind) {
            curve = &batch->curves[i];
            break;
        }
        if (batch->curves[i].used < curve->used)
            curve = &batch->curves[i];
    }
    if (curve->kind != kind)
        *curve = (struct dip_batch_curve){.kind = kind};
    curve->used = ++batch->serial;
    return curve;
}

/* What does not pay is tried less and less often. */
static void judge(struct dip_batch_curve *curve, int count)
{
    struct dip_batch_point *point = &curve->points[count - 1];
    int patience = point->patience > 0 ? point->patience : PATIENCE_LEAST;
    if (count == 1 || best_of(curve, count) == count)
        point->patience = PATIENCE_LEAST;
    else
        point->patience = least(2 * patience, PATIENCE_MOST);
}

void dip_batch_add(struct dip_batch *batch, int64_t kind, int count, int64_t step_ns)
{
    if (kind <= 0 || count < 1 || count > DIP_BATCH_MAX || step_ns <= 0 ||
        step_ns > MEASURED_NS_LONGEST)
        return;
    struct dip_batch_curve *curve = curve_use(batch, kind);
    struct dip_batch_point *point = &curve->points[count - 1];
    if (is_open(point) && point->seen >= TRIES)
        point->seen = 0; /* what it was long ago counts for nothing */
    if (point->seen >= TRIES && step_ns > OUTLIER_FACTOR * point->step_ns)
        step_ns = OUTLIER_FACTOR * point->step_ns;
    if (point->seen == 0)
        point->step_ns = step_ns;
    else if (point->seen < TRIES)
        point->step_ns = step_ns < point->step_ns ? step_ns : point->step_ns;
    else
        point->step_ns += (step_ns - point->step_ns) / MEAN_WEIGHT;
    for (int i = 0; i < DIP_BATCH_MAX; i++)
        curve->points[i].unseen = least(curve->points[i].unseen + 1, PATIENCE_MOST);
    point->unseen = 0;
    if (point->seen < TRIES && ++point->seen == TRIES)
        judge(curve, count);
}

int dip_batch_next(const struct dip_batch *batch, int64_t kind, int ready)
{
    dip_assert(ready >= 1);
    const struct dip_batch_curve *curve = curve_find(batch, kind);
    int most = least(ready, DIP_BATCH_MAX);
    if (!curve)
        return 1;
    int best = best_of(curve, most);
    int top = top_of(curve, most, best);
    for (int count = 1; count <= top; count++)
        if (is_open(&curve->points[count - 1]))
            return count;
    return best;
}

int dip_batch_room(const struct dip_batch *batch, int64_t kind, int slots)
{
    dip_assert(slots >= 1);
    const struct dip_batch_curve *curve = curve_find(batch, kind);
    int most = least(slots, DIP_BATCH_MAX);
    if (!curve)
        return least(most, 1 + REACH);
    int best = best_of(curve, most);
    for (int count = top_of(curve, most, best); count > best; count--)
        if (is_open(&curve->points[count - 1]))
            return count;
    return best;
}

int64_t dip_batch_step_ns(const struct dip_batch *batch, int64_t kind, int count)
{
    const struct dip_batch_curve *curve = curve_find(batch, kind);
    if (!curve || count < 1 || count > DIP_BATCH_MAX)
        return 0;
    return curve->points[count - 1].step_ns;
}
