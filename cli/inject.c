/* cli/inject.c - see cli/inject.h. */
#include "cli/inject.h"

#include <stdlib.h>
#include <string.h>

#include "base/dtype.h"
#include "model/safetensors.h"

enum injected { INJECTED_PROMPT_IDS, INJECTED_IMAGE_IDS, INJECTED_HIDDEN, INJECTED_NOISE };

static const struct {
    const char *name;
    bool is_ids;
    int rank;
} rows[] = {
    [INJECTED_PROMPT_IDS] = {"prompt_ids", true, 1},
    [INJECTED_IMAGE_IDS] = {"image_ids", true, 1},
    [INJECTED_HIDDEN] = {"hidden", false, 2},
    [INJECTED_NOISE] = {"noise", false, 3},
};

/* Parts of a trace that are results, not causes. */
static bool is_ignored(const char *name)
{
    static const char *const exact[] = {"condition", "latent", "image"};
    for (int i = 0; i < 3; i++)
        if (strcmp(name, exact[i]) == 0)
            return true;
    return strncmp(name, "velocity.", 9) == 0 || strncmp(name, "latent.", 7) == 0;
}

/* A copy with the alignment that the file does not promise, floats widened to f32. */
static enum dip_status copy_values(const char *path, const struct dip_safetensors_tensor *tensor,
                                   enum dip_dtype dtype, struct dip_why *why, void **ret_values)
{
    size_t count = tensor->bytes / dip_dtype_bytes(dtype);
    void *values = malloc(count * sizeof(float) + 1);
    if (!values)
        return dip_fail(why, DIP_NO_MEMORY, "%s: no memory for %s", path, tensor->name);
    if (dip_dtype_bytes(dtype) == sizeof(float))
        memcpy(values, tensor->data, tensor->bytes);
    else
        for (size_t i = 0; i < count; i++)
            ((float *)values)[i] = dip_f32_at(dtype, tensor->data, i);
    *ret_values = values;
    return DIP_OK;
}

static enum dip_status take_tensor(const char *path, const struct dip_safetensors_tensor *tensor,
                                   enum injected which, struct dip_why *why, void **ret_values)
{
    enum dip_dtype dtype = DIP_U8;
    bool is_known = dip_safetensors_dtype(tensor->dtype_name, &dtype);
    bool is_float = dtype == DIP_F32 || dtype == DIP_BF16 || dtype == DIP_F16;
    if (!is_known || (rows[which].is_ids ? dtype != DIP_I32 : !is_float))
        return dip_fail(why, DIP_CORRUPT, "%s: %s is %s, expected %s", path, tensor->name,
                        tensor->dtype_name, rows[which].is_ids ? "I32" : "F32");
    if (tensor->rank != rows[which].rank || tensor->bytes == 0)
        return dip_fail(why, DIP_CORRUPT,
                        "%s: %s has %d dimensions and %zu bytes, expected %d "
                        "dimensions and something in them",
                        path, tensor->name, tensor->rank, tensor->bytes, rows[which].rank);
    return copy_values(path, tensor, dtype, why, ret_values);
}

static void point_at(struct injection_file *file, enum injected which, const int64_t *dims)
{
    struct dip_injection *injection = &file->injection;
    switch (which) {
    case INJECTED_PROMPT_IDS:
        injection->prompt_ids = file->arrays[which];
        injection->prompt_count = dims[0];
        break;
    case INJECTED_IMAGE_IDS:
        injection->image_ids = file->arrays[which];
        injection->image_count = dims[0];
        break;
    case INJECTED_HIDDEN:
        injection->hidden = file->arrays[which];
        injection->hidden_rows = dims[0];
        injection->hidden_columns = dims[1];
        break;
    case INJECTED_NOISE:
        injection->noise = file->arrays[which];
        memcpy(injection->noise_dims, dims, sizeof injection->noise_dims);
        break;
    }
}

static enum dip_status read_tensor(const char *path, const struct dip_safetensors_tensor *tensor,
                                   struct dip_why *why, struct injection_file *file)
{
    for (int i = 0; i < 4; i++) {
        if (strcmp(tensor->name, rows[i].name) != 0)
            continue;
        DIP_TRY(take_tensor(path, tensor, (enum injected)i, why, &file->arrays[i]));
        point_at(file, (enum injected)i, tensor->dims);
        return DIP_OK;
    }
    if (is_ignored(tensor->name))
        return DIP_OK;
    return dip_fail(why, DIP_CORRUPT,
                    "%s: nothing is called %.60s; prompt_ids, image_ids, hidden and noise can be "
                    "injected",
                    path, tensor->name);
}

enum dip_status dip__injection_open(const char *path, struct dip_why *why,
                                    struct injection_file *ret_file)
{
    struct injection_file file = {0};
    struct dip_safetensors *tensors = NULL;
    enum dip_status status = dip_safetensors_open(path, why, &tensors);
    if (status)
        return status;
    for (size_t i = 0; i < dip_safetensors_count(tensors) && !status; i++)
        status = read_tensor(path, dip_safetensors_at(tensors, i), why, &file);
    dip_safetensors_close(tensors);
    bool has_any = file.arrays[0] || file.arrays[1] || file.arrays[2] || file.arrays[3];
    if (!status && !has_any)
        status = dip_fail(why, DIP_CORRUPT,
                          "%s: holds none of prompt_ids, image_ids, hidden and noise", path);
    if (status) {
        dip__injection_close(&file);
        return status;
    }
    *ret_file = file;
    return DIP_OK;
}

void dip__injection_close(struct injection_file *file)
{
    for (int i = 0; i < 4; i++)
        free(file->arrays[i]);
    *file = (struct injection_file){0};
}
