/* base/assert.c - where a broken contract ends: one line on stderr, then abort. */
#include "base/assert.h"

#include <stdio.h>
#include <stdlib.h>

void dip_assert_fail(const char *condition, const char *file, int line)
{
    fprintf(stderr, "%s:%d: broken contract: %s\n", file, line, condition);
    fflush(stderr);
    abort();
}
