/* tests/unit/options.c - the option table keeps its own rules, and the parser keeps to the table.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cli/options.h"

static const char *variable_name, *variable_value; /* the whole environment */

static const char *environment(const char *name)
{
    return variable_name && strcmp(name, variable_name) == 0 ? variable_value : NULL;
}

static struct arguments arguments;
static struct dip_why why;

static enum dip_status parse(const char *const *words)
{
    const char *argv[16] = {"diptych"};
    int argc = 1;
    for (; words[argc - 1]; argc++)
        argv[argc] = words[argc - 1];
    why = (struct dip_why){0};
    return dip__arguments_parse(argc, argv, environment, &why, &arguments);
}

#define parse(...) parse((const char *const[]){__VA_ARGS__, NULL})

static void assert_refused(enum dip_status status, const char *words)
{
    assert_int_equal(status, DIP_INVALID);
    if (!strstr(why.text, words))
        print_error("says \"%s\", expected \"%s\"\n", why.text, words);
    assert_non_null(strstr(why.text, words));
}

static void rows_are_sound(void **state)
{
    (void)state;
    for (int i = 0; i < dip__option_count; i++) {
        const struct option *a = &dip__options[i];
        assert_true(strlen(a->name) > 1 && strlen(a->help) > 5);
        assert_true(a->commands != 0);
        assert_true(a->help[strlen(a->help) - 1] != '.');
        assert_int_equal(a->value == NULL, a->type == OPTION_FLAG);
        assert_false(a->standard && a->standard_help);
        if (a->type == OPTION_INT || a->type == OPTION_REAL || a->type == OPTION_SIZE)
            assert_true(a->min < a->max);
        for (int j = 0; j < i; j++) {
            const struct option *b = &dip__options[j];
            assert_string_not_equal(a->name, b->name);
            assert_int_not_equal(a->offset, b->offset);
            assert_true(a->letter == 0 || a->letter != b->letter);
        }
    }
}

static void defaults_come_from_the_table(void **state)
{
    (void)state;
    assert_int_equal(parse("generate", "x"), DIP_OK);
    assert_int_equal(arguments.command, COMMAND_GENERATE);
    assert_string_equal(arguments.operand, "x");
    assert_string_equal(arguments.options.output, "out.png");
    assert_string_equal(arguments.options.backend, "auto");
    assert_int_equal(arguments.options.images, 1);
    assert_null(arguments.options.model);
    for (int i = 0; i < dip__option_count; i++)
        assert_false(arguments.options.given[i]);
    assert_false(dip__is_given(&arguments.options, &arguments.options.images));
}

static void every_spelling_is_read(void **state)
{
    (void)state;
    const struct options *o = &arguments.options;
    assert_int_equal(parse("generate", "-n3", "--seed=18446744073709551615", "--size", "64X32",
                           "--guidance", "1.5e0", "--sampler", "dpm++", "--json", "--", "-x"),
                     DIP_OK);
    assert_int_equal(o->images, 3);
    assert_true(o->seed == UINT64_MAX);
    assert_int_equal(o->size[0], 64);
    assert_int_equal(o->size[1], 32);
    assert_true(o->guidance == 1.5);
    assert_int_equal(o->sampler, SAMPLER_DPM);
    assert_true(o->json && !o->show);
    assert_string_equal(arguments.operand, "-x");
    assert_true(dip__is_given(o, &o->size) && dip__is_given(o, &o->seed));
    assert_false(dip__is_given(o, &o->steps));
}

static void bounds_are_kept(void **state)
{
    (void)state;
    assert_int_equal(parse("generate", "--steps", "1"), DIP_OK);
    assert_int_equal(parse("generate", "--steps", "1000"), DIP_OK);
    assert_refused(parse("generate", "--steps", "0"), "from 1 to 1000");
    assert_refused(parse("generate", "--steps", "1001"), "--steps is \"1001\"");
    assert_refused(parse("generate", "--steps", ""), "--steps is \"\"");
    assert_refused(parse("generate", "--steps", " 5"), "--steps is \" 5\"");
    assert_refused(parse("generate", "--steps", "0x5"), "--steps");
    assert_refused(parse("generate", "--steps", "5.0"), "--steps");
    assert_refused(parse("generate", "--top-p", "nan"), "--top-p is \"nan\"");
    assert_refused(parse("generate", "--top-p", "1.0001"), "--top-p");
    assert_refused(parse("generate", "--seed", "+1"), "--seed");
    assert_refused(parse("generate", "--size", "64x"), "WIDTHxHEIGHT");
    assert_refused(parse("generate", "--size", "64x64x64"), "WIDTHxHEIGHT");
    assert_refused(parse("generate", "--size", "64x99999999999999999999"), "WIDTHxHEIGHT");
    assert_refused(parse("generate", "--progress", "auto|always"), "one of auto|always|never");
    assert_refused(parse("generate", "--progress", ""), "--progress");
    assert_refused(parse("generate", "--model", ""), "--model is empty");
}

static void unknown_words_get_a_suggestion(void **state)
{
    (void)state;
    assert_refused(parse("generate", "--sted", "1"), "did you mean --seed?");
    assert_refused(parse("generate", "--thread=1"), "did you mean --threads?");
    assert_refused(parse("generate", "--zzzzzzzz"), "there is no option --zzzzzzzz");
    assert_null(strstr(why.text, "did you mean"));
    assert_refused(parse("inspect", "--steps", "1"), "inspect does not take --steps");
    assert_refused(parse("inspct"), "did you mean inspect?");
    assert_refused(parse("inspect", "x"), "takes no operand");
    assert_refused(parse("tokenize", "x", "y"), "found \"y\" as well");
    assert_refused(parse("bench"), "bench needs one of ar|diffusion");
}

static void suggestions_are_the_closest(void **state)
{
    (void)state;
    const char *const names[] = {"steps", "seed", "size", "show"};
    assert_string_equal(dip__suggest("setps", names, 4), "steps"); /* a swap is one slip */
    assert_string_equal(dip__suggest("seeed", names, 4), "seed");
    assert_string_equal(dip__suggest("sho", names, 4), "show");
    assert_null(dip__suggest("temperature", names, 4));
    assert_null(dip__suggest("", names, 0));
    char longest[4096];
    memset(longest, 's', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    assert_null(dip__suggest(longest, names, 4));
}

static void the_environment_stands_behind_flags(void **state)
{
    (void)state;
    variable_name = "DIPTYCH_TOP_K";
    variable_value = "7";
    assert_int_equal(parse("generate", "x"), DIP_OK);
    assert_int_equal(arguments.options.top_k, 7);
    assert_true(dip__is_given(&arguments.options, &arguments.options.top_k));
    assert_int_equal(parse("generate", "--top-k", "9"), DIP_OK);
    assert_int_equal(arguments.options.top_k, 9);
    assert_int_equal(parse("inspect"), DIP_OK); /* another command's variable is no mistake */
    variable_value = "seven";
    assert_refused(parse("generate", "x"), "DIPTYCH_TOP_K is \"seven\"");
    variable_name = "DIPTYCH_JSON";
    variable_value = "maybe";
    assert_refused(parse("generate", "x"), "DIPTYCH_JSON is \"maybe\"");
    variable_value = "off";
    assert_int_equal(parse("generate", "x"), DIP_OK);
    assert_false(arguments.options.json);
    variable_name = "DIPTYCH_HELP";
    variable_value = "1";
    assert_int_equal(parse("generate", "x"), DIP_OK);
    assert_false(arguments.options.help);
    variable_name = NULL;
}

static void asking_for_help_needs_nothing_else(void **state)
{
    (void)state;
    assert_int_equal(parse("tokenize", "--help"), DIP_OK);
    assert_true(arguments.options.help);
    assert_int_equal(parse("--version"), DIP_OK);
    assert_true(arguments.options.version);
    const char *const nothing[] = {"diptych", NULL};
    assert_int_equal(dip__arguments_parse(1, nothing, environment, &why, &arguments), DIP_OK);
    assert_int_equal(arguments.command, COMMAND_HELP);
    assert_int_equal(dip__arguments_parse(0, nothing, environment, &why, &arguments), DIP_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_sound),
        cmocka_unit_test(defaults_come_from_the_table),
        cmocka_unit_test(every_spelling_is_read),
        cmocka_unit_test(bounds_are_kept),
        cmocka_unit_test(unknown_words_get_a_suggestion),
        cmocka_unit_test(suggestions_are_the_closest),
        cmocka_unit_test(the_environment_stands_behind_flags),
        cmocka_unit_test(asking_for_help_needs_nothing_else),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
