/* cli/inspect.c - `diptych inspect`: what a model directory holds. */
#include <inttypes.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/json.h"
#include "cli/shard.h"

static const int degrees[] = {1, 2, 4, 8};
enum { DEGREES = sizeof degrees / sizeof degrees[0] };

struct totals {
    size_t tensors;
    uint64_t parameters, bytes;
    char dtypes[64]; /* "BF16, F32" */
};

struct inspection {
    char directory[DIP_PATH_BYTES_MAX];
    struct dip_config config;
    struct dip_weights *weights;
    char digest[65];
    struct totals components[COMPONENT_COUNT];
    uint64_t rank_bytes[DEGREES];
};

static void note_dtype(struct totals *totals, const char *dtype)
{
    size_t bytes = strlen(totals->dtypes);
    if (strstr(totals->dtypes, dtype) || bytes + strlen(dtype) + 3 > sizeof totals->dtypes)
        return;
    snprintf(totals->dtypes + bytes, sizeof totals->dtypes - bytes, "%s%s", bytes > 0 ? ", " : "",
             dtype);
}

static void add_up(struct inspection *x)
{
    for (size_t i = 0; i < dip_weights_count(x->weights); i++) {
        const struct dip_weight *weight = dip_weights_at(x->weights, i);
        struct totals *totals = &x->components[dip__component_of(weight->name)];
        uint64_t count = 1;
        for (int d = 0; d < weight->rank; d++)
            count *= (uint64_t)weight->dims[d];
        totals->tensors++;
        totals->parameters += count;
        totals->bytes += weight->bytes;
        note_dtype(totals, weight->dtype_name);
        for (int d = 0; d < DEGREES; d++)
            x->rank_bytes[d] += dip__rank_bytes(weight, degrees[d]);
    }
}

/* ---- for people ---- */

static void print_tensors(const struct inspection *x)
{
    for (size_t i = 0; i < dip_weights_count(x->weights); i++) {
        const struct dip_weight *weight = dip_weights_at(x->weights, i);
        char shape[96] = "";
        size_t bytes = 0;
        for (int d = 0; d < weight->rank; d++)
            bytes += (size_t)snprintf(shape + bytes, sizeof shape - bytes, "%s%" PRId64,
                                      d > 0 ? ", " : "", weight->dims[d]);
        printf("%-72s %-5s [%s]\n", weight->name, weight->dtype_name, shape);
    }
}

static void print_components(const struct inspection *x)
{
    printf("\n%-12s %8s %14s %14s  %s\n", "component", "tensors", "parameters", "bytes", "dtypes");
    for (int i = 0; i < COMPONENT_COUNT; i++) {
        const struct totals *t = &x->components[i];
        if (t->tensors > 0)
            printf("%-12s %8zu %14" PRIu64 " %14" PRIu64 "  %s\n",
                   dip__component_name((enum component)i), t->tensors, t->parameters, t->bytes,
                   t->dtypes);
    }
}

static void print_ranks(const struct inspection *x)
{
    printf("\n%-12s %14s\n", "AR ranks", "bytes on each");
    for (int d = 0; d < DEGREES; d++) {
        const char *refusal = dip__degree_refusal(&x->config.ar, degrees[d]);
        if (refusal)
            printf("%-12d %14s  %d %s\n", degrees[d], "-", degrees[d], refusal);
        else
            printf("%-12d %14" PRIu64 "\n", degrees[d], x->rank_bytes[d]);
    }
}

static void print_facts(const struct inspection *x)
{
    const struct dip_generation_config *g = &x->config.generation;
    int factor = x->config.vae.factor;
    printf("\n%s\nsha256 of the weights (sampled): %s\n", x->directory, x->digest);
    printf("image tokens %d x %d, latent %d x %d x %d, picture %d x %d pixels\n", g->grid_height,
           g->grid_width, x->config.dit.latent_channels, g->latent_height, g->latent_width,
           g->latent_width * factor, g->latent_height * factor);
    printf("defaults: steps %d, guidance %g, temperature %g, top-k %d, top-p %g\n", g->steps,
           g->guidance, g->temperature, g->top_k, g->top_p);
}

/* ---- for programs ---- */

static void json_tensors(struct json_writer *w, const struct inspection *x)
{
    dip__json_open(w, "tensors", '[');
    for (size_t i = 0; i < dip_weights_count(x->weights); i++) {
        const struct dip_weight *weight = dip_weights_at(x->weights, i);
        dip__json_open(w, NULL, '{');
        dip__json_string(w, "name", weight->name);
        dip__json_string(w, "component", dip__component_name(dip__component_of(weight->name)));
        dip__json_string(w, "dtype", weight->dtype_name);
        dip__json_open(w, "shape", '[');
        for (int d = 0; d < weight->rank; d++)
            dip__json_int(w, NULL, weight->dims[d]);
        dip__json_close(w, ']');
        dip__json_uint(w, "bytes", weight->bytes);
        dip__json_string(w, "file", weight->file);
        dip__json_close(w, '}');
    }
    dip__json_close(w, ']');
}

static void json_components(struct json_writer *w, const struct inspection *x)
{
    dip__json_open(w, "components", '[');
    for (int i = 0; i < COMPONENT_COUNT; i++) {
        const struct totals *t = &x->components[i];
        if (t->tensors == 0)
            continue;
        dip__json_open(w, NULL, '{');
        dip__json_string(w, "name", dip__component_name((enum component)i));
        dip__json_uint(w, "tensors", t->tensors);
        dip__json_uint(w, "parameters", t->parameters);
        dip__json_uint(w, "bytes", t->bytes);
        dip__json_string(w, "dtypes", t->dtypes);
        dip__json_close(w, '}');
    }
    dip__json_close(w, ']');
}

static void json_ranks(struct json_writer *w, const struct inspection *x)
{
    dip__json_open(w, "tensor_parallel", '[');
    for (int d = 0; d < DEGREES; d++) {
        const char *refusal = dip__degree_refusal(&x->config.ar, degrees[d]);
        dip__json_open(w, NULL, '{');
        dip__json_int(w, "degree", degrees[d]);
        dip__json_bool(w, "possible", refusal == NULL);
        if (refusal)
            dip__json_string(w, "reason", refusal);
        else
            dip__json_uint(w, "rank_bytes", x->rank_bytes[d]);
        dip__json_close(w, '}');
    }
    dip__json_close(w, ']');
}

static void print_json(const struct inspection *x)
{
    const struct dip_generation_config *g = &x->config.generation;
    struct json_writer w = {.out = stdout};
    dip__json_open(&w, NULL, '{');
    dip__json_string(&w, "model", x->directory);
    dip__json_string(&w, "model_sha256", x->digest);
    dip__json_uint(&w, "bytes", dip_weights_bytes(x->weights));
    dip__json_int(&w, "image_tokens", (int64_t)g->grid_height * g->grid_width);
    dip__json_int(&w, "width", (int64_t)g->latent_width * x->config.vae.factor);
    dip__json_int(&w, "height", (int64_t)g->latent_height * x->config.vae.factor);
    dip__json_int(&w, "steps", g->steps);
    dip__json_real(&w, "guidance", g->guidance, 15);
    json_components(&w, x);
    json_ranks(&w, x);
    json_tensors(&w, x);
    dip__json_close(&w, '}');
}

enum exit_code dip__inspect(const struct arguments *arguments)
{
    struct dip_why why = {0};
    struct inspection x = {0};
    enum dip_status status =
        dip__model_directory(&arguments->options, &why, x.directory, sizeof x.directory);
    if (!status)
        status = dip_config_load(x.directory, &why, &x.config);
    if (!status)
        status = dip_weights_open(x.directory, &why, &x.weights);
    if (!status)
        status = dip_weights_digest(x.weights, x.digest);
    if (status) {
        dip__fail(status, &why);
        dip_weights_close(x.weights);
        return EXIT_FAILED;
    }
    add_up(&x);
    if (arguments->options.json) {
        print_json(&x);
    } else {
        print_tensors(&x);
        print_components(&x);
        print_ranks(&x);
        print_facts(&x);
    }
    dip_weights_close(x.weights);
    return EXIT_DONE;
}
