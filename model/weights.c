/* model/weights.c - opening a checkpoint: shards, index, and one table of tensors by name.
 *
 * Which files: model.safetensors if it is there, else the shards named by
 * model.safetensors.index.json, else model-00001-of-00001.safetensors. The table holds every tensor
 * of every shard; the index must agree with it. Lookup is by binary search over sorted names: no
 * choice of names in a hostile file makes it slow. */
#include "model/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/file.h"
#include "base/json.h"
#include "model/safetensors.h"
#include "model/weights_private.h"

static const char index_name[] = "model.safetensors.index.json";

/* ---- shards ---- */

static enum dip_status join(const char *directory, const char *name, struct dip_why *why,
                            char path[DIP_PATH_BYTES_MAX])
{
    int length = snprintf(path, DIP_PATH_BYTES_MAX, "%s/%s", directory, name);
    if (length < DIP_PATH_BYTES_MAX)
        return DIP_OK;
    return dip_fail(why, DIP_LIMIT, "the path of %s is longer than %d bytes", name,
                    DIP_PATH_BYTES_MAX - 1);
}

/* A shard lies beside its index: a plain name, so that an index cannot make us open other files. */
static bool is_shard_name(const char *name)
{
    static const char suffix[] = ".safetensors";
    size_t length = strlen(name);
    if (length < sizeof suffix || length >= DIP__SHARD_NAME_BYTES || name[0] == '.')
        return false;
    return !strchr(name, '/') && strcmp(name + length - (sizeof suffix - 1), suffix) == 0;
}

static const struct dip__shard *shard_find(const struct dip_weights *weights, const char *name)
{
    /* Newest first: an index lists its tensors shard by shard. */
    for (size_t i = weights->shard_count; i > 0; i--)
        if (strcmp(weights->shards[i - 1].name, name) == 0)
            return &weights->shards[i - 1];
    return NULL;
}

static enum dip_status shard_open(struct dip_weights *weights, const char *directory,
                                  const char *name, struct dip_why *why)
{
    char path[DIP_PATH_BYTES_MAX];
    if (weights->shard_count == DIP_SHARDS_MAX)
        return dip_fail(why, DIP_LIMIT, "%s: %s names more than %d shards", directory, index_name,
                        DIP_SHARDS_MAX);
    DIP_TRY(join(directory, name, why, path));
    struct dip__shard *shard = &weights->shards[weights->shard_count];
    enum dip_status status = dip_safetensors_open(path, why, &shard->file);
    if (status)
        return status;
    memcpy(shard->name, name, strlen(name) + 1);
    weights->shard_count++;
    return DIP_OK;
}

/* ---- the index ---- */

enum dip_status dip__weights_index_parse(const char *text, size_t bytes, const char *name,
                                         struct dip_why *why, struct dip_json *ret_json,
                                         struct dip_json *ret_map)
{
    struct dip_json json = {0};
    struct dip_json map = {0};
    DIP_TRY(dip_json_parse(text, bytes, name, why, &json));
    enum dip_status status = dip_json_object(&json, "weight_map", why, &map);
    if (!status && !map.object)
        status = dip_fail(why, DIP_CORRUPT, "%s: weight_map is missing", name);
    void *cursor = NULL;
    for (const char *key; !status && (key = dip_json_next(&map, &cursor));) {
        const char *shard = NULL;
        status = dip_json_string(&map, key, why, &shard);
        if (!status && (!shard || !is_shard_name(shard)))
            status = dip_fail(why, DIP_CORRUPT,
                              "%s: tensor %.100s is said to be in \"%.100s\", expected the plain "
                              "name of a .safetensors file beside the index",
                              name, key, shard ? shard : "");
    }
    if (status) {
        dip_json_close(&json);
        return status;
    }
    *ret_json = json;
    *ret_map = map;
    return DIP_OK;
}

static enum dip_status open_shards_of_map(struct dip_weights *weights, const char *directory,
                                          const struct dip_json *map, struct dip_why *why)
{
    void *cursor = NULL;
    for (const char *key; (key = dip_json_next(map, &cursor));) {
        const char *name = NULL;
        DIP_TRY(dip_json_string(map, key, why, &name));
        if (shard_find(weights, name))
            continue;
        enum dip_status status = shard_open(weights, directory, name, why);
        if (status)
            return status;
    }
    return DIP_OK;
}

static enum dip_status check_map(const struct dip_weights *weights, const struct dip_json *map,
                                 struct dip_why *why)
{
    void *cursor = NULL;
    for (const char *key; (key = dip_json_next(map, &cursor));) {
        const char *name = NULL;
        DIP_TRY(dip_json_string(map, key, why, &name));
        const struct dip_weight *found = dip_weights_find(weights, key);
        if (!found || strcmp(found->file, name) != 0)
            return dip_fail(why, DIP_CORRUPT, "%s: tensor %s is said to be in %s, found %s",
                            map->path, key, name, found ? found->file : "nowhere");
    }
    return DIP_OK;
}

/* ---- the table ---- */

static int compare_names(const void *left, const void *right)
{
    const struct dip_weight *const *a = left;
    const struct dip_weight *const *b = right;
    return strcmp((*a)->name, (*b)->name);
}

static void add_shard(struct dip_weights *weights, const struct dip__shard *shard)
{
    for (size_t i = 0; i < dip_safetensors_count(shard->file); i++) {
        const struct dip_safetensors_tensor *t = dip_safetensors_at(shard->file, i);
        struct dip_weight *weight = &weights->table[weights->count];
        *weight = (struct dip_weight){.name = t->name,
                                      .dtype_name = t->dtype_name,
                                      .file = shard->name,
                                      .rank = t->rank,
                                      .bytes = t->bytes,
                                      .data = t->data};
        memcpy(weight->dims, t->dims, sizeof weight->dims);
        weights->by_name[weights->count] = weight;
        weights->bytes += t->bytes;
        weights->count++;
    }
}

static enum dip_status build_table(struct dip_weights *weights, const char *directory,
                                   struct dip_why *why)
{
    size_t count = 0;
    for (size_t i = 0; i < weights->shard_count; i++)
        count += dip_safetensors_count(weights->shards[i].file);
    if (count > DIP_TENSORS_MAX)
        return dip_fail(why, DIP_LIMIT, "%s: has %zu tensors, expected at most %d", directory,
                        count, DIP_TENSORS_MAX);
    weights->table = calloc(count + 1, sizeof *weights->table);
    weights->by_name = calloc(count + 1, sizeof(struct dip_weight *));
    weights->is_used = calloc(count + 1, sizeof *weights->is_used);
    if (!weights->table || !weights->by_name || !weights->is_used)
        return dip_fail(why, DIP_NO_MEMORY, "%s: no memory for a table of %zu tensors", directory,
                        count);
    for (size_t i = 0; i < weights->shard_count; i++)
        add_shard(weights, &weights->shards[i]);
    qsort(weights->by_name, count, sizeof(struct dip_weight *), compare_names);
    for (size_t i = 1; i < count; i++) {
        const struct dip_weight *a = weights->by_name[i - 1];
        const struct dip_weight *b = weights->by_name[i];
        if (strcmp(a->name, b->name) == 0)
            return dip_fail(why, DIP_CORRUPT, "%s: tensor %s is in both %s and %s", directory,
                            a->name, a->file, b->file);
    }
    return DIP_OK;
}

/* ---- opening ---- */

static bool is_there(const char *directory, const char *name)
{
    char path[DIP_PATH_BYTES_MAX];
    if (join(directory, name, NULL, path))
        return false;
    return dip_file_exists(path);
}

static enum dip_status open_index(struct dip_weights *weights, const char *directory,
                                  struct dip_why *why)
{
    char path[DIP_PATH_BYTES_MAX];
    char *text = NULL;
    size_t bytes = 0;
    struct dip_json json = {0};
    struct dip_json map = {0};
    DIP_TRY(join(directory, index_name, why, path));
    DIP_TRY(dip_file_read(path, DIP_JSON_BYTES_MAX, why, &text, &bytes));
    enum dip_status status = dip__weights_index_parse(text, bytes, path, why, &json, &map);
    if (status)
        goto out;
    status = open_shards_of_map(weights, directory, &map, why);
    if (status)
        goto out;
    status = build_table(weights, directory, why);
    if (status)
        goto out;
    status = check_map(weights, &map, why);
out:
    dip_json_close(&json);
    free(text);
    return status;
}

static enum dip_status open_single(struct dip_weights *weights, const char *directory,
                                   const char *name, struct dip_why *why)
{
    DIP_TRY(shard_open(weights, directory, name, why));
    return build_table(weights, directory, why);
}

static enum dip_status open_files(struct dip_weights *weights, const char *directory,
                                  struct dip_why *why)
{
    static const char single[] = "model.safetensors";
    static const char lone_shard[] = "model-00001-of-00001.safetensors";
    if (is_there(directory, single))
        return open_single(weights, directory, single, why);
    if (is_there(directory, index_name))
        return open_index(weights, directory, why);
    if (is_there(directory, lone_shard))
        return open_single(weights, directory, lone_shard, why);
    return dip_fail(why, DIP_NOT_FOUND,
                    "%s: found neither %s nor %s: expected the folder of a downloaded checkpoint",
                    directory, single, index_name);
}

enum dip_status dip_weights_open(const char *directory, struct dip_why *why,
                                 struct dip_weights **ret_weights)
{
    struct dip_weights *weights = calloc(1, sizeof *weights);
    if (!weights)
        return dip_fail(why, DIP_NO_MEMORY, "%s: no memory to open it", directory);
    snprintf(weights->label, sizeof weights->label, "%s", directory);
    enum dip_status status = open_files(weights, directory, why);
    if (status) {
        dip_weights_close(weights);
        return status;
    }
    *ret_weights = weights;
    return DIP_OK;
}

void dip_weights_rest(const struct dip_weights *weights)
{
    for (size_t i = 0; i < weights->shard_count; i++)
        dip_safetensors_rest(weights->shards[i].file);
}

void dip_weights_expect(const struct dip_weights *weights, struct dip_tensor view)
{
    dip_assert(dip_tensor_is_dense(view));
    if (!weights->is_random)
        dip_map_expect(view.data, (size_t)dip_tensor_count(view) * dip_dtype_bytes(view.dtype));
}

void dip_weights_keep_used(const struct dip_weights *weights)
{
    if (weights->is_random)
        return;
    dip_weights_rest(weights);
    for (size_t i = 0; i < weights->count; i++)
        if (weights->is_used[i])
            dip_map_expect(weights->table[i].data, weights->table[i].bytes);
}

void dip_weights_close(struct dip_weights *weights)
{
    if (!weights)
        return;
    dip__weights_random_free(weights);
    for (size_t i = 0; i < weights->shard_count; i++)
        dip_safetensors_close(weights->shards[i].file);
    free(weights->table);
    free(weights->by_name);
    free(weights->is_used);
    free(weights);
}

/* ---- looking up and listing ---- */

static int compare_key(const void *key, const void *element)
{
    const struct dip_weight *const *weight = element;
    return strcmp(key, (*weight)->name);
}

struct dip_weight *dip__weights_lookup(const struct dip_weights *weights, const char *name)
{
    if (weights->count == 0)
        return NULL;
    struct dip_weight **found =
        bsearch(name, weights->by_name, weights->count, sizeof(struct dip_weight *), compare_key);
    return found ? *found : NULL;
}

const struct dip_weight *dip_weights_find(const struct dip_weights *weights, const char *name)
{
    return dip__weights_lookup(weights, name);
}

size_t dip_weights_count(const struct dip_weights *weights)
{
    return weights->count;
}

const struct dip_weight *dip_weights_at(const struct dip_weights *weights, size_t index)
{
    dip_assert(index < weights->count);
    return &weights->table[index];
}

size_t dip_weights_bytes(const struct dip_weights *weights)
{
    return weights->bytes;
}
