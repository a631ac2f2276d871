/* tests/prop/conv.c - convolutions: against their definitions, alone against in a batch.
 *
 * Tolerance: one chain of at most 256 roundings per block, K / 256 additions of blocks, bias and
 * activation; each at most one rounding of the sum of magnitudes. */
#include "tests/prop/prop.h"

struct sizes {
    int64_t batch, height, width, in_channels, out_channels, edge;
    int upsample, stride;
};

static struct sizes random_sizes(void)
{
    struct sizes n = {
        .batch = prop_int(1, 3),
        .height = PROP_PICK(1, 2, 3, 5, 8, 13),
        .width = PROP_PICK(1, 2, 4, 7, 8, 17),
        .in_channels = PROP_PICK(1, 3, 5, 8, 16, 24, 33, 64, 130),
        .out_channels = PROP_PICK(1, 3, 8, 9, 16, 17, 40, 64, 70),
        .edge = PROP_PICK(1, 3, 3, 3, 5),
        .upsample = 1,
        .stride = 1,
    };
    if (prop_int(0, 2) == 0)
        n.upsample = 2;
    else if (prop_int(0, 2) == 0)
        n.stride = 2;
    return n;
}

static struct dip_tensor output_of(const struct sizes *n, int64_t batch, int64_t gap)
{
    return prop_picture(batch, (n->height * n->upsample + n->stride - 1) / n->stride,
                        (n->width * n->upsample + n->stride - 1) / n->stride, n->out_channels, gap);
}

static struct dip_tensor random_weight(enum dip_dtype dtype, int64_t outs, int64_t ins,
                                       int64_t edge)
{
    struct dip_tensor rows = prop_random(dtype, outs, ins * edge * edge, 0);
    return dip_image(rows.data, dtype, outs, ins, edge, edge);
}

static void call(struct dip_stream *s, struct dip_tensor out, struct dip_tensor in,
                 struct dip_tensor weight, const struct dip_tensor *bias, enum dip_act act,
                 const struct sizes *n)
{
    struct dip_conv_args a = {.out = out,
                              .in = in,
                              .weight = weight,
                              .bias = bias,
                              .act = act,
                              .upsample = n->upsample,
                              .stride = n->stride};
    prop_ok(dip_conv(s, &a));
}

static void check_definition(const struct sizes *n, enum dip_dtype dtype)
{
    struct dip_tensor in =
        prop_fill(prop_picture(n->batch, n->height, n->width, n->in_channels, prop_int(0, 3)));
    struct dip_tensor weight = random_weight(dtype, n->out_channels, n->in_channels, n->edge);
    struct dip_tensor bias = prop_random_1d(prop_dtype(), n->out_channels);
    struct dip_tensor bias_size = prop_magnitude(bias);
    struct dip_tensor fast = output_of(n, n->batch, prop_int(0, 5));
    struct dip_tensor plain = output_of(n, n->batch, 0);
    struct dip_tensor size = output_of(n, n->batch, 0);
    call(prop_streams[0], fast, in, weight, &bias, DIP_ACT_RELU, n);
    call(prop_plain, plain, in, weight, &bias, DIP_ACT_RELU, n);
    call(prop_plain, size, prop_magnitude(in), prop_magnitude(weight), &bias_size, DIP_ACT_NONE, n);
    double products = (double)(n->in_channels * n->edge * n->edge);
    prop_near(fast, plain, size, fmin(products, 256.0) + products / 100.0 + 4.0);
}

static void test_definition(void **state)
{
    (void)state;
    for (int i = 0; i < 200; i++) {
        struct sizes n = random_sizes();
        check_definition(&n, prop_dtype());
        prop_reset();
    }
    struct sizes deep = {.batch = 1,
                         .height = 3,
                         .width = 5,
                         .in_channels = 600,
                         .out_channels = 20,
                         .edge = 3,
                         .upsample = 1,
                         .stride = 1};
    check_definition(&deep, DIP_BF16);
    prop_reset();
}

/* An item alone, on any number of threads: the bits it has in the batch. */
static void test_alone(void **state)
{
    (void)state;
    for (int i = 0; i < 60; i++) {
        struct sizes n = random_sizes();
        struct dip_tensor in =
            prop_fill(prop_picture(n.batch, n.height, n.width, n.in_channels, 0));
        struct dip_tensor weight = random_weight(DIP_BF16, n.out_channels, n.in_channels, n.edge);
        struct dip_tensor first = output_of(&n, n.batch, 0);
        call(prop_streams[0], first, in, weight, NULL, DIP_ACT_SILU, &n);
        for (int t = 1; t < PROP_THREADS_COUNT; t++) {
            struct dip_tensor again = output_of(&n, n.batch, 1);
            call(prop_streams[t], again, in, weight, NULL, DIP_ACT_SILU, &n);
            prop_same_bits(again, first);
        }
        int64_t item = prop_int(0, n.batch - 1);
        int64_t pixels = n.height * n.width;
        int64_t out_pixels = dip_tensor_rows(first) / n.batch;
        struct dip_tensor one = prop_clone(dip_rows_slice(in, item * pixels, pixels));
        struct dip_tensor alone = output_of(&n, 1, 0);
        call(prop_streams[1], alone,
             dip_image(one.data, DIP_F32, 1, n.height, n.width, n.in_channels), weight, NULL,
             DIP_ACT_SILU, &n);
        prop_same_bits(alone, dip_rows_slice(first, item * out_pixels, out_pixels));
        prop_reset();
    }
}

/* Enlarging while reading equals enlarging first. */
static void test_upsample(void **state)
{
    (void)state;
    for (int i = 0; i < 40; i++) {
        struct sizes n = random_sizes();
        n.upsample = 2;
        n.stride = 1;
        struct dip_tensor in =
            prop_fill(prop_picture(n.batch, n.height, n.width, n.in_channels, 0));
        struct dip_tensor weight = random_weight(DIP_F32, n.out_channels, n.in_channels, n.edge);
        struct dip_tensor large =
            prop_picture(n.batch, 2 * n.height, 2 * n.width, n.in_channels, 0);
        for (int64_t row = 0; row < dip_tensor_rows(large); row++) {
            int64_t y = row / (2 * n.width) % (2 * n.height);
            int64_t item = row / (4 * n.width * n.height);
            int64_t from = (item * n.height + y / 2) * n.width + row % (2 * n.width) / 2;
            memcpy(prop_at(large, row, 0), prop_at(in, from, 0),
                   (size_t)n.in_channels * sizeof(float));
        }
        struct dip_tensor a = output_of(&n, n.batch, 0);
        struct dip_tensor b = output_of(&n, n.batch, 0);
        call(prop_streams[0], a, in, weight, NULL, DIP_ACT_NONE, &n);
        struct sizes once = n;
        once.upsample = 1;
        call(prop_streams[0], b, large, weight, NULL, DIP_ACT_NONE, &once);
        prop_same_bits(a, b);
        prop_reset();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_definition),
        cmocka_unit_test(test_alone),
        cmocka_unit_test(test_upsample),
    };
    return cmocka_run_group_tests(tests, prop_start, prop_stop);
}
