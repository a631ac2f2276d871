/* cli/model.c - `diptych model`: whether a model directory is whole, and what is in it.
 *
 * verify reads every byte: the model opens and binds as a worker would do it, every value is looked
 * at, every file is hashed. It is what an init step runs before a worker trusts a download: exit 0,
 * or 1 and one sentence. The model's digest samples its tensors, so that opening is quick; who
 * wants to pin every byte keeps a manifest. */
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/json.h"
#include "cli/manifest.h"
#include "model/model.h"

enum { HEX_DIGITS = DIP_SHA256_HEX_BYTES - 1 };

struct verified {
    char directory[DIP_PATH_BYTES_MAX];
    char digest[65];
    struct manifest files;
};

/* As GetModel says it, perhaps with the name of the hash in front. */
static enum dip_status read_digest(const char *text, struct dip_why *why,
                                   char ret_hex[DIP_SHA256_HEX_BYTES])
{
    const char *hex = strncmp(text, "sha256:", 7) == 0 ? text + 7 : text;
    if (strlen(hex) != HEX_DIGITS || strspn(hex, "0123456789abcdefABCDEF") != HEX_DIGITS)
        return dip_fail(why, DIP_INVALID, "--digest is \"%.80s\"; it must be %d hex digits", text,
                        HEX_DIGITS);
    for (int i = 0; i <= HEX_DIGITS; i++)
        ret_hex[i] = (char)tolower((unsigned char)hex[i]);
    return DIP_OK;
}

static enum dip_status check_model(struct verified *v, struct dip_why *why)
{
    struct dip_model *model;
    DIP_TRY(dip_model_open(v->directory, why, &model));
    memcpy(v->digest, model->digest, sizeof v->digest);
    enum dip_status status = dip_weights_check_values(model->weights, why);
    dip_model_close(model);
    return status;
}

static enum dip_status check_manifest(struct verified *v, const char *path, struct dip_why *why)
{
    struct manifest expected = {0};
    if (!path)
        return DIP_OK;
    DIP_TRY(dip__manifest_read(path, why, &expected));
    enum dip_status status = dip__manifest_compare(&expected, &v->files, why);
    dip__manifest_free(&expected);
    return status;
}

/* The manifest first: a damaged file is best named as what it is. */
static enum dip_status verify(struct verified *v, const struct options *o, const char *digest,
                              struct dip_why *why)
{
    DIP_TRY(dip__manifest_make(v->directory, why, &v->files));
    DIP_TRY(check_manifest(v, o->manifest, why));
    DIP_TRY(check_model(v, why));
    if (digest[0] && strcmp(digest, v->digest) != 0)
        return dip_fail(why, DIP_CORRUPT, "%s is another model: its digest is %s, expected %s",
                        v->directory, v->digest, digest);
    return DIP_OK;
}

static void print_json(const struct verified *v)
{
    struct json_writer w = {.out = stdout};
    dip__json_open(&w, NULL, '{');
    dip__json_string(&w, "model", v->directory);
    dip__json_string(&w, "digest", v->digest);
    dip__json_open(&w, "files", '[');
    for (int i = 0; i < v->files.count; i++) {
        dip__json_open(&w, NULL, '{');
        dip__json_string(&w, "name", v->files.entries[i].name);
        dip__json_uint(&w, "bytes", v->files.entries[i].bytes);
        dip__json_string(&w, "sha256", v->files.entries[i].sha256);
        dip__json_close(&w, '}');
    }
    dip__json_close(&w, ']');
    dip__json_close(&w, '}');
}

static void print_text(const struct verified *v)
{
    uint64_t bytes = 0;
    for (int i = 0; i < v->files.count; i++)
        bytes += v->files.entries[i].bytes;
    printf("%s: %d files, %" PRIu64 " bytes, all of them read\n", v->directory, v->files.count,
           bytes);
    printf("digest %s\n", v->digest);
}

enum exit_code dip__model(const struct arguments *arguments)
{
    const struct options *o = &arguments->options;
    struct verified v = {0};
    struct dip_why why = {0};
    char digest[DIP_SHA256_HEX_BYTES] = "";
    bool is_manifest = strcmp(arguments->operand, "manifest") == 0;
    enum dip_status status = DIP_OK;
    if (!is_manifest && strcmp(arguments->operand, "verify") != 0)
        status = dip_fail(&why, DIP_INVALID,
                          "model does not know \"%.40s\"; there are verify and "
                          "manifest",
                          arguments->operand);
    if (!status && is_manifest && (o->manifest || o->digest || o->json))
        status = dip_fail(&why, DIP_INVALID, "model manifest takes --model and no other option");
    if (!status && o->digest)
        status = read_digest(o->digest, &why, digest);
    if (status)
        return dip__fail(status, &why);
    status = dip__model_directory(o, &why, v.directory, sizeof v.directory);
    if (!status)
        status = is_manifest ? dip__manifest_make(v.directory, &why, &v.files)
                             : verify(&v, o, digest, &why);
    if (status)
        dip__fail(status, &why);
    else if (is_manifest)
        dip__manifest_print(&v.files, stdout);
    else if (o->json)
        print_json(&v);
    else
        print_text(&v);
    dip__manifest_free(&v.files);
    return status ? EXIT_FAILED : EXIT_DONE;
}
