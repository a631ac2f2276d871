/* cli/manifest.c - see cli/manifest.h. */
#include "cli/manifest.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/assert.h"
#include "base/file.h"
#include "base/limits.h"

enum { TEXT_BYTES_MAX = 2 << 20 };

static enum dip_status add(struct manifest *m, const char *name, struct dip_why *why,
                           struct manifest_entry **ret_entry)
{
    if (m->count == MANIFEST_FILES_MAX)
        return dip_fail(why, DIP_LIMIT, "there are more than %d files", MANIFEST_FILES_MAX);
    if ((m->count & (m->count - 1)) == 0) { /* 0, 1, 2, 4, ...: twice as many places */
        size_t places = m->count > 0 ? 2 * (size_t)m->count : 1;
        struct manifest_entry *more = realloc(m->entries, places * sizeof *more);
        if (!more)
            return dip_fail(why, DIP_NO_MEMORY, "no memory for the list of files");
        m->entries = more;
    }
    struct manifest_entry *entry = &m->entries[m->count++];
    *entry = (struct manifest_entry){0};
    snprintf(entry->name, sizeof entry->name, "%s", name);
    *ret_entry = entry;
    return DIP_OK;
}

static int by_name(const void *a, const void *b)
{
    const struct manifest_entry *left = a, *right = b;
    return strcmp(left->name, right->name);
}

static void sort(struct manifest *m)
{
    if (m->count > 0)
        qsort(m->entries, (size_t)m->count, sizeof *m->entries, by_name);
}

/* ---- from a directory ---- */

static bool ends_in(const char *name, const char *end)
{
    size_t bytes = strlen(name), end_bytes = strlen(end);
    return bytes > end_bytes && strcmp(name + bytes - end_bytes, end) == 0;
}

/* A name that a line of text can hold. */
static bool is_plain(const char *name)
{
    for (const char *c = name; *c; c++)
        if ((unsigned char)*c < ' ' || *c == '\\')
            return false;
    return true;
}

static enum dip_status look_into(const char *directory, const char *folder, struct manifest *m,
                                 struct dip_why *why);

static enum dip_status look_at(const char *directory, const char *folder, const char *item,
                               struct manifest *m, struct dip_why *why)
{
    char name[2 * MANIFEST_NAME_BYTES], path[DIP_PATH_BYTES_MAX];
    struct stat about;
    if (item[0] == '.')
        return DIP_OK;
    int bytes = snprintf(name, sizeof name, "%s%s%s", folder, folder[0] ? "/" : "", item);
    if (bytes >= MANIFEST_NAME_BYTES ||
        snprintf(path, sizeof path, "%s/%s", directory, name) >= (int)sizeof path)
        return dip_fail(why, DIP_LIMIT, "the name %.60s... is too long", name);
    bool is_there = stat(path, &about) == 0;
    if (is_there && S_ISDIR(about.st_mode))
        return folder[0] ? DIP_OK : look_into(directory, item, m, why);
    if (!ends_in(item, ".json") && !ends_in(item, ".safetensors"))
        return DIP_OK;
    if (!is_there) /* a link to nowhere: a download that is not complete */
        return dip_fail(why, DIP_NOT_FOUND, "%s: %s", path, strerror(errno));
    if (!S_ISREG(about.st_mode) || !is_plain(name))
        return dip_fail(why, DIP_INVALID, "%s is not a plain file with a plain name", path);
    struct manifest_entry *entry = NULL;
    return add(m, name, why, &entry);
}

static enum dip_status look_into(const char *directory, const char *folder, struct manifest *m,
                                 struct dip_why *why)
{
    char path[DIP_PATH_BYTES_MAX];
    enum dip_status status = DIP_OK;
    if (snprintf(path, sizeof path, "%s/%s", directory, folder) >= (int)sizeof path)
        return dip_fail(why, DIP_LIMIT, "the path of the model is too long");
    DIR *list = opendir(path);
    if (!list)
        return dip_fail(why, DIP_NOT_FOUND, "%s: %s", folder[0] ? path : directory,
                        strerror(errno));
    for (struct dirent *item; !status && (item = readdir(list)) != NULL;)
        status = look_at(directory, folder, item->d_name, m, why);
    closedir(list);
    return status;
}

static enum dip_status hash(const char *directory, struct manifest_entry *entry,
                            struct dip_why *why)
{
    char path[DIP_PATH_BYTES_MAX];
    struct dip_map map;
    if (snprintf(path, sizeof path, "%s/%s", directory, entry->name) >= (int)sizeof path)
        return dip_fail(why, DIP_LIMIT, "the path of %s is too long", entry->name);
    DIP_TRY(dip_map_open(path, why, &map));
    entry->bytes = map.bytes;
    enum dip_status status =
        dip_sha256_hex(map.data ? map.data : (const void *)"", map.bytes, entry->sha256);
    dip_map_close(&map);
    return status ? dip_fail(why, status, "%s cannot be hashed", path) : DIP_OK;
}

enum dip_status dip__manifest_make(const char *directory, struct dip_why *why,
                                   struct manifest *ret_manifest)
{
    struct manifest m = {0};
    enum dip_status status = look_into(directory, "", &m, why);
    sort(&m);
    for (int i = 0; !status && i < m.count; i++)
        status = hash(directory, &m.entries[i], why);
    if (!status && m.count == 0)
        status =
            dip_fail(why, DIP_NOT_FOUND, "%s holds no .json and no .safetensors files", directory);
    if (status) {
        dip__manifest_free(&m);
        return status;
    }
    *ret_manifest = m;
    return DIP_OK;
}

/* ---- from a file ---- */

/* "HEX  name" or "HEX *name". */
static enum dip_status read_line(char *line, int number, const char *path, struct manifest *m,
                                 struct dip_why *why)
{
    enum { HEX_DIGITS = DIP_SHA256_HEX_BYTES - 1 };
    bool is_good = strspn(line, "0123456789abcdefABCDEF") == HEX_DIGITS &&
                   line[HEX_DIGITS] == ' ' &&
                   (line[HEX_DIGITS + 1] == ' ' || line[HEX_DIGITS + 1] == '*');
    const char *name = is_good ? line + HEX_DIGITS + 2 : "";
    if (strncmp(name, "./", 2) == 0)
        name += 2;
    size_t bytes = strlen(name);
    if (bytes == 0 || bytes >= MANIFEST_NAME_BYTES)
        return dip_fail(why, DIP_CORRUPT,
                        "%s: line %d is not a SHA-256, two spaces and a name of at most %d bytes",
                        path, number, MANIFEST_NAME_BYTES - 1);
    struct manifest_entry *entry = NULL;
    DIP_TRY(add(m, name, why, &entry));
    dip_assert(entry);
    for (int i = 0; i < HEX_DIGITS; i++)
        entry->sha256[i] = (char)tolower((unsigned char)line[i]);
    return DIP_OK;
}

enum dip_status dip__manifest_read(const char *path, struct dip_why *why,
                                   struct manifest *ret_manifest)
{
    struct manifest m = {0};
    char *text = NULL;
    size_t bytes = 0;
    int number = 0;
    DIP_TRY(dip_file_read(path, TEXT_BYTES_MAX, why, &text, &bytes));
    enum dip_status status = DIP_OK;
    for (char *line = text, *next; !status && line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        line[strcspn(line, "\r")] = '\0';
        number++;
        if (line[0] && line[0] != '#')
            status = read_line(line, number, path, &m, why);
    }
    free(text);
    if (!status && m.count == 0)
        status = dip_fail(why, DIP_CORRUPT, "%s lists no file", path);
    if (status) {
        dip__manifest_free(&m);
        return status;
    }
    sort(&m);
    *ret_manifest = m;
    return DIP_OK;
}

/* ---- both ---- */

enum dip_status dip__manifest_compare(const struct manifest *expected, const struct manifest *found,
                                      struct dip_why *why)
{
    int e = 0, f = 0;
    while (e < expected->count || f < found->count) {
        const struct manifest_entry *want = e < expected->count ? &expected->entries[e] : NULL;
        const struct manifest_entry *have = f < found->count ? &found->entries[f] : NULL;
        int order = !want ? 1 : !have ? -1 : strcmp(want->name, have->name);
        if (order < 0)
            return dip_fail(why, DIP_NOT_FOUND, "%s is missing", want->name);
        if (order > 0)
            return dip_fail(why, DIP_CORRUPT, "%s is there and not in the manifest", have->name);
        if (strcmp(want->sha256, have->sha256) != 0)
            return dip_fail(why, DIP_CORRUPT,
                            "%s is not the file of the manifest: its SHA-256 is %s, expected %s",
                            have->name, have->sha256, want->sha256);
        e++;
        f++;
    }
    return DIP_OK;
}

void dip__manifest_print(const struct manifest *manifest, FILE *out)
{
    for (int i = 0; i < manifest->count; i++)
        fprintf(out, "%s  %s\n", manifest->entries[i].sha256, manifest->entries[i].name);
}

void dip__manifest_free(struct manifest *manifest)
{
    free(manifest->entries);
    *manifest = (struct manifest){0};
}
