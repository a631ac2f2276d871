/* base/clock.c - monotonic time and entropy from the kernel. */
#include "base/clock.h"

#include <sys/random.h>
#include <time.h>
#include <unistd.h>

int64_t dip_clock_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now); /* cannot fail with this clock and a valid pointer */
    return (int64_t)now.tv_sec * DIP_SECOND_NS + now.tv_nsec;
}

int64_t dip_clock_unix_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * DIP_SECOND_NS + now.tv_nsec;
}

void dip_clock_sleep(int64_t wait_ns)
{
    struct timespec wait = {.tv_sec = (time_t)(wait_ns / DIP_SECOND_NS),
                            .tv_nsec = (long)(wait_ns % DIP_SECOND_NS)};
    nanosleep(&wait, NULL);
}

uint64_t dip_entropy_seed(void)
{
    uint64_t seed = 0;
    if (getrandom(&seed, sizeof seed, 0) != sizeof seed) {
        /* A sandbox may forbid the call. A seed need not be secret, only different. */
        seed = (uint64_t)dip_clock_now_ns() * UINT64_C(0x9e3779b97f4a7c15) ^ (uint64_t)getpid();
    }
    return seed & ((UINT64_C(1) << 53) - 1);
}
