/* tests/unit/cudnn.c - convolutions by plans of a played cuDNN, against our own kernels on the same
 * emulated GPU: what is asked of the library, and what happens when it cannot. */
#include <math.h>

#include "tests/engine_fixture.h"

#include "tests/emulator.h"

/* What tests/cuda_emulator/cudnn/played.cpp plays. */
enum play {
    PLAY_WELL,
    PLAY_NO_ENGINE,
    PLAY_NO_FUSED_ACT,
    PLAY_ROUGH_FIRST,
    PLAY_GREEDY_FIRST,
    PLAY_BROKEN_FIRST,
    PLAY_NO_START,
    PLAY_FAIL_EXECUTION
};

enum { ELEMENTS_MAX = 1 << 15 };

static void *played_symbol(const char *name)
{
    void *library = dlopen(DIP_PLAYED_CUDNN, RTLD_NOW);
    void *symbol = library ? dlsym(library, name) : NULL;
    if (!symbol)
        fail_msg("%s: %s", name, dlerror());
    return symbol;
}

static void play(enum play what)
{
    void (*set)(int) = NULL;
    *(void **)&set = played_symbol("cudnn_play");
    set((int)what);
}

static const char *played(int *plans_made, int *executions)
{
    const char *(*get)(int *, int *) = NULL;
    *(void **)&get = played_symbol("cudnn_played");
    return get(plans_made, executions);
}

static int executions(void)
{
    int plans = 0;
    int count = 0;
    (void)played(&plans, &count);
    return count;
}

static struct dip_device_options options_of(const char *cudnn)
{
    return (struct dip_device_options){
        .backend = "cuda", .plugin = DIP_EMULATED_PLUGIN, .cudnn = cudnn};
}

/* ---- one convolution ---- */

struct shape {
    int64_t batch, height, width, in_channels, out_channels;
    int edge, upsample, stride;
    enum dip_act act;
    bool has_bias;
};

/* A device with the operands of one convolution, results in BF16 as floats. */
struct bench {
    struct dip_device *device;
    struct dip_stream *stream;
    struct dip_mem mem;
    struct dip_conv_args args;
    struct dip_tensor bias;
};

static uint16_t values[ELEMENTS_MAX];

static struct dip_tensor image_of(void *data, int64_t n, int64_t h, int64_t w, int64_t c)
{
    return dip_image(data, DIP_BF16, n, h, w, c);
}

static void fill(uint32_t seed, int64_t count)
{
    assert_true(count <= ELEMENTS_MAX);
    for (int64_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        values[i] = dip_bf16_from_f32((float)(seed >> 8) * 0x1p-24f - 0.4f);
    }
}

static void put(struct bench *b, struct dip_tensor to, uint32_t seed)
{
    struct dip_tensor from = to;
    fill(seed, dip_tensor_count(to));
    from.data = values;
    assert_int_equal(dip_copy(b->stream, to, from), DIP_OK);
}

static void bench_open(struct bench *b, const char *cudnn, const struct shape *s)
{
    struct dip_why why = {0};
    struct dip_device_options options = options_of(cudnn);
    if (dip_device_open(&options, &why, &b->device))
        fail_msg("%s", why.text);
    assert_int_equal(dip_stream_open(b->device, &b->stream), DIP_OK);
    assert_int_equal(dip_reserve(b->device, 8 * ELEMENTS_MAX * sizeof(uint16_t), &b->mem), DIP_OK);
    char *at = b->mem.base;
    const size_t room = 2 * ELEMENTS_MAX * sizeof(uint16_t);
    int64_t out_height = (s->height * s->upsample + s->stride - 1) / s->stride;
    int64_t out_width = (s->width * s->upsample + s->stride - 1) / s->stride;
    b->bias = dip_tensor_1d(at + 3 * room, DIP_BF16, s->out_channels);
    b->args = (struct dip_conv_args){
        .in = image_of(at, s->batch, s->height, s->width, s->in_channels),
        .out = image_of(at + room, s->batch, out_height, out_width, s->out_channels),
        .weight = image_of(values, s->out_channels, s->in_channels, s->edge, s->edge),
        .bias = s->has_bias ? &b->bias : NULL,
        .act = s->act,
        .upsample = s->upsample,
        .stride = s->stride};
    put(b, b->args.in, 1);
    put(b, b->bias, 2);
    fill(3, dip_tensor_count(b->args.weight));
    enum dip_weight_use use = s->upsample == 2 ? DIP_WEIGHT_CONV_UPSAMPLED : DIP_WEIGHT_CONV;
    assert_int_equal(dip_weight_place(b->stream, use, at + 2 * room, &b->args.weight), DIP_OK);
    assert_int_equal(dip_wait(b->stream), DIP_OK);
}

static void bench_close(struct bench *b)
{
    dip_release(b->device, &b->mem);
    dip_stream_close(b->stream);
    dip_device_close(b->device);
}

/* Computes, in the mode that makes plans or not; the result's elements are in `out`. */
static int64_t compute(struct bench *b, bool is_planning, uint16_t *out)
{
    struct dip_tensor to = b->args.out;
    to.data = out;
    assert_true(dip_tensor_count(to) <= ELEMENTS_MAX);
    if (is_planning)
        assert_true(dip_plans_begin(b->stream));
    assert_int_equal(dip_conv(b->stream, &b->args), DIP_OK);
    if (is_planning)
        dip_plans_end(b->stream);
    assert_int_equal(dip_copy(b->stream, to, b->args.out), DIP_OK);
    assert_int_equal(dip_wait(b->stream), DIP_OK);
    return dip_tensor_count(to);
}

static uint16_t ours[ELEMENTS_MAX], theirs[ELEMENTS_MAX], again[ELEMENTS_MAX];

static void compare(int64_t count, float tolerance)
{
    for (int64_t i = 0; i < count; i++) {
        float a = dip_f32_from_bf16(ours[i]);
        float b = dip_f32_from_bf16(theirs[i]);
        if (fabsf(a - b) > tolerance * (1.0f + fabsf(a)))
            fail_msg("element %lld: %g by our kernel, %g by a plan", (long long)i, (double)a,
                     (double)b);
    }
}

static void run_ours(const struct shape *s)
{
    struct bench b;
    bench_open(&b, "off", s);
    assert_string_equal(dip_device_class(b.device), "cuda-sm90-bf16");
    compute(&b, false, ours);
    bench_close(&b);
}

/* Every kind of convolution that the decoder has, and those that it might. Both sum in f32 and
 * round once, in another order; with an act that is left apart, twice. */
static void test_same_numbers(void **state)
{
    (void)state;
    static const struct shape shapes[] = {
        {1, 6, 5, 32, 16, 3, 1, 1, DIP_ACT_NONE, true},  /* conv_in */
        {1, 9, 4, 16, 24, 3, 1, 1, DIP_ACT_SILU, true},  /* the first of a residual block */
        {1, 8, 8, 16, 16, 3, 1, 1, DIP_ACT_NONE, false}, /* the second */
        {1, 5, 7, 16, 8, 3, 2, 1, DIP_ACT_NONE, true},   /* enlarging */
        {2, 4, 6, 8, 16, 3, 2, 1, DIP_ACT_SILU, true},   /* and with everything */
        {3, 5, 5, 8, 8, 3, 1, 1, DIP_ACT_RELU, true},
        {1, 7, 6, 8, 8, 5, 2, 1, DIP_ACT_NONE, true},
        {2, 7, 9, 8, 8, 3, 1, 2, DIP_ACT_GELU_TANH, false},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const struct shape *s = &shapes[i];
        struct bench b;
        run_ours(s);
        play(PLAY_WELL);
        bench_open(&b, DIP_PLAYED_CUDNN, s);
        int64_t count = compute(&b, true, theirs);
        assert_int_equal(executions(), s->batch * (s->upsample == 2 ? 4 : 1));
        compare(count, 0x1p-7f);
        compute(&b, false, again); /* the plans stay */
        assert_memory_equal(again, theirs, (size_t)count * sizeof *again);
        assert_int_equal(executions(), 2 * s->batch * (s->upsample == 2 ? 4 : 1));
        bench_close(&b);
    }
}

/* Layouts, paddings and strides as cuDNN gets to see them. */
static void test_words(void **state)
{
    (void)state;
    static const struct {
        struct shape shape;
        const char *last; /* phase */
    } cases[] = {
        {{1, 6, 5, 32, 16, 3, 1, 1, DIP_ACT_SILU, true},
         "conv 1,1+1,1 by 1 1x32x6x5/960,1,160,32 * 16x32x3x3/288,1,96,32 + bias silu = "
         "1x16x6x5/480,1,80,16 engine 0"},
        {{1, 4, 3, 8, 16, 3, 2, 1, DIP_ACT_NONE, true},
         "conv 0,0+1,1 by 1 1x8x4x3/96,1,24,8 * 16x8x2x2/32,1,16,8 + bias = "
         "1x16x4x3/768,1,192,32 engine 0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int plans = 0;
        int runs = 0;
        struct bench b;
        play(PLAY_WELL);
        bench_open(&b, DIP_PLAYED_CUDNN, &cases[i].shape);
        compute(&b, true, theirs);
        assert_string_equal(played(&plans, &runs), cases[i].last);
        assert_int_equal(plans, cases[i].shape.upsample == 2 ? 4 : 1);
        assert_string_equal(dip_device_class(b.device), "cuda-sm90-bf16-cudnn90000");
        assert_string_equal(dip_device_remark(b.device), "");
        bench_close(&b);
    }
}

/* A picture's bytes are the same alone and in a batch. */
static void test_company(void **state)
{
    (void)state;
    static const struct shape three = {3, 5, 6, 16, 16, 3, 2, 1, DIP_ACT_SILU, true};
    struct bench b;
    play(PLAY_WELL);
    bench_open(&b, DIP_PLAYED_CUDNN, &three);
    int64_t each = compute(&b, true, theirs) / 3;
    char *in = b.args.in.data;
    b.args.in.dims[0] = b.args.out.dims[0] = 1;
    for (int64_t i = 0; i < 3; i++) {
        b.args.in.data = in + (size_t)(i * 5 * 6 * 16) * sizeof(uint16_t);
        compute(&b, false, again);
        assert_memory_equal(again, theirs + i * each, (size_t)each * sizeof *again);
    }
    assert_int_equal(executions(), 4 * 3 + 3 * 4);
    bench_close(&b);
}

/* Choices that do not keep their promises, want too much or break are passed over. */
static void test_choice(void **state)
{
    (void)state;
    static const struct shape s = {1, 4, 4, 8, 8, 3, 1, 1, DIP_ACT_SILU, true};
    static const enum play plays[] = {PLAY_ROUGH_FIRST, PLAY_GREEDY_FIRST, PLAY_BROKEN_FIRST};
    for (size_t i = 0; i < sizeof plays / sizeof *plays; i++) {
        int plans = 0;
        int runs = 0;
        struct bench b;
        play(plays[i]);
        bench_open(&b, DIP_PLAYED_CUDNN, &s);
        compute(&b, true, theirs);
        assert_non_null(strstr(played(&plans, &runs), "engine 1"));
        assert_int_equal(runs, 1);
        bench_close(&b);
    }
}

/* Without an engine for the whole, the activation comes behind. */
static void test_act_apart(void **state)
{
    (void)state;
    static const struct shape s = {1, 6, 6, 8, 16, 3, 1, 1, DIP_ACT_SILU, true};
    int plans = 0;
    int runs = 0;
    struct bench b;
    run_ours(&s);
    play(PLAY_NO_FUSED_ACT);
    bench_open(&b, DIP_PLAYED_CUDNN, &s);
    int64_t count = compute(&b, true, theirs);
    const char *graph = played(&plans, &runs);
    assert_null(strstr(graph, "silu"));
    assert_non_null(strstr(graph, "+ bias = "));
    compare(count, 0x1p-6f);
    assert_string_equal(dip_device_remark(b.device), "");
    bench_close(&b);
}

static void expect_ours(const char *cudnn, const struct shape *s, bool is_planning,
                        const char *remark)
{
    struct bench b;
    run_ours(s);
    bench_open(&b, cudnn, s);
    int64_t count = compute(&b, is_planning, theirs);
    assert_memory_equal(theirs, ours, (size_t)count * sizeof *ours);
    if (remark && !strstr(dip_device_remark(b.device), remark))
        fail_msg("the remark is \"%s\"", dip_device_remark(b.device));
    bench_close(&b);
}

/* Our own kernel wherever there is no plan, with one sentence. */
static void test_fallback(void **state)
{
    (void)state;
    static const struct shape plain = {1, 6, 6, 8, 16, 3, 2, 1, DIP_ACT_NONE, true};
    static const struct shape narrow = {1, 6, 6, 8, 3, 3, 1, 1, DIP_ACT_NONE, true};
    play(PLAY_NO_ENGINE);
    expect_ours(DIP_PLAYED_CUDNN, &plain, true,
                "cuDNN has no plan for a 2 x 2 convolution of 6 x 6 pixels from 8 to 16 channels");
    play(PLAY_WELL);
    expect_ours(DIP_PLAYED_CUDNN, &narrow, true, ""); /* three channels are ours to the end */
    expect_ours(DIP_PLAYED_CUDNN, &plain, false, ""); /* never planned */
    assert_int_equal(executions(), 0);
    expect_ours("/nowhere/libcudnn.so.9", &plain, false,
                "convolutions are our own kernels: cuDNN cannot be loaded: /nowhere/libcudnn.so.9");
    expect_ours(DIP_EMULATED_PLUGIN, &plain, false, "is no cuDNN 9: it has no cudnn");
    play(PLAY_NO_START);
    expect_ours(DIP_PLAYED_CUDNN, &plain, false, "cuDNN does not start: played");
    play(PLAY_WELL);
}

/* In f32, which is for parity, cuDNN is not asked at all. */
static void test_f32(void **state)
{
    (void)state;
    struct dip_why why = {0};
    struct dip_device *device = NULL;
    struct dip_device_options options = options_of(DIP_PLAYED_CUDNN);
    options.precision = "f32";
    assert_int_equal(dip_device_open(&options, &why, &device), DIP_OK);
    assert_string_equal(dip_device_class(device), "cuda-sm90-f32");
    dip_device_close(device);
}

/* What fails at work is the end of the device, in a sentence; other devices go on. */
static void test_failure(void **state)
{
    (void)state;
    static const struct shape s = {1, 4, 4, 8, 8, 3, 1, 1, DIP_ACT_NONE, true};
    struct bench b;
    play(PLAY_FAIL_EXECUTION);
    bench_open(&b, DIP_PLAYED_CUDNN, &s);
    assert_true(dip_plans_begin(b.stream));
    assert_int_equal(dip_conv(b.stream, &b.args), DIP_DEVICE);
    dip_plans_end(b.stream);
    assert_non_null(strstr(dip_device_note(b.device), "a convolution of cuDNN: played"));
    assert_int_equal(dip_conv(b.stream, &b.args), DIP_DEVICE);
    bench_close(&b);
    play(PLAY_WELL);
}

/* ---- the engine ---- */

static void paint(const char *cudnn, unsigned char *rgb, int *ret_runs)
{
    struct fixture f;
    struct dip_why why = {0};
    struct dip_diffusion_engine *engine = NULL;
    struct dip_device_options device = options_of(cudnn);
    fixture_open_on(&f, "tiny-a", &device);
    struct dip_diffusion_engine_options options = {.slot_count = 1,
                                                   .batch_max = 1,
                                                   .context_rows_max = f.tokens + 1,
                                                   .latent_height_max = 8,
                                                   .latent_width_max = 8};
    if (dip_diffusion_engine_new(f.model, f.device, &options, &why, &engine))
        fail_msg("%s", why.text);
    int runs = executions();
    float *hidden = calloc((size_t)(f.tokens + 1) * (size_t)f.config->ar.hidden, sizeof *hidden);
    assert_non_null(hidden);
    struct dip_diffusion_job job = {
        .id = 1, .params = fixture_params(&f, 1), .hidden = hidden, .hidden_rows = f.tokens + 1};
    job.params.steps = 1;
    assert_int_equal(dip_diffusion_engine_admit(engine, &job), DIP_OK);
    while (dip_diffusion_engine_live(engine) > 0) {
        struct dip_diffusion_event events[8];
        int count = 0;
        assert_int_equal(dip_diffusion_engine_step(engine, events, 8, &count), DIP_OK);
        for (int i = 0; i < count; i++)
            if (events[i].kind == DIP_DIFFUSION_DECODED)
                memcpy(rgb, events[i].rgb, (size_t)(events[i].width * events[i].height) * 3);
    }
    *ret_runs = executions() - runs;
    free(hidden);
    dip_diffusion_engine_free(engine);
    fixture_close(&f);
}

/* The engine plans the decoder before its first job: from the first picture on plans compute it. */
static void test_engine(void **state)
{
    (void)state;
    static unsigned char a[64 * 64 * 3], b[64 * 64 * 3];
    int runs = 0;
    play(PLAY_WELL);
    paint("off", a, &runs);
    assert_int_equal(runs, 0);
    paint(DIP_PLAYED_CUDNN, b, &runs);
    assert_true(runs > 0);
    for (size_t i = 0; i < sizeof a; i++)
        assert_true(abs((int)a[i] - (int)b[i]) <= 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_numbers), cmocka_unit_test(test_words),
        cmocka_unit_test(test_company),      cmocka_unit_test(test_choice),
        cmocka_unit_test(test_act_apart),    cmocka_unit_test(test_fallback),
        cmocka_unit_test(test_f32),          cmocka_unit_test(test_engine),
        cmocka_unit_test(test_failure),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
