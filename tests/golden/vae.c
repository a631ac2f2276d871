/* tests/golden/vae.c - AutoencoderDC's decoder: pixels and 8-bit pictures. The latent of tiny-c has
 * 8 cells, fewer than its head size, where the reference takes its quadratic attention. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/golden/golden.h"

static const double LIMIT = 1e-5; /* derivation: tests/golden/tiny-a/golden.md */

/* The picture [1, H, W, 3] of a scaled latent. */
static struct dip_tensor decode(struct golden *g, const char *key)
{
    const struct dip_vae *vae = g->model->vae;
    struct dip_tensor latent = golden_load_image(g, key);
    int64_t h = latent.dims[1], w = latent.dims[2], f = g->model->config.vae.factor;
    struct dip_tensor image = golden_rows(g, h * f * w * f, 3);
    image = dip_image(image.data, DIP_F32, 1, h * f, w * f, 3);
    struct dip_arena scratch = golden_scratch(g, dip_vae_scratch_bytes(vae, h, w));
    golden_ok(dip_vae_decode(vae, g->s, image, latent, &scratch), "decode");
    golden_ok(dip_wait(g->s), "wait");
    assert_int_equal(scratch.peak_bytes, scratch.bytes);
    return image;
}

static void pixels(void **state)
{
    struct golden *g = *state;
    golden_close_image(g, "vae/pixels", decode(g, "euler4/latent"), LIMIT);
}

static void check_picture(struct golden *g, const char *latent_key, const char *image_key)
{
    struct dip_tensor image = decode(g, latent_key);
    int64_t rows = image.dims[1] * image.dims[2];
    struct dip_tensor rgb = golden_rows(g, rows, 1); /* 4 bytes each, 3 needed */
    rgb = dip_rows(rgb.data, DIP_U8, rows, 3);
    golden_ok(dip_rgb8(g->s, &(struct dip_rgb8_args){.out = rgb,
                                                     .in = dip_rows(image.data, DIP_F32, rows, 3)}),
              "rgb8");
    unsigned char *got = calloc((size_t)rows, 3);
    assert_non_null(got);
    golden_ok(dip_copy(g->s, dip_rows(got, DIP_U8, rows, 3), rgb), "copy");
    golden_ok(dip_wait(g->s), "wait");

    const unsigned char *want = golden_find(g->file, image_key, "U8")->data;
    int worst = 0, off = 0;
    for (int64_t i = 0; i < rows * 3; i++) {
        int distance = abs(got[i] - want[i]);
        worst = distance > worst ? distance : worst;
        off += distance > 0;
    }
    print_message("%s %s: worst %d levels, %d of %d bytes differ\n", g->variant, image_key, worst,
                  off, (int)rows * 3);
    assert_in_range(worst, 0, golden_is_bf16(g) ? 8 : 1); /* 8 of 255: 30 dB for a single byte */
    free(got);
}

static void pictures(void **state)
{
    struct golden *g = *state;
    check_picture(g, "euler4/latent", "vae/image");
    check_picture(g, "euler30/latent", "euler30/image");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        GOLDEN_TESTS(pixels),
        GOLDEN_TESTS(pictures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
