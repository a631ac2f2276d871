/* cluster/batch.h - how many pictures belong into one step of the sampler: what steps have cost.
 *
 * A device that one picture fills takes twice as long for two: side by side each only waits for the
 * other. One that it does not fill takes hardly longer for two than for one. Which it is depends on
 * the device, on the kind of picture (size, guided or not) and on what else runs there, so it is
 * measured as it happens: for every number of pictures a step was made of, its mean time, apart for
 * the few kinds in use.
 *
 *   the best number is the one whose pictures cost least each; a larger one only wins when they
 *   cost a sixteenth less than beside fewer
 *
 * A number that was never measured is tried when so many pictures are there, up to three above the
 * best; what did not pay is tried again after 512 steps of other numbers, then 1,024, and so on to
 * 8,192, with its mean begun anew: so a device that changes is noticed. The best of the first three
 * steps begins a mean, since the first of its kind may be slow for reasons of its own. What would
 * take more than eight seconds one after another is not tried: a command waits for the step.
 *
 * The worker asks how many of those at hand go into its next step, and tells with every step how
 * many pictures at a time it wants; the scheduler gives it no more. Pure: no clock, no thread. */
#pragma once

#include <stdint.h>

enum { DIP_BATCH_MAX = 8, DIP_BATCH_CURVES = 4 };

struct dip_batch_point {
    int64_t step_ns; /* mean of a step of so many; 0 = not measured */
    int seen;        /* steps in that mean, as far as they are counted */
    int unseen;      /* steps of other numbers since the last one */
    int patience;    /* after so many of those it is tried again; 0 = the least */
};

struct dip_batch_curve {
    int64_t kind;  /* number that the worker gives to size and guidance; 0 = free */
    uint64_t used; /* when, against the others */
    struct dip_batch_point points[DIP_BATCH_MAX]; /* of 1, 2, ... pictures */
};

/* Zero-initialise: nothing measured. */
struct dip_batch {
    struct dip_batch_curve curves[DIP_BATCH_CURVES];
    uint64_t serial;
};

/* A step of `count` pictures of a kind took step_ns. What cannot be true changes nothing. */
void dip_batch_add(struct dip_batch *batch, int64_t kind, int count, int64_t step_ns);

/* How many of `ready` pictures, at least one, go into the next step. */
int dip_batch_next(const struct dip_batch *batch, int64_t kind, int ready);

/* How many pictures at a time are worth having, up to `slots`. */
int dip_batch_room(const struct dip_batch *batch, int64_t kind, int slots);

/* The mean of a step of `count` pictures; 0 = not measured. */
int64_t dip_batch_step_ns(const struct dip_batch *batch, int64_t kind, int count);
