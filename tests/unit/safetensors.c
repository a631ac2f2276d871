/* tests/unit/safetensors.c - hand-made files, right and wrong in every field, and a round trip. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/safetensors.h"
#include "tests/scratch.h"

enum { FILE_BYTES_MAX = 4096 };

struct image {
    unsigned char bytes[FILE_BYTES_MAX];
    size_t count;
};

/* Length, header and data_bytes zeros. */
static struct image compose(const char *header, size_t data_bytes)
{
    struct image image = {.count = 8 + strlen(header) + data_bytes};
    assert_true(image.count <= FILE_BYTES_MAX);
    for (int i = 0; i < 8; i++)
        image.bytes[i] = (unsigned char)((uint64_t)strlen(header) >> (8 * i));
    memcpy(image.bytes + 8, header, strlen(header));
    return image;
}

/* Parses a copy of exactly `count` bytes, so that the address sanitizer sees any look beyond. */
static enum dip_status parse_exact(const unsigned char *bytes, size_t count, struct dip_why *why,
                                   struct dip_safetensors **ret_file, unsigned char **ret_copy)
{
    unsigned char *copy = malloc(count + 1);
    assert_non_null(copy);
    unsigned char *at = copy + 1; /* odd on purpose: nothing may assume alignment */
    memcpy(at, bytes, count);
    *ret_copy = copy;
    return dip_safetensors_parse(at, count, "t.safetensors", why, ret_file);
}

static void expect_refused(const char *header, size_t data_bytes, enum dip_status expected,
                           const char *sentence)
{
    struct image image = compose(header, data_bytes);
    struct dip_why why = {0};
    struct dip_safetensors *file = NULL;
    unsigned char *copy = NULL;
    enum dip_status status = parse_exact(image.bytes, image.count, &why, &file, &copy);
    if (status != expected || !strstr(why.text, sentence))
        fail_msg("%s: %s: \"%s\", expected \"%s\"", header, dip_status_text(status), why.text,
                 sentence);
    assert_null(file);
    free(copy);
}

static void tensors_are_found(void **state)
{
    (void)state;
    /* Out of file order, with metadata, an empty tensor, a scalar and a foreign dtype. */
    struct image image =
        compose("{\"b\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[6,14]},"
                "\"__metadata__\":{\"format\":\"pt\"},"
                "\"a\":{\"dtype\":\"BF16\",\"shape\":[3],\"data_offsets\":[0,6]},"
                "\"none\":{\"dtype\":\"F16\",\"shape\":[0,7],\"data_offsets\":[6,6]},"
                "\"scalar\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[14,22]},"
                "\"odd\":{\"dtype\":\"X9\",\"shape\":[5],\"data_offsets\":[22,25]}}  ",
                25);
    image.bytes[image.count - 25 + 6] = 0x80; /* b[0] = 1.0f */
    struct dip_safetensors *file = NULL;
    unsigned char *copy = NULL;
    assert_int_equal(parse_exact(image.bytes, image.count, NULL, &file, &copy), DIP_OK);
    assert_int_equal(dip_safetensors_count(file), 5);
    static const char *const order[] = {"a", "none", "b", "scalar", "odd"};
    for (size_t i = 0; i < 5; i++)
        assert_string_equal(dip_safetensors_at(file, i)->name, order[i]);
    const struct dip_safetensors_tensor *b = dip_safetensors_find(file, "b");
    assert_non_null(b);
    assert_string_equal(b->dtype_name, "F32");
    assert_int_equal(b->rank, 2);
    assert_true(b->dims[0] == 1 && b->dims[1] == 2 && b->dims[2] == 1 && b->dims[3] == 1);
    assert_int_equal(b->bytes, 8);
    assert_int_equal(b->data[0], 0x80);
    assert_int_equal(dip_safetensors_find(file, "scalar")->rank, 0);
    assert_null(dip_safetensors_find(file, "absent"));
    dip_safetensors_close(file);
    free(copy);
}

static void dtypes_by_name(void **state)
{
    (void)state;
    enum dip_dtype dtype = DIP_U8;
    assert_true(dip_safetensors_dtype("BF16", &dtype));
    assert_int_equal(dtype, DIP_BF16);
    assert_false(dip_safetensors_dtype("I64", &dtype));
    assert_false(dip_safetensors_dtype("", &dtype));
}

static void no_tensors_is_a_file_too(void **state)
{
    (void)state;
    struct image image = compose("{}", 0);
    struct dip_safetensors *file = NULL;
    unsigned char *copy = NULL;
    assert_int_equal(parse_exact(image.bytes, image.count, NULL, &file, &copy), DIP_OK);
    assert_int_equal(dip_safetensors_count(file), 0);
    dip_safetensors_close(file);
    free(copy);
}

#define ENTRY(dtype, shape, offsets)                                                               \
    "{\"t\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"

static void wrong_fields_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        const char *sentence;
    } cases[] = {
        {ENTRY("\"F32\"", "[2]", "[0,4]"), "t: its shape and dtype need 8 bytes, found 4"},
        {ENTRY("\"BF16\"", "[3]", "[0,8]"), "need 6 bytes, found 8"},
        {ENTRY("\"F32\"", "[2]", "[8,0]"), "not a pair of begin and end"},
        {ENTRY("\"F32\"", "[2]", "[0]"), "not a pair of begin and end"},
        {ENTRY("\"F32\"", "[2]", "[0,8,8]"), "data_offsets has 3 elements"},
        {ENTRY("\"F32\"", "[2]", "[0,9]"), "data_offsets[1] is 9, expected an integer from 0 to 8"},
        {ENTRY("\"F32\"", "[2]", "[-8,0]"), "data_offsets[0] is -8"},
        {ENTRY("\"F32\"", "[2]", "[0,9223372036854775807]"), "data_offsets[1]"},
        {ENTRY("\"F32\"", "[2]", "[0,18446744073709551616]"), "too big integer"},
        {ENTRY("\"F32\"", "[2]", "\"0,8\""), "data_offsets is \"0,8\""},
        {ENTRY("\"F32\"", "[-2]", "[0,8]"), "shape[0] is -2"},
        {ENTRY("\"F32\"", "[1.5]", "[0,8]"), "shape[0] is 1.5"},
        {ENTRY("\"F32\"", "[4294967296,4294967296]", "[0,8]"), "more elements than memory"},
        {ENTRY("\"F32\"", "[4611686018427387904,4]", "[0,8]"), "more elements than memory"},
        {ENTRY("\"F32\"", "[4611686018427387905]", "[0,8]"), "more elements than memory"},
        {ENTRY("\"F32\"", "[1,1,1,1,2]", "[0,8]"), "shape has 5 elements, expected at most 4"},
        {ENTRY("\"ABCDEFGHIJKLMNOP\"", "[2]", "[0,8]"), "expected one such as BF16"},
        {ENTRY("7", "[2]", "[0,8]"), "dtype is 7, expected a string"},
        {"{\"t\":{\"shape\":[2],\"data_offsets\":[0,8]}}", "t: dtype is missing"},
        {"{\"t\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", "t: shape is missing"},
        {"{\"t\":{\"dtype\":\"F32\",\"shape\":[2]}}", "t: data_offsets is missing"},
        {"{\"t\":null}", "t is null, expected an object"},
        {"{}", "its tensors end at byte 0 of the data, the file at byte 8"},
        {ENTRY("\"F32\"", "[1]", "[0,4]"), "its tensors end at byte 4 of the data, the file at"},
        {ENTRY("\"F32\"", "[1]", "[4,8]"), "4 bytes in front of tensor t belong to none"},
        {ENTRY("\"X9\"", "[1]", "[4,8]"), "4 bytes in front of tensor t belong to none"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct image image = compose(cases[i].header, 8);
        struct dip_why why = {0};
        struct dip_safetensors *file = NULL;
        unsigned char *copy = NULL;
        assert_int_not_equal(parse_exact(image.bytes, image.count, &why, &file, &copy), DIP_OK);
        if (!strstr(why.text, cases[i].sentence) || !strstr(why.text, "t.safetensors: "))
            fail_msg("\"%s\" does not say \"%s\"", why.text, cases[i].sentence);
        assert_null(file);
        free(copy);
    }
}

static void overlaps_and_duplicates_are_refused(void **state)
{
    (void)state;
    expect_refused("{\"x\":{\"dtype\":\"U8\",\"shape\":[5],\"data_offsets\":[0,5]},"
                   "\"y\":{\"dtype\":\"U8\",\"shape\":[5],\"data_offsets\":[3,8]}}",
                   8, DIP_CORRUPT, "tensors x and y overlap");
    expect_refused("{\"x\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]},"
                   "\"y\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]}}",
                   8, DIP_CORRUPT, "overlap");
    expect_refused("{\"x\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
                   "\"x\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,8]}}",
                   8, DIP_CORRUPT, "duplicate");
}

static void wrong_lengths_are_refused(void **state)
{
    (void)state;
    static const struct {
        unsigned char length[8];
        size_t count;
        const char *sentence;
    } cases[] = {
        {{0}, 0, "is 0 bytes, too short"},
        {{0}, 7, "is 7 bytes, too short"},
        {{0}, 8, "t.safetensors: line 1"}, /* an empty header is no object */
        {{3}, 10, "said to be 3 bytes, but only 2 follow"},
        {{255, 255, 255, 255, 255, 255, 255, 255}, 10, "said to be 18446744073709551615 bytes"},
        {{0, 0, 0, 0, 0, 0, 0, 128}, 10, "said to be 9223372036854775808 bytes"},
        {{248, 255, 255, 255, 255, 255, 255, 255}, 10, "but only 2 follow"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        unsigned char bytes[16] = {0};
        struct dip_why why = {0};
        struct dip_safetensors *file = NULL;
        unsigned char *copy = NULL;
        memcpy(bytes, cases[i].length, 8);
        memcpy(bytes + 8, "{}", 2);
        assert_int_equal(parse_exact(bytes, cases[i].count, &why, &file, &copy), DIP_CORRUPT);
        if (!strstr(why.text, cases[i].sentence))
            fail_msg("\"%s\" does not say \"%s\"", why.text, cases[i].sentence);
        free(copy);
    }
}

/* A header longer than the limit is refused before anybody reads it. */
static void header_limit(void **state)
{
    (void)state;
    size_t header = (size_t)DIP_SAFETENSORS_HEADER_BYTES_MAX + 1;
    unsigned char *bytes = calloc(1, 8 + header);
    struct dip_why why = {0};
    struct dip_safetensors *file = NULL;
    assert_non_null(bytes);
    for (int i = 0; i < 8; i++)
        bytes[i] = (unsigned char)((uint64_t)header >> (8 * i));
    assert_int_equal(dip_safetensors_parse(bytes, 8 + header, "t", &why, &file), DIP_LIMIT);
    assert_non_null(strstr(why.text, "header is 67108865 bytes, expected at most 67108864"));
    free(bytes);
}

static void tensor_count_limit(void **state)
{
    (void)state;
    enum { COUNT = DIP_TENSORS_MAX + 1, ENTRY_BYTES = 80 };
    char *header = malloc((size_t)COUNT * ENTRY_BYTES);
    assert_non_null(header);
    size_t used = 8;
    for (int i = 0; i < COUNT; i++)
        used += (size_t)snprintf(header + used, ENTRY_BYTES,
                                 "%c\"%d\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}",
                                 i == 0 ? '{' : ',', i);
    header[used++] = '}';
    for (int i = 0; i < 8; i++)
        header[i] = (char)((uint64_t)(used - 8) >> (8 * i));
    struct dip_why why = {0};
    struct dip_safetensors *file = NULL;
    assert_int_equal(dip_safetensors_parse(header, used, "t", &why, &file), DIP_LIMIT);
    assert_non_null(strstr(why.text, "has 65537 tensors, expected at most 65536"));
    free(header);
}

static void every_truncation_is_refused(void **state)
{
    (void)state;
    struct image image =
        compose("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8);
    for (size_t count = 0; count < image.count; count++) {
        struct dip_why why = {0};
        struct dip_safetensors *file = NULL;
        unsigned char *copy = NULL;
        assert_int_not_equal(parse_exact(image.bytes, count, &why, &file, &copy), DIP_OK);
        assert_true(strlen(why.text) > 0);
        free(copy);
    }
}

/* Every bit flipped, one at a time: a sentence or a valid file, never anything else. */
static void every_bit_flip_is_survived(void **state)
{
    (void)state;
    struct image image = compose("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
                                 "\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[8,9]}}",
                                 9);
    int refused = 0;
    for (size_t bit = 0; bit < image.count * 8; bit++) {
        image.bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
        struct dip_why why = {0};
        struct dip_safetensors *file = NULL;
        unsigned char *copy = NULL;
        enum dip_status status = parse_exact(image.bytes, image.count, &why, &file, &copy);
        assert_true((status == DIP_OK) == (why.text[0] == '\0'));
        refused += status != DIP_OK;
        dip_safetensors_close(file);
        free(copy);
        image.bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
    assert_true(refused > 500); /* most of the header's 900 bits matter */
}

static void written_files_read_back(void **state)
{
    (void)state;
    struct scratch scratch = scratch_open();
    const unsigned char pixels[3] = {1, 2, 3};
    const float latent[4] = {0.5f, -1, 2, 1e-9f};
    const int32_t ids[2] = {7, -9};
    const uint16_t brain[3] = {0x3f80, 0, 0xbf80};
    const struct dip_safetensors_part parts[] = {
        {"image", DIP_U8, 3, {1, 1, 3}, pixels}, {"latent", DIP_F32, 3, {1, 2, 2}, latent},
        {"half", DIP_BF16, 1, {3}, brain},       {"ids", DIP_I32, 1, {2}, ids},
        {"nothing", DIP_F32, 2, {0, 5}, NULL},
    };
    struct dip_why why = {0};
    struct dip_safetensors *file = NULL;
    const char *path = scratch_path(&scratch, "trace.safetensors");
    assert_int_equal(dip_safetensors_write(path, parts, 5, &why), DIP_OK);
    assert_int_equal(dip_safetensors_open(path, &why, &file), DIP_OK);
    assert_int_equal(dip_safetensors_count(file), 5);
    for (size_t i = 0; i < 5; i++) {
        const struct dip_safetensors_tensor *t = dip_safetensors_find(file, parts[i].name);
        assert_non_null(t);
        assert_string_equal(t->dtype_name, dip_dtype_name(parts[i].dtype));
        assert_int_equal(t->rank, parts[i].rank);
        for (int d = 0; d < t->rank; d++)
            assert_true(t->dims[d] == parts[i].dims[d]);
        if (t->bytes > 0)
            assert_memory_equal(t->data, parts[i].data, t->bytes);
        assert_int_equal((uintptr_t)t->data % dip_dtype_bytes(parts[i].dtype), 0);
    }
    dip_safetensors_close(file);
    assert_int_equal(dip_safetensors_write(scratch_path(&scratch, "no/x"), parts, 1, &why),
                     DIP_NOT_FOUND);
    scratch_close(&scratch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tensors_are_found),
        cmocka_unit_test(dtypes_by_name),
        cmocka_unit_test(no_tensors_is_a_file_too),
        cmocka_unit_test(wrong_fields_are_refused),
        cmocka_unit_test(overlaps_and_duplicates_are_refused),
        cmocka_unit_test(wrong_lengths_are_refused),
        cmocka_unit_test(header_limit),
        cmocka_unit_test(tensor_count_limit),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(every_bit_flip_is_survived),
        cmocka_unit_test(written_files_read_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
