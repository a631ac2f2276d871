/* model/tokenizer.h - text to token ids and back, from a checkpoint's tokenizer.json.
 *
 * Byte-level BPE as Qwen2 and Qwen3 publish it: added tokens, NFC, a split pattern, byte symbols,
 * merges (docs/models/blip3o-next.md, tokenizer). Ids equal those of Hugging Face tokenizers 0.21
 * on every text; a file that asks for a feature not implemented here is refused by the key's name,
 * never approximated. A tokenizer is immutable after open: any number of threads may share it, each
 * call brings its own scratch memory. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/limits.h"
#include "base/status.h"

struct dip_tokenizer;

enum dip_text_mode {
    DIP_TEXT_PUBLISHED, /* added tokens in the text become their ids: as the published code does */
    DIP_TEXT_PLAIN,     /* no added token is recognised: the way to encode text from users */
};

/* Errors: NOT_FOUND, IO, LIMIT, CORRUPT, UNSUPPORTED, NO_MEMORY, each with a sentence that names
 * file and key. `name` stands for the path in sentences. */
DIP_MUST_USE enum dip_status dip_tokenizer_open(const char *path, struct dip_why *why,
                                                struct dip_tokenizer **ret_tokenizer);
DIP_MUST_USE enum dip_status dip_tokenizer_parse(const char *text, size_t bytes, const char *name,
                                                 struct dip_why *why,
                                                 struct dip_tokenizer **ret_tokenizer);
void dip_tokenizer_close(struct dip_tokenizer *tokenizer);

/* ids[0 .. *ret_count) of `text`, which need not be terminated and may hold U+0000; no id is added
 * at either end. Errors: INVALID (not UTF-8; the sentence names the byte), LIMIT (more than
 * DIP_TEXT_BYTES_MAX bytes or ids_max ids), NO_MEMORY; ids[] is then undefined. */
DIP_MUST_USE enum dip_status dip_tokenizer_encode(const struct dip_tokenizer *tokenizer,
                                                  const char *text, size_t bytes,
                                                  enum dip_text_mode mode, int32_t *ids,
                                                  int ids_max, struct dip_why *why, int *ret_count);

/* The text of ids: added tokens verbatim, everything else through the byte symbols; what is not
 * UTF-8 becomes U+FFFD. text[] is terminated; text_bytes_max counts the terminator, *ret_bytes does
 * not. Errors: INVALID (an id that stands for nothing), LIMIT (text[] is too small), NO_MEMORY. */
DIP_MUST_USE enum dip_status dip_tokenizer_decode(const struct dip_tokenizer *tokenizer,
                                                  const int32_t *ids, int count, char *text,
                                                  size_t text_bytes_max, struct dip_why *why,
                                                  size_t *ret_bytes);

/* The bytes behind one id, as they are: a character may be spread over several. They are the
 * tokenizer's. Errors: INVALID (an id that stands for nothing). */
DIP_MUST_USE enum dip_status dip_tokenizer_bytes(const struct dip_tokenizer *tokenizer, int32_t id,
                                                 const char **ret_at, size_t *ret_bytes);

/* The id of an added token such as "<im_start>". Errors: NOT_FOUND. */
DIP_MUST_USE enum dip_status dip_tokenizer_find(const struct dip_tokenizer *tokenizer,
                                                const char *token, int32_t *ret_id);
