/* tests/unit/model.c - the front door of model/: what opens, what is refused and how, the linear
 * preview. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "model/model.h"

static void tiny_models_open_whole(void **state)
{
    (void)state;
    static const char *const directories[] = {
        "tests/golden/tiny-a/model", "tests/golden/tiny-b/model", "tests/golden/tiny-c/model"};
    char digests[3][65];
    for (int i = 0; i < 3; i++) {
        struct dip_why why = {0};
        struct dip_model *model = NULL;
        if (dip_model_open(directories[i], &why, &model))
            fail_msg("%s", why.text);
        assert_non_null(model->tokenizer);
        assert_non_null(model->ar);
        assert_non_null(model->connector);
        assert_non_null(model->dit);
        assert_non_null(model->vae);
        assert_int_equal(strlen(model->digest), 64);
        memcpy(digests[i], model->digest, sizeof digests[i]);
        dip_model_close(model);
    }
    assert_string_not_equal(digests[0], digests[1]);
    assert_string_not_equal(digests[0], digests[2]);
    dip_model_close(NULL);
}

/* A worker of one role opens its half; what it is a half of is said by the digest. */
static void half_a_model_is_the_same_model(void **state)
{
    (void)state;
    static const char directory[] = "tests/golden/tiny-a/model";
    struct dip_model *whole = NULL, *ar = NULL, *diffusion = NULL;
    assert_int_equal(dip_model_open(directory, NULL, &whole), DIP_OK);
    assert_int_equal(dip_model_open_parts(directory, DIP_MODEL_AR, NULL, &ar), DIP_OK);
    assert_int_equal(dip_model_open_parts(directory, DIP_MODEL_DIFFUSION, NULL, &diffusion),
                     DIP_OK);
    assert_true(ar->ar && !ar->connector && !ar->dit && !ar->vae && !ar->tokenizer);
    assert_true(!diffusion->ar && diffusion->connector && diffusion->dit && diffusion->vae &&
                !diffusion->tokenizer);
    assert_string_equal(ar->digest, whole->digest);
    assert_string_equal(diffusion->digest, whole->digest);
    dip_model_close(whole);
    dip_model_close(ar);
    dip_model_close(diffusion);
}

static void what_is_no_model_is_refused_in_a_sentence(void **state)
{
    (void)state;
    struct dip_model *model = NULL;
    struct dip_why absent = {0}, other = {0};
    assert_int_equal(dip_model_open("tests/golden/no-such-model", &absent, &model), DIP_NOT_FOUND);
    assert_non_null(strstr(absent.text, "no-such-model"));
    assert_int_not_equal(dip_model_open("tests/golden/schedules", &other, &model), DIP_OK);
    assert_non_null(strstr(other.text, "tests/golden/schedules"));
    assert_null(model);

    char directory[DIP_PATH_BYTES_MAX + 8];
    memset(directory, 'd', sizeof directory - 1);
    directory[sizeof directory - 1] = '\0';
    struct dip_why why = {0};
    assert_int_not_equal(dip_model_open(directory, &why, &model), DIP_OK);
    assert_true(strlen(why.text) > 0);
    assert_null(model);
}

static void unknown_shapes_are_refused(void **state)
{
    (void)state;
    struct dip_model *model = NULL;
    struct dip_why why = {0};
    assert_int_equal(dip_model_random("no-such-shape", 1, &why, &model), DIP_NOT_FOUND);
    assert_non_null(strstr(why.text, "qwen3-0.6b"));
    assert_null(model);
}

static void previews_are_the_linear_map(void **state)
{
    (void)state;
    struct dip_model *model = NULL;
    unsigned char rgb[2 * 3] = {7, 7, 7, 7, 7, 7};
    float latent[2 * 8] = {0};
    assert_int_equal(dip_model_open("tests/golden/tiny-a/model", NULL, &model), DIP_OK);
    assert_int_equal(dip_model_preview(model, latent, 1, 2, rgb), DIP_UNSUPPORTED);
    assert_int_equal(rgb[0], 7);

    struct dip_generation_config *g = &model->config.generation;
    g->has_preview = true;
    g->preview_bias[0] = 0.5f;
    g->preview_bias[1] = 0.5f;
    g->preview_rgb[3][1] = 0.25f;
    g->preview_rgb[7][2] = 1.0f;
    latent[3] = 1.0f; /* first cell: green 0.75, blue 0.1 */
    latent[7] = 0.1f;
    latent[8 + 3] = -9.0f; /* second cell: green below the range, blue above */
    latent[8 + 7] = 2.0f;
    assert_int_equal(dip_model_preview(model, latent, 1, 2, rgb), DIP_OK);
    static const unsigned char want[6] = {128, 191, 26, 128, 0, 255};
    assert_memory_equal(rgb, want, sizeof want);

    latent[7] = NAN;
    assert_int_equal(dip_model_preview(model, latent, 1, 2, rgb), DIP_OK);
    assert_int_equal(rgb[2], 0);
    dip_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tiny_models_open_whole),
        cmocka_unit_test(half_a_model_is_the_same_model),
        cmocka_unit_test(what_is_no_model_is_refused_in_a_sentence),
        cmocka_unit_test(unknown_shapes_are_refused),
        cmocka_unit_test(previews_are_the_linear_map),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
