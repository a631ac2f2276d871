/* base/cpu.c - how many CPUs this process may really use.
 *
 * Affinity says which CPUs may run it, a cgroup quota says how much of them: a container limited to
 * two CPUs on a host of 64 must not start 64 threads. */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/limits.h"
#include "base/pool.h"

static int count_by_affinity(void)
{
    enum { CPUS_MAX = 8192 };
    cpu_set_t *set = CPU_ALLOC(CPUS_MAX);
    int count = 0;
    if (set && sched_getaffinity(0, CPU_ALLOC_SIZE(CPUS_MAX), set) == 0)
        count = CPU_COUNT_S(CPU_ALLOC_SIZE(CPUS_MAX), set);
    CPU_FREE(set);
    return count > 0 ? count : (int)sysconf(_SC_NPROCESSORS_ONLN);
}

/* Up to two numbers from a one-line file; what is not a number (cgroup v2 writes "max" for no
 * quota) leaves -1. */
static void read_numbers(const char *path, double *ret_first, double *ret_second)
{
    char line[128] = "";
    FILE *file = fopen(path, "re");
    if (!file)
        return;
    if (fgets(line, sizeof line, file)) {
        char *end = line;
        double first = strtod(line, &end);
        if (end != line) {
            *ret_first = first;
            *ret_second = strtod(end, NULL);
        }
    }
    fclose(file);
}

/* CPUs' worth of time per period, rounded up; 0 when there is no quota. */
static int count_by_quota(void)
{
    double quota = -1;
    double period = -1;
    double unused = -1;
    read_numbers("/sys/fs/cgroup/cpu.max", &quota, &period);
    if (quota < 0) {
        read_numbers("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", &quota, &unused);
        read_numbers("/sys/fs/cgroup/cpu/cpu.cfs_period_us", &period, &unused);
    }
    if (quota <= 0 || period <= 0 || quota > period * DIP_THREADS_MAX)
        return 0;
    int whole = (int)(quota / period);
    return whole * period < quota ? whole + 1 : whole;
}

int dip_cpu_count(void)
{
    int count = count_by_affinity();
    int quota = count_by_quota();
    if (quota > 0 && quota < count)
        count = quota;
    if (count > DIP_THREADS_MAX)
        count = DIP_THREADS_MAX;
    return count < 1 ? 1 : count;
}
