/* net/tokens.c - tokens as SHA-256, compared with every line.
 *
 * Only digests are kept, also of plain tokens: the text of the file is wiped after it was read. The
 * comparison has no branch on what it compares, and does not end early; how long the presented
 * token is shows in its hashing, which tells an attacker what he knows. */
#include "net/tokens.h"

#include <ctype.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/file.h"
#include "net/tokens_private.h"

enum {
    FILE_BYTES_MAX = 1 << 20,
    LINE_BYTES_MAX = 1024,
    TOKEN_BYTES_MIN = 8, /* of a plain one: shorter ones are guessed */
    TOKEN_BYTES_MAX = 512,
    WORDS_MAX = 4,
};

struct stamp {
    dev_t device;
    ino_t inode;
    off_t bytes;
    struct timespec changed;
};

struct dip_tokens {
    char *path;
    struct stamp stamp; /* of the file that was read last, taken or not */
    int64_t looked_ns;
    bool is_looked;
    struct dip__token_table table;
    struct dip_why why;
};

static const struct {
    const char *name;
    uint32_t bits;
} scopes[] = {
    {"read", DIP_SCOPE_READ},
    {"generate", DIP_SCOPE_READ | DIP_SCOPE_GENERATE},
    {"admin", DIP_SCOPE_READ | DIP_SCOPE_ADMIN},
    {"worker", DIP_SCOPE_WORKER},
};
enum { SCOPES = sizeof scopes / sizeof scopes[0] };

/* ---- one line ---- */

struct word {
    const char *text;
    size_t bytes;
};

static int split(const char *line, size_t bytes, struct word words[WORDS_MAX])
{
    int count = 0;
    size_t i = 0;
    while (count < WORDS_MAX) {
        while (i < bytes && (line[i] == ' ' || line[i] == '\t' || line[i] == '\r'))
            i++;
        size_t begin = i;
        while (i < bytes && !strchr(" \t\r", line[i]))
            i++;
        if (i == begin || line[begin] == '#')
            break;
        words[count++] = (struct word){line + begin, i - begin};
    }
    return count;
}

static bool skip(struct word *word, const char *prefix)
{
    size_t bytes = strlen(prefix);
    if (word->bytes < bytes || memcmp(word->text, prefix, bytes) != 0)
        return false;
    word->text += bytes;
    word->bytes -= bytes;
    return true;
}

/* The alphabet of RFC 6750, which is what a header can carry. */
static bool is_token(const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (!isalnum((unsigned char)text[i]) && !strchr("-._~+/=", text[i]))
            return false;
    return bytes > 0 && bytes <= TOKEN_BYTES_MAX && !memchr(text, '\0', bytes);
}

static enum dip_status read_secret(struct word word, int line, struct dip_why *why,
                                   struct dip__token *token)
{
    if (skip(&word, "sha256:")) {
        if (word.bytes != DIP_SHA256_HEX_BYTES - 1)
            return dip_fail(why, DIP_INVALID, "line %d: sha256: wants 64 hexadecimal digits", line);
        for (size_t i = 0; i < word.bytes; i++) {
            if (!isxdigit((unsigned char)word.text[i]))
                return dip_fail(why, DIP_INVALID, "line %d: sha256: wants 64 hexadecimal digits",
                                line);
            token->hex[i] = (char)tolower((unsigned char)word.text[i]);
        }
        return DIP_OK;
    }
    if (!skip(&word, "plain:"))
        return dip_fail(why, DIP_INVALID, "line %d does not begin with sha256: or plain:", line);
    if (word.bytes < TOKEN_BYTES_MIN || !is_token(word.text, word.bytes))
        return dip_fail(why, DIP_INVALID,
                        "line %d: plain: wants %d to %d letters, digits or any of -._~+/=", line,
                        TOKEN_BYTES_MIN, TOKEN_BYTES_MAX);
    return dip_sha256_hex(word.text, word.bytes, token->hex);
}

static enum dip_status read_tenant(struct word word, int line, struct dip_why *why,
                                   char tenant[DIP_TENANT_BYTES])
{
    bool is_good = word.bytes < DIP_TENANT_BYTES;
    for (size_t i = 0; i < word.bytes && is_good; i++)
        is_good = isalnum((unsigned char)word.text[i]) ||
                  (word.text[i] != '\0' && strchr("._-", word.text[i]));
    if (!is_good)
        return dip_fail(why, DIP_INVALID,
                        "line %d: a tenant is 1 to 63 letters, digits, '.', '_' or '-'", line);
    memcpy(tenant, word.text, word.bytes);
    tenant[word.bytes] = '\0';
    return DIP_OK;
}

static enum dip_status read_scopes(struct word word, int line, struct dip_why *why,
                                   uint32_t *ret_scopes)
{
    for (size_t begin = 0; begin <= word.bytes;) {
        const char *text = word.text + begin;
        const char *comma = memchr(text, ',', word.bytes - begin);
        size_t bytes = comma ? (size_t)(comma - text) : word.bytes - begin;
        uint32_t bits = 0;
        for (int i = 0; i < SCOPES; i++)
            if (strlen(scopes[i].name) == bytes && memcmp(scopes[i].name, text, bytes) == 0)
                bits = scopes[i].bits;
        if (bits == 0)
            return dip_fail(
                why, DIP_INVALID,
                "line %d: scopes are read, generate, admin and worker, with commas between", line);
        *ret_scopes |= bits;
        begin += bytes + 1;
    }
    return DIP_OK;
}

static enum dip_status read_line(const char *text, size_t bytes, int line, struct dip_why *why,
                                 struct dip__token *ret_token, bool *ret_is_token)
{
    struct word words[WORDS_MAX];
    struct dip__token token = {.holder = {.scopes = 0}};
    *ret_is_token = false;
    if (bytes > LINE_BYTES_MAX)
        return dip_fail(why, DIP_INVALID, "line %d is longer than %d bytes", line, LINE_BYTES_MAX);
    if (memchr(text, '\0', bytes))
        return dip_fail(why, DIP_INVALID, "line %d is no text", line);
    int count = split(text, bytes, words);
    if (count == 0)
        return DIP_OK;
    if (count != 3)
        return dip_fail(why, DIP_INVALID,
                        "line %d is not a token, a tenant and scopes, with spaces between", line);
    DIP_TRY(read_secret(words[0], line, why, &token));
    DIP_TRY(read_tenant(words[1], line, why, token.holder.tenant));
    DIP_TRY(read_scopes(words[2], line, why, &token.holder.scopes));
    *ret_token = token;
    *ret_is_token = true;
    return DIP_OK;
}

/* ---- the file ---- */

static enum dip_status add(struct dip__token_table *table, const struct dip__token *token,
                           int *capacity, struct dip_why *why)
{
    if (table->count == DIP_TOKENS_MAX)
        return dip_fail(why, DIP_LIMIT, "more than %d tokens", DIP_TOKENS_MAX);
    if (table->count == *capacity) {
        *capacity = *capacity ? 2 * *capacity : 16;
        struct dip__token *grown =
            realloc(table->tokens, (size_t)*capacity * sizeof table->tokens[0]);
        if (!grown)
            return DIP_NO_MEMORY;
        table->tokens = grown;
    }
    table->tokens[table->count++] = *token;
    return DIP_OK;
}

/* Tokens of workers alone have a tenant, too, but nothing is asked for under it. */
static void find_tenants(struct dip__token_table *table)
{
    for (int i = 0; i < table->count && table->tenant_count < DIP_TENANTS_SHOWN; i++) {
        const struct dip_token_holder *holder = &table->tokens[i].holder;
        int known = 0;
        while (known < table->tenant_count &&
               strcmp(table->tokens[table->tenants[known]].holder.tenant, holder->tenant) != 0)
            known++;
        if (known == table->tenant_count && (holder->scopes & DIP_SCOPE_GENERATE))
            table->tenants[table->tenant_count++] = i;
    }
}

enum dip_status dip__tokens_parse(const char *text, size_t bytes, struct dip_why *why,
                                  struct dip__token_table *ret_table)
{
    struct dip__token_table table = {0};
    enum dip_status status = DIP_OK;
    int capacity = 0;
    int line = 1;
    for (size_t begin = 0; begin < bytes && !status; line++) {
        struct dip__token token;
        bool is_token = false;
        const char *end = memchr(text + begin, '\n', bytes - begin);
        size_t line_bytes = end ? (size_t)(end - text) - begin : bytes - begin;
        status = read_line(text + begin, line_bytes, line, why, &token, &is_token);
        if (!status && is_token)
            status = add(&table, &token, &capacity, why);
        begin += line_bytes + 1;
    }
    if (status) {
        dip__tokens_table_free(&table);
        return status;
    }
    find_tenants(&table);
    *ret_table = table;
    return DIP_OK;
}

void dip__tokens_table_free(struct dip__token_table *table)
{
    free(table->tokens);
    *table = (struct dip__token_table){0};
}

static bool is_same(const struct stamp *a, const struct stamp *b)
{
    return a->device == b->device && a->inode == b->inode && a->bytes == b->bytes &&
           a->changed.tv_sec == b->changed.tv_sec && a->changed.tv_nsec == b->changed.tv_nsec;
}

static struct stamp stamp_of(const char *path)
{
    struct stat about;
    if (stat(path, &about) != 0)
        return (struct stamp){.bytes = -1}; /* gone */
    return (struct stamp){about.st_dev, about.st_ino, about.st_size, about.st_ctim};
}

/* Takes the file as it is now; what was in use stays when it is broken. */
static enum dip_status load(struct dip_tokens *tokens)
{
    struct dip__token_table table = {0};
    struct dip_why why = {0};
    char *text = NULL;
    size_t bytes = 0;
    tokens->stamp = stamp_of(tokens->path); /* before reading: a change after it is seen next */
    tokens->why = (struct dip_why){0};
    enum dip_status status =
        dip_file_read(tokens->path, FILE_BYTES_MAX, &tokens->why, &text, &bytes);
    if (status) {
        tokens->stamp = (struct stamp){.bytes = 0}; /* the same file may be readable later */
    } else {
        status = bytes > 0 ? dip__tokens_parse(text, bytes, &why, &table)
                           : dip_fail(&why, DIP_INVALID, "the file is empty");
        if (status)
            (void)dip_fail(&tokens->why, status, "%s: %s", tokens->path,
                           why.text[0] ? why.text : dip_status_text(status));
        OPENSSL_cleanse(text, bytes);
    }
    free(text);
    if (status)
        return status;
    dip__tokens_table_free(&tokens->table);
    tokens->table = table;
    return DIP_OK;
}

static void look(struct dip_tokens *tokens, int64_t now_ns)
{
    if (tokens->is_looked && now_ns - tokens->looked_ns < DIP_SECOND_NS)
        return;
    tokens->is_looked = true;
    tokens->looked_ns = now_ns;
    struct stamp stamp = stamp_of(tokens->path);
    if (!is_same(&stamp, &tokens->stamp) && load(tokens))
        return; /* `why` says so */
}

enum dip_status dip_tokens_open(const char *path, struct dip_why *why,
                                struct dip_tokens **ret_tokens)
{
    struct dip_tokens *tokens = calloc(1, sizeof *tokens);
    enum dip_status status = DIP_NO_MEMORY;
    if (!tokens)
        goto out;
    tokens->path = strdup(path);
    if (!tokens->path)
        goto out;
    status = load(tokens);
    if (status) {
        (void)dip_fail(why, status, "%s", tokens->why.text);
        goto out;
    }
    *ret_tokens = tokens;
    tokens = NULL;
out:
    dip_tokens_close(tokens);
    return status;
}

void dip_tokens_close(struct dip_tokens *tokens)
{
    if (!tokens)
        return;
    dip__tokens_table_free(&tokens->table);
    free(tokens->path);
    free(tokens);
}

const char *dip_tokens_why(const struct dip_tokens *tokens)
{
    return tokens->why.text;
}

int dip_tokens_count(const struct dip_tokens *tokens)
{
    return tokens->table.count;
}

const char *dip_tokens_tenant(const struct dip_tokens *tokens, int index)
{
    const struct dip__token_table *table = &tokens->table;
    return index < table->tenant_count ? table->tokens[table->tenants[index]].holder.tenant : NULL;
}

uint32_t dip_tokens_scopes(const struct dip_tokens *tokens)
{
    uint32_t bits = 0;
    for (int i = 0; i < tokens->table.count; i++)
        bits |= tokens->table.tokens[i].holder.scopes;
    return bits;
}

/* ---- whose is it ---- */

/* All ones when the digests are equal, else zero. */
static uint32_t equal_mask(const char *a, const char *b)
{
    unsigned char differ = 0;
    for (int i = 0; i < DIP_SHA256_HEX_BYTES - 1; i++)
        differ |= (unsigned char)(a[i] ^ b[i]);
    return 0u - (((uint32_t)differ - 1u) >> 31);
}

const struct dip_token_holder *dip__tokens_find(const struct dip__token_table *table,
                                                const char hex[DIP_SHA256_HEX_BYTES])
{
    uint32_t found = 0; /* 1 + the index; of equal lines the first */
    for (int i = 0; i < table->count; i++) {
        uint32_t is_first = 0u - ((found - 1u) >> 31);
        found |= equal_mask(table->tokens[i].hex, hex) & is_first & (uint32_t)(i + 1);
    }
    return found ? &table->tokens[found - 1].holder : NULL;
}

/* "Bearer" in any case, spaces, the token. */
bool dip__tokens_bearer(const char *text, size_t bytes, const char **ret_token, size_t *ret_bytes)
{
    static const char scheme[] = "bearer";
    size_t i = 0;
    for (; i < sizeof scheme - 1; i++)
        if (i >= bytes || tolower((unsigned char)text[i]) != scheme[i])
            return false;
    size_t spaces = i;
    while (i < bytes && text[i] == ' ')
        i++;
    if (i == spaces || !is_token(text + i, bytes - i))
        return false;
    *ret_token = text + i;
    *ret_bytes = bytes - i;
    return true;
}

enum dip_status dip_tokens_check(struct dip_tokens *tokens, int64_t now_ns,
                                 const char *authorization, size_t bytes,
                                 struct dip_token_holder *ret_holder)
{
    char hex[DIP_SHA256_HEX_BYTES];
    const char *token;
    size_t token_bytes;
    if (!dip__tokens_bearer(authorization, bytes, &token, &token_bytes))
        return DIP_INVALID;
    look(tokens, now_ns);
    DIP_TRY(dip_sha256_hex(token, token_bytes, hex));
    const struct dip_token_holder *holder = dip__tokens_find(&tokens->table, hex);
    if (!holder)
        return DIP_NOT_FOUND;
    *ret_holder = *holder;
    return DIP_OK;
}
