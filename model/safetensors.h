/* model/safetensors.h - one file of named tensors, read in place; and a small writer for traces.
 *
 *     [ u64 header bytes ][ header, JSON ][ data: tensors back to back, no holes ]
 *
 * The header is hostile until proven otherwise: sizes are compared with the file and with
 * base/limits.h before anything is reserved, every shape product is checked for overflow, every
 * range lies inside the data, has exactly the bytes its shape and dtype need and overlaps no other,
 * and together the ranges cover the data. After that, no accessor can fail. Dtypes that nothing
 * here computes with (I64 buffers of published repositories) are listed and left alone. Format:
 * https://github.com/huggingface/safetensors. Thread: any; immutable after open. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/limits.h"
#include "base/status.h"

enum { DIP_SAFETENSORS_DTYPE_BYTES = 16 };

struct dip_safetensors;

/* One tensor; everything lives as long as the dip_safetensors it came from. */
struct dip_safetensors_tensor {
    const char *name;
    char dtype_name[DIP_SAFETENSORS_DTYPE_BYTES]; /* as stored, "BF16" */
    int rank;                                     /* 0..DIP_TENSOR_RANK_MAX */
    int64_t dims[DIP_TENSOR_RANK_MAX];            /* dims[rank] and beyond are 1 */
    size_t bytes;
    const unsigned char *data; /* not aligned beyond what the file's layout gives */
};

/* Maps a file. Errors: NOT_FOUND, IO, CORRUPT, LIMIT, NO_MEMORY, one sentence. */
DIP_MUST_USE enum dip_status dip_safetensors_open(const char *path, struct dip_why *why,
                                                  struct dip_safetensors **ret_file);

/* The same for bytes that the caller keeps alive; `name` is for messages. */
DIP_MUST_USE enum dip_status dip_safetensors_parse(const void *data, size_t bytes, const char *name,
                                                   struct dip_why *why,
                                                   struct dip_safetensors **ret_file);
void dip_safetensors_close(struct dip_safetensors *file);

/* As dip_map_rest. */
void dip_safetensors_rest(const struct dip_safetensors *file);

size_t dip_safetensors_count(const struct dip_safetensors *file);

/* In the order of their data. */
const struct dip_safetensors_tensor *dip_safetensors_at(const struct dip_safetensors *file,
                                                        size_t index);

/* By name, linear: for files of a few tensors. NULL when absent. */
const struct dip_safetensors_tensor *dip_safetensors_find(const struct dip_safetensors *file,
                                                          const char *name);

/* The dtype of a stored name; false when nothing here computes with it. */
bool dip_safetensors_dtype(const char *dtype_name, enum dip_dtype *ret_dtype);

/* A tensor to write; data is dense. Names hold no quotes, backslashes or control characters. */
struct dip_safetensors_part {
    const char *name;
    enum dip_dtype dtype;
    int rank;
    int64_t dims[DIP_TENSOR_RANK_MAX];
    const void *data;
};

/* Writes all parts to `path`, all or nothing (dip_file_write). Tensors with wide elements come
 * first, so every one is aligned to its element. Errors: IO, NO_MEMORY, and those of
 * dip_file_write. */
DIP_MUST_USE enum dip_status dip_safetensors_write(const char *path,
                                                   const struct dip_safetensors_part *parts,
                                                   size_t count, struct dip_why *why);
