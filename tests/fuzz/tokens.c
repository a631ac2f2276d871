/* tests/fuzz/tokens.c - any bytes as a token file and as the value of the header: refused, or
 * tokens with a tenant and scopes, each of which is found again. */
#include <string.h>

#include "base/assert.h"
#include "net/tokens_private.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes);

/* The first line is the header, the rest the file. */
int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes)
{
    struct dip__token_table table = {0};
    const char *text = (const char *)data;
    const char *end = bytes > 0 ? memchr(text, '\n', bytes) : NULL;
    size_t header_bytes = end ? (size_t)(end - text) : bytes;
    const char *token;
    size_t token_bytes;
    if (dip__tokens_bearer(text, header_bytes, &token, &token_bytes)) {
        dip_assert(token_bytes > 0 && token + token_bytes == text + header_bytes);
        dip_assert(!memchr(token, ' ', token_bytes));
    }
    if (!end || dip__tokens_parse(end + 1, bytes - header_bytes - 1, NULL, &table))
        return 0;
    for (int i = 0; i < table.count; i++) {
        const struct dip__token *t = &table.tokens[i];
        dip_assert(strlen(t->hex) == DIP_SHA256_HEX_BYTES - 1);
        dip_assert(t->holder.tenant[0] && strlen(t->holder.tenant) < DIP_TENANT_BYTES);
        uint32_t scopes = t->holder.scopes;
        dip_assert(scopes > 0 && scopes < 2 * DIP_SCOPE_WORKER);
        if (scopes != DIP_SCOPE_WORKER)
            dip_assert(scopes & DIP_SCOPE_READ); /* who may draw or drain may look */
        dip_assert(dip__tokens_find(&table, t->hex));
    }
    dip__tokens_table_free(&table);
    return 0;
}
