/* ops/comm_sample.c - drawing ids from logits that are cut over the vocabulary.
 *
 * Each rank sends what can be drawn from its slice whatever the others hold: its top k and the ties
 * of the last of them. What is drawn from all of these by the one rule (kernels/cpu/sample.c) is
 * what would be drawn from the whole row, so every rank knows the id without being told. Message of
 * a rank:
 *
 *     note | row 0: count, (value, id) x room | row 1 ...
 *
 * room is what the largest top_k of the step needs and a few ties. A row with more candidates than
 * that (top_k 0, a constant row) is put together from its slices instead, by all ranks alike since
 * all have seen the counts. */
#include <assert.h>

#include "base/assert.h"
#include "ops/comm.h"

enum { ROOM_MAX = 2048, TIES = 32 };

static int64_t slice_first(int64_t vocab, int rank, int count)
{
    return vocab * rank / count;
}

static int64_t slice_columns(int64_t vocab, int rank, int count)
{
    return slice_first(vocab, rank + 1, count) - slice_first(vocab, rank, count);
}

static int64_t slice_columns_max(int64_t vocab, int count)
{
    return (vocab + count - 1) / count;
}

/* Equal on all ranks: it depends on what is equal on all. */
static int64_t room_of(const struct dip_comm_sample_args *a, int ranks)
{
    int64_t room = 1;
    for (int64_t r = 0; r < a->row_count; r++) {
        int64_t top_k = a->draws[r].top_k;
        int64_t wanted = top_k == 1 ? 1 : top_k + TIES;
        if (wanted <= ROOM_MAX && wanted > room)
            room = wanted;
    }
    int64_t columns = slice_columns_max(a->vocab, ranks);
    return room < columns ? room : columns;
}

static struct dip_tensor push(struct dip_arena *scratch, enum dip_dtype dtype, int64_t rows,
                              int64_t columns)
{
    static_assert(sizeof(float) == sizeof(int32_t), "one size for both");
    void *space = dip_arena_push(scratch, (size_t)rows * (size_t)columns * sizeof(float));
    dip_assert(space != NULL);
    return dip_rows(space, dtype, rows, columns);
}

size_t dip_comm_sample_scratch_bytes(const struct dip_comm *comm, int64_t row_count, int64_t vocab)
{
    int ranks = dip_comm_count(comm);
    int64_t columns = slice_columns_max(vocab, ranks);
    int64_t room = columns < ROOM_MAX ? columns : (int64_t)ROOM_MAX;
    int64_t message = 1 + row_count * (1 + 2 * room);
    /* Messages of one and of all; then, in their place or not, a row in slices and whole. */
    int64_t pieces[] = {message, ranks * message, columns, ranks * columns, vocab};
    size_t bytes = 0;
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++)
        bytes += dip_arena_round((size_t)pieces[i] * sizeof(float));
    return bytes;
}

/* A row put together from its slices, and drawn from. */
static enum dip_status sample_whole(struct dip_comm *comm, struct dip_stream *s,
                                    const struct dip_comm_sample_args *a, int64_t row,
                                    struct dip_arena *scratch)
{
    int ranks = dip_comm_count(comm);
    int64_t columns = slice_columns_max(a->vocab, ranks);
    int64_t own = dip_tensor_columns(a->logits);
    size_t mark = dip_arena_mark(scratch);
    struct dip_tensor mine = push(scratch, DIP_F32, 1, columns);
    struct dip_tensor all = push(scratch, DIP_F32, ranks, columns);
    struct dip_tensor whole = push(scratch, DIP_F32, 1, a->vocab);
    DIP_TRY(dip_fill(s, mine, 0.0f)); /* a slice may be one column short */
    DIP_TRY(dip_copy(s, dip_columns_slice(mine, 0, own), dip_rows_slice(a->logits, row, 1)));
    DIP_TRY(dip_comm_gather(comm, s, all, mine));
    for (int r = 0; r < ranks; r++) {
        int64_t count = slice_columns(a->vocab, r, ranks);
        struct dip_tensor part = dip_columns_slice(dip_rows_slice(all, r, 1), 0, count);
        DIP_TRY(
            dip_copy(s, dip_columns_slice(whole, slice_first(a->vocab, r, ranks), count), part));
    }
    DIP_TRY(dip_sample(
        s, &(struct dip_sample_args){.ids = dip_tensor_1d((int32_t *)a->ids.data + row, DIP_I32, 1),
                                     .logits = whole,
                                     .draws = &a->draws[row]}));
    DIP_TRY(dip_wait(s));
    dip_arena_reset(scratch, mark);
    return DIP_OK;
}

/* After the exchange: ids from everybody's candidates, or from whole rows. */
static enum dip_status sample_rows(struct dip_comm *comm, struct dip_stream *s,
                                   const struct dip_comm_sample_args *a, struct dip_tensor found,
                                   struct dip_arena *scratch)
{
    int32_t ids[DIP_SLOTS_MAX];
    DIP_TRY(dip_sample_merge(
        s, &(struct dip_sample_merge_args){.ids = a->ids, .found = found, .draws = a->draws}));
    DIP_TRY(dip_copy(s, dip_tensor_1d(ids, DIP_I32, a->row_count), a->ids));
    DIP_TRY(dip_wait(s));
    for (int64_t r = 0; r < a->row_count; r++)
        if (ids[r] < 0)
            DIP_TRY(sample_whole(comm, s, a, r, scratch));
    return DIP_OK;
}

/* The first rows of a message: what this rank's slices have to offer. */
static enum dip_status select_rows(struct dip_comm *comm, struct dip_stream *s,
                                   struct dip_tensor mine, struct dip_tensor logits,
                                   const struct dip_draw *draws, int64_t vocab)
{
    int64_t rows = dip_tensor_rows(logits);
    int64_t columns = (dip_tensor_columns(mine) - 1) / rows;
    int64_t first = slice_first(vocab, dip_comm_rank(comm), dip_comm_count(comm));
    struct dip_sample_select_args select = {
        .found = dip_rows((int32_t *)mine.data + 1, DIP_I32, rows, columns),
        .logits = logits,
        .draws = draws,
        .first_id = (int32_t)first};
    return dip_sample_select(s, &select);
}

static enum dip_status sample(struct dip_comm *comm, struct dip_stream *s,
                              const struct dip_comm_sample_args *a, struct dip_arena *scratch)
{
    int ranks = dip_comm_count(comm);
    int64_t columns = 1 + 2 * room_of(a, ranks);
    struct dip_tensor mine = push(scratch, DIP_I32, 1, 1 + a->row_count * columns);
    struct dip_tensor all = push(scratch, DIP_I32, ranks, 1 + a->row_count * columns);
    int32_t note = a->note;
    DIP_TRY(dip_copy(s, dip_columns_slice(mine, 0, 1), dip_rows(&note, DIP_I32, 1, 1)));
    if (a->row_count > 0)
        DIP_TRY(select_rows(comm, s, mine, a->logits, a->draws, a->vocab));
    DIP_TRY(dip_comm_gather(comm, s, all, mine));
    DIP_TRY(dip_copy(s, dip_rows(a->ret_notes, DIP_I32, ranks, 1), dip_columns_slice(all, 0, 1)));
    if (a->row_count == 0)
        return dip_wait(s);
    return sample_rows(comm, s, a, dip_columns_slice(all, 1, a->row_count * columns), scratch);
}

enum dip_status dip_comm_sample(struct dip_comm *comm, struct dip_stream *s,
                                const struct dip_comm_sample_args *a, struct dip_arena *scratch)
{
    int ranks = dip_comm_count(comm);
    dip_assert(a->row_count >= 0 && a->row_count <= DIP_SLOTS_MAX);
    dip_assert(a->vocab >= ranks && a->vocab <= DIP_VOCAB_MAX);
    if (a->row_count > 0) {
        dip_assert(dip_tensor_rows(a->logits) == a->row_count);
        dip_assert(dip_tensor_columns(a->logits) ==
                   slice_columns(a->vocab, dip_comm_rank(comm), ranks));
    }
    size_t mark = dip_arena_mark(scratch);
    enum dip_status status = sample(comm, s, a, scratch);
    dip_arena_reset(scratch, mark);
    return status;
}

/* ---- as part of a recorded step ---- */

static enum dip_status draw(struct dip_comm *comm, struct dip_stream *s,
                            const struct dip_comm_draw_args *a, struct dip_arena *scratch)
{
    int ranks = dip_comm_count(comm);
    int64_t rows = dip_tensor_rows(a->logits);
    int64_t slice = slice_columns_max(a->vocab, ranks);
    int64_t columns = 1 + 2 * (a->room < slice ? a->room : slice);
    struct dip_tensor mine = push(scratch, DIP_I32, 1, 1 + rows * columns);
    struct dip_tensor all = push(scratch, DIP_I32, ranks, 1 + rows * columns);
    void *note = (void *)(uintptr_t)a->note;
    DIP_TRY(dip_copy(s, dip_columns_slice(mine, 0, 1), dip_rows(note, DIP_I32, 1, 1)));
    DIP_TRY(select_rows(comm, s, mine, a->logits, a->draws, a->vocab));
    DIP_TRY(dip_comm_gather(comm, s, all, mine));
    DIP_TRY(dip_copy(s, dip_rows(a->notes, DIP_I32, ranks, 1), dip_columns_slice(all, 0, 1)));
    return dip_sample_merge(
        s, &(struct dip_sample_merge_args){.ids = a->ids,
                                           .found = dip_columns_slice(all, 1, rows * columns),
                                           .draws = a->draws});
}

enum dip_status dip_comm_draw(struct dip_comm *comm, struct dip_stream *s,
                              const struct dip_comm_draw_args *a, struct dip_arena *scratch)
{
    dip_assert(a->room >= 1 && a->room <= ROOM_MAX);
    dip_assert(dip_tensor_columns(a->logits) ==
               slice_columns(a->vocab, dip_comm_rank(comm), dip_comm_count(comm)));
    size_t mark = dip_arena_mark(scratch);
    enum dip_status status = draw(comm, s, a, scratch);
    dip_arena_reset(scratch, mark);
    return status;
}
