/* tests/cuda/sample.c - drawing on the device: the ids of the definition, whatever the logits; and
 * the bookkeeping of a decode step. */
#include "tests/cuda/device.h"

#include "base/rng.h"

enum { ROWS_MAX = 8, VOCAB_MAX = 20011 };

static void *cpu_scratch;

static struct dip_kernel_draw random_draw(int64_t vocab)
{
    static const float some_p[] = {1.0f, 0.95f, 0.5f, 0.01f, 0.999f};
    struct dip_kernel_draw d = {.temperature = 0.25f + 1.5f * fabsf(gpu_float()),
                                .top_k = (int32_t)GPU_PICK(0, 1, 2, 20, 50, 1200),
                                .top_p = some_p[gpu_int(0, 4)],
                                .uniform = (float)(gpu_bits() >> 40) * 0x1p-24f};
    if (gpu_int(0, 3) == 0)
        d.temperature = 1.0f;
    if (d.top_k > vocab)
        d.top_k = (int32_t)vocab;
    if (gpu_int(0, 9) == 0)
        d.uniform = gpu_int(0, 1) ? 0.0f : 0x1.fffffep-1f;
    return d;
}

/* 0: smooth; 1: eighths, many ties; 2: few values; 3: one peak; 4: all equal; 5: odd ones. */
static float random_logit(int kind, int64_t i)
{
    static const float odd[] = {0.0f, -0.0f,    INFINITY, -INFINITY, NAN,    -1.0f,
                                1.0f, -3.4e38f, 3.4e38f,  1e-45f,    -1e-45f};
    float x = 4.0f * (gpu_float() + gpu_float() + gpu_float());
    switch (kind) {
    case 1:
        return rintf(x * 8.0f) / 8.0f;
    case 2:
        return (float)gpu_int(-2, 2) * 0.5f;
    case 3:
        return i == 5 ? 60.0f : x;
    case 4:
        return -0.0f;
    case 5:
        return odd[gpu_int(0, 10)];
    default:
        return x;
    }
}

struct rows {
    int64_t count, vocab;
    struct gpu_tensor logits;
    struct dip_kernel_draw draws[ROWS_MAX];
    void *device_draws;
};

static struct rows random_rows(int64_t count, int64_t vocab, int kind)
{
    struct rows r = {.count = count, .vocab = vocab};
    float *values = gpu_host((size_t)(count * vocab) * sizeof *values);
    for (int64_t i = 0; i < count * vocab; i++)
        values[i] = random_logit(kind, i % vocab);
    for (int64_t i = 0; i < count; i++)
        r.draws[i] = random_draw(vocab);
    r.logits = gpu_tensor(DIP_F32, count, vocab, gpu_int(0, 1), values);
    r.device_draws = gpu_upload(r.draws, sizeof r.draws);
    return r;
}

static const int32_t *drawn(const struct rows *r)
{
    int32_t nothing[ROWS_MAX] = {-7, -7, -7, -7, -7, -7, -7, -7};
    struct dip_cuda_sample job = {.ids = gpu_upload(nothing, sizeof nothing),
                                  .logits = r->logits.view,
                                  .draws = r->device_draws,
                                  .scratch = gpu_scratch};
    gpu_ok(dip_cuda_sample(gpu_stream, &job));
    return gpu_download(job.ids, sizeof nothing);
}

static void defined(const struct rows *r, int32_t *ids)
{
    struct dip_job_sample cpu = {.ids = ids,
                                 .logits = r->logits.values,
                                 .draws = r->draws,
                                 .vocab_count = r->vocab,
                                 .logits_stride = r->vocab};
    dip_cpu_sample(&cpu, 0, r->count, cpu_scratch);
}

static void check_draw(int64_t count, int64_t vocab, int kind)
{
    struct rows r = random_rows(count, vocab, kind);
    int32_t want[ROWS_MAX];
    defined(&r, want);
    const int32_t *ids = drawn(&r);
    for (int64_t i = 0; i < count; i++)
        if (ids[i] != want[i])
            fail_msg("vocabulary %lld, kind %d, k %d, p %g, uniform %.9g: %d, expected %d",
                     (long long)vocab, kind, r.draws[i].top_k, (double)r.draws[i].top_p,
                     (double)r.draws[i].uniform, ids[i], want[i]);
    gpu_reset();
}

static void test_ids(void **state)
{
    (void)state;
    for (int i = 0; i < GPU_TIMES(60); i++)
        check_draw(GPU_PICK(1, 1, 3, 7), GPU_PICK(1, 2, 7, 8, 100, 127, 395, 1500, 4000), i % 6);
    for (int kind = 0; kind < 6; kind++)
        check_draw(1, kind == 4 ? 5000 : VOCAB_MAX, kind);
}

/* Uniforms that fall on the sums themselves: where the order of adding decides. */
static void test_close_calls(void **state)
{
    (void)state;
    for (GPU_CASES(i, 16)) {
        struct rows r = random_rows(ROWS_MAX, 1024, i % 2 ? 4 : 2);
        for (int k = 0; k < ROWS_MAX; k++) {
            r.draws[k].top_k = i % 3 ? 0 : 1024;
            r.draws[k].top_p = (float)gpu_int(1, 8) / 8.0f;
            r.draws[k].uniform = (float)gpu_int(0, 1023) / 1024.0f;
        }
        r.device_draws = gpu_upload(r.draws, sizeof r.draws);
        int32_t want[ROWS_MAX];
        defined(&r, want);
        const int32_t *ids = drawn(&r);
        for (int k = 0; k < ROWS_MAX; k++)
            assert_int_equal(ids[k], want[k]);
    }
}

/* ---- a vocabulary in slices ---- */

static void check_slices(int kind)
{
    int64_t ranks = GPU_PICK(1, 2, 3, 8), vocab = GPU_PICK(8, 31, 127, 395, 1000, 4000);
    struct rows r = random_rows(GPU_PICK(1, 3, 7), vocab, kind);
    int64_t room = 1;
    for (int64_t i = 0; i < r.count; i++)
        room = r.draws[i].top_k > room ? r.draws[i].top_k : room;
    room = gpu_int(0, 1) ? vocab : room + gpu_int(0, 40);
    int64_t columns = 1 + 2 * room, rank_stride = r.count * columns + 3;
    size_t bytes = (size_t)(ranks * rank_stride) * sizeof(int32_t);
    int32_t *found = gpu_alloc(bytes);
    int32_t *cpu_found = gpu_host(bytes);
    for (int64_t n = 0; n < ranks; n++) {
        int64_t first = vocab * n / ranks, width = vocab * (n + 1) / ranks - first;
        struct dip_cuda_sample_select job = {.found = found + n * rank_stride,
                                             .logits = r.logits.view,
                                             .draws = r.device_draws,
                                             .room = room,
                                             .found_stride = columns,
                                             .first_id = (int32_t)first,
                                             .scratch = gpu_scratch};
        job.logits.data = (float *)r.logits.view.data + first;
        job.logits.columns = width;
        gpu_ok(dip_cuda_sample_select(gpu_stream, &job));
        struct dip_job_sample_select cpu = {.found = cpu_found + n * rank_stride,
                                            .logits = r.logits.values + first,
                                            .draws = r.draws,
                                            .vocab_count = width,
                                            .logits_stride = vocab,
                                            .room = room,
                                            .found_stride = columns,
                                            .first_id = (int32_t)first};
        dip_cpu_sample_select(&cpu, 0, r.count, cpu_scratch);
    }
    const int32_t *got = gpu_download(found, bytes);
    for (int64_t n = 0; n < ranks; n++) {
        for (int64_t i = 0; i < r.count; i++) {
            int64_t at = n * rank_stride + i * columns;
            int64_t told = cpu_found[at] < room ? cpu_found[at] : room;
            assert_memory_equal(got + at, cpu_found + at, (size_t)(1 + 2 * told) * sizeof *got);
        }
    }
    int32_t want[ROWS_MAX];
    struct dip_cuda_sample_merge merge = {.ids = gpu_alloc(sizeof want),
                                          .found = found,
                                          .draws = r.device_draws,
                                          .row_count = r.count,
                                          .rank_count = ranks,
                                          .rank_stride = rank_stride,
                                          .room = room,
                                          .scratch = gpu_scratch};
    gpu_ok(dip_cuda_sample_merge(gpu_stream, &merge));
    struct dip_job_sample_merge cpu = {.ids = want,
                                       .found = cpu_found,
                                       .draws = r.draws,
                                       .rank_count = ranks,
                                       .rank_stride = rank_stride,
                                       .room = room};
    dip_cpu_sample_merge(&cpu, 0, r.count, cpu_scratch);
    const int32_t *ids = gpu_download(merge.ids, sizeof want);
    for (int64_t i = 0; i < r.count; i++)
        assert_int_equal(ids[i], want[i]);
    gpu_reset();
}

static void test_slices(void **state)
{
    (void)state;
    for (int i = 0; i < GPU_TIMES(30); i++)
        check_slices(i % 6);
}

/* ---- a decode step ---- */

enum { SLOTS = 5, BUCKET = 4, HIDDEN = 33, CAPACITY = 20, RING = 3 };

struct step {
    struct dip_cuda_slot *slots;
    int32_t *row_slots, *ring;
    uint32_t *step;
    struct gpu_tensor last, drawing, hidden;
    float *hinge;
};

static struct step new_step(enum dip_dtype drawing)
{
    struct dip_cuda_slot slots[SLOTS] = {{0}};
    struct step s = {.last = gpu_random(DIP_F32, SLOTS, HIDDEN, false),
                     .drawing = gpu_empty(drawing, BUCKET, HIDDEN, false),
                     .hidden = gpu_random(DIP_F32, BUCKET, HIDDEN, false)};
    uint32_t none = 0;
    float empty[8 * HIDDEN] = {0};
    s.hinge = gpu_upload(empty, sizeof empty);
    for (int i = 0; i < SLOTS; i++)
        slots[i] =
            (struct dip_cuda_slot){.seed = gpu_bits(),
                                   .image_index = (uint32_t)i,
                                   .state = i == 1 ? DIP_CUDA_SLOT_IDLE : DIP_CUDA_SLOT_RUNNING,
                                   .temperature = 0.5f + (float)i,
                                   .top_p = 0.9f,
                                   .top_k = 7 + i,
                                   .position = 5 + i,
                                   .token = 3 * i,
                                   .end = i == 2 ? 6 + i : 19,
                                   .hinge_row = i};
    slots[3].hinge = s.hinge;
    s.slots = gpu_upload(slots, sizeof slots);
    s.row_slots = gpu_upload((int32_t[BUCKET]){3, 1, 2, 0}, BUCKET * sizeof(int32_t));
    s.ring = gpu_alloc(RING * BUCKET * 2 * sizeof(int32_t));
    s.step = gpu_upload(&none, sizeof none);
    return s;
}

/* The uniform is that of base/rng.c, bit for bit; a slot that does not run is parked. */
static void check_begin(const struct step *s, const struct dip_cuda_slot *slots)
{
    static const int row_slots[BUCKET] = {3, 1, 2, 0};
    struct dip_cuda_decode_begin job = {
        .slots = s->slots,
        .row_slots = s->row_slots,
        .last = s->last.view,
        .drawing = s->drawing.view,
        .rows = gpu_alloc(BUCKET * sizeof(struct dip_kernel_row)),
        .draws = gpu_alloc(BUCKET * sizeof(struct dip_kernel_draw)),
        .step = s->step,
        .row_count = BUCKET,
        .capacity = CAPACITY,
    };
    gpu_ok(dip_cuda_decode_begin(gpu_stream, &job));
    const struct dip_kernel_row *rows = gpu_download(job.rows, BUCKET * sizeof *rows);
    const struct dip_kernel_draw *draws = gpu_download(job.draws, BUCKET * sizeof *draws);
    const float *drawing = gpu_fetch(&s->drawing);
    const float *last = gpu_fetch(&s->last);
    for (int r = 0; r < BUCKET; r++) {
        const struct dip_cuda_slot *slot = &slots[row_slots[r]];
        bool is_running = slot->state == DIP_CUDA_SLOT_RUNNING;
        struct dip_rng_key key = {slot->seed, slot->image_index, DIP_RNG_TOKEN};
        assert_int_equal(rows[r].slot, row_slots[r]);
        assert_int_equal(rows[r].position, is_running ? slot->position : CAPACITY - 1);
        assert_int_equal(draws[r].top_k, is_running ? slot->top_k : 1);
        if (is_running)
            assert_true(draws[r].uniform == dip_rng_uniform(&key, (uint64_t)slot->token) &&
                        draws[r].temperature == slot->temperature && draws[r].top_p == slot->top_p);
        for (int c = 0; c < HIDDEN; c++) {
            float x = last[row_slots[r] * HIDDEN + c];
            if (s->drawing.view.dtype == DIP_BF16)
                x = dip_f32_from_bf16(dip_bf16_from_f32(x));
            assert_true(drawing[r * HIDDEN + c] == x);
        }
    }
}

static void check_end(const struct step *s, const int32_t ids[BUCKET])
{
    struct dip_cuda_decode_end job = {
        .slots = s->slots,
        .row_slots = s->row_slots,
        .last = s->last.view,
        .hidden = s->hidden.view,
        .ids = gpu_upload(ids, BUCKET * sizeof *ids),
        .ring = s->ring,
        .step = s->step,
        .row_count = BUCKET,
        .ring_depth = RING,
        .eos_ids = {100, 101},
        .eos_count = 2,
    };
    gpu_ok(dip_cuda_decode_end(gpu_stream, &job));
}

static void test_decode(void **state)
{
    (void)state;
    struct step s = new_step(DIP_F32);
    const struct dip_cuda_slot *slots = gpu_download(s.slots, SLOTS * sizeof *slots);
    check_begin(&s, slots);
    check_end(&s, (const int32_t[BUCKET]){42, 43, 44, 101});
    const struct dip_cuda_slot *after = gpu_download(s.slots, SLOTS * sizeof *after);
    const int32_t *ring = gpu_download(s.ring, BUCKET * 2 * sizeof *ring);
    const float *last = gpu_fetch(&s.last);
    assert_int_equal(after[3].state, DIP_CUDA_SLOT_RUNNING);
    assert_int_equal(after[3].position, slots[3].position + 1);
    assert_int_equal(after[3].token, slots[3].token + 1);
    assert_int_equal(after[2].state, DIP_CUDA_SLOT_DONE); /* at its end */
    assert_int_equal(after[0].state, DIP_CUDA_SLOT_DONE); /* by an end id */
    assert_memory_equal(&after[1], &slots[1], sizeof slots[1]);
    static const int32_t told[BUCKET * 2] = {42, DIP_CUDA_SLOT_RUNNING, -1,  DIP_CUDA_SLOT_IDLE,
                                             44, DIP_CUDA_SLOT_DONE,    101, DIP_CUDA_SLOT_DONE};
    assert_memory_equal(ring, told, sizeof told);
    gpu_same(last + 3 * HIDDEN, s.hidden.values, HIDDEN);
    gpu_same(last + 1 * HIDDEN, s.last.values + 1 * HIDDEN, HIDDEN); /* it did not run */
    const float *hinge = gpu_download(s.hinge, 8 * HIDDEN * sizeof *hinge);
    gpu_same(hinge + 3 * HIDDEN, s.hidden.values, HIDDEN);
    assert_true(hinge[0] == 0.0f);
    assert_true(hinge[4 * HIDDEN] == 0.0f);
    gpu_reset();
}

/* A slot for which no id was drawn has not moved: the step can be made again by other means. */
static void test_decode_undrawn(void **state)
{
    (void)state;
    struct step s = new_step(DIP_F32);
    const struct dip_cuda_slot *slots = gpu_download(s.slots, SLOTS * sizeof *slots);
    check_begin(&s, slots);
    check_end(&s, (const int32_t[BUCKET]){-1, 43, 44, 45});
    const struct dip_cuda_slot *after = gpu_download(s.slots, SLOTS * sizeof *after);
    const int32_t *ring = gpu_download(s.ring, BUCKET * 2 * sizeof *ring);
    struct dip_cuda_slot expected = slots[3];
    expected.state = DIP_CUDA_SLOT_BROKEN;
    assert_memory_equal(&after[3], &expected, sizeof expected);
    assert_int_equal(ring[0], -1);
    assert_int_equal(ring[1], DIP_CUDA_SLOT_BROKEN);
    gpu_same(gpu_fetch(&s.last) + 3 * HIDDEN, s.last.values + 3 * HIDDEN, HIDDEN);
    const float *hinge = gpu_download(s.hinge, 8 * HIDDEN * sizeof *hinge);
    for (int c = 0; c < HIDDEN; c++)
        assert_true(hinge[3 * HIDDEN + c] == 0.0f);
    gpu_reset();
}

/* A state that is no number ends the slot, and the ring's next entry says so. */
static void test_decode_broken(void **state)
{
    (void)state;
    struct step s = new_step(DIP_BF16);
    float *broken = gpu_values(BUCKET * HIDDEN, 1.0f);
    broken[HIDDEN - 1] = NAN;
    const struct dip_cuda_slot *slots = gpu_download(s.slots, SLOTS * sizeof *slots);
    check_begin(&s, slots);
    check_begin(&s, slots);
    s.hidden = gpu_tensor(DIP_F32, BUCKET, HIDDEN, true, broken);
    check_end(&s, (const int32_t[BUCKET]){42, 43, 44, 45});
    const struct dip_cuda_slot *after = gpu_download(s.slots, SLOTS * sizeof *after);
    const int32_t *ring = gpu_download(s.ring, RING * BUCKET * 2 * sizeof *ring);
    assert_int_equal(after[3].state, DIP_CUDA_SLOT_BROKEN);
    assert_int_equal(after[0].state, DIP_CUDA_SLOT_RUNNING);
    assert_int_equal(ring[BUCKET * 2], 42);
    assert_int_equal(ring[BUCKET * 2 + 1], DIP_CUDA_SLOT_BROKEN);
    gpu_reset();
}

int main(void)
{
    gpu_require();
    cpu_scratch = malloc(DIP_KERNEL_SCRATCH_BYTES);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ids),
        cmocka_unit_test(test_close_calls),
        cmocka_unit_test(test_slices),
        cmocka_unit_test(test_decode),
        cmocka_unit_test(test_decode_undrawn),
        cmocka_unit_test(test_decode_broken),
    };
    int failed = cmocka_run_group_tests(tests, gpu_start, gpu_stop);
    free(cpu_scratch);
    return failed;
}
