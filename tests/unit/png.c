/* tests/unit/png.c - what dip_png_encode writes is read back by libpng's own reader: pixels, texts,
 * and the same bytes each time. */
#include <png.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "engine/engine.h"

/* Noise in the left half, one colour in the right: both compression strategies have work. */
static unsigned char *picture_new(int width, int height, int noisy_columns)
{
    unsigned char *rgb = calloc((size_t)width * (size_t)height, 3);
    assert_non_null(rgb);
    struct dip_rng_key key = {.seed = 5, .purpose = DIP_RNG_TEST};
    for (int y = 0; y < height; y++)
        for (int x = 0; x < noisy_columns; x++) {
            uint32_t words[4];
            dip_rng_words(&key, (uint64_t)y * (uint64_t)width + (uint64_t)x, words);
            memcpy(rgb + ((size_t)y * (size_t)width + (size_t)x) * 3, words, 3);
        }
    return rgb;
}

static void pixels_survive(int width, int height, int noisy_columns)
{
    unsigned char *rgb = picture_new(width, height, noisy_columns);
    unsigned char *data = NULL;
    size_t bytes = 0;
    assert_int_equal(dip_png_encode(rgb, width, height, NULL, 0, &data, &bytes), DIP_OK);

    png_image image = {.version = PNG_IMAGE_VERSION};
    assert_true(png_image_begin_read_from_memory(&image, data, bytes));
    assert_int_equal(image.width, width);
    assert_int_equal(image.height, height);
    image.format = PNG_FORMAT_RGB;
    unsigned char *back = malloc(PNG_IMAGE_SIZE(image));
    assert_non_null(back);
    assert_true(png_image_finish_read(&image, NULL, back, 0, NULL));
    assert_memory_equal(back, rgb, (size_t)width * (size_t)height * 3);
    free(back);
    free(data);
    free(rgb);
}

static void pixels_survive_every_size(void **state)
{
    (void)state;
    pixels_survive(1, 1, 0);
    pixels_survive(1, 1, 1);
    pixels_survive(7, 3, 7);
    pixels_survive(64, 64, 32);
    pixels_survive(257, 129, 257);
    pixels_survive(8192, 1, 100);
    pixels_survive(1, 8192, 0);
}

struct reading {
    const unsigned char *data;
    size_t left;
};

static void read_some(png_structp png, png_bytep out, png_size_t count)
{
    struct reading *reading = png_get_io_ptr(png);
    if (count > reading->left)
        png_error(png, "short");
    memcpy(out, reading->data, count);
    reading->data += count;
    reading->left -= count;
}

static void texts_survive_in_order(void **state)
{
    (void)state;
    const struct dip_png_text texts[] = {
        {"Software", "diptych 0.1.0"},
        {"prompt", "a red circle,\nsecond line"},
        {"Title", "une cr\xc3\xa8me \xf0\x9f\x8d\xa6"},
        {"empty", ""},
    };
    unsigned char rgb[4 * 4 * 3] = {0};
    unsigned char *data = NULL;
    size_t bytes = 0;
    assert_int_equal(dip_png_encode(rgb, 4, 4, texts, 4, &data, &bytes), DIP_OK);

    png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png_create_info_struct(png);
    struct reading reading = {data, bytes};
    png_set_read_fn(png, &reading, read_some);
    png_read_png(png, info, PNG_TRANSFORM_IDENTITY, NULL);
    png_textp found = NULL;
    int count = 0;
    png_get_text(png, info, &found, &count);
    assert_int_equal(count, 4);
    for (int i = 0; i < count; i++) {
        assert_string_equal(found[i].key, texts[i].key);
        assert_string_equal(found[i].text, texts[i].value);
        assert_int_equal(found[i].compression,
                         i == 2 ? PNG_ITXT_COMPRESSION_NONE : PNG_TEXT_COMPRESSION_NONE);
    }
    assert_int_equal(reading.left, 0);
    png_destroy_read_struct(&png, &info, NULL);
    free(data);
}

static void equal_arguments_give_equal_bytes(void **state)
{
    (void)state;
    unsigned char *rgb = picture_new(300, 200, 150);
    const struct dip_png_text texts[] = {{"seed", "7"}};
    unsigned char *data[2] = {NULL, NULL};
    size_t bytes[2] = {0, 0};
    for (int i = 0; i < 2; i++)
        assert_int_equal(dip_png_encode(rgb, 300, 200, texts, 1, &data[i], &bytes[i]), DIP_OK);
    assert_int_equal(bytes[0], bytes[1]);
    assert_memory_equal(data[0], data[1], bytes[0]);
    free(data[0]);
    free(data[1]);
    free(rgb);
}

/* A flat picture must stay small and a noisy one must not grow by more than a thousandth. */
static void compression_suits_the_picture(void **state)
{
    (void)state;
    for (int noisy = 0; noisy < 2; noisy++) {
        unsigned char *rgb = picture_new(512, 512, noisy ? 512 : 0);
        unsigned char *data = NULL;
        size_t bytes = 0;
        assert_int_equal(dip_png_encode(rgb, 512, 512, NULL, 0, &data, &bytes), DIP_OK);
        assert_true(bytes < (noisy ? 512 * 512 * 3 * 1.002 : 512 * 512 * 3 * 0.01));
        free(data);
        free(rgb);
    }
}

static void text_is_refused(const char *key, const char *value, enum dip_status expected)
{
    unsigned char rgb[3] = {0};
    unsigned char *data = NULL;
    size_t bytes = 0;
    struct dip_png_text text = {key, value};
    assert_int_equal(dip_png_encode(rgb, 1, 1, &text, 1, &data, &bytes), expected);
    assert_null(data);
    assert_int_equal(bytes, 0);
}

static void bad_arguments_are_refused(void **state)
{
    (void)state;
    unsigned char rgb[3] = {0};
    unsigned char *data = NULL;
    size_t bytes = 0;
    const int sizes[][2] = {{0, 1}, {1, 0}, {-1, 1}, {8193, 1}, {1, 8193}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        assert_int_equal(dip_png_encode(rgb, sizes[i][0], sizes[i][1], NULL, 0, &data, &bytes),
                         DIP_LIMIT);
    assert_int_equal(dip_png_encode(rgb, 1, 1, NULL, 65, &data, &bytes), DIP_LIMIT);
    assert_null(data);

    char long_key[81];
    memset(long_key, 'k', sizeof long_key);
    long_key[80] = 0;
    text_is_refused(long_key, "v", DIP_INVALID);
    text_is_refused("", "v", DIP_INVALID);
    text_is_refused(" key", "v", DIP_INVALID);
    text_is_refused("key ", "v", DIP_INVALID);
    text_is_refused("a  b", "v", DIP_INVALID);
    text_is_refused("a\nb", "v", DIP_INVALID);
    text_is_refused("k", "\xff", DIP_INVALID);
    text_is_refused("k", "\xc3", DIP_INVALID);
    text_is_refused("k", "\xc0\xaf", DIP_INVALID);
    text_is_refused("k", "\xed\xa0\x80", DIP_INVALID);
    text_is_refused("k", "\xf4\x90\x80\x80", DIP_INVALID);
    text_is_refused("k", "\xe2\x82", DIP_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pixels_survive_every_size),
        cmocka_unit_test(texts_survive_in_order),
        cmocka_unit_test(equal_arguments_give_equal_bytes),
        cmocka_unit_test(compression_suits_the_picture),
        cmocka_unit_test(bad_arguments_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
