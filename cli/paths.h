/* cli/paths.h - where things are and where they may go. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/limits.h"
#include "base/status.h"

/* The demo model: beside the sources of the build, installed, or below the working directory.
 * Errors: NOT_FOUND, listing the places. */
DIP_MUST_USE enum dip_status dip__model_find(struct dip_why *why,
                                             char ret_path[DIP_PATH_BYTES_MAX]);

/* "out.png" for one image, "out-3.png" for the fourth of several. Errors: LIMIT. */
DIP_MUST_USE enum dip_status dip__image_path(const char *output, int image_index, int image_count,
                                             struct dip_why *why,
                                             char ret_path[DIP_PATH_BYTES_MAX]);

/* Whether a file can be written there, before anything is computed for it. `option` is for the
 * sentence. Errors: INVALID (a folder, or a name of another format), NOT_FOUND, IO. */
DIP_MUST_USE enum dip_status dip__check_writable(const char *path, const char *option,
                                                 struct dip_why *why);

/* The folder exists afterwards and can be written to; its parent must exist. */
DIP_MUST_USE enum dip_status dip__make_folder(const char *path, const char *option,
                                              struct dip_why *why);
