/* net/accept.h - listeners that outlive a shortage of file descriptors.
 *
 * gRPC's core as Debian 12 has it (1.51) gives a listener up for good when accept fails with
 * EMFILE: a minute in which too many clients connect would leave a server that nobody can ever
 * reach again, and that looks well. Here a caller for whom there is no descriptor is hung up on
 * instead, a little before the last one is gone: files that are read again and connections of our
 * own need some, too.
 *
 * What is scarce is the process's, and so is this state. Any thread. */
#pragma once

#include <stdint.h>

/* Before the first listener: keeps a descriptor for when there is none. */
void dip_accept_reserve(void);

/* Who calls there is taken in as long as there is any descriptor: probes. One listener. */
void dip_accept_always(int listener);

/* Callers that were hung up on so far. */
uint64_t dip_accept_hung_up(void);
