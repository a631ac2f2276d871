/* cluster/cluster.h - front door of cluster/: what travels between the parties, and who does what
 * when. */
#pragma once

#include "cluster/batch.h"
#include "cluster/groups.h"
#include "cluster/held.h"
#include "cluster/job.h"
#include "cluster/membership.h"
#include "cluster/scheduler.h"
#include "cluster/sim.h"
