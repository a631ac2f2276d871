/* proto/time.c - google.protobuf.Duration and Timestamp as nanoseconds. */
#include "proto/time.h"

#define SECOND_NS INT64_C(1000000000)

bool dip_duration_decode(const Google__Protobuf__Duration *duration, int64_t *ret_ns)
{
    int64_t ns = 0;
    if (duration) {
        if (duration->seconds < 0 || duration->nanos < 0 || duration->nanos >= SECOND_NS)
            return false;
        if (duration->seconds > (INT64_MAX - duration->nanos) / SECOND_NS)
            return false;
        ns = duration->seconds * SECOND_NS + duration->nanos;
    }
    *ret_ns = ns;
    return true;
}

void dip_duration_encode(int64_t ns, Google__Protobuf__Duration *ret_duration)
{
    google__protobuf__duration__init(ret_duration);
    if (ns < 0)
        ns = 0;
    ret_duration->seconds = ns / SECOND_NS;
    ret_duration->nanos = (int32_t)(ns % SECOND_NS);
}

void dip_timestamp_encode(int64_t unix_ns, Google__Protobuf__Timestamp *ret_timestamp)
{
    google__protobuf__timestamp__init(ret_timestamp);
    int64_t seconds = unix_ns / SECOND_NS, nanos = unix_ns % SECOND_NS;
    if (nanos < 0) { /* nanos count forward, also before 1970 */
        nanos += SECOND_NS;
        seconds--;
    }
    ret_timestamp->seconds = seconds;
    ret_timestamp->nanos = (int32_t)nanos;
}
