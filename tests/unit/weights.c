/* tests/unit/weights.c - which files make a checkpoint, what binding refuses and says, what may be
 * left over. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/dtype.h"
#include "model/weights.h"
#include "tests/scratch.h"

static void expect_says(const struct dip_why *why, const char *sentence)
{
    if (!strstr(why->text, sentence))
        fail_msg("\"%s\" does not say \"%s\"", why->text, sentence);
}

static void expect_open_fails(const struct scratch *scratch, enum dip_status expected,
                              const char *sentence)
{
    struct dip_why why = {0};
    struct dip_weights *weights = NULL;
    enum dip_status status = dip_weights_open(scratch->path, &why, &weights);
    if (status != expected)
        fail_msg("%s: %s", dip_status_text(status), why.text);
    assert_null(weights);
    expect_says(&why, sentence);
}

static struct dip_weights *open_weights(const struct scratch *scratch)
{
    struct dip_why why = {0};
    struct dip_weights *weights = NULL;
    if (dip_weights_open(scratch->path, &why, &weights))
        fail_msg("%s", why.text);
    return weights;
}

/* "a" f32 [2, 2] and "b" bf16 [2]; the header is padded so that data is aligned. */
static const char header_ab[] =
    "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]},"
    "\"b\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[16,20]}}  "
    "     ";

struct data_ab {
    float a[4];
    uint16_t b[2];
};
static const struct data_ab data_ab = {{1, 2, 3, 4}, {0x3f80, 0x4000}};

static void write_ab(const struct scratch *scratch, const char *name, const struct data_ab *data)
{
    scratch_write_safetensors(scratch, name, header_ab, data, 20);
}

static void write_one(const struct scratch *scratch, const char *name, const char *tensor)
{
    char header[200];
    uint16_t data[2] = {0x3f80, 0};
    int length =
        snprintf(header, sizeof header,
                 "{\"%s\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[0,4]}}", tensor);
    while (length % 8 != 0)
        header[length++] = ' ';
    header[length] = '\0';
    scratch_write_safetensors(scratch, name, header, data, 4);
}

static void binding_gives_the_mapped_bytes(void **state)
{
    (void)state;
    struct scratch scratch = scratch_open();
    write_ab(&scratch, "model.safetensors", &data_ab);
    struct dip_weights *weights = open_weights(&scratch);
    struct dip_tensor t = {0};
    assert_int_equal(dip_weights_count(weights), 2);
    assert_int_equal(dip_weights_bytes(weights), 20);
    assert_string_equal(dip_weights_at(weights, 1)->name, "b");
    assert_string_equal(dip_weights_at(weights, 1)->file, "model.safetensors");
    assert_int_equal(dip_weights_bind_2d(weights, NULL, &t, 2, 2, "%s", "a"), DIP_OK);
    assert_ptr_equal(t.data, dip_weights_find(weights, "a")->data); /* no copy */
    assert_int_equal(t.dtype, DIP_F32);
    assert_int_equal(t.rank, 2);
    assert_true(t.dims[0] == 2 && t.dims[1] == 2 && t.dims[2] == 1 && t.row_stride == 2);
    assert_true(((float *)t.data)[3] == 4);
    assert_int_equal(dip_weights_bind_1d(weights, NULL, &t, 2, "b"), DIP_OK);
    assert_int_equal(t.dtype, DIP_BF16);
    assert_null(dip_weights_find(weights, "c"));
    dip_weights_close(weights);
    scratch_close(&scratch);
}

static void mismatches_name_expected_and_found(void **state)
{
    (void)state;
    struct scratch scratch = scratch_open();
    write_ab(&scratch, "model.safetensors", &data_ab);
    struct dip_weights *weights = open_weights(&scratch);
    struct dip_tensor t = {0};
    struct dip_why shape = {0};
    struct dip_why rank = {0};
    struct dip_why missing = {0};
    assert_int_equal(dip_weights_bind_2d(weights, &shape, &t, 2, 3, "a"), DIP_CORRUPT);
    expect_says(&shape, "model.safetensors: tensor a is [2, 2], expected [2, 3]");
    assert_int_equal(dip_weights_bind_4d(weights, &rank, &t, 2, 2, 1, 1, "a"), DIP_CORRUPT);
    expect_says(&rank, "tensor a is [2, 2], expected [2, 2, 1, 1]");
    assert_int_equal(dip_weights_bind_1d(weights, &missing, &t, 7, "layers.%d.c", 3),
                     DIP_NOT_FOUND);
    expect_says(&missing, "tensor layers.3.c [7] is missing from the checkpoint");
    assert_null(t.data);
    dip_weights_close(weights);
    scratch_close(&scratch);
}

static void foreign_dtypes_are_listed_but_not_bound(void **state)
{
    (void)state;
    struct scratch scratch = scratch_open();
    static const int64_t data[1] = {5};
    scratch_write_safetensors(&scratch, "model.safetensors",
                              "{\"n\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]}}",
                              data, 8);
    struct dip_weights *weights = open_weights(&scratch);
    struct dip_tensor t = {0};
    struct dip_why why = {0};
    assert_string_equal(dip_weights_find(weights, "n")->dtype_name, "I64");
    assert_int_equal(dip_weights_bind_1d(weights, &why, &t, 1, "n"), DIP_UNSUPPORTED);
    expect_says(&why, "tensor n is I64, expected BF16, F16 or F32");
    dip_weights_close(weights);
    scratch_close(&scratch);
}

static void misaligned_tensors_ask_for_a_new_file(void **state)
{
    (void)state;
    struct scratch scratch = scratch_open();
    char header[] = "{\"u\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                    "\"w\":{\"dtype\":\"BF16\",\"shape\":[1],\"data_offsets\":[1,3]}}        ";
    header[strlen(header) / 8 * 8] = '\0';
    scratch_write_safetensors(&scratch, "model.safetensors", header, "\0\0\0", 3);
    struct dip_weights *weights = open_weights(&scratch);
    struct dip_tensor t = {0};
    struct dip_why why = {0};
    assert_int_equal(dip_weights_bind_1d(weights, &why, &t, 1, "w"), DIP_UNSUPPORTED);
    expect_says(&why, "tensor w does not begin at a multiple of its 2-byte elements");
    dip_weights_close(weights);
    scratch_close(&scratch);
}

static void nan_is_counted_and_placed(void **state)
{
    (void)state;
    static const struct {
        float a;
        uint16_t b;
        const char *sentence;
    } cases[] = {
        {NAN, 0,
         "tensor a holds 1 NaN or infinite values among the 4 looked at, the first at "
         "element 2"},
        {-INFINITY, 0, "tensor a holds 1 NaN or infinite"},
        {1, 0x7f80,
         "tensor b holds 1 NaN or infinite values among the 2 looked at, the first at "
         "element 1"},
        {1, 0xffc1, "tensor b holds 1 NaN"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct scratch scratch = scratch_open();
        struct data_ab data = data_ab;
        data.a[2] = cases[i].a;
        data.b[1] = cases[i].b;
        write_ab(&scratch, "model.safetensors", &data);
        struct dip_weights *weights = open_weights(&scratch);
        struct dip_tensor t = {0};
        struct dip_why why = {0};
        enum dip_status a = dip_weights_bind_2d(weights, &why, &t, 2, 2, "a");
        enum dip_status b = dip_weights_bind_1d(weights, &why, &t, 2, "b");
        assert_true((a == DIP_CORRUPT) != (b == DIP_CORRUPT));
        expect_says(&why, cases[i].sentence);
        dip_weights_close(weights);
        scratch_close(&scratch);
    }
}

/* 3 MiB of f16: the first, the last and every sampled page are looked at, the rest is not. */
static void large_tensors_are_sampled(void **state)
{
    (void)state;
    enum { COUNT = 3 << 19 };
    static const size_t bad_at[] = {0, COUNT - 1};
    uint16_t *data = calloc(COUNT, sizeof *data);
    assert_non_null(data);
    for (size_t i = 0; i < 2; i++) {
        struct scratch scratch = scratch_open();
        char sentence[64];
        data[bad_at[i]] = 0x7c01;
        scratch_write_safetensors(
            &scratch, "model.safetensors",
            "{\"w\":{\"dtype\":\"F16\",\"shape\":[1572864],\"data_offsets\":[0,3145728]}}  ", data,
            COUNT * sizeof *data);
        data[bad_at[i]] = 0;
        struct dip_weights *weights = open_weights(&scratch);
        struct dip_tensor t = {0};
        struct dip_why why = {0};
        assert_int_equal(dip_weights_bind_1d(weights, &why, &t, COUNT, "w"), DIP_CORRUPT);
        snprintf(sentence, sizeof sentence, "among the 32768 looked at, the first at element %zu",
                 bad_at[i]);
        expect_says(&why, sentence);
        dip_weights_close(weights);
        scratch_close(&scratch);
    }
    free(data);
}

/* Binding samples a large tensor; who wants to be sure looks at all of it. */
static void every_value_is_looked_at_when_asked(void **state)
{
    (void)state;
    enum { COUNT = 1536 * 1024, BAD = 12345 }; /* between two samples */
    struct scratch scratch = scratch_open();
    uint16_t *data = calloc(COUNT, sizeof *data);
    assert_non_null(data);
    for (int is_bad = 0; is_bad < 2; is_bad++) {
        data[BAD] = is_bad ? 0x7c01 : 0;
        scratch_write_safetensors(
            &scratch, "model.safetensors",
            "{\"w\":{\"dtype\":\"F16\",\"shape\":[1572864],\"data_offsets\":[0,3145728]}}  ", data,
            COUNT * sizeof *data);
        struct dip_weights *weights = open_weights(&scratch);
        struct dip_tensor t = {0};
        struct dip_why why = {0};
        assert_int_equal(dip_weights_bind_1d(weights, &why, &t, COUNT, "w"), DIP_OK);
        assert_int_equal(dip_weights_check_values(weights, &why), is_bad ? DIP_CORRUPT : DIP_OK);
        if (is_bad)
            expect_says(&why, "holds 1 NaN or infinite values among the 1572864 looked at, the "
                              "first at element 12345");
        dip_weights_close(weights);
    }
    free(data);
    scratch_close(&scratch);
}

static void left_over_tensors_fail_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        enum dip_status expected;
    } cases[] = {
        {"model.layers.9.mlp.up_proj.weight", DIP_CORRUPT},
        {"model.vision_tower.vision_tower.encoder.x", DIP_OK},
        {"model.und_image_vae_connector.0.weight", DIP_OK},
        {"model.und_image_vae_as_noise_connector.0.bias", DIP_OK},
        {"model.tar_siglip_features_connector.3.weight", DIP_OK},
        {"model.sana_vae.encoder.conv_in.weight", DIP_OK},
        {"model.sana_vae.decoder.conv_in.weight", DIP_CORRUPT},
        {"model.layers.0.self_attn.rotary_emb.inv_freq", DIP_OK},
        {"lm_head.weight", DIP_OK},
        {"lm_head.weight2", DIP_CORRUPT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct scratch scratch = scratch_open();
        write_one(&scratch, "model.safetensors", cases[i].name);
        struct dip_weights *weights = open_weights(&scratch);
        struct dip_why why = {0};
        struct dip_tensor t = {0};
        assert_int_equal(dip_weights_check_unused(weights, &why), cases[i].expected);
        if (cases[i].expected)
            expect_says(&why, cases[i].name);
        assert_int_equal(dip_weights_bind_1d(weights, NULL, &t, 2, "%s", cases[i].name), DIP_OK);
        assert_int_equal(dip_weights_check_unused(weights, NULL), DIP_OK); /* now it is used */
        dip_weights_close(weights);
        scratch_close(&scratch);
    }
}

/* ---- shards ---- */

static void shards_are_joined_by_the_index(void **state)
{
    (void)state;
    struct scratch scratch = scratch_open();
    write_ab(&scratch, "model-00001-of-00002.safetensors", &data_ab);
    write_one(&scratch, "model-00002-of-00002.safetensors", "c");
    scratch_write_text(&scratch, "model.safetensors.index.json",
                       "{\"metadata\":{\"total_size\":24},\"weight_map\":{"
                       "\"a\":\"model-00001-of-00002.safetensors\","
                       "\"b\":\"model-00001-of-00002.safetensors\","
                       "\"c\":\"model-00002-of-00002.safetensors\"}}");
    struct dip_weights *weights = open_weights(&scratch);
    assert_int_equal(dip_weights_count(weights), 3);
    assert_string_equal(dip_weights_find(weights, "c")->file, "model-00002-of-00002.safetensors");
    dip_weights_close(weights);
    scratch_close(&scratch);
}

static void bad_indexes_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *index;
        enum dip_status expected;
        const char *sentence;
    } cases[] = {
        {"{}", DIP_CORRUPT, "weight_map is missing"},
        {"{\"weight_map\":[]}", DIP_INVALID, "weight_map is an array, expected an object"},
        {"{\"weight_map\":{\"a\":7}}", DIP_INVALID, "a is 7, expected a string"},
        {"{\"weight_map\":{\"a\":null}}", DIP_CORRUPT, "tensor a is said to be in \"\""},
        {"{\"weight_map\":{\"a\":\"../x.safetensors\"}}", DIP_CORRUPT, "expected the plain name"},
        {"{\"weight_map\":{\"a\":\"/etc/x.safetensors\"}}", DIP_CORRUPT, "expected the plain name"},
        {"{\"weight_map\":{\"a\":\"sub/x.safetensors\"}}", DIP_CORRUPT, "expected the plain name"},
        {"{\"weight_map\":{\"a\":\".safetensors\"}}", DIP_CORRUPT, "expected the plain name"},
        {"{\"weight_map\":{\"a\":\"x.bin\"}}", DIP_CORRUPT, "expected the plain name"},
        {"{\"weight_map\":{\"a\":\"gone.safetensors\"}}", DIP_NOT_FOUND,
         "gone.safetensors: cannot open"},
        {"{\"weight_map\":{\"z\":\"x.safetensors\"}}", DIP_CORRUPT,
         "tensor z is said to be in x.safetensors, found nowhere"},
        {"{\"weight_map\":{\"a\":\"x.safetensors\",\"c\":\"x.safetensors\",\"d\":\"y.safetensors\"}"
         "}",
         DIP_CORRUPT, "tensor c is said to be in x.safetensors, found nowhere"},
        {"{\"weight_map\":{\"a\":\"x.safetensors\",\"d\":\"x.safetensors\",\"e\":\"y.safetensors\"}"
         "}",
         DIP_CORRUPT, "tensor d is said to be in x.safetensors, found y.safetensors"},
        {"{\"weight_map\":", DIP_CORRUPT, "index.json: line 1"},
    };
    struct scratch scratch = scratch_open();
    write_ab(&scratch, "x.safetensors", &data_ab);
    write_one(&scratch, "y.safetensors", "d");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        scratch_write_text(&scratch, "model.safetensors.index.json", cases[i].index);
        expect_open_fails(&scratch, cases[i].expected, cases[i].sentence);
    }
    scratch_close(&scratch);
}

static void one_tensor_in_two_shards_is_refused(void **state)
{
    (void)state;
    struct scratch scratch = scratch_open();
    write_ab(&scratch, "x.safetensors", &data_ab);
    write_one(&scratch, "y.safetensors", "b");
    scratch_write_text(&scratch, "model.safetensors.index.json",
                       "{\"weight_map\":{\"a\":\"x.safetensors\",\"b\":\"y.safetensors\"}}");
    expect_open_fails(&scratch, DIP_CORRUPT, "tensor b is in both ");
    scratch_close(&scratch);
}

static void other_file_names(void **state)
{
    (void)state;
    struct scratch scratch = scratch_open();
    expect_open_fails(&scratch, DIP_NOT_FOUND, "found neither model.safetensors nor");
    write_one(&scratch, "model-00001-of-00001.safetensors", "lone");
    struct dip_weights *weights = open_weights(&scratch);
    assert_non_null(dip_weights_find(weights, "lone"));
    dip_weights_close(weights);
    write_one(&scratch, "model.safetensors", "single"); /* a whole file wins over shards */
    weights = open_weights(&scratch);
    assert_non_null(dip_weights_find(weights, "single"));
    dip_weights_close(weights);
    scratch_write_text(&scratch, "model.safetensors", "");
    expect_open_fails(&scratch, DIP_CORRUPT, "model.safetensors: is 0 bytes, too short");
    dip_weights_close(NULL);
    scratch_close(&scratch);
}

static void tiny_checkpoints_open(void **state)
{
    (void)state;
    static const char *const folders[] = {"tests/golden/tiny-a/model", "tests/golden/tiny-b/model",
                                          "tests/golden/tiny-c/model"};
    for (int i = 0; i < 3; i++) {
        struct dip_why why = {0};
        struct dip_weights *weights = NULL;
        if (dip_weights_open(folders[i], &why, &weights))
            fail_msg("%s", why.text);
        assert_true(dip_weights_count(weights) > 300);
        for (size_t j = 0; j < dip_weights_count(weights); j++) {
            const struct dip_weight *weight = dip_weights_at(weights, j);
            struct dip_tensor t;
            assert_ptr_equal(dip_weights_find(weights, weight->name), weight);
            if (dip_weights_bind(weights, weight->name, weight->rank, weight->dims, &why, &t))
                fail_msg("%s", why.text);
        }
        assert_int_equal(dip_weights_check_unused(weights, NULL), DIP_OK);
        dip_weights_close(weights);
    }
}

/* ---- identity and random weights ---- */

static void digest_sees_values_and_not_sharding(void **state)
{
    (void)state;
    struct scratch whole = scratch_open();
    struct scratch split = scratch_open();
    struct scratch other = scratch_open();
    struct data_ab changed = data_ab;
    char digests[3][65];
    changed.b[1] ^= 1;
    write_ab(&whole, "model.safetensors", &data_ab);
    write_ab(&split, "shard.safetensors", &data_ab);
    scratch_write_text(
        &split, "model.safetensors.index.json",
        "{\"weight_map\":{\"b\":\"shard.safetensors\",\"a\":\"shard.safetensors\"}}");
    write_ab(&other, "model.safetensors", &changed);
    struct scratch *folders[] = {&whole, &split, &other};
    for (int i = 0; i < 3; i++) {
        struct dip_weights *weights = open_weights(folders[i]);
        assert_int_equal(dip_weights_digest(weights, digests[i]), DIP_OK);
        assert_int_equal(strlen(digests[i]), 64);
        dip_weights_close(weights);
        scratch_close(folders[i]);
    }
    assert_string_equal(digests[0], digests[1]);
    assert_string_not_equal(digests[0], digests[2]);
}

static void random_weights_have_their_scales(void **state)
{
    (void)state;
    struct dip_weights *weights = NULL;
    struct dip_tensor w = {0};
    struct dip_tensor again = {0};
    struct dip_tensor norm = {0};
    struct dip_tensor bias = {0};
    assert_int_equal(dip_weights_random(5, &weights), DIP_OK);
    assert_int_equal(dip_weights_bind_2d(weights, NULL, &w, 3000, 400, "layer.%d.weight", 1),
                     DIP_OK);
    assert_int_equal(dip_weights_bind_1d(weights, NULL, &norm, 9, "input_norm.weight"), DIP_OK);
    assert_int_equal(dip_weights_bind_1d(weights, NULL, &bias, 9, "layer.bias"), DIP_OK);
    assert_int_equal(w.dtype, DIP_BF16);
    double square = 0;
    for (size_t i = 0; i < 3000 * 400; i++) {
        double x = (double)dip_f32_at(DIP_BF16, w.data, i);
        square += x * x;
    }
    assert_true(fabs(square / 3000 - 1) < 0.02); /* 1.2 M draws of variance 1/400 */
    assert_memory_not_equal(w.data, (uint16_t *)w.data + 400, 800); /* rows differ */
    assert_true(dip_f32_at(DIP_BF16, norm.data, 8) == 1);
    assert_true(dip_f32_at(DIP_BF16, bias.data, 8) == 0);
    assert_int_equal(dip_weights_bind_2d(weights, NULL, &again, 3000, 400, "layer.1.weight"),
                     DIP_OK);
    assert_ptr_equal(again.data, w.data);
    assert_int_equal(dip_weights_bind_2d(weights, NULL, &again, 400, 3000, "layer.1.weight"),
                     DIP_CORRUPT);
    assert_int_equal(dip_weights_count(weights), 3);
    assert_null(dip_weights_find(weights, "lm_head.weight"));
    assert_non_null(dip_weights_find(weights, "layer.bias"));
    assert_int_equal(dip_weights_check_unused(weights, NULL), DIP_OK);
    dip_weights_close(weights);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(binding_gives_the_mapped_bytes),
        cmocka_unit_test(mismatches_name_expected_and_found),
        cmocka_unit_test(foreign_dtypes_are_listed_but_not_bound),
        cmocka_unit_test(misaligned_tensors_ask_for_a_new_file),
        cmocka_unit_test(nan_is_counted_and_placed),
        cmocka_unit_test(large_tensors_are_sampled),
        cmocka_unit_test(every_value_is_looked_at_when_asked),
        cmocka_unit_test(left_over_tensors_fail_by_name),
        cmocka_unit_test(shards_are_joined_by_the_index),
        cmocka_unit_test(bad_indexes_are_refused),
        cmocka_unit_test(one_tensor_in_two_shards_is_refused),
        cmocka_unit_test(other_file_names),
        cmocka_unit_test(tiny_checkpoints_open),
        cmocka_unit_test(digest_sees_values_and_not_sharding),
        cmocka_unit_test(random_weights_have_their_scales),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
