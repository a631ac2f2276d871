/* cli/remote_generate.h - one run of `generate --server`; private to cli/.
 *
 * The main thread owns all of it: it turns the loop and writes pictures as they arrive. */
#pragma once

#include "cli/generate.h"
#include "cli/remote.h"
#include "proto/diptych/v1/image.pb-c.h"
#include "proto/diptych/v1/model.pb-c.h"

/* The file of one image on its way in. */
struct arrival {
    unsigned char *data; /* [bytes_max] */
    size_t bytes, bytes_max;
    int stage_steps; /* sampler steps done, as last heard */
    bool is_whole;   /* its FinalImage has come and its file is written */
};

struct remote_generation {
    struct generation *g;
    struct remote remote;
    struct remote_call call;
    struct remote_retry retry;   /* what the server said itself */
    struct remote_retry returns; /* after broken connections; any event ends the count */
    int forgotten;               /* how often a server did not know the request any more */
    uint64_t sequence;           /* of the last event */
    int preview_count, preview_every;
    int tokens_total;
    bool is_watching;  /* the call is Watch */
    bool has_returned; /* after a broken line: the server may have taken us for gone */
    bool is_admitted;  /* once it was: the server owes us the images */
    bool is_completed;
    struct arrival *arrivals; /* [image_count] */
};

/* One GenerateResponse or WatchResponse: they are the same bytes. */
void dip__remote_event(void *remote_generation, const void *data, size_t bytes);
