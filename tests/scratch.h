/* tests/scratch.h - a temporary folder for one test: made, filled, removed. */
#pragma once

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SCRATCH_PATH_BYTES = 512 };

struct scratch {
    char path[64];
};

/* Ends the test program when the machine has no temporary folder: nothing can be tested then. */
static inline struct scratch scratch_open(void)
{
    struct scratch scratch;
    snprintf(scratch.path, sizeof scratch.path, "/tmp/diptych-test-XXXXXX");
    if (!mkdtemp(scratch.path)) {
        perror("mkdtemp");
        exit(1);
    }
    return scratch;
}

/* The path of a file inside; the text lives until the fourth next call. */
static inline const char *scratch_path(const struct scratch *scratch, const char *name)
{
    static char paths[4][SCRATCH_PATH_BYTES];
    static unsigned next;
    char *path = paths[next++ % 4];
    snprintf(path, SCRATCH_PATH_BYTES, "%s/%s", scratch->path, name);
    return path;
}

/* A name with one slash makes that folder too. */
static inline void scratch_write(const struct scratch *scratch, const char *name, const void *data,
                                 size_t bytes)
{
    char path[SCRATCH_PATH_BYTES];
    snprintf(path, sizeof path, "%s/%s", scratch->path, name);
    char *slash = path + strlen(scratch->path) + 1;
    slash = strchr(slash, '/');
    if (slash) {
        *slash = '\0';
        mkdir(path, 0777);
        *slash = '/';
    }
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(data, 1, bytes, file) != bytes || fclose(file) != 0) {
        perror(path);
        exit(1);
    }
}

static inline void scratch_write_text(const struct scratch *scratch, const char *name,
                                      const char *text)
{
    scratch_write(scratch, name, text, strlen(text));
}

/* How many entries a folder has. */
static inline int scratch_entries(const char *path)
{
    int count = 0;
    DIR *folder = opendir(path);
    if (!folder)
        return -1;
    for (const struct dirent *entry; (entry = readdir(folder));)
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(folder);
    return count;
}

static inline void scratch_clear(const char *path)
{
    DIR *folder = opendir(path);
    if (!folder)
        return;
    for (const struct dirent *entry; (entry = readdir(folder));) {
        char inside[SCRATCH_PATH_BYTES];
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        snprintf(inside, sizeof inside, "%.200s/%.255s", path, entry->d_name);
        if (unlink(inside) != 0)
            rmdir(inside); /* folders inside have been cleared by the caller's turn below */
    }
    closedir(folder);
}

/* Two levels deep, which is all that tests make. */
static inline void scratch_close(struct scratch *scratch)
{
    DIR *folder = opendir(scratch->path);
    for (const struct dirent *entry; folder && (entry = readdir(folder));) {
        char inside[SCRATCH_PATH_BYTES];
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        snprintf(inside, sizeof inside, "%s/%.255s", scratch->path, entry->d_name);
        scratch_clear(inside); /* does nothing for a file */
    }
    if (folder)
        closedir(folder);
    scratch_clear(scratch->path);
    rmdir(scratch->path);
}

/* A safetensors file: length, header text, data. */
static inline void scratch_write_safetensors(const struct scratch *scratch, const char *name,
                                             const char *header, const void *data, size_t bytes)
{
    size_t length = strlen(header);
    unsigned char *file = malloc(8 + length + bytes);
    if (!file)
        exit(1);
    for (int i = 0; i < 8; i++)
        file[i] = (unsigned char)((uint64_t)length >> (8 * i));
    memcpy(file + 8, header, length);
    if (bytes > 0)
        memcpy(file + 8 + length, data, bytes);
    scratch_write(scratch, name, file, 8 + length + bytes);
    free(file);
}
