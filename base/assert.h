/* base/assert.h - contracts between our own functions, on in every build.
 *
 * For broken contracts only: input from outside is answered with a status. One condition per
 * assert. */
#pragma once

_Noreturn void dip_assert_fail(const char *condition, const char *file, int line);

#define dip_assert(condition)                                                                      \
    ((condition) ? (void)0 : dip_assert_fail(#condition, __FILE__, __LINE__))
