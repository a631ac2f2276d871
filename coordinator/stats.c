/* coordinator/stats.c - histograms of what the front door does. */
#include "coordinator/stats.h"

#include <math.h>

static const double bounds[DIP_BUCKET_COUNT] = {
#define DIP_BUCKET_ROW(bound) bound,
    DIP_BUCKET_LIST(DIP_BUCKET_ROW)
#undef DIP_BUCKET_ROW
};

double dip_bucket_bound(int bucket)
{
    return bucket < DIP_BUCKET_COUNT - 1 ? bounds[bucket] : (double)INFINITY;
}

void dip_histogram_add(struct dip_histogram *histogram, int64_t ns)
{
    double seconds = (double)ns * 1e-9;
    int bucket = 0;
    while (bucket < DIP_BUCKET_COUNT - 1 && seconds > bounds[bucket])
        bucket++;
    histogram->counts[bucket]++;
    histogram->count++;
    histogram->sum_s += seconds;
}
