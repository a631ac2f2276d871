/* tests/prop/linear.c - the linear product: against its definition, and alone against among others.
 *
 * Tolerance: a lane adds at most 96 products per block of 768, lanes join in 3 additions, blocks
 * and chunks in at most K / 768 + log2(chunks) more, bias, activation and residual in a few: the
 * error is at most that many roundings of the sum of magnitudes. */
#include "tests/prop/prop.h"

struct sizes {
    int64_t rows, outs, ins;
    int chunk_count;
};

static struct sizes random_sizes(void)
{
    struct sizes n = {.rows = PROP_PICK(1, 1, 2, 3, 4, 5, 6, 7, 16, 17, 31, 127, 128, 129, 200),
                      .outs = PROP_PICK(1, 3, 4, 5, 8, 31, 64, 65, 130),
                      .ins = PROP_PICK(1, 7, 8, 13, 64, 96, 250, 767, 768, 776, 1540, 2240),
                      .chunk_count = 1};
    if (prop_int(0, 2) == 0) {
        n.chunk_count = (int)PROP_PICK(2, 4, 8, 16);
        n.ins = n.chunk_count * PROP_PICK(1, 5, 8, 24, 100, 256, 800);
    }
    return n;
}

static double roundings(const struct sizes *n)
{
    double length = (double)n->ins / n->chunk_count;
    return fmin(length, 96.0) + 4.0 + length / 768.0 + 5.0;
}

static void call(struct dip_stream *s, struct dip_tensor out, struct dip_tensor in,
                 struct dip_tensor weight, const struct dip_tensor *bias, const struct sizes *n)
{
    struct dip_linear_args a = {
        .out = out, .in = in, .weight = weight, .bias = bias, .chunk_count = n->chunk_count};
    prop_ok(dip_linear(s, &a));
}

static void check_definition(const struct sizes *n, enum dip_dtype dtype)
{
    struct dip_tensor in = prop_random(DIP_F32, n->rows, n->ins, prop_int(0, 9));
    struct dip_tensor weight = prop_random(dtype, n->outs, n->ins, prop_int(0, 1) * 3);
    struct dip_tensor bias = prop_random_1d(prop_dtype(), n->outs);
    struct dip_tensor bias_size = prop_magnitude(bias);
    struct dip_tensor fast = prop_view(DIP_F32, n->rows, n->outs, prop_int(0, 5));
    struct dip_tensor plain = prop_view(DIP_F32, n->rows, n->outs, 0);
    struct dip_tensor size = prop_view(DIP_F32, n->rows, n->outs, 0);
    call(prop_streams[0], fast, in, weight, &bias, n);
    call(prop_plain, plain, in, weight, &bias, n);
    call(prop_plain, size, prop_magnitude(in), prop_magnitude(weight), &bias_size, n);
    prop_near(fast, plain, size, roundings(n));
}

static void test_definition(void **state)
{
    (void)state;
    for (int i = 0; i < 300; i++) {
        struct sizes n = random_sizes();
        check_definition(&n, prop_dtype());
        prop_reset();
    }
}

/* Whatever is beside a row, wherever it stands, on any number of threads: the same bits. */
static void check_alone(const struct sizes *n, enum dip_dtype dtype)
{
    struct dip_tensor in = prop_random(DIP_F32, n->rows, n->ins, prop_int(0, 9));
    struct dip_tensor weight = prop_random(dtype, n->outs, n->ins, 0);
    struct dip_tensor first = prop_view(DIP_F32, n->rows, n->outs, 0);
    call(prop_streams[0], first, in, weight, NULL, n);
    for (int i = 1; i < PROP_THREADS_COUNT; i++) {
        struct dip_tensor again = prop_view(DIP_F32, n->rows, n->outs, 3);
        call(prop_streams[i], again, in, weight, NULL, n);
        prop_same_bits(again, first);
    }
    for (int i = 0; i < 4; i++) {
        int64_t count = prop_int(1, n->rows < 17 ? n->rows : 17);
        int64_t row = prop_int(0, n->rows - count);
        struct dip_tensor some = prop_view(DIP_F32, count, n->outs, 0);
        call(prop_streams[prop_int(0, 1)], some, prop_clone(dip_rows_slice(in, row, count)), weight,
             NULL, n);
        prop_same_bits(some, dip_rows_slice(first, row, count));
    }
}

static void test_alone(void **state)
{
    (void)state;
    for (int i = 0; i < 200; i++) {
        struct sizes n = random_sizes();
        check_alone(&n, prop_dtype());
        prop_reset();
    }
}

/* Columns of the result come out the same when the weight is cut into row ranges: the law that
 * column-parallel ranks rely on. */
static void test_split_outputs(void **state)
{
    (void)state;
    for (int i = 0; i < 60; i++) {
        struct sizes n = random_sizes();
        struct dip_tensor in = prop_random(DIP_F32, n.rows, n.ins, 0);
        struct dip_tensor weight = prop_random(prop_dtype(), n.outs, n.ins, 0);
        struct dip_tensor whole = prop_view(DIP_F32, n.rows, n.outs, 0);
        struct dip_tensor parts = prop_view(DIP_F32, n.rows, n.outs, 0);
        int64_t cut = prop_int(0, n.outs - 1);
        call(prop_streams[1], whole, in, weight, NULL, &n);
        if (cut > 0)
            call(prop_streams[0], dip_columns_slice(parts, 0, cut), in,
                 dip_rows_slice(weight, 0, cut), NULL, &n);
        call(prop_streams[0], dip_columns_slice(parts, cut, n.outs - cut), in,
             dip_rows_slice(weight, cut, n.outs - cut), NULL, &n);
        prop_same_bits(parts, whole);
        prop_reset();
    }
}

/* A rank holds a power of two of neighbouring chunks and sums its sub-tree; joining the ranks'
 * results pairwise gives the bits of the whole. Holds for both families. */
static void check_ranks(struct dip_stream *s, int rank_count)
{
    struct sizes n = random_sizes();
    n.chunk_count = 8;
    n.ins = 8 * PROP_PICK(1, 5, 8, 24, 100, 256, 800);
    struct dip_tensor in = prop_random(DIP_F32, n.rows, n.ins, 0);
    struct dip_tensor weight = prop_random(prop_dtype(), n.outs, n.ins, 0);
    struct dip_tensor whole = prop_view(DIP_F32, n.rows, n.outs, 0);
    call(s, whole, in, weight, NULL, &n);

    struct dip_tensor parts[8];
    struct sizes share = n;
    share.ins = n.ins / rank_count;
    share.chunk_count = 8 / rank_count;
    for (int r = 0; r < rank_count; r++) {
        parts[r] = prop_view(DIP_F32, n.rows, n.outs, 0);
        call(s, parts[r], dip_columns_slice(in, r * share.ins, share.ins),
             dip_columns_slice(weight, r * share.ins, share.ins), NULL, &share);
    }
    for (int width = 1; width < rank_count; width *= 2)
        for (int r = 0; r < rank_count; r += 2 * width)
            prop_ok(dip_add(s, &(struct dip_add_args){.sum = parts[r], .x = parts[r + width]}));
    prop_same_bits(parts[0], whole);
}

static void test_ranks(void **state)
{
    (void)state;
    for (int i = 0; i < 40; i++) {
        check_ranks(i % 2 ? prop_streams[1] : prop_plain, 1 << prop_int(1, 3));
        prop_reset();
    }
}

/* is_added and act: the plain sum, through the same functions of one element. */
static void test_epilogue(void **state)
{
    (void)state;
    for (int i = 0; i < 60; i++) {
        struct sizes n = random_sizes();
        struct dip_tensor in = prop_random(DIP_F32, n.rows, n.ins, 0);
        struct dip_tensor weight = prop_random(prop_dtype(), n.outs, n.ins, 0);
        struct dip_tensor sum = prop_view(DIP_F32, n.rows, n.outs, 0);
        struct dip_tensor out = prop_random(DIP_F32, n.rows, n.outs, 0);
        struct dip_tensor expected = prop_clone(out);
        enum dip_act act =
            (enum dip_act)PROP_PICK(DIP_ACT_NONE, DIP_ACT_SILU, DIP_ACT_GELU_TANH, DIP_ACT_RELU);
        call(prop_streams[0], sum, in, weight, NULL, &n);
        prop_ok(dip_activate(prop_streams[0],
                             &(struct dip_activate_args){.out = sum, .in = sum, .act = act}));
        prop_ok(dip_add(prop_streams[0], &(struct dip_add_args){.sum = expected, .x = sum}));
        struct dip_linear_args a = {.out = out,
                                    .in = in,
                                    .weight = weight,
                                    .act = act,
                                    .chunk_count = n.chunk_count,
                                    .is_added = true};
        prop_ok(dip_linear(prop_streams[1], &a));
        prop_same_bits(out, expected);
        prop_reset();
    }
}

/* A 1x1 convolution's weight is the same matrix. */
static void test_rank_4(void **state)
{
    (void)state;
    struct sizes n = {.rows = 5, .outs = 33, .ins = 40, .chunk_count = 0};
    struct dip_tensor in = prop_random(DIP_F32, n.rows, n.ins, 0);
    struct dip_tensor weight = prop_random(DIP_BF16, n.outs, n.ins, 0);
    struct dip_tensor a = prop_view(DIP_F32, n.rows, n.outs, 0);
    struct dip_tensor b = prop_view(DIP_F32, n.rows, n.outs, 0);
    call(prop_streams[0], a, in, weight, NULL, &n);
    call(prop_streams[0], b, in, dip_image(weight.data, DIP_BF16, n.outs, n.ins, 1, 1), NULL, &n);
    prop_same_bits(a, b);
    prop_reset();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_definition),    cmocka_unit_test(test_alone),
        cmocka_unit_test(test_split_outputs), cmocka_unit_test(test_ranks),
        cmocka_unit_test(test_epilogue),      cmocka_unit_test(test_rank_4),
    };
    return cmocka_run_group_tests(tests, prop_start, prop_stop);
}
