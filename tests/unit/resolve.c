/* tests/unit/resolve.c - requests checked against a model: defaults filled in, wrong ones named. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "coordinator/state.h"

static struct dip_config config;
static struct dip_tokenizer *tokenizer;
static struct dip_served_model model = {&config, NULL, "0123"};
static struct dip_resolved resolved;
static struct dip_why why;

static struct dip_request ask(const char *prompt)
{
    return (struct dip_request){
        .prompt = prompt, .prompt_bytes = prompt ? strlen(prompt) : 0, .image_count = 1};
}

static void assert_refused(const struct dip_request *request, enum dip_status expected,
                           const char *words)
{
    struct dip_resolved untouched = {.width = 77};
    why = (struct dip_why){0};
    assert_int_equal(dip_request_resolve(request, &model, &why, &untouched), expected);
    if (!strstr(why.text, words))
        print_error("says \"%s\", expected \"%s\"\n", why.text, words);
    assert_non_null(strstr(why.text, words));
    assert_int_equal(untouched.width, 77);
}

static void what_is_left_open_is_the_models(void **state)
{
    (void)state;
    struct dip_request request = ask("a dog");
    assert_int_equal(dip_request_resolve(&request, &model, &why, &resolved), DIP_OK);
    assert_int_equal(resolved.params.steps, config.generation.steps);
    assert_int_equal(resolved.params.top_k, config.generation.top_k);
    assert_true(resolved.params.guidance == (float)config.generation.guidance);
    assert_int_equal(resolved.params.token_count, 16);
    assert_int_equal(resolved.width, 16);
    assert_int_equal(resolved.params.latent_height, 4);
    assert_true(resolved.params.seed < UINT64_C(1) << 53);
    assert_string_equal(resolved.prompt, "a dog");
    assert_true(resolved.prompt_ids.bytes > 20 * sizeof(int32_t));
    uint64_t first_seed = resolved.params.seed;
    dip_resolved_deinit(&resolved);
    assert_int_equal(dip_request_resolve(&request, &model, &why, &resolved), DIP_OK);
    assert_true(resolved.params.seed != first_seed);
    dip_resolved_deinit(&resolved);
}

static void numbers_out_of_bounds_are_named(void **state)
{
    (void)state;
    static const struct {
        uint32_t given;
        int steps, top_k;
        double guidance, temperature, top_p;
        const char *words;
    } rows[] = {
        {DIP_GIVEN_STEPS, 0, 0, 0, 0, 0, "steps is 0; it must be 1 to 1000"},
        {DIP_GIVEN_STEPS, 1001, 0, 0, 0, 0, "steps is 1001"},
        {DIP_GIVEN_TOP_K, 0, 396, 0, 0, 0, "top-k is 396; it must be 0 to 395"},
        {DIP_GIVEN_TOP_K, 0, -1, 0, 0, 0, "top-k is -1"},
        {DIP_GIVEN_GUIDANCE, 0, 0, -0.1, 0, 0, "guidance is -0.1"},
        {DIP_GIVEN_GUIDANCE, 0, 0, NAN, 0, 0, "guidance is nan"},
        {DIP_GIVEN_TEMPERATURE, 0, 0, 0, 0, 0, "temperature is 0"},
        {DIP_GIVEN_TOP_P, 0, 0, 0, 0, 1.5, "top-p is 1.5"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct dip_request request = ask("a dog");
        request.given = rows[i].given;
        request.steps = rows[i].steps;
        request.top_k = rows[i].top_k;
        request.guidance = rows[i].guidance;
        request.temperature = rows[i].temperature;
        request.top_p = rows[i].top_p;
        assert_refused(&request, DIP_INVALID, rows[i].words);
    }
    struct dip_request request = ask("a dog");
    request.image_count = 65;
    assert_refused(&request, DIP_INVALID, "the number of images is 65; it must be 1 to 64");
}

static void sizes_follow_the_model(void **state)
{
    (void)state;
    struct dip_request request = ask("a dog");
    request.given = DIP_GIVEN_SIZE;
    request.width = 8;
    request.height = 32;
    assert_int_equal(dip_request_resolve(&request, &model, &why, &resolved), DIP_OK);
    assert_int_equal(resolved.params.latent_width, 2);
    assert_int_equal(resolved.params.latent_height, 8);
    dip_resolved_deinit(&resolved);
    request.width = 10;
    assert_refused(&request, DIP_INVALID, "width is 10; it must be a multiple of 4");
    request.width = 8;
    request.height = 1 << 20;
    assert_refused(&request, DIP_INVALID, "height is 1048576");
}

static void prompts_are_needed_and_bounded(void **state)
{
    (void)state;
    struct dip_request request = ask(NULL);
    assert_refused(&request, DIP_INVALID, "there is no prompt");
    request = ask("");
    assert_refused(&request, DIP_INVALID, "empty");
    char *longest = calloc(1, DIP_PROMPT_BYTES_MAX + 2);
    memset(longest, 'a', DIP_PROMPT_BYTES_MAX + 1);
    request = ask(longest);
    assert_refused(&request, DIP_LIMIT, "at most 16384");
    free(longest);
}

static void previews_need_what_they_need(void **state)
{
    (void)state;
    struct dip_request request = ask("a dog");
    request.preview = DIP_JOB_PREVIEW_DECODED;
    assert_refused(&request, DIP_INVALID, "preview-every is 0");
    request.preview_every = 2;
    assert_int_equal(dip_request_resolve(&request, &model, &why, &resolved), DIP_OK);
    assert_int_equal(resolved.params.preview, DIP_JOB_PREVIEW_DECODED);
    dip_resolved_deinit(&resolved);
    bool has_preview = config.generation.has_preview;
    config.generation.has_preview = false;
    request.preview = DIP_JOB_PREVIEW_LINEAR;
    assert_refused(&request, DIP_UNSUPPORTED, "no linear previews");
    config.generation.has_preview = has_preview;
}

/* The texts are the same for equal requests and end within their memory. */
static void texts_say_how_it_was_made(void **state)
{
    (void)state;
    struct dip_request request = ask("K\xc3\xa4se");
    request.has_metadata = true;
    request.given = DIP_GIVEN_SEED | DIP_GIVEN_TOP_P;
    request.seed = UINT64_MAX;
    request.top_p = 0.95;
    struct dip_payload texts[2];
    for (int i = 0; i < 2; i++) {
        assert_int_equal(dip_request_resolve(&request, &model, &why, &resolved), DIP_OK);
        assert_int_equal(dip__texts_build(&resolved, 3, &texts[i]), DIP_OK);
        dip_resolved_deinit(&resolved);
    }
    assert_int_equal(texts[0].bytes, texts[1].bytes);
    assert_memory_equal(texts[0].data, texts[1].data, texts[0].bytes);
    static const char prompt[] = "prompt\0K\xc3\xa4se", seed[] = "seed\00018446744073709551615",
                      image[] = "image\0003", top_p[] = "top_p\0000.95";
    assert_non_null(memmem(texts[0].data, texts[0].bytes, prompt, sizeof prompt));
    assert_non_null(memmem(texts[0].data, texts[0].bytes, seed, sizeof seed));
    assert_non_null(memmem(texts[0].data, texts[0].bytes, image, sizeof image));
    assert_non_null(memmem(texts[0].data, texts[0].bytes, top_p, sizeof top_p));
    free(texts[0].data);
    free(texts[1].data);
}

static void floats_are_as_short_as_they_can(void **state)
{
    (void)state;
    static const float values[] = {0.95f, 1.0f / 3, 1e-7f, 16777216.0f, 0.1f + 0.2f, 0};
    for (int i = 0; i < 6; i++) {
        char text[DIP_FLOAT_TEXT_BYTES];
        dip_float_text(values[i], text);
        assert_true(strtof(text, NULL) == values[i]);
    }
    char text[DIP_FLOAT_TEXT_BYTES];
    dip_float_text(0.95f, text);
    assert_string_equal(text, "0.95");
}

static int open_model(void **state)
{
    (void)state;
    if (dip_config_load("tests/golden/tiny-a/model", NULL, &config) ||
        dip_tokenizer_open("tests/golden/tiny-a/model/tokenizer.json", NULL, &tokenizer))
        return -1;
    model.tokenizer = tokenizer;
    return 0;
}

static int close_model(void **state)
{
    (void)state;
    dip_tokenizer_close(tokenizer);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_left_open_is_the_models),
        cmocka_unit_test(numbers_out_of_bounds_are_named),
        cmocka_unit_test(sizes_follow_the_model),
        cmocka_unit_test(prompts_are_needed_and_bounded),
        cmocka_unit_test(previews_need_what_they_need),
        cmocka_unit_test(texts_say_how_it_was_made),
        cmocka_unit_test(floats_are_as_short_as_they_can),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
