/* kernels/cpu/plain.h - what the plain kernels share: one weight, one activation, in f64. */
#pragma once

#include <math.h>

#include "kernels/kernels.h"

static inline double dip__param_at(struct dip_param param, int64_t index)
{
    return (double)dip_f32_at(param.dtype, param.data, (size_t)index);
}

static inline double dip__silu(double x)
{
    return x / (1.0 + exp(-x));
}

static inline double dip__activate(enum dip_kernel_act act, double x)
{
    switch (act) {
    case DIP_KERNEL_ACT_SILU:
        return dip__silu(x);
    case DIP_KERNEL_ACT_GELU_TANH: {
        /* 0.5 x (1 + tanh(u)) = x / (1 + exp(-2 u)), which does not cancel where tanh nears -1 */
        const double sqrt_2_over_pi = 0.79788456080286535588;
        return x / (1.0 + exp(-2.0 * sqrt_2_over_pi * (x + 0.044715 * x * x * x)));
    }
    case DIP_KERNEL_ACT_RELU:
        return x < 0.0 ? 0.0 : x; /* NaN stays NaN */
    case DIP_KERNEL_ACT_NONE:
        break;
    }
    return x;
}

static inline int64_t dip__min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}
