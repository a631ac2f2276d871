/* model/digest.h - which weights a model directory holds, for who must know but not hold them. */
#pragma once

#include "base/status.h"

/* dip_model.digest without opening a model: maps the tensors, hashes what the digest samples, and
 * lets go. Errors: those of dip_weights_open. */
DIP_MUST_USE enum dip_status dip_model_digest(const char *directory, struct dip_why *why,
                                              char ret_hex[65]);
