/* tests/unit/file.c - whole files in, whole files or nothing out; digests; clocks and seeds. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/sha256.h"
#include "tests/scratch.h"

static void maps_hold_the_bytes(void **state)
{
    (void)state;
    struct scratch scratch = scratch_open();
    struct dip_map map = {0};
    struct dip_why why = {0};
    scratch_write(&scratch, "a", "hello", 5);
    scratch_write(&scratch, "empty", "", 0);
    assert_int_equal(dip_map_open(scratch_path(&scratch, "a"), &why, &map), DIP_OK);
    assert_int_equal(map.bytes, 5);
    assert_memory_equal(map.data, "hello", 5);
    dip_map_close(&map);
    assert_null(map.data);
    assert_int_equal(dip_map_open(scratch_path(&scratch, "empty"), &why, &map), DIP_OK);
    assert_int_equal(map.bytes, 0);
    assert_null(map.data);
    dip_map_close(&map);
    scratch_close(&scratch);
}

static void reads_have_a_ceiling(void **state)
{
    (void)state;
    struct scratch scratch = scratch_open();
    struct dip_why why = {0};
    char *text = NULL;
    size_t bytes = 0;
    scratch_write(&scratch, "a", "hello", 5);
    assert_int_equal(dip_file_read(scratch_path(&scratch, "a"), 5, &why, &text, &bytes), DIP_OK);
    assert_int_equal(bytes, 5);
    assert_string_equal(text, "hello");
    free(text);
    text = NULL;
    assert_int_equal(dip_file_read(scratch_path(&scratch, "a"), 4, &why, &text, &bytes), DIP_LIMIT);
    assert_non_null(strstr(why.text, "is 5 bytes, expected at most 4"));
    assert_null(text);
    scratch_close(&scratch);
}

static void absent_and_odd_files_are_named(void **state)
{
    (void)state;
    struct scratch scratch = scratch_open();
    struct dip_map map = {0};
    struct dip_why absent = {0};
    struct dip_why folder = {0};
    struct dip_why fifo = {0};
    assert_int_equal(dip_map_open(scratch_path(&scratch, "none"), &absent, &map), DIP_NOT_FOUND);
    assert_non_null(strstr(absent.text, "none: cannot open: No such file"));
    assert_int_equal(dip_map_open(scratch.path, &folder, &map), DIP_INVALID);
    assert_non_null(strstr(folder.text, "found a folder"));
    assert_int_equal(mkfifo(scratch_path(&scratch, "fifo"), 0600), 0);
    assert_int_equal(dip_map_open(scratch_path(&scratch, "fifo"), &fifo, &map), DIP_INVALID);
    assert_true(dip_file_exists(scratch.path));
    assert_false(dip_file_exists(scratch_path(&scratch, "none")));
    scratch_close(&scratch);
}

static void writes_replace_and_leave_nothing(void **state)
{
    (void)state;
    struct scratch scratch = scratch_open();
    struct dip_why why = {0};
    char *text = NULL;
    size_t bytes = 0;
    assert_int_equal(dip_file_write(scratch_path(&scratch, "out"), "one", 3, &why), DIP_OK);
    assert_int_equal(dip_file_write(scratch_path(&scratch, "out"), "two!", 4, &why), DIP_OK);
    assert_int_equal(dip_file_read(scratch_path(&scratch, "out"), 100, &why, &text, &bytes),
                     DIP_OK);
    assert_string_equal(text, "two!");
    free(text);
    assert_int_equal(scratch_entries(scratch.path), 1);
    scratch_close(&scratch);
}

static void failed_writes_leave_nothing(void **state)
{
    (void)state;
    struct scratch scratch = scratch_open();
    struct dip_why absent = {0};
    struct dip_why folder = {0};
    struct dip_why deep = {0};
    assert_int_equal(dip_file_write(scratch_path(&scratch, "no/out"), "x", 1, &absent),
                     DIP_NOT_FOUND);
    assert_non_null(strstr(absent.text, "no/out: cannot create"));
    assert_int_equal(dip_file_write(scratch.path, "x", 1, &folder), DIP_INVALID);
    char path[DIP_PATH_BYTES_MAX + 10];
    memset(path, 'p', sizeof path - 1);
    path[sizeof path - 1] = '\0';
    assert_int_equal(dip_file_write(path, "x", 1, &deep), DIP_LIMIT);
    assert_int_equal(scratch_entries(scratch.path), 0);
    scratch_close(&scratch);
}

/* A full disk: the write fails half-way and the old file is still there, alone. */
static void full_disk_keeps_the_old_file(void **state)
{
    (void)state;
    struct scratch scratch = scratch_open();
    struct dip_why why = {0};
    scratch_write(&scratch, "out", "old", 3);
    pid_t child = fork();
    if (child == 0) {
        struct rlimit limit = {.rlim_cur = 1000, .rlim_max = 1000};
        char data[4000] = {0};
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &limit);
        _exit(dip_file_write(scratch_path(&scratch, "out"), data, sizeof data, &why) == DIP_IO ? 0
                                                                                               : 1);
    }
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(scratch_entries(scratch.path), 1);
    char *text = NULL;
    size_t bytes = 0;
    assert_int_equal(dip_file_read(scratch_path(&scratch, "out"), 100, &why, &text, &bytes),
                     DIP_OK);
    assert_string_equal(text, "old");
    free(text);
    scratch_close(&scratch);
}

static void abandon_then_exit(int signal_number)
{
    (void)signal_number;
    dip_file_abandon();
    _exit(7);
}

/* A process that writes big files over and over and is interrupted at an arbitrary moment leaves a
 * whole file or none, and no temporary one. */
static void interrupted_writes_leave_nothing(void **state)
{
    (void)state;
    enum { BYTES = 4 << 20 };
    char *data = calloc(1, BYTES);
    assert_non_null(data);
    for (int attempt = 0; attempt < 20; attempt++) {
        struct scratch scratch = scratch_open();
        pid_t child = fork();
        if (child == 0) {
            signal(SIGTERM, abandon_then_exit);
            while (dip_file_write(scratch_path(&scratch, "out"), data, BYTES, NULL) == DIP_OK)
                ;
            _exit(1);
        }
        nanosleep(&(struct timespec){.tv_nsec = 3000000 + attempt * 700000}, NULL);
        kill(child, SIGTERM);
        int status = -1;
        assert_int_equal(waitpid(child, &status, 0), child);
        struct stat info = {.st_size = BYTES};
        bool is_there = stat(scratch_path(&scratch, "out"), &info) == 0;
        assert_int_equal(info.st_size, BYTES);
        assert_int_equal(scratch_entries(scratch.path), is_there ? 1 : 0);
        scratch_close(&scratch);
    }
    free(data);
}

static void devices_are_written_into(void **state)
{
    (void)state;
    struct dip_why why = {0};
    assert_int_equal(dip_file_write("/dev/null", "x", 1, &why), DIP_OK);
    struct stat info;
    assert_int_equal(stat("/dev/null", &info), 0);
    assert_true(S_ISCHR(info.st_mode)); /* not replaced by a file */
}

static void sha256_known_answers(void **state)
{
    (void)state;
    char hex[DIP_SHA256_HEX_BYTES];
    assert_int_equal(dip_sha256_hex("abc", 3, hex), DIP_OK);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_int_equal(dip_sha256_hex("", 0, hex), DIP_OK);
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

static void seeds_are_small_and_differ(void **state)
{
    (void)state;
    uint64_t seeds[8];
    for (int i = 0; i < 8; i++) {
        seeds[i] = dip_entropy_seed();
        assert_true(seeds[i] < UINT64_C(1) << 53);
        for (int j = 0; j < i; j++)
            assert_true(seeds[i] != seeds[j]);
    }
    int64_t before = dip_clock_now_ns();
    assert_true(dip_clock_now_ns() >= before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(maps_hold_the_bytes),
        cmocka_unit_test(reads_have_a_ceiling),
        cmocka_unit_test(absent_and_odd_files_are_named),
        cmocka_unit_test(writes_replace_and_leave_nothing),
        cmocka_unit_test(failed_writes_leave_nothing),
        cmocka_unit_test(full_disk_keeps_the_old_file),
        cmocka_unit_test(interrupted_writes_leave_nothing),
        cmocka_unit_test(devices_are_written_into),
        cmocka_unit_test(sha256_known_answers),
        cmocka_unit_test(seeds_are_small_and_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
