/* net/accept.c - see net/accept.h.
 *
 * It defines the accept4 that gRPC and the HTTP library call. One descriptor is kept in reserve;
 * when there is no other, that one takes the caller in and hangs up on it, which the caller sees at
 * once and may come back from. gRPC asks until nobody waits any more, because its epoll is
 * edge-triggered, so nobody is left waiting either.
 *
 * The system call is made directly. <sys/socket.h> declares accept4 with a type of its own, and is
 * left out here. */
#include "net/accept.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/counter.h"
#include "base/flag.h"

struct sockaddr;

/* Of the process: what is scarce is, too. */
static struct dip_flag is_held; /* by the thread that may touch the reserve */
static int reserve = -1;
static struct dip_counter hung_up;
static struct dip_counter always; /* that listener and 1; 0 = none */

enum {
    OWN_MAX = 16,          /* descriptors that are not given to callers */
    TURNED_AWAY_MAX = 256, /* in one call, or a crowd could keep its thread for ever */
};

static void hold(void)
{
    while (!dip_flag_raise(&is_held))
        sched_yield();
}

static void refill(void)
{
    if (reserve < 0)
        reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

void dip_accept_reserve(void)
{
    hold();
    refill();
    dip_flag_lower(&is_held);
}

void dip_accept_always(int listener)
{
    dip_counter_set(&always, (uint64_t)listener + 1);
}

uint64_t dip_accept_hung_up(void)
{
    return dip_counter_get(&hung_up);
}

/* The lowest free number is given, so that a high one says that few are left. */
static bool is_scarce(int listener, long caller)
{
    struct rlimit limit = {.rlim_cur = RLIM_INFINITY};
    if ((uint64_t)listener + 1 == dip_counter_get(&always))
        return false;
    (void)getrlimit(RLIMIT_NOFILE, &limit);
    rlim_t own = limit.rlim_cur / 8 < OWN_MAX ? limit.rlim_cur / 8 : OWN_MAX;
    return (rlim_t)caller >= limit.rlim_cur - own;
}

/* Whether somebody was waiting. */
static bool hang_up(int listener)
{
    hold();
    if (reserve >= 0)
        close(reserve);
    reserve = -1;
    long caller = syscall(SYS_accept4, listener, NULL, NULL, O_CLOEXEC);
    if (caller >= 0) {
        close((int)caller);
        dip_counter_add(&hung_up, 1);
    }
    refill();
    dip_flag_lower(&is_held);
    return caller >= 0;
}

__attribute__((visibility("default"))) int accept4(int listener, struct sockaddr *address,
                                                   unsigned *address_bytes, int flags);
int accept4(int listener, struct sockaddr *address, unsigned *address_bytes, int flags)
{
    for (int i = 0; i < TURNED_AWAY_MAX; i++) {
        long caller = syscall(SYS_accept4, listener, address, address_bytes, flags);
        bool is_short = caller < 0 && (errno == EMFILE || errno == ENFILE);
        if (caller >= 0 && is_scarce(listener, caller)) {
            close((int)caller);
            dip_counter_add(&hung_up, 1);
            continue;
        }
        if (!is_short)
            return (int)caller;
        if (!hang_up(listener)) /* nobody waits; or another thread was faster */
            break;
    }
    errno = EAGAIN;
    return -1;
}
