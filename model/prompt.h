/* model/prompt.h - the token ids that the autoregressive panel starts from: the published chat
 * template around a user's caption.
 *
 * The caption is text and nothing else: control tokens are placed by id, and the stretches between
 * them are encoded with added tokens switched off, so no caption can open a turn or an image. A
 * caption that contains no added token's text gets exactly the ids of the published code. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "model/tokenizer.h"

/* ids[0 .. *ret_count) for a text-to-image request; the last two are <im_start> and <S0>.
 * vocab_size is the number of embedding rows: every id is below it.
 * Errors: INVALID (empty caption, not UTF-8), LIMIT (more than DIP_PROMPT_BYTES_MAX bytes, or more
 * than ids_max or DIP_PROMPT_TOKENS_MAX ids), CORRUPT (tokenizer and model do not belong together:
 * a control token is missing or an id has no embedding), NO_MEMORY, each with a sentence; ids[] is
 * then undefined. */
DIP_MUST_USE enum dip_status dip_prompt_build(const struct dip_tokenizer *tokenizer, int vocab_size,
                                              const char *caption, size_t bytes, int32_t *ids,
                                              int ids_max, struct dip_why *why, int *ret_count);
