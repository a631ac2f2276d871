/* tests/fuzz/index.c - any text as model.safetensors.index.json: a sentence, or plain shard names.
 */
#include <string.h>

#include "base/assert.h"
#include "model/weights_private.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes);

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes)
{
    struct dip_why why = {0};
    struct dip_json json = {0};
    struct dip_json map = {0};
    enum dip_status status =
        dip__weights_index_parse((const char *)data, bytes, "fuzz", &why, &json, &map);
    dip_assert((status == DIP_OK) == (why.text[0] == '\0'));
    void *cursor = NULL;
    for (const char *key; status == DIP_OK && (key = dip_json_next(&map, &cursor));) {
        const char *shard = NULL;
        dip_assert(dip_json_string(&map, key, NULL, &shard) == DIP_OK);
        dip_assert(shard && strlen(shard) < DIP__SHARD_NAME_BYTES);
        dip_assert(!strchr(shard, '/') && shard[0] != '.');
    }
    dip_json_close(&json);
    return 0;
}
