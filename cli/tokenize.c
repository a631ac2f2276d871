/* cli/tokenize.c - `diptych tokenize`: the ids of a text as the published tokenizer gives them. */
#include <stdlib.h>
#include <string.h>

#include "base/limits.h"
#include "cli/cli.h"
#include "model/tokenizer.h"

static enum dip_status encode(const struct dip_tokenizer *tokenizer, const char *text,
                              struct dip_why *why)
{
    size_t bytes = strlen(text);
    /* A byte makes at most one id but where NFC expands it; the tokenizer checks the bound. */
    size_t ids_max = 4 * bytes + 1;
    int32_t *ids = malloc(ids_max * sizeof *ids);
    if (!ids)
        return dip_fail(why, DIP_NO_MEMORY, "no memory for %zu ids", ids_max);
    int count = 0;
    enum dip_status status = dip_tokenizer_encode(tokenizer, text, bytes, DIP_TEXT_PUBLISHED, ids,
                                                  (int)ids_max, why, &count);
    for (int i = 0; i < count && !status; i++)
        printf("%s%d", i > 0 ? " " : "", ids[i]);
    if (!status)
        printf("\n");
    free(ids);
    return status;
}

enum exit_code dip__tokenize(const struct arguments *arguments)
{
    struct dip_why why = {0};
    struct dip_tokenizer *tokenizer = NULL;
    char directory[DIP_PATH_BYTES_MAX], path[DIP_PATH_BYTES_MAX + 32];
    enum dip_status status =
        dip__model_directory(&arguments->options, &why, directory, sizeof directory);
    if (status)
        return dip__fail(status, &why);
    snprintf(path, sizeof path, "%s/tokenizer.json", directory);
    status = dip_tokenizer_open(path, &why, &tokenizer);
    if (status) {
        dip__fail(status, &why);
        return EXIT_FAILED; /* a bad file is no bad usage, whatever its status */
    }
    size_t bytes = strlen(arguments->operand);
    if (bytes > DIP_TEXT_BYTES_MAX)
        status = dip_fail(&why, DIP_LIMIT, "the text is %zu bytes; at most %d are allowed", bytes,
                          DIP_TEXT_BYTES_MAX);
    else
        status = encode(tokenizer, arguments->operand, &why);
    dip_tokenizer_close(tokenizer);
    return status ? dip__fail(status, &why) : EXIT_DONE;
}
