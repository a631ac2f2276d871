/* model/tokenizer_tables.h - what a loaded tokenizer consists of. Of model/ only: filled by
 * tokenizer_load.c, read by tokenizer.c, freed by dip_tokenizer_close. */
#pragma once

#include <stdint.h>

#include "model/added_tokens.h"
#include "model/bpe.h"
#include "model/pretokenize.h"
#include "model/tokenizer.h"

struct dip__token {
    uint32_t at;    /* in the blob */
    uint32_t bytes; /* 0: no token has this id */
};

struct dip_tokenizer {
    char *blob;                /* the bytes of every token, end to end */
    struct dip__token *tokens; /* [id_count] */
    int32_t id_count;          /* highest id + 1 */
    struct dip__bpe bpe;
    struct dip__split *split;
    struct dip__added_token *added;      /* memory of the two tables below */
    struct dip__added_tokens raw;        /* "normalized": false, looked for before form C */
    struct dip__added_tokens normalized; /* "normalized": true, looked for after it */
};
