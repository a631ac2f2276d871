/* base/file.c - whole files: mapped, read with a ceiling, or written all or nothing.
 *
 * A write goes to ".diptych-<pid>-<slot>.tmp" beside its target and is renamed over it when it is
 * complete and on disk. The names of unfinished writes stand in a fixed table so that a signal
 * handler can remove them: it may only read atomics and call unlink. A mapped file that somebody
 * truncates while it is in use ends the process with SIGBUS; files of a model are replaced, not
 * rewritten, by everything that installs them. */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/limits.h"

static enum dip_status fail_errno(struct dip_why *why, const char *path, const char *verb)
{
    int error = errno;
    char buffer[128];
    const char *text = strerror_r(error, buffer, sizeof buffer);
    enum dip_status status = error == ENOENT || error == ENOTDIR ? DIP_NOT_FOUND
                             : error == ENOMEM                   ? DIP_NO_MEMORY
                                                                 : DIP_IO;
    return dip_fail(why, status, "%s: cannot %s: %s", path, verb, text);
}

bool dip_file_exists(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0;
}

/* A descriptor of a regular file and its size. O_NONBLOCK: opening a FIFO must not hang. */
static enum dip_status open_regular(const char *path, struct dip_why *why, int *ret_fd,
                                    size_t *ret_bytes)
{
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return fail_errno(why, path, "open");
    if (fstat(fd, &info) != 0) {
        enum dip_status status = fail_errno(why, path, "stat");
        close(fd);
        return status;
    }
    if (!S_ISREG(info.st_mode)) {
        close(fd);
        return dip_fail(why, DIP_INVALID, "%s: expected a file, found %s", path,
                        S_ISDIR(info.st_mode) ? "a folder" : "something else");
    }
    *ret_fd = fd;
    *ret_bytes = (size_t)info.st_size;
    return DIP_OK;
}

enum dip_status dip_map_open(const char *path, struct dip_why *why, struct dip_map *ret_map)
{
    int fd = -1;
    size_t bytes = 0;
    DIP_TRY(open_regular(path, why, &fd, &bytes));
    enum dip_status status = DIP_OK;
    void *data = NULL;
    if (bytes > 0) {
        data = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
        if (data == MAP_FAILED)
            status = fail_errno(why, path, "map");
    }
    close(fd); /* the mapping keeps the file */
    if (!status)
        *ret_map = (struct dip_map){.data = data, .bytes = bytes};
    return status;
}

void dip_map_close(struct dip_map *map)
{
    if (map->data)
        munmap((void *)(uintptr_t)map->data, map->bytes);
    *map = (struct dip_map){0};
}

/* Wishes, all of them: refusal costs memory or time and nothing else. A region with advice of its
 * own is also the limit of what the kernel maps around a page that is touched, which for large
 * folios is up to 2 MB in either direction. */

void dip_map_rest(const struct dip_map *map)
{
    if (!map->data)
        return;
    void *data = (void *)(uintptr_t)map->data;
    (void)madvise(data, map->bytes, MADV_DONTNEED);
    (void)madvise(data, map->bytes, MADV_RANDOM);
}

void dip_map_expect(const void *data, size_t bytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t first = (uintptr_t)data / page * page;
    uintptr_t end = ((uintptr_t)data + bytes + page - 1) / page * page;
    (void)madvise((void *)first, end - first, MADV_NORMAL);
}

/* Fills at most `bytes` and says how much there was. */
static enum dip_status read_all(int fd, const char *path, char *text, size_t bytes,
                                struct dip_why *why, size_t *ret_bytes)
{
    size_t done = 0;
    while (done < bytes) {
        ssize_t got = read(fd, text + done, bytes - done);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fail_errno(why, path, "read");
        if (got == 0)
            break; /* shorter than it said: the parser will notice */
        done += (size_t)got;
    }
    *ret_bytes = done;
    return DIP_OK;
}

enum dip_status dip_file_read(const char *path, size_t bytes_max, struct dip_why *why,
                              char **ret_text, size_t *ret_bytes)
{
    int fd = -1;
    size_t bytes = 0;
    char *text = NULL;
    enum dip_status status = open_regular(path, why, &fd, &bytes);
    if (status)
        return status;
    if (bytes > bytes_max) {
        status = dip_fail(why, DIP_LIMIT, "%s: is %zu bytes, expected at most %zu", path, bytes,
                          bytes_max);
        goto out;
    }
    text = malloc(bytes + 1);
    if (!text) {
        status = dip_fail(why, DIP_NO_MEMORY, "%s: no memory for its %zu bytes", path, bytes);
        goto out;
    }
    status = read_all(fd, path, text, bytes, why, &bytes);
    if (status)
        goto out;
    text[bytes] = '\0';
    *ret_text = text;
    *ret_bytes = bytes;
    text = NULL; /* the caller owns it now */
out:
    free(text);
    close(fd);
    return status;
}

/* ---- writing ---- */

enum { TEMPORARY_COUNT_MAX = 32 };
enum temporary_state { TEMPORARY_UNUSED, TEMPORARY_TAKEN, TEMPORARY_NAMED };

static struct {
    _Atomic int state; /* enum temporary_state; `name` is valid while NAMED */
    char name[DIP_PATH_BYTES_MAX + 64];
} temporaries[TEMPORARY_COUNT_MAX];

void dip_file_abandon(void)
{
    int error = errno; /* a signal handler leaves errno as it was */
    for (int i = 0; i < TEMPORARY_COUNT_MAX; i++)
        if (atomic_load(&temporaries[i].state) == TEMPORARY_NAMED)
            (void)unlink(temporaries[i].name);
    errno = error;
}

static enum dip_status temporary_take(const char *path, struct dip_why *why, int *ret_index)
{
    const char *slash = strrchr(path, '/');
    int folder_bytes = slash ? (int)(slash - path + 1) : 0;
    if (strlen(path) >= DIP_PATH_BYTES_MAX)
        return dip_fail(why, DIP_LIMIT, "the path %.40s... is longer than %d bytes", path,
                        DIP_PATH_BYTES_MAX - 1);
    for (int i = 0; i < TEMPORARY_COUNT_MAX; i++) {
        int expected = TEMPORARY_UNUSED;
        if (!atomic_compare_exchange_strong(&temporaries[i].state, &expected, TEMPORARY_TAKEN))
            continue;
        snprintf(temporaries[i].name, sizeof temporaries[i].name, "%.*s.diptych-%ld-%d.tmp",
                 folder_bytes, path, (long)getpid(), i);
        atomic_store(&temporaries[i].state, TEMPORARY_NAMED);
        *ret_index = i;
        return DIP_OK;
    }
    return dip_fail(why, DIP_BUSY, "%s: %d files are being written already", path,
                    TEMPORARY_COUNT_MAX);
}

static void temporary_give_back(int index)
{
    atomic_store(&temporaries[index].state, TEMPORARY_UNUSED);
}

static bool write_all(int fd, const char *data, size_t bytes)
{
    while (bytes > 0) {
        ssize_t got = write(fd, data, bytes);
        if (got < 0 && errno != EINTR)
            return false;
        if (got > 0) {
            data += got;
            bytes -= (size_t)got;
        }
    }
    return true;
}

/* What is not a regular file (a terminal, a pipe, /dev/null) cannot be replaced: write into it. */
static enum dip_status write_into(const char *path, const void *data, size_t bytes,
                                  struct dip_why *why)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return fail_errno(why, path, "open for writing");
    enum dip_status status = DIP_OK;
    if (!write_all(fd, data, bytes))
        status = fail_errno(why, path, "write");
    close(fd);
    return status;
}

static enum dip_status write_and_rename(const char *temporary, const char *path, const void *data,
                                        size_t bytes, struct dip_why *why)
{
    enum dip_status status = DIP_OK;
    int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        return fail_errno(why, path, "create");
    if (!write_all(fd, data, bytes) || fsync(fd) != 0)
        status = fail_errno(why, path, "write");
    if (close(fd) != 0 && !status)
        status = fail_errno(why, path, "write");
    if (!status && rename(temporary, path) != 0)
        status = fail_errno(why, path, "replace");
    if (status)
        (void)unlink(temporary);
    return status;
}

enum dip_status dip_file_write(const char *path, const void *data, size_t bytes,
                               struct dip_why *why)
{
    struct stat info;
    bool is_there = stat(path, &info) == 0;
    if (is_there && S_ISDIR(info.st_mode))
        return dip_fail(why, DIP_INVALID, "%s: expected a file to write, found a folder", path);
    if (is_there && !S_ISREG(info.st_mode))
        return write_into(path, data, bytes, why);
    int index = 0;
    DIP_TRY(temporary_take(path, why, &index));
    enum dip_status status = write_and_rename(temporaries[index].name, path, data, bytes, why);
    temporary_give_back(index);
    return status;
}
