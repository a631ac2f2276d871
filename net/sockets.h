/* net/sockets.h - how many connections a port has, asked of the kernel.
 *
 * gRPC tells nobody how many connections it holds, and a flood of idle ones makes no call that
 * could be counted. The kernel knows all of them; it walks its whole table for an answer, so it is
 * to be asked every few seconds at most. Thread: any. */
#pragma once

#include "base/status.h"

/* Established TCP connections whose own end is this port, over IPv4 and IPv6, in the caller's
 * network namespace. Errors: UNSUPPORTED (the kernel, or a sandbox, does not answer such
 * questions), IO. */
DIP_MUST_USE enum dip_status dip_sockets_count(int port, int *ret_count);
