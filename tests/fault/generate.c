/* tests/fault/generate.c - `generate` when memory or the disk runs out, at every stage: an exit
 * status of 1, one sentence, no crash, no hang and no file left behind.
 *
 * The program's allocator is this file's: malloc, calloc, realloc and posix_memalign count their
 * calls, in every library too, and fail the nth. A child process runs the whole program in its
 * memory for each n (sampled, so that the test stays short). Under the address sanitizer a leak on
 * any of these paths fails the child at its exit. */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/sha256.h"
#include "cli/cli.h"

/* ---- the allocator ---- */

static struct {
    void *(*malloc)(size_t);
    void *(*calloc)(size_t, size_t);
    void *(*realloc)(void *, size_t);
    int (*posix_memalign)(void **, size_t, size_t);
    void *(*aligned_alloc)(size_t, size_t);
    void (*free)(void *);
} real;

static _Atomic long call_count;
static _Atomic long fail_at; /* 0 = never */

/* What asks for memory before the real functions are known: dlsym itself. Never given back. */
static _Alignas(64) unsigned char early[1 << 16];
static size_t early_bytes;

static void *early_take(size_t bytes)
{
    size_t first = early_bytes;
    early_bytes += (bytes + 63) / 64 * 64;
    if (early_bytes > sizeof early)
        abort();
    return early + first;
}

static int is_early(const void *memory)
{
    const unsigned char *at = memory;
    return at >= early && at < early + sizeof early;
}

static void find_real(void)
{
    static int is_finding;
    if (real.free || is_finding)
        return;
    is_finding = 1;
    *(void **)&real.malloc = dlsym(RTLD_NEXT, "malloc");
    *(void **)&real.calloc = dlsym(RTLD_NEXT, "calloc");
    *(void **)&real.realloc = dlsym(RTLD_NEXT, "realloc");
    *(void **)&real.posix_memalign = dlsym(RTLD_NEXT, "posix_memalign");
    *(void **)&real.aligned_alloc = dlsym(RTLD_NEXT, "aligned_alloc");
    *(void **)&real.free = dlsym(RTLD_NEXT, "free");
    is_finding = 0;
}

static int must_fail(void)
{
    long call = atomic_fetch_add(&call_count, 1) + 1;
    if (call != atomic_load(&fail_at))
        return 0;
    errno = ENOMEM;
    return 1;
}

__attribute__((visibility("default"))) void *malloc(size_t bytes)
{
    find_real();
    if (!real.free)
        return early_take(bytes);
    return must_fail() ? NULL : real.malloc(bytes);
}

__attribute__((visibility("default"))) void *calloc(size_t count, size_t bytes)
{
    find_real();
    if (!real.free)
        return early_take(count * bytes); /* zero, as it was never used */
    return must_fail() ? NULL : real.calloc(count, bytes);
}

__attribute__((visibility("default"))) void *realloc(void *memory, size_t bytes)
{
    find_real();
    if (must_fail())
        return NULL;
    if (!is_early(memory))
        return real.realloc(memory, bytes);
    void *copy = real.malloc(bytes);
    size_t left = (size_t)(early + sizeof early - (unsigned char *)memory);
    return copy ? memcpy(copy, memory, bytes < left ? bytes : left) : NULL;
}

__attribute__((visibility("default"))) int posix_memalign(void **ret, size_t align, size_t bytes)
{
    find_real();
    return must_fail() ? ENOMEM : real.posix_memalign(ret, align, bytes);
}

__attribute__((visibility("default"))) void *aligned_alloc(size_t align, size_t bytes)
{
    find_real();
    return must_fail() ? NULL : real.aligned_alloc(align, bytes);
}

__attribute__((visibility("default"))) void free(void *memory)
{
    find_real();
    if (!is_early(memory))
        real.free(memory);
}

/* ---- runs ---- */

enum { RUN_SECONDS_MAX = 60, REPORT_BYTES_MAX = 4096 };

static char folder[64];
static char output[128], trace[128], previews[128];
static long *counted; /* shared with the children: how many allocations a run made */

static const char *no_environment(const char *name)
{
    (void)name;
    return NULL;
}

struct outcome {
    int status; /* exit status, or 100 + signal */
    char report[REPORT_BYTES_MAX];
};

/* The program in a child whose nth allocation fails, or whose files may not grow beyond a size. */
static struct outcome run(long n, rlim_t file_bytes_max)
{
    struct outcome outcome = {0};
    int pipes[2];
    assert_int_equal(pipe(pipes), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        const char *arguments[] = {"diptych", "generate",    "--model", "tests/golden/tiny-a/model",
                                   "-o",      output,        "--seed",  "4",
                                   "-n",      "2",           "--trace", trace,
                                   "--json",  "--threads",   "2",       "--previews",
                                   previews,  "a red circle"};
        alarm(RUN_SECONDS_MAX);
        for (int i = 0; i < 5; i++) /* cmocka would take a crash for its own */
            signal((int[]){SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL}[i], SIG_DFL);
        if (!freopen("/dev/null", "w", stdout) || dup2(pipes[1], STDERR_FILENO) < 0)
            _exit(99);
        struct rlimit limit = {file_bytes_max, file_bytes_max};
        if (file_bytes_max > 0) {
            signal(SIGXFSZ, SIG_IGN);
            setrlimit(RLIMIT_FSIZE, &limit);
        }
        atomic_store(&call_count, 0);
        atomic_store(&fail_at, n);
        int status = dip_cli_run(sizeof arguments / sizeof arguments[0], arguments, no_environment);
        *counted = atomic_load(&call_count);
        atomic_store(&fail_at, 0);
        exit(status);
    }
    close(pipes[1]);
    size_t bytes = 0;
    ssize_t got;
    while (bytes + 1 < sizeof outcome.report &&
           (got = read(pipes[0], outcome.report + bytes, sizeof outcome.report - 1 - bytes)) > 0)
        bytes += (size_t)got;
    close(pipes[0]);
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
    return outcome;
}

/* ---- what a run left ---- */

/* Removes everything in the folder; counts files that are not whole. */
static int sweep(const char *path)
{
    int broken_count = 0;
    DIR *directory = opendir(path);
    assert_non_null(directory);
    for (struct dirent *entry; (entry = readdir(directory));) {
        char name[512];
        if (entry->d_name[0] == '.' && (!entry->d_name[1] || !strcmp(entry->d_name, "..")))
            continue;
        snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        if (strcmp(name, previews) == 0) {
            broken_count += sweep(previews);
            rmdir(previews);
            continue;
        }
        FILE *file = fopen(name, "rb");
        assert_non_null(file);
        char tail[8] = "";
        if (strstr(entry->d_name, ".png") &&
            (fseek(file, -8, SEEK_END) || fread(tail, 1, 4, file) != 4 || memcmp(tail, "IEND", 4)))
            broken_count++;
        fclose(file);
        if (strstr(entry->d_name, ".tmp"))
            broken_count++;
        unlink(name);
    }
    closedir(directory);
    return broken_count;
}

/* The sanitizer's own start of a thread needs memory, and it gives up loudly without. */
static int is_sanitizers_own(const struct outcome *outcome)
{
    return strstr(outcome->report, "CHECK failed: sanitizer_linux") != NULL;
}

/* 1 when the run ended as it should not have. */
static int check(const char *what, long n, const struct outcome *outcome)
{
    int broken_count = sweep(folder);
    int is_sentence = strncmp(outcome->report, "error: ", 7) == 0 && strlen(outcome->report) > 12;
    int is_good =
        broken_count == 0 && (outcome->status == 0 || (outcome->status == 1 && is_sentence));
    if (is_sanitizers_own(outcome))
        return 0;
    if (!is_good)
        print_error("%s %ld: status %d, %d broken files, says: %s\n", what, n, outcome->status,
                    broken_count, outcome->report);
    return !is_good;
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
#ifdef __SANITIZE_THREAD__
    skip(); /* its runtime replaces the allocator that this test replaces */
#endif
    struct outcome outcome = run(0, 0);
    assert_int_equal(check("no failure,", 0, &outcome), 0);
    assert_int_equal(outcome.status, 0);
    long total = *counted;
    assert_true(total > 100);
    int failed_count = 0, bad_count = 0;
    /* Each of the first and of the last few, where set-up and the request are, and a sample of the
     * many that loading makes. */
    long stride = total / 150 + 1;
    for (long n = 1; n <= total; n += n < 40 || n > total - 260 ? 1 : stride) {
        outcome = run(n, 0);
        bad_count += check("allocation", n, &outcome);
        failed_count += outcome.status == 1;
    }
    print_message("%ld allocations, %d of the runs failed as they should\n", total, failed_count);
    assert_int_equal(bad_count, 0);
    assert_true(failed_count > 100);
}

static void every_file_may_be_too_big(void **state)
{
    (void)state;
    int failed_count = 0, bad_count = 0;
    for (rlim_t bytes = 1; bytes < 40000; bytes = bytes * 3 / 2 + 1) {
        struct outcome outcome = run(0, bytes);
        bad_count += check("file size", (long)bytes, &outcome);
        failed_count += outcome.status == 1;
    }
    assert_int_equal(bad_count, 0);
    assert_true(failed_count > 3);
}

static int make_folder(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/diptych-fault-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    snprintf(output, sizeof output, "%s/out.png", folder);
    snprintf(trace, sizeof trace, "%s/trace", folder);
    snprintf(previews, sizeof previews, "%s/previews", folder);
    counted =
        mmap(NULL, sizeof *counted, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return counted == MAP_FAILED ? -1 : 0;
}

static int remove_folder(void **state)
{
    (void)state;
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(every_file_may_be_too_big),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
