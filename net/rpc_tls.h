/* net/rpc_tls.h - certificates from PEM files, read again when the files change.
 *
 * A server looks at its files at every new connection, a channel at every new call at most once a
 * second: a rotated certificate is in use without a restart, and connections that stand are left
 * alone. Files that do not fit each other (rotation half done, an expired certificate) are not
 * taken: what was in use before stays in use. TLS 1.2 and above. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

struct dip_rpc_tls;

struct dip_rpc_tls_files {
    const char *cert; /* own certificate chain; NULL on a client that does not show one */
    const char *key;  /* of cert */
    const char *ca;   /* roots that the peer's certificate must lead to; NULL on a server that does
                         not ask for one */
};

/* Reads and checks the files once, so that what is wrong is said at the start.
 * Errors: NOT_FOUND, IO, CORRUPT (no PEM), INVALID (key and certificate differ, not valid now),
 * NO_MEMORY. */
DIP_MUST_USE enum dip_status dip_rpc_tls_open(const struct dip_rpc_tls_files *files,
                                              struct dip_why *why, struct dip_rpc_tls **ret_tls);
/* When the first of the certificates in a PEM file ends, in seconds since 1970; 0 = there is no
 * file or no certificate in it. */
int64_t dip_rpc_pem_expiry_s(const char *path);

/* After every server and channel that uses it is gone. */
void dip_rpc_tls_close(struct dip_rpc_tls *tls);
