/* cli/generate.h - one run of `generate`; private to cli/.
 *
 * Embedded, the main thread prepares and waits; between submit and ENDED the loop thread owns
 * everything here (pictures are written from its updates), and the mailbox `news` hands it back.
 * With --server there is one thread (cli/remote_generate.c). */
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
    char expected[DIP_SHA256_HEX_BYTES];        /* of image 0; empty = whatever it is */
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
    char request_id[64]; /* empty without a server */

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

/* The first problem wins; the request is not wanted any more after it. */
void dip__generation_problem(struct generation *g, enum dip_status status);
/* Writes the file of a preview after `steps_done` steps, or of an image. */
void dip__generation_preview(struct generation *g, int image_index, int steps_done, const void *png,
                             size_t bytes);
void dip__generation_image(struct generation *g, int image_index, const void *png, size_t bytes);

/* The request over the wire, to --server. After what does not depend on where the work is done. */
enum exit_code dip__generation_remote(struct generation *g);

/* dip_update_fn over a struct generation. */
void dip__generation_update(void *generation, const struct dip_update *update);

/* What was made, on standard output; pictures too when they are shown. */
void dip__generation_report(const struct generation *g);

void dip__generation_begin_progress(struct generation *g);
