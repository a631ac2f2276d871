/* proto/time.h - google.protobuf.Duration and Timestamp as nanoseconds. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "proto/google/protobuf/duration.pb-c.h"
#include "proto/google/protobuf/timestamp.pb-c.h"

/* False when it is negative, not normalised (nanos outside 0..999,999,999) or beyond 2^63 ns.
 * NULL (an absent field) is 0. */
bool dip_duration_decode(const Google__Protobuf__Duration *duration, int64_t *ret_ns);

/* Fill a struct that the caller owns; negative durations become 0. */
void dip_duration_encode(int64_t ns, Google__Protobuf__Duration *ret_duration);
void dip_timestamp_encode(int64_t unix_ns, Google__Protobuf__Timestamp *ret_timestamp);
