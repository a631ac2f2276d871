/* net/rpc_time.c - moments of our clock as moments of gRPC's, and back.
 *
 * Both tick alike, but they need not show the same: until some release gRPC's monotonic clock was
 * the system's, since then it is five seconds ahead. So only distances from now are carried over.
 * Each conversion reads gRPC's clock so that the result errs, by what lies between two readings of
 * a clock, to the late side: a wait that ends early would be begun again at once. */
#include <grpc/support/time.h>

#include "base/clock.h"
#include "net/rpc_private.h"

gpr_timespec dip__rpc_time_to(int64_t at_ns)
{
    if (at_ns == INT64_MAX)
        return gpr_inf_future(GPR_CLOCK_MONOTONIC);
    int64_t distance_ns = at_ns - dip_clock_now_ns();
    return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                        gpr_time_from_nanos(distance_ns, GPR_TIMESPAN));
}

int64_t dip__rpc_time_from(gpr_timespec at)
{
    if (gpr_time_cmp(at, gpr_inf_future(at.clock_type)) == 0)
        return INT64_MAX;
    gpr_timespec now = gpr_now(GPR_CLOCK_MONOTONIC);
    gpr_timespec distance = gpr_time_sub(gpr_convert_clock_type(at, GPR_CLOCK_MONOTONIC), now);
    int64_t now_ns = dip_clock_now_ns();
    int64_t seconds_max = (INT64_MAX - now_ns) / DIP_SECOND_NS;
    if (distance.tv_sec >= seconds_max)
        return INT64_MAX;
    if (distance.tv_sec <= -seconds_max)
        return 0;
    return now_ns + distance.tv_sec * DIP_SECOND_NS + distance.tv_nsec;
}
