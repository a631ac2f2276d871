/* base/futex.c - doorbells over the futex system call, shared between processes. */
#include "base/futex.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"

void dip_bell_ring(struct dip_bell *bell)
{
    if (!atomic_load(&bell->is_awaited))
        return;
    atomic_fetch_add(&bell->count, 1);
    /* Not the private kind: the sleeper may be another process. */
    syscall(SYS_futex, &bell->count, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

uint32_t dip_bell_listen(struct dip_bell *bell)
{
    atomic_store(&bell->is_awaited, 1);
    return atomic_load(&bell->count);
}

void dip_bell_leave(struct dip_bell *bell)
{
    atomic_store(&bell->is_awaited, 0);
}

enum dip_status dip_bell_wait(struct dip_bell *bell, uint32_t heard, int64_t wait_ns)
{
    dip_assert(wait_ns > 0);
    struct timespec wait = {.tv_sec = (time_t)(wait_ns / DIP_SECOND_NS),
                            .tv_nsec = (long)(wait_ns % DIP_SECOND_NS)};
    long result = syscall(SYS_futex, &bell->count, FUTEX_WAIT, heard, &wait, NULL, 0);
    bool is_late = result == -1 && errno == ETIMEDOUT;
    dip_bell_leave(bell);
    return is_late ? DIP_TIMEOUT : DIP_OK;
}
