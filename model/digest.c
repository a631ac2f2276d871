/* model/digest.c - see model/digest.h. */
#include "model/digest.h"

#include "model/weights.h"

enum dip_status dip_model_digest(const char *directory, struct dip_why *why, char ret_hex[65])
{
    struct dip_weights *weights;
    DIP_TRY(dip_weights_open(directory, why, &weights));
    enum dip_status status = dip_weights_digest(weights, ret_hex);
    dip_weights_close(weights);
    if (status)
        return dip_fail(why, status, "%s: cannot hash the weights: %s", directory,
                        dip_status_text(status));
    return DIP_OK;
}
