/* coordinator/stats.h - what the front door counts, for a metrics page.
 *
 * Plain numbers that grow from the start of the process; read and written on the loop's owner
 * thread only. */
#pragma once

#include <stdint.h>

#include "cluster/cluster.h"
#include "proto/error.h"

/* Upper bounds in seconds of all buckets but the last, which has none. */
#define DIP_BUCKET_LIST(X)                                                                         \
    X(0.001)                                                                                       \
    X(0.0025)                                                                                      \
    X(0.005)                                                                                       \
    X(0.01)                                                                                        \
    X(0.025)                                                                                       \
    X(0.05)                                                                                        \
    X(0.1)                                                                                         \
    X(0.25)                                                                                        \
    X(0.5)                                                                                         \
    X(1)                                                                                           \
    X(2.5)                                                                                         \
    X(5)                                                                                           \
    X(10)                                                                                          \
    X(25)                                                                                          \
    X(50)                                                                                          \
    X(100)                                                                                         \
    X(250)                                                                                         \
    X(600)

enum {
#define DIP_BUCKET_COUNT_ONE(bound) +1
    DIP_BUCKET_COUNT = 1 DIP_BUCKET_LIST(DIP_BUCKET_COUNT_ONE)
#undef DIP_BUCKET_COUNT_ONE
};

struct dip_histogram {
    uint64_t counts[DIP_BUCKET_COUNT]; /* not cumulative */
    uint64_t count;
    double sum_s;
};

/* The upper bound of a bucket in seconds; infinity for the last. */
double dip_bucket_bound(int bucket);
void dip_histogram_add(struct dip_histogram *histogram, int64_t ns);

/* X(name, text): the calls that are counted by their end. */
#define DIP_FRONT_METHOD_LIST(X)                                                                   \
    X(GENERATE, "Generate")                                                                        \
    X(WATCH, "Watch")                                                                              \
    X(CANCEL, "Cancel")                                                                            \
    X(MODEL, "Model")                                                                              \
    X(CLUSTER, "Cluster")                                                                          \
    X(SCALER, "ExternalScaler")

enum dip_front_method {
#define DIP_FRONT_METHOD_ENUM(name, text) DIP_FRONT_METHOD_##name,
    DIP_FRONT_METHOD_LIST(DIP_FRONT_METHOD_ENUM)
#undef DIP_FRONT_METHOD_ENUM
        DIP_FRONT_METHOD_COUNT
};

struct dip_front_stats {
    uint64_t calls_ok[DIP_FRONT_METHOD_COUNT];
    uint64_t calls_failed[DIP_FRONT_METHOD_COUNT][DIP_REASON_COUNT];
    uint64_t admitted, succeeded, cancelled; /* requests */
    uint64_t failed[DIP_REASON_COUNT];       /* requests that were admitted and ended so */
    uint64_t refused[DIP_REASON_COUNT];      /* requests that were not admitted */
    uint64_t images, pixels, image_tokens, diffusion_steps;
    uint64_t replays[DIP_SETBACK_COUNT];    /* images that began again elsewhere */
    uint64_t adopted[DIP_HELD_STAGE_COUNT]; /* parts of images that workers held from before */
    uint64_t forwarded;                     /* calls that went on to the leader */
    uint64_t streams_stalled;               /* readers that were cut for taking nothing */
    uint64_t previews_dropped;              /* replaced by newer ones while the reader was slow */
    uint64_t stale_joins;         /* joined as a rank of a group that has been dissolved since */
    struct dip_histogram request; /* Generate: from its message to its end, successes only */
    struct dip_histogram first_event; /* Generate: from its message to Admitted being sent off */
    struct dip_histogram first_preview;
    struct dip_histogram tokenize;
    struct dip_histogram send; /* Generate: from the end of its work until its reader has it all */
    struct dip_histogram group_rebuild;           /* from the loss of a group until it stands */
    struct dip_histogram stages[DIP_STAGE_COUNT]; /* of images, as in Timing */
    /* Now. */
    uint64_t held;         /* such parts that nobody has asked for yet */
    int streams;           /* Generate and Watch */
    int results;           /* ended requests that can still be fetched */
    uint64_t result_bytes; /* and what they hold, with those that run */
};
