/* kernels/avx2/linear_grouped.c - 1x1 convolution in groups.
 *
 * Groups are narrow (32 x 32 in the autoencoder): all weights are transposed once per call into
 * panels of 16 outputs, then rows pass 48 at a time through all groups, so that each is read from
 * memory once. Outer form, one chain of in_per_group products per output. */
#include "base/assert.h"
#include "kernels/avx2/inner.h"
#include "kernels/avx2/simd.h"

/* panels: [ceil(No / 16)][Ki][16], zeros beyond No. */
static void pack(const struct dip_job_linear_grouped *j, int64_t group, float *row, float *panels)
{
    int64_t padded = (j->out_per_group + 15) & ~(int64_t)15;
    memset(panels, 0, (size_t)(padded * j->in_per_group) * sizeof *panels);
    for (int64_t n = 0; n < j->out_per_group; n++) {
        int64_t first = (group * j->out_per_group + n) * j->in_per_group;
        dip__widen(j->weight.dtype, j->weight.data, first, j->in_per_group, row);
        float *to = panels + n / 16 * 16 * j->in_per_group + n % 16;
        for (int64_t k = 0; k < j->in_per_group; k++)
            to[k * 16] = row[k];
    }
}

/* Sums of a unit's rows wait in `sums` so that a panel's last columns can be left out. */
static void run_rows(const struct dip__inner *inner, const struct dip_job_linear_grouped *j,
                     int64_t group, int64_t row, const float *panels, float *sums)
{
    const int64_t wide = DIP__PANELS_MAX * DIP__PANEL;
    int64_t rows = dip__min(j->unit_rows, j->row_count - row);
    float *out = j->out + row * j->out_stride + group * j->out_per_group;
    for (int64_t n = 0; n < j->out_per_group; n += wide) {
        int64_t columns = dip__min(j->out_per_group - n, wide);
        inner->tile_rows(
            &(struct dip__tile_rows){.a = j->in + row * j->in_stride + group * j->in_per_group,
                                     .a_stride = j->in_stride,
                                     .rows = rows,
                                     .panels = panels + n * j->in_per_group,
                                     .panel_next = DIP__PANEL * j->in_per_group,
                                     .count = j->in_per_group,
                                     .columns = columns,
                                     .to = sums,
                                     .to_stride = wide,
                                     .is_first = true});
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < columns; c += 8)
                dip__put8(out + r * j->out_stride + n + c, columns - c,
                          _mm256_loadu_ps(sums + r * wide + c));
    }
}

void dip__linear_grouped(const struct dip__inner *inner, const struct dip_job_linear_grouped *j,
                         int64_t begin, int64_t end, void *scratch)
{
    int64_t group_panels = ((j->out_per_group + 15) & ~(int64_t)15) * j->in_per_group;
    float *sums = scratch; /* [unit_rows][32] */
    float *row = sums + j->unit_rows * DIP__PANELS_MAX * DIP__PANEL;
    float *panels = row + ((j->in_per_group + 15) & ~(int64_t)15);
    dip_assert(j->group_count * group_panels <= DIP_KERNEL_GROUPED_PANELS_MAX);
    for (int64_t group = 0; group < j->group_count; group++)
        pack(j, group, row, panels + group * group_panels);
    for (int64_t unit = begin; unit < end; unit++)
        for (int64_t group = 0; group < j->group_count; group++)
            run_rows(inner, j, group, unit * j->unit_rows, panels + group * group_panels, sums);
}
