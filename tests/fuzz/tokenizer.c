/* tests/fuzz/tokenizer.c - any bytes as tokenizer.json: a sentence, or a tokenizer that works.
 *
 * A file that loads has 256 byte symbols, which no mutation invents. So unless the input begins
 * with '{' it is an edit of a good file: u16 position, u8 bytes to cut there, bytes to insert. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "model/tokenizer.h"
#include "tests/tokenizer_json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static const char sample[] = "<|im_start|>hello  a\u0301'S 12\r\n<S0>\u0338\u4e16 !\u180e@@@";
enum { IDS_MAX = 256 };

/* Every text has ids, unless the pattern gives up, and ids have a text. */
static void use(const struct dip_tokenizer *t, enum dip_text_mode mode)
{
    int32_t ids[IDS_MAX];
    char text[IDS_MAX * 16];
    int count = 0;
    size_t text_bytes = 0;
    struct dip_why why = {0};
    enum dip_status status =
        dip_tokenizer_encode(t, sample, sizeof sample - 1, mode, ids, IDS_MAX, &why, &count);
    dip_assert(status == DIP_OK || status == DIP_UNSUPPORTED);
    if (status)
        return;
    dip_assert(count > 0);
    status = dip_tokenizer_decode(t, ids, count, text, sizeof text, &why, &text_bytes);
    dip_assert(status == DIP_OK || status == DIP_LIMIT);
}

static void load(const char *json, size_t bytes)
{
    struct dip_tokenizer *t = NULL;
    struct dip_why why = {0};
    enum dip_status status = dip_tokenizer_parse(json, bytes, "t.json", &why, &t);
    dip_assert((status == DIP_OK) == (t != NULL));
    dip_assert((status == DIP_OK) == (why.text[0] == '\0'));
    if (t) {
        use(t, DIP_TEXT_PLAIN);
        use(t, DIP_TEXT_PUBLISHED);
    }
    dip_tokenizer_close(t);
}

static void load_edited(const uint8_t *data, size_t bytes)
{
    static char *good;
    if (!good)
        good = tokenizer_json_new(false);
    dip_assert(good != NULL);
    size_t good_bytes = strlen(good);
    size_t at = ((size_t)data[0] << 8 | data[1]) % good_bytes;
    size_t cut = data[2] < good_bytes - at ? data[2] : good_bytes - at;
    char *json = malloc(good_bytes + bytes);
    dip_assert(json != NULL);
    memcpy(json, good, at);
    memcpy(json + at, data + 3, bytes - 3);
    memcpy(json + at + bytes - 3, good + at + cut, good_bytes - at - cut);
    load(json, good_bytes - cut + bytes - 3);
    free(json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (bytes < 3 || data[0] == '{')
        load((const char *)data, bytes);
    else
        load_edited(data, bytes);
    return 0;
}
