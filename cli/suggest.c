/* cli/suggest.c - the known name closest to a mistyped one.
 *
 * Distance: insertions, deletions, substitutions and swaps of neighbours, each one (Damerau 1964,
 * restricted form). */
#include <string.h>

#include "cli/options.h"

enum { WORD_BYTES_MAX = 32 };

static int min_int(int a, int b)
{
    return a < b ? a : b;
}

/* WORD_BYTES_MAX when one of them is too long to be a slip. */
static int distance(const char *a, const char *b)
{
    int rows[3][WORD_BYTES_MAX + 1];
    int a_bytes = (int)strnlen(a, WORD_BYTES_MAX), b_bytes = (int)strnlen(b, WORD_BYTES_MAX);
    if (a_bytes == WORD_BYTES_MAX || b_bytes == WORD_BYTES_MAX)
        return WORD_BYTES_MAX;
    for (int j = 0; j <= b_bytes; j++)
        rows[0][j] = j;
    for (int i = 1; i <= a_bytes; i++) {
        int *row = rows[i % 3], *above = rows[(i + 2) % 3], *above2 = rows[(i + 1) % 3];
        row[0] = i;
        for (int j = 1; j <= b_bytes; j++) {
            row[j] =
                min_int(min_int(above[j], row[j - 1]) + 1, above[j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                row[j] = min_int(row[j], above2[j - 2] + 1);
        }
    }
    return rows[a_bytes % 3][b_bytes];
}

const char *dip__suggest(const char *word, const char *const *names, int count)
{
    const char *best = NULL;
    int best_distance = (int)strnlen(word, WORD_BYTES_MAX) / 3 + 2; /* beyond: another word */
    for (int i = 0; i < count; i++) {
        int d = names[i] ? distance(word, names[i]) : WORD_BYTES_MAX;
        if (d < best_distance) {
            best = names[i];
            best_distance = d;
        }
    }
    return best;
}
