/* cli/generate.h - one run of `generate`; private to cli/.
 *
 * The main thread prepares and waits; between submit and ENDED the loop thread owns everything here
 * (pictures are written from its updates), and the mailbox `news` hands it back. */
#pragma once

#include "base/mailbox.h"
#include "cli/cli.h"
#include "cli/inject.h"
#include "cli/local.h"
#include "cli/progress.h"
#include "cli/show.h"
#include "cli/trace.h"

struct generated_image {
    char path[DIP_PATH_BYTES_MAX];
    char sha256[DIP_SHA256_HEX_BYTES];
    int tokens;
    struct dip_timings timings;
    void *png; /* kept when it will be shown */
    size_t png_bytes;
};

struct generation {
    const struct options *options;
    const char *prompt;
    char model_path[DIP_PATH_BYTES_MAX];
    int64_t begin_ns, ready_ns, first_token_ns; /* of the process; 0 = not reached */
    bool is_showing;
    struct terminal terminal;
    struct injection_file injection;
    struct trace *trace;
    struct dip_mailbox *news; /* struct news */
    struct progress progress;

    /* What was admitted. */
    struct dip_job_params params;
    char digest[65];
    int width, height;
    char fingerprint[DIP_FINGERPRINT_BYTES];

    int image_count;
    struct generated_image *images; /* [image_count] */

    /* How it ended. */
    bool is_begun;    /* the request was right: a failure from here on is no bad usage */
    bool has_problem; /* a file could not be written: the request is to be cancelled */
    bool is_refused;
    enum dip_status status;
    struct dip_why why;
};

/* Loop thread to main thread. */
enum news { NEWS_PROBLEM, NEWS_ENDED };

/* dip_update_fn over a struct generation. */
void dip__generation_update(void *generation, const struct dip_update *update);

/* What was made, on standard output. */
void dip__generation_report(const struct generation *g);
