/* tests/e2e/inject.c - traces hold what was used, and what was used can be given back: each part of
 * a trace, injected, reproduces what followed from it, byte for byte. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "model/safetensors.h"

static const char model[] = "tests/golden/tiny-a/model";
static char folder[64];

/* The path of a file in the scratch folder; the last four stay valid. */
static const char *at(const char *name)
{
    static char paths[4][128];
    static int turn;
    char *path = paths[turn++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

/* Exit status of `generate` with the given arguments (NULL ends them); stderr goes to a file. */
static int generate(const char *const *more)
{
    const char *arguments[32] = {DIP_PROGRAM, "generate", "--model", model};
    int count = 4;
    for (int i = 0; more[i]; i++)
        arguments[count++] = more[i];
    pid_t child = fork();
    if (child == 0) {
        if (!freopen("/dev/null", "w", stdout) || !freopen(at("stderr"), "w", stderr))
            _exit(99);
        execv(DIP_PROGRAM, (char *const *)(uintptr_t)arguments);
        _exit(98);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
}

#define generate(...) generate((const char *const[]){__VA_ARGS__, NULL})

static void assert_same_files(const char *a, const char *b)
{
    char *a_data = NULL, *b_data = NULL;
    size_t a_bytes = 0, b_bytes = 0;
    assert_int_equal(dip_file_read(at(a), 1 << 20, NULL, &a_data, &a_bytes), DIP_OK);
    assert_int_equal(dip_file_read(at(b), 1 << 20, NULL, &b_data, &b_bytes), DIP_OK);
    assert_int_equal(a_bytes, b_bytes);
    assert_memory_equal(a_data, b_data, a_bytes);
    free(a_data);
    free(b_data);
}

static struct dip_safetensors *open_trace(const char *name)
{
    struct dip_safetensors *file = NULL;
    assert_int_equal(dip_safetensors_open(at(name), NULL, &file), DIP_OK);
    return file;
}

static const struct dip_safetensors_tensor *tensor(const struct dip_safetensors *file,
                                                   const char *name)
{
    const struct dip_safetensors_tensor *t = dip_safetensors_find(file, name);
    if (!t)
        print_error("the trace lacks %s\n", name);
    assert_non_null(t);
    return t;
}

static void assert_same_tensor(const struct dip_safetensors *a, const struct dip_safetensors *b,
                               const char *name)
{
    const struct dip_safetensors_tensor *x = tensor(a, name), *y = tensor(b, name);
    assert_int_equal(x->bytes, y->bytes);
    assert_memory_equal(x->data, y->data, x->bytes);
}

/* Writes some of a trace's tensors as a file to inject. */
static void extract(const struct dip_safetensors *from, const char *to, const char *const *names)
{
    struct dip_safetensors_part parts[8];
    size_t count = 0;
    for (; names[count]; count++) {
        const struct dip_safetensors_tensor *t = tensor(from, names[count]);
        parts[count] =
            (struct dip_safetensors_part){.name = t->name, .rank = t->rank, .data = t->data};
        assert_true(dip_safetensors_dtype(t->dtype_name, &parts[count].dtype));
        memcpy(parts[count].dims, t->dims, sizeof parts[count].dims);
    }
    assert_int_equal(dip_safetensors_write(at(to), parts, count, NULL), DIP_OK);
}

#define extract(from, to, ...) extract(from, to, (const char *const[]){__VA_ARGS__, NULL})

static void assert_shape(const struct dip_safetensors *file, const char *name, const char *dtype,
                         int rank, int64_t d0, int64_t d1, int64_t d2)
{
    const struct dip_safetensors_tensor *t = tensor(file, name);
    int64_t dims[] = {d0, d1, d2};
    assert_string_equal(t->dtype_name, dtype);
    assert_int_equal(t->rank, rank);
    for (int i = 0; i < rank; i++)
        assert_int_equal(t->dims[i], dims[i]);
}

/* tiny-a: 16 image tokens, H 64, caption 40, latent 8 x 4 x 4, picture 16 x 16. */
static void a_trace_has_every_part(void **state)
{
    (void)state;
    assert_int_equal(
        generate("-o", at("a.png"), "--trace", at("a"), "--seed", "5", "--steps", "3", "a dog"), 0);
    struct dip_safetensors *trace = open_trace("a");
    const struct dip_safetensors_tensor *ids = tensor(trace, "prompt_ids");
    assert_string_equal(ids->dtype_name, "I32");
    assert_int_equal(ids->rank, 1);
    assert_true(ids->dims[0] > 20);
    assert_shape(trace, "image_ids", "I32", 1, 16, 0, 0);
    assert_shape(trace, "hidden", "F32", 2, 17, 64, 0);
    assert_shape(trace, "condition", "F32", 2, 17, 40, 0);
    assert_shape(trace, "noise", "F32", 3, 8, 4, 4);
    for (int i = 0; i < 3; i++) {
        char name[32];
        snprintf(name, sizeof name, "velocity.%d", i);
        assert_shape(trace, name, "F32", 3, 8, 4, 4);
        snprintf(name, sizeof name, "latent.%d", i);
        assert_shape(trace, name, "F32", 3, 8, 4, 4);
    }
    assert_shape(trace, "latent", "F32", 3, 8, 4, 4);
    assert_shape(trace, "image", "U8", 3, 16, 16, 3);
    assert_int_equal(dip_safetensors_count(trace), 7 + 2 * 3);
    dip_safetensors_close(trace);
}

/* The other seed would draw other tokens and other noise: what is injected must win. */
static void hidden_and_noise_give_the_same_file(void **state)
{
    (void)state;
    struct dip_safetensors *trace = open_trace("a");
    extract(trace, "in", "hidden", "noise");
    dip_safetensors_close(trace);
    assert_int_equal(
        generate("-o", at("b.png"), "--inject", at("in"), "--seed", "5", "--steps", "3", "a dog"),
        0);
    assert_same_files("a.png", "b.png");
    assert_int_equal(generate("-o", at("b.png"), "--inject", at("in"), "--trace", at("b"), "--seed",
                              "6", "--steps", "3"), /* no prompt needed */
                     0);
    struct dip_safetensors *a = open_trace("a"), *b = open_trace("b");
    assert_same_tensor(a, b, "latent");
    assert_same_tensor(a, b, "image");
    dip_safetensors_close(a);
    dip_safetensors_close(b);
}

static void image_ids_give_the_same_hidden(void **state)
{
    (void)state;
    struct dip_safetensors *a = open_trace("a");
    extract(a, "in", "image_ids");
    assert_int_equal(generate("-o", at("b.png"), "--inject", at("in"), "--trace", at("b"), "--seed",
                              "77", "--steps", "1", "a dog"),
                     0);
    struct dip_safetensors *b = open_trace("b");
    assert_same_tensor(a, b, "image_ids");
    assert_same_tensor(a, b, "hidden");
    dip_safetensors_close(a);
    dip_safetensors_close(b);
}

static void prompt_ids_replace_the_prompt(void **state)
{
    (void)state;
    struct dip_safetensors *a = open_trace("a");
    extract(a, "in", "prompt_ids");
    dip_safetensors_close(a);
    assert_int_equal(generate("-o", at("b.png"), "--inject", at("in"), "--seed", "5", "--steps",
                              "3", "--no-metadata", "something else"),
                     0);
    assert_int_equal(
        generate("-o", at("c.png"), "--seed", "5", "--steps", "3", "--no-metadata", "a dog"), 0);
    assert_same_files("b.png", "c.png");
}

/* A whole trace may be given back as it is; of several images all use it. */
static void a_whole_trace_is_a_valid_injection(void **state)
{
    (void)state;
    assert_int_equal(
        generate("-o", at("b.png"), "--inject", at("a"), "--seed", "5", "--steps", "3", "a dog"),
        0);
    assert_same_files("a.png", "b.png");
    assert_int_equal(generate("-o", at("d.png"), "--inject", at("a"), "--trace", at("b"), "--seed",
                              "5", "--steps", "3", "-n", "2", "a dog"),
                     0);
    assert_same_files("a.png", "d-0.png");
}

/* Writes one tensor of the given name and shape, and expects a sentence with `words` in it. */
static void refuse(const char *name, enum dip_dtype dtype, int rank, const int64_t *dims,
                   const void *data, const char *words)
{
    char *text = NULL;
    size_t bytes = 0;
    struct dip_safetensors_part part = {.name = name, .dtype = dtype, .rank = rank, .data = data};
    memcpy(part.dims, dims, (size_t)rank * sizeof dims[0]);
    assert_int_equal(dip_safetensors_write(at("bad"), &part, 1, NULL), DIP_OK);
    assert_int_equal(generate("-o", at("bad.png"), "--inject", at("bad"), "a dog"), 1);
    assert_int_equal(dip_file_read(at("stderr"), 1 << 16, NULL, &text, &bytes), DIP_OK);
    if (strncmp(text, "error: ", 7) != 0 || !strstr(text, words))
        print_error("says: %s, expected \"%s\" in it\n", text, words);
    assert_true(strncmp(text, "error: ", 7) == 0 && strstr(text, words) != NULL);
    free(text);
    assert_int_not_equal(access(at("bad.png"), F_OK), 0);
}

static void wrong_shapes_and_values_are_refused(void **state)
{
    (void)state;
    static const float zeros[4096];
    float bad[128] = {0};
    bad[100] = NAN;
    const int32_t ids[16] = {[7] = 395};
    refuse("hidden", DIP_F32, 2, (int64_t[]){17, 63}, zeros, "expected [17, 64]");
    refuse("hidden", DIP_F32, 2, (int64_t[]){18, 64}, zeros, "expected [17, 64]");
    refuse("hidden", DIP_F32, 3, (int64_t[]){1, 17, 64}, zeros, "2 dimensions");
    refuse("hidden", DIP_I32, 2, (int64_t[]){17, 64}, zeros, "expected F32");
    refuse("noise", DIP_F32, 3, (int64_t[]){8, 4, 5}, zeros, "expected [8, 4, 4]");
    refuse("noise", DIP_F32, 3, (int64_t[]){8, 4, 4}, bad, "not finite");
    refuse("image_ids", DIP_I32, 1, (int64_t[]){15}, ids, "15 ids, this model draws 16");
    refuse("image_ids", DIP_I32, 1, (int64_t[]){16}, ids, "id 395 at place 7");
    refuse("image_ids", DIP_F32, 1, (int64_t[]){16}, zeros, "expected I32");
    refuse("prompt_ids", DIP_I32, 1, (int64_t[]){0}, ids, "something in them");
    refuse("noize", DIP_F32, 1, (int64_t[]){4}, zeros, "nothing is called noize");
    refuse("latent", DIP_F32, 1, (int64_t[]){4}, zeros, "holds none of");
}

static int make_folder(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/diptych-inject-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    static const char *const names[] = {"a",     "b",     "in",      "bad",     "a.png",
                                        "b.png", "c.png", "d-0.png", "d-1.png", "stderr"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        unlink(at(names[i]));
    return rmdir(folder); /* fails when something was left behind */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_trace_has_every_part),
        cmocka_unit_test(hidden_and_noise_give_the_same_file),
        cmocka_unit_test(image_ids_give_the_same_hidden),
        cmocka_unit_test(prompt_ids_replace_the_prompt),
        cmocka_unit_test(a_whole_trace_is_a_valid_injection),
        cmocka_unit_test(wrong_shapes_and_values_are_refused),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
