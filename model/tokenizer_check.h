/* model/tokenizer_check.h - the settings of tokenizer.json. Of model/ only. */
#pragma once

#include "base/json.h"
#include "base/status.h"

/* Refuses every setting that would change ids and is not implemented. Gives the split pattern and
 * the model object, both borrowed from `json`. Errors: CORRUPT, INVALID, UNSUPPORTED with a
 * sentence that names the key. */
DIP_MUST_USE enum dip_status dip__tokenizer_check(const struct dip_json *json, struct dip_why *why,
                                                  const char **ret_pattern,
                                                  struct dip_json *ret_model);
