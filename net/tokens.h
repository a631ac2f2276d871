/* net/tokens.h - who a bearer token belongs to: a file of tokens, read again when it changes.
 *
 * One line per token; empty lines and what follows a '#' at the start of a word are skipped:
 *
 *     sha256:2bb80d53...  team-a   generate            # printf %s TOKEN | sha256sum
 *     plain:a-long-word   ops      read,admin          # for tests; the file must then be kept
 * secret
 *
 * A tenant is 1 to 63 of [A-Za-z0-9._-] and may have many tokens, so that one can be replaced by
 * the next without a gap. Scopes: `read` (models, cluster, health), `generate` (images, their
 * watching and cancelling), `admin` (drain, everybody's jobs); who has any of these may read.
 * `worker` (to be one of the cluster's workers, and nothing else): asked of workers only when the
 * file has a line with it, so that a file that speaks of clients alone changes nothing for them.
 *
 * A token is compared with every line, in a time that depends on their number only. The file is
 * looked at when a token is, at most once a second. A file that is gone, broken or of no bytes
 * (somebody is about to write it) is not taken: what was in use stays in use, and dip_tokens_why
 * says so; a comment alone takes every token away. Thread: one owner. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

struct dip_tokens;

enum dip_scope {
    DIP_SCOPE_READ = 1,
    DIP_SCOPE_GENERATE = 2,
    DIP_SCOPE_ADMIN = 4,
    DIP_SCOPE_WORKER = 8,
    DIP_SCOPE_ANY = 15, /* asked for: to be known is enough */
};

enum { DIP_TENANT_BYTES = 64, DIP_TOKENS_MAX = 4096, DIP_TENANTS_SHOWN = 256 };

struct dip_token_holder {
    char tenant[DIP_TENANT_BYTES];
    uint32_t scopes; /* enum dip_scope bits; 0 = no such token */
};

/* Errors: those of reading a file; INVALID (a line, which `why` names by number, never by its
 * token); LIMIT (more than DIP_TOKENS_MAX); NO_MEMORY. */
DIP_MUST_USE enum dip_status dip_tokens_open(const char *path, struct dip_why *why,
                                             struct dip_tokens **ret_tokens);
void dip_tokens_close(struct dip_tokens *tokens);

/* `authorization` is the value of the header of that name: "Bearer <token>", need not be
 * terminated. Errors: INVALID (it has no such form), NOT_FOUND (nobody's token); the holder is
 * untouched then. */
DIP_MUST_USE enum dip_status dip_tokens_check(struct dip_tokens *tokens, int64_t now_ns,
                                              const char *authorization, size_t bytes,
                                              struct dip_token_holder *ret_holder);

/* Why the newest file is not in use; "" while it is. For logs and status. */
const char *dip_tokens_why(const struct dip_tokens *tokens);
int dip_tokens_count(const struct dip_tokens *tokens);
/* Each tenant once, in the file's order, DIP_TENANTS_SHOWN of them at most; NULL after the last. */
const char *dip_tokens_tenant(const struct dip_tokens *tokens, int index);
/* The scopes of all of them together, as they were when one was last checked. */
uint32_t dip_tokens_scopes(const struct dip_tokens *tokens);
