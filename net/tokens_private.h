/* net/tokens_private.h - the pure parts of net/tokens.c, for its tests. */
#pragma once

#include <stdbool.h>

#include "base/sha256.h"
#include "net/tokens.h"

struct dip__token {
    char hex[DIP_SHA256_HEX_BYTES]; /* lower case */
    struct dip_token_holder holder;
};

struct dip__token_table {
    struct dip__token *tokens; /* [count] */
    int count;
    int tenants[DIP_TENANTS_SHOWN]; /* [tenant_count]: the first token of each */
    int tenant_count;
};

/* A whole file. Errors: INVALID (`why` names the line), LIMIT, NO_MEMORY. */
DIP_MUST_USE enum dip_status dip__tokens_parse(const char *text, size_t bytes, struct dip_why *why,
                                               struct dip__token_table *ret_table);
void dip__tokens_table_free(struct dip__token_table *table);

/* NULL = nobody's. */
const struct dip_token_holder *dip__tokens_find(const struct dip__token_table *table,
                                                const char hex[DIP_SHA256_HEX_BYTES]);

/* The token in the value of a header. */
bool dip__tokens_bearer(const char *text, size_t bytes, const char **ret_token, size_t *ret_bytes);
