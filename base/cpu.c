/* base/cpu.c - how many CPUs this process may really use.
 *
 * Affinity says which CPUs may run it, a cgroup quota says how much of them: a container limited to
 * two CPUs on a host of 64 must not start 64 threads. */
#include <sched.h>
#include <stdio.h>
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

/* The first number of a one-line file, or a negative value. */
static double read_number(const char *path, double *ret_second)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return -1;
    double first = -1;
    if (fscanf(file, "%lf %lf", &first, ret_second) < 1)
        first = -1; /* cgroup v2 writes "max" for no quota */
    fclose(file);
    return first;
}

/* CPUs' worth of time per period, rounded up; 0 when there is no quota. */
static int count_by_quota(void)
{
    double period = 0;
    double quota = read_number("/sys/fs/cgroup/cpu.max", &period);
    if (quota < 0) {
        double unused;
        quota = read_number("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", &unused);
        period = read_number("/sys/fs/cgroup/cpu/cpu.cfs_period_us", &unused);
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
