/* model/config_private.h - the parts of a configuration, one reader per file. */
#pragma once

#include "base/json.h"
#include "model/config.h"

enum { DIP__HEAD_DIM_MAX = 1024, DIP__LATENT_CHANNELS_MAX = 127 };

/* An absent optional file: every getter then leaves its default. */
static inline bool dip__config_is_absent(const struct dip_json *json)
{
    return json->object == NULL;
}

/* Fails when the key is absent or null. */
DIP_MUST_USE enum dip_status dip__config_require(const struct dip_json *json, const char *key,
                                                 struct dip_why *why);

/* A required integer in an int. */
DIP_MUST_USE enum dip_status dip__config_int(const struct dip_json *json, const char *key, int min,
                                             int max, struct dip_why *why, int *ret_value);

/* A key that may be absent, but if it is there must be this value: what we do not implement. */
DIP_MUST_USE enum dip_status dip__config_only_bool(const struct dip_json *json, const char *key,
                                                   bool expected, struct dip_why *why);
DIP_MUST_USE enum dip_status dip__config_only_string(const struct dip_json *json, const char *key,
                                                     const char *expected, struct dip_why *why);
DIP_MUST_USE enum dip_status dip__config_only_number(const struct dip_json *json, const char *key,
                                                     double expected, struct dip_why *why);
DIP_MUST_USE enum dip_status dip__config_only_null(const struct dip_json *json, const char *key,
                                                   struct dip_why *why);

/* Published values (model.md sections 5 to 7), for absent files and for dip_config_shape. */
struct dip_dit_config dip__config_published_dit(void);
struct dip_vae_config dip__config_published_vae(void);
struct dip_scheduler_config dip__config_published_scheduler(void);
struct dip_generation_config dip__config_published_generation(void);

/* One reader per file; each checks the rules within its part. Absent files give published values.
 */
DIP_MUST_USE enum dip_status dip__config_read_ar(const struct dip_json *model,
                                                 const struct dip_json *generation,
                                                 struct dip_why *why, struct dip_ar_config *ret_ar);
DIP_MUST_USE enum dip_status dip__config_read_dit(const struct dip_json *json, struct dip_why *why,
                                                  struct dip_dit_config *ret_dit);
DIP_MUST_USE enum dip_status dip__config_read_vae(const struct dip_json *json, struct dip_why *why,
                                                  struct dip_vae_config *ret_vae);
DIP_MUST_USE enum dip_status dip__config_read_scheduler(const struct dip_json *json,
                                                        struct dip_why *why,
                                                        struct dip_scheduler_config *ret_scheduler);
DIP_MUST_USE enum dip_status
dip__config_read_generation(const struct dip_json *json, struct dip_why *why,
                            struct dip_generation_config *ret_generation, int *ret_preview_rows);
