/* tests/prop/image.c - depthwise and grouped products, shuffles, patches, layouts, colours. */
#include "tests/prop/prop.h"

/* ---- depthwise ---- */

struct sizes {
    int64_t batch, height, width, channels, edge;
    bool is_gated;
};

static struct sizes random_sizes(void)
{
    struct sizes n = {.batch = prop_int(1, 3),
                      .height = PROP_PICK(1, 2, 5, 8, 19),
                      .width = PROP_PICK(1, 3, 4, 9, 16),
                      .channels = 2 * PROP_PICK(1, 4, 5, 12, 32, 60, 64, 65, 130),
                      .edge = PROP_PICK(1, 3, 3, 5, 7),
                      .is_gated = prop_int(0, 1)};
    return n;
}

struct depthwise {
    struct dip_tensor in, weight, bias;
};

static struct depthwise random_depthwise(const struct sizes *n)
{
    struct depthwise d;
    enum dip_dtype dtype = prop_dtype();
    d.in = prop_fill(prop_picture(n->batch, n->height, n->width, n->channels, prop_int(0, 3)));
    struct dip_tensor rows = prop_random(dtype, n->channels, n->edge * n->edge, 0);
    d.weight = dip_image(rows.data, dtype, n->channels, 1, n->edge, n->edge);
    d.bias = prop_random_1d(prop_dtype(), n->channels);
    return d;
}

static struct dip_tensor depthwise_out(const struct sizes *n, int64_t batch, int64_t gap)
{
    return prop_picture(batch, n->height, n->width, n->is_gated ? n->channels / 2 : n->channels,
                        gap);
}

static void depthwise(struct dip_stream *s, struct dip_tensor out, struct dip_tensor in,
                      const struct depthwise *d, bool is_gated)
{
    struct dip_conv_depthwise_args a = {
        .out = out, .in = in, .weight = d->weight, .bias = &d->bias, .is_gated = is_gated};
    prop_ok(dip_conv_depthwise(s, &a));
}

/* Values and gates are below 50 in magnitude, made of at most 49 rounded products of magnitude
 * below 1; silu has slope below 1.1: 50 roundings of 50, times the other factor. */
static void test_depthwise(void **state)
{
    (void)state;
    for (int i = 0; i < 150; i++) {
        struct sizes n = random_sizes();
        struct depthwise d = random_depthwise(&n);
        struct dip_tensor fast = depthwise_out(&n, n.batch, prop_int(0, 3));
        struct dip_tensor plain = depthwise_out(&n, n.batch, 0);
        depthwise(prop_streams[0], fast, d.in, &d, n.is_gated);
        depthwise(prop_plain, plain, d.in, &d, n.is_gated);
        double sum = (double)(n.edge * n.edge + 1);
        prop_near_all(fast, plain, 0x1p-24 * sum * sum * (n.is_gated ? 2.2 * sum : 1.0));
        for (int t = 1; t < PROP_THREADS_COUNT; t++) {
            struct dip_tensor again = depthwise_out(&n, n.batch, 0);
            depthwise(prop_streams[t], again, d.in, &d, n.is_gated);
            prop_same_bits(again, fast);
        }
        int64_t pixels = n.height * n.width;
        int64_t item = prop_int(0, n.batch - 1);
        struct dip_tensor one = prop_clone(dip_rows_slice(d.in, item * pixels, pixels));
        struct dip_tensor in = dip_image(one.data, DIP_F32, 1, n.height, n.width, n.channels);
        in.row_stride = one.row_stride;
        struct dip_tensor alone = depthwise_out(&n, 1, 0);
        depthwise(prop_streams[1], alone, in, &d, n.is_gated);
        prop_same_bits(alone, dip_rows_slice(fast, item * pixels, pixels));
        prop_reset();
    }
}

/* ---- grouped product ---- */

static void test_grouped(void **state)
{
    (void)state;
    for (int i = 0; i < 100; i++) {
        int64_t rows = PROP_PICK(1, 2, 5, 47, 48, 49, 100);
        int64_t groups = prop_int(1, 9);
        int64_t ins = PROP_PICK(1, 8, 13, 32);
        int64_t outs = PROP_PICK(1, 7, 16, 24, 32);
        struct dip_tensor in = prop_random(DIP_F32, rows, groups * ins, prop_int(0, 3));
        struct dip_tensor weight = prop_random(prop_dtype(), groups * outs, ins, 0);
        struct dip_tensor out[PROP_THREADS_COUNT + 1];
        for (int t = 0; t <= PROP_THREADS_COUNT; t++) {
            out[t] = prop_view(DIP_F32, rows, groups * outs, prop_int(0, 3));
            struct dip_linear_grouped_args a = {
                .out = out[t], .in = in, .weight = weight, .groups = (int)groups};
            bool is_plain = t == PROP_THREADS_COUNT;
            prop_ok(dip_linear_grouped(is_plain ? prop_plain : prop_streams[t], &a));
            if (!is_plain)
                prop_same_bits(out[t], out[0]);
        }
        prop_near_all(out[0], out[PROP_THREADS_COUNT], 0x1p-24 * (double)(ins * (ins + 1)));
        int64_t row = prop_int(0, rows - 1);
        struct dip_tensor one = prop_view(DIP_F32, 1, groups * outs, 0);
        struct dip_linear_grouped_args a = {.out = one,
                                            .in = prop_clone(dip_rows_slice(in, row, 1)),
                                            .weight = weight,
                                            .groups = (int)groups};
        prop_ok(dip_linear_grouped(prop_streams[0], &a));
        prop_same_bits(one, dip_rows_slice(out[0], row, 1));
        prop_reset();
    }
}

/* ---- moves ---- */

static void test_shuffle(void **state)
{
    (void)state;
    for (int i = 0; i < 60; i++) {
        int64_t batch = prop_int(1, 2), height = prop_int(1, 9), width = prop_int(1, 9);
        int64_t repeat = PROP_PICK(1, 2, 4);
        int64_t channels = 4 * prop_int(1, 6);
        int64_t outs = channels * repeat / 4;
        bool is_added = prop_int(0, 1);
        struct dip_tensor in = prop_fill(prop_picture(batch, height, width, channels, 1));
        struct dip_tensor out =
            prop_fill(prop_picture(batch, 2 * height, 2 * width, outs, prop_int(0, 2)));
        struct dip_tensor before = prop_clone(out);
        struct dip_pixel_shuffle_args a = {.out = out, .in = in, .is_added = is_added};
        prop_ok(dip_pixel_shuffle(prop_streams[i % PROP_THREADS_COUNT], &a));
        for (int64_t p = 0; p < dip_tensor_rows(out); p++) {
            int64_t x = p % (2 * width), y = p / (2 * width) % (2 * height);
            int64_t from = (p / (4 * width * height) * height + y / 2) * width + x / 2;
            for (int64_t c = 0; c < outs; c++) {
                float moved = *prop_at(in, from, (4 * c + 2 * (y % 2) + x % 2) / repeat);
                float expected = is_added ? *prop_at(before, p, c) + moved : moved;
                assert_true(*prop_at(out, p, c) == expected);
            }
        }
        prop_reset();
    }
}

static void test_repeat(void **state)
{
    (void)state;
    for (int i = 0; i < 40; i++) {
        int64_t rows = prop_int(1, 30), ins = prop_int(1, 20), repeat = prop_int(1, 5);
        struct dip_tensor in = prop_random(DIP_F32, rows, ins, 2);
        struct dip_tensor out = prop_random(DIP_F32, rows, ins * repeat, 1);
        struct dip_tensor before = prop_clone(out);
        prop_ok(
            dip_repeat_add(prop_streams[1], &(struct dip_repeat_add_args){.out = out, .in = in}));
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < ins * repeat; c++)
                assert_true(*prop_at(out, r, c) ==
                            *prop_at(before, r, c) + *prop_at(in, r, c / repeat));
        prop_reset();
    }
}

/* Column orders as the weights on either side expect them. */
static void test_patch(void **state)
{
    (void)state;
    for (int i = 0; i < 60; i++) {
        int64_t batch = prop_int(1, 2), p = prop_int(1, 3), channels = prop_int(1, 9);
        int64_t down = prop_int(1, 4), across = prop_int(1, 5);
        bool is_to_tokens = i % 2;
        struct dip_tensor image =
            prop_fill(prop_picture(batch, down * p, across * p, channels, prop_int(0, 2)));
        struct dip_tensor tokens =
            prop_random(DIP_F32, batch * down * across, p * p * channels, prop_int(0, 2));
        struct dip_patch_args a = {.out = is_to_tokens ? tokens : image,
                                   .in = is_to_tokens ? image : tokens,
                                   .patch = (int)p,
                                   .is_to_tokens = is_to_tokens};
        prop_ok(dip_patch(prop_streams[i % PROP_THREADS_COUNT], &a));
        for (int64_t pixel = 0; pixel < dip_tensor_rows(image); pixel++) {
            int64_t x = pixel % (across * p), y = pixel / (across * p) % (down * p);
            int64_t item = pixel / (across * p * down * p);
            int64_t token = (item * down + y / p) * across + x / p;
            int64_t row = y % p, column = x % p;
            for (int64_t c = 0; c < channels; c++) {
                int64_t at =
                    is_to_tokens ? (c * p + row) * p + column : (row * p + column) * channels + c;
                assert_true(*prop_at(image, pixel, c) == *prop_at(tokens, token, at));
            }
        }
        prop_reset();
    }
}

static void test_layout(void **state)
{
    (void)state;
    for (int i = 0; i < 40; i++) {
        int64_t b = prop_int(1, 3), h = prop_int(1, 9), w = prop_int(1, 9), c = prop_int(1, 9);
        struct dip_tensor nhwc = prop_fill(prop_picture(b, h, w, c, 0));
        struct dip_tensor nchw = prop_picture(b, c, h, w, 0);
        struct dip_tensor back = prop_picture(b, h, w, c, 0);
        prop_ok(dip_layout(prop_streams[0],
                           &(struct dip_layout_args){.out = nchw, .in = nhwc, .is_to_nchw = true}));
        prop_ok(dip_layout(prop_streams[1], &(struct dip_layout_args){.out = back, .in = nchw}));
        prop_same_bits(back, nhwc);
        int64_t item = prop_int(0, b - 1), y = prop_int(0, h - 1), x = prop_int(0, w - 1);
        int64_t channel = prop_int(0, c - 1);
        assert_true(((float *)nchw.data)[((item * c + channel) * h + y) * w + x] ==
                    ((float *)nhwc.data)[((item * h + y) * w + x) * c + channel]);
        prop_reset();
    }
}

static void test_rgb8(void **state)
{
    (void)state;
    static const struct {
        float in;
        int out;
    } cases[] = {{-1.0f, 0},     {1.0f, 255}, {0.0f, 128}, /* 127.5: to even */
                 {-7.0f, 0},     {7.0f, 255}, {NAN, 0},           {INFINITY, 255},
                 {-INFINITY, 0}, {0.5f, 191}, {0.99607843f, 254}, {-0.99607843f, 0}};
    enum { COUNT = sizeof cases / sizeof cases[0] };
    struct dip_tensor in = prop_view(DIP_F32, COUNT, 3, 1);
    struct dip_tensor out = prop_view(DIP_U8, COUNT, 3, 2);
    for (int64_t r = 0; r < COUNT; r++)
        for (int64_t c = 0; c < 3; c++)
            *prop_at(in, r, c) = cases[r].in;
    prop_ok(dip_rgb8(prop_streams[1], &(struct dip_rgb8_args){.out = out, .in = in}));
    for (int64_t r = 0; r < COUNT; r++)
        for (int64_t c = 0; c < 3; c++)
            assert_int_equal(((unsigned char *)out.data)[r * out.row_stride + c], cases[r].out);
    prop_reset();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_depthwise), cmocka_unit_test(test_grouped),
        cmocka_unit_test(test_shuffle),   cmocka_unit_test(test_repeat),
        cmocka_unit_test(test_patch),     cmocka_unit_test(test_layout),
        cmocka_unit_test(test_rgb8),
    };
    return cmocka_run_group_tests(tests, prop_start, prop_stop);
}
