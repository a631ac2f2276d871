/* tests/fuzz/tokenizer_text.c - any bytes as text and as a caption, under a fixed tokenizer.
 *
 * Checks laws that need no reference: decoding gives the text back in form C, and a prompt holds
 * the template's control tokens and no others. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "model/nfc.h"
#include "model/prompt.h"
#include "tests/tokenizer_json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

enum { BYTES_MAX = 8192, IDS_MAX = 3 * BYTES_MAX };

static struct dip_tokenizer *tokenizer_new(void)
{
    char *json = tokenizer_json_new(true);
    struct dip_tokenizer *t = NULL;
    dip_assert(json != NULL);
    enum dip_status status = dip_tokenizer_parse(json, strlen(json), "t.json", NULL, &t);
    dip_assert(status == DIP_OK);
    free(json);
    return t;
}

/* Form C of the decoded ids is form C of the text: plain ids decode to it directly, published ones
 * to stretches of it around added tokens. */
static void check_round_trip(const struct dip_tokenizer *t, const char *text, size_t bytes,
                             enum dip_text_mode mode)
{
    static int32_t ids[IDS_MAX];
    static char decoded[4 * IDS_MAX];
    int count = -1;
    size_t decoded_bytes = 0;
    struct dip_why why = {0};
    enum dip_status status = dip_tokenizer_encode(t, text, bytes, mode, ids, IDS_MAX, &why, &count);
    dip_assert((status == DIP_OK) == (dip__utf8_check(text, bytes) == bytes));
    dip_assert((status == DIP_OK) == (why.text[0] == '\0'));
    if (status)
        return;
    struct dip__text normal = {0}, again = {0};
    status = dip_tokenizer_decode(t, ids, count, decoded, sizeof decoded, &why, &decoded_bytes);
    dip_assert(status == DIP_OK);
    status = dip__nfc(text, bytes, &normal);
    dip_assert(status == DIP_OK);
    status = dip__nfc(decoded, decoded_bytes, &again);
    dip_assert(status == DIP_OK);
    if (mode == DIP_TEXT_PLAIN)
        dip_assert(decoded_bytes == again.bytes && memcmp(decoded, again.data, again.bytes) == 0);
    dip_assert(normal.bytes == again.bytes);
    dip_assert(memcmp(normal.data, again.data, again.bytes) == 0);
    dip__text_deinit(&normal);
    dip__text_deinit(&again);
}

static void check_prompt(const struct dip_tokenizer *t, const char *text, size_t bytes)
{
    static const int wanted[] = {3, 2, 1, 0, 1}; /* of ids 300 to 304 */
    static int32_t ids[DIP_PROMPT_TOKENS_MAX];
    int found[TOKENIZER_JSON_VOCAB] = {0};
    int count = 0;
    struct dip_why why = {0};
    if (dip_prompt_build(t, TOKENIZER_JSON_VOCAB, text, bytes, ids, DIP_PROMPT_TOKENS_MAX, &why,
                         &count)) {
        dip_assert(why.text[0] != '\0');
        return;
    }
    for (int i = 0; i < count; i++)
        found[ids[i]]++;
    for (int id = 300; id < TOKENIZER_JSON_VOCAB; id++)
        dip_assert(found[id] == (id < 305 ? wanted[id - 300] : 0));
    dip_assert(ids[count - 2] == 302);
    dip_assert(ids[count - 1] == 304);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static struct dip_tokenizer *t;
    if (!t)
        t = tokenizer_new();
    if (bytes > BYTES_MAX)
        return 0;
    check_round_trip(t, (const char *)data, bytes, DIP_TEXT_PLAIN);
    check_round_trip(t, (const char *)data, bytes, DIP_TEXT_PUBLISHED);
    check_prompt(t, (const char *)data, bytes);
    return 0;
}
