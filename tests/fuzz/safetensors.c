/* tests/fuzz/safetensors.c - any bytes as a safetensors file: a sentence, or tensors that lie
 * inside it. */
#include <string.h>

#include "base/assert.h"
#include "model/safetensors.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes);

/* What open promises: every byte of every tensor may be read, and together they are the data. */
static void check_file(const struct dip_safetensors *file, const unsigned char *data, size_t bytes)
{
    static volatile unsigned char sink;
    size_t total = 0;
    for (size_t i = 0; i < dip_safetensors_count(file); i++) {
        const struct dip_safetensors_tensor *t = dip_safetensors_at(file, i);
        dip_assert(t->data >= data && t->bytes <= (size_t)(data + bytes - t->data));
        dip_assert(t->rank >= 0 && t->rank <= DIP_TENSOR_RANK_MAX);
        dip_assert(strlen(t->dtype_name) < sizeof t->dtype_name);
        if (t->bytes > 0)
            sink = (unsigned char)(t->data[0] + t->data[t->bytes - 1]);
        dip_assert(strcmp(dip_safetensors_find(file, t->name)->name, t->name) == 0);
        total += t->bytes;
    }
    (void)sink;
    dip_assert(total <= bytes);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes)
{
    struct dip_why why = {0};
    struct dip_safetensors *file = NULL;
    enum dip_status status = dip_safetensors_parse(data, bytes, "fuzz", &why, &file);
    dip_assert((status == DIP_OK) == (why.text[0] == '\0'));
    if (status == DIP_OK)
        check_file(file, data, bytes);
    dip_safetensors_close(file);
    return 0;
}
