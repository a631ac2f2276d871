/* base/metrics_merge.c - pages of processes that have the same table, as one page.
 *
 * All pages have the same families in the same order, each with its heading, also without a series:
 * so the first page that is there leads, and the others are read beside it. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/metrics.h"

static const char *line_end(const char *line)
{
    const char *end = strchr(line, '\n');
    return end ? end + 1 : line + strlen(line);
}

/* One sample: name{a="b"} 1, or name 1. */
static void put_sample(FILE *out, const char *line, const char *label, int number)
{
    size_t name = strcspn(line, "{ \n");
    const char *rest = line + name;
    fprintf(out, "%.*s{%s=\"%d\"%s", (int)name, line, label, number, *rest == '{' ? "," : "}");
    rest += *rest == '{';
    fwrite(rest, 1, (size_t)(line_end(rest) - rest), out);
}

/* The samples of the family whose heading is at *at; the next heading afterwards. */
static void put_family(FILE *out, const char **at, const char *label, int number)
{
    const char *line = line_end(line_end(*at)); /* help and type */
    for (; *line && *line != '#'; line = line_end(line))
        put_sample(out, line, label, number);
    *at = line;
}

static bool has_same_heading(const char *a, const char *b)
{
    size_t bytes = (size_t)(line_end(a) - a);
    return strncmp(a, b, bytes) == 0;
}

static void merge(FILE *out, const char **at, int page_count, const char *label, int lead)
{
    while (*at[lead]) {
        const char *heading = at[lead];
        fwrite(heading, 1, (size_t)(line_end(line_end(heading)) - heading), out);
        for (int i = 0; i < page_count; i++)
            if (at[i] && has_same_heading(heading, at[i]))
                put_family(out, &at[i], label, i);
    }
}

enum dip_status dip_metrics_merge(const char *const *pages, int page_count, const char *label,
                                  char **ret_text, size_t *ret_bytes)
{
    int lead = 0;
    while (lead < page_count && !pages[lead])
        lead++;
    if (lead == page_count)
        return DIP_NOT_FOUND;
    const char **at = calloc((size_t)page_count, sizeof *at);
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = at ? open_memstream(&text, &bytes) : NULL;
    if (!out) {
        free(at);
        return DIP_NO_MEMORY;
    }
    memcpy(at, pages, (size_t)page_count * sizeof *at);
    merge(out, at, page_count, label, lead);
    free(at);
    bool is_whole = !ferror(out);
    if (fclose(out) != 0 || !is_whole) {
        free(text);
        return DIP_NO_MEMORY;
    }
    *ret_text = text;
    *ret_bytes = bytes;
    return DIP_OK;
}
