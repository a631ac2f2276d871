/* base/flag.c - one bit that any thread may raise and lower. */
#include "base/flag.h"

bool dip_flag_raise(struct dip_flag *flag)
{
    return !atomic_exchange(&flag->is_raised, true);
}

bool dip_flag_lower(struct dip_flag *flag)
{
    return atomic_exchange(&flag->is_raised, false);
}

bool dip_flag_is_raised(struct dip_flag *flag)
{
    return atomic_load(&flag->is_raised);
}
