/* tests/fuzz/replay.c - the plain driver of a fuzz target: runs every file of the folders given.
 *
 * The same target under libFuzzer explores; here its corpus is a regression test that needs no
 * special compiler. A crash is the failure; the count shows that something ran. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"

enum { INPUT_BYTES_MAX = 1 << 24, PATH_BYTES = 4096 };

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes);

/* Exactly as many bytes as the input has: a sanitizer then sees a look beyond its end. */
static bool run_file(const char *path)
{
    char *text = NULL;
    size_t bytes = 0;
    struct dip_why why = {0};
    if (dip_file_read(path, INPUT_BYTES_MAX, &why, &text, &bytes)) {
        fprintf(stderr, "%s\n", why.text);
        return false;
    }
    unsigned char *exact = malloc(bytes > 0 ? bytes : 1);
    bool is_run = exact != NULL;
    if (is_run) {
        memcpy(exact, text, bytes);
        is_run = LLVMFuzzerTestOneInput(exact, bytes) == 0;
    }
    free(exact);
    free(text);
    return is_run;
}

static void run_folder(const char *folder, int *passed, int *failed)
{
    struct dirent **entries = NULL;
    int count = scandir(folder, &entries, NULL, alphasort);
    if (count < 0) {
        perror(folder);
        (*failed)++;
    }
    for (int i = 0; i < count; i++) {
        char path[PATH_BYTES];
        struct stat info;
        snprintf(path, sizeof path, "%s/%s", folder, entries[i]->d_name);
        if (stat(path, &info) == 0 && S_ISREG(info.st_mode)) {
            if (run_file(path))
                (*passed)++;
            else
                (*failed)++;
        }
        free(entries[i]);
    }
    free(entries);
}

int main(int count, char **arguments)
{
    int passed = 0;
    int failed = 0;
    for (int i = 1; i < count; i++)
        run_folder(arguments[i], &passed, &failed);
    printf("%d passed, %d failed\n", passed, failed);
    return passed > 0 && failed == 0 ? 0 : 1; /* an empty corpus is a mistake */
}
