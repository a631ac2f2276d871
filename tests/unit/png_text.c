/* tests/unit/png_text.c - texts put into a finished file give the bytes of an encoder that knew
 * them from the start. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "coordinator/png_text.h"
#include "engine/engine.h"

enum { WIDTH = 33, HEIGHT = 17, TEXTS = 5 };

static const struct dip_png_text texts[TEXTS] = {
    {"Software", "diptych"},
    {"prompt", "a red apple\nbeside a blue bowl"},
    {"prompt", "\xe7\xba\xa2\xe8\x8b\xb9\xe6\x9e\x9c, caf\xc3\xa9"}, /* not ASCII: iTXt */
    {"tab", "a\tb"},                                                 /* a control character, too */
    {"seed", "18446744073709551615"},
};

static struct dip_payload encode(const struct dip_png_text *with, int count)
{
    unsigned char rgb[WIDTH * HEIGHT * 3], *data = NULL;
    struct dip_payload png = {0};
    for (size_t i = 0; i < sizeof rgb; i++)
        rgb[i] = (unsigned char)(i * 37);
    assert_int_equal(dip_png_encode(rgb, WIDTH, HEIGHT, with, count, &data, &png.bytes), DIP_OK);
    png.data = data;
    return png;
}

/* key, zero, value, zero, ... */
static struct dip_payload pairs(int count)
{
    struct dip_payload packed = {.data = calloc(1, 4096)};
    assert_non_null(packed.data);
    for (int i = 0; i < count; i++) {
        const char *parts[2] = {texts[i].key, texts[i].value};
        for (int j = 0; j < 2; j++) {
            memcpy((char *)packed.data + packed.bytes, parts[j], strlen(parts[j]) + 1);
            packed.bytes += strlen(parts[j]) + 1;
        }
    }
    return packed;
}

static void inserted_texts_are_the_encoders_bytes(void **state)
{
    (void)state;
    for (int count = 0; count <= TEXTS; count++) {
        struct dip_payload bare = encode(NULL, 0), whole = encode(texts, count);
        struct dip_payload packed = pairs(count), made = {0};
        assert_int_equal(dip__png_text_insert(&bare, &packed, &made), DIP_OK);
        assert_int_equal(made.bytes, whole.bytes);
        assert_memory_equal(made.data, whole.data, whole.bytes);
        free(bare.data);
        free(whole.data);
        free(packed.data);
        free(made.data);
    }
}

static void a_pair_that_is_cut_is_left_out(void **state)
{
    (void)state;
    struct dip_payload bare = encode(NULL, 0), whole = encode(texts, 1);
    struct dip_payload packed = pairs(2), made = {0};
    packed.bytes--; /* the second value has lost its end */
    assert_int_equal(dip__png_text_insert(&bare, &packed, &made), DIP_OK);
    assert_int_equal(made.bytes, whole.bytes);
    assert_memory_equal(made.data, whole.data, whole.bytes);
    free(bare.data);
    free(whole.data);
    free(packed.data);
    free(made.data);
}

static void what_is_no_png_is_refused(void **state)
{
    (void)state;
    struct dip_payload packed = pairs(1), made = {0};
    struct dip_payload bare = encode(NULL, 0);
    const size_t head_bytes = 33;
    for (size_t bytes = 0; bytes < head_bytes; bytes++)
        assert_int_equal(
            dip__png_text_insert(&(struct dip_payload){bare.data, bytes}, &packed, &made),
            DIP_CORRUPT);
    ((unsigned char *)bare.data)[1] = 'J';
    assert_int_equal(dip__png_text_insert(&bare, &packed, &made), DIP_CORRUPT);
    assert_null(made.data);
    free(bare.data);
    free(packed.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(inserted_texts_are_the_encoders_bytes),
        cmocka_unit_test(a_pair_that_is_cut_is_left_out),
        cmocka_unit_test(what_is_no_png_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
