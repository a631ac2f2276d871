/* tests/fuzz/etcd_answer.c - any bytes as etcd's answer to any kind of request: refused, or entries
 * that are C strings within their ceilings. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "net/etcd_private.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes);

/* The first byte is the kind, as a digit so that the corpus can be read. */
int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes)
{
    struct dip__etcd_answer answer;
    if (bytes == 0)
        return 0;
    enum dip_kv_kind kind = (enum dip_kv_kind)(data[0] % DIP_KV_KIND_COUNT);
    if (dip__etcd_parse(kind, (const char *)data + 1, bytes - 1, &answer))
        return 0;
    dip_assert(strlen(answer.text) < sizeof answer.text);
    dip_assert(answer.code == 0 || answer.code < 100);
    for (int i = 0; i < answer.entry_count; i++) {
        const struct dip_kv_entry *entry = &answer.entries[i];
        dip_assert(strlen(entry->key) < DIP_KV_KEY_BYTES);
        dip_assert(entry->value_bytes <= DIP__ETCD_VALUE_BYTES_MAX);
        dip_assert(entry->value[entry->value_bytes] == '\0');
    }
    dip__etcd_answer_free(&answer);
    return 0;
}
