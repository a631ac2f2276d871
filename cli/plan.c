/* cli/plan.c - `diptych plan`: which machines should do what, and how fast that would be.
 *
 * A prediction, not a measurement: the bytes and operations of model/cost.h over the rates that the
 * inventory states, times the shares of those rates that good kernels reach (docs/planning.md). The
 * inventory is one JSON object; each of its members is a kind of device:
 *
 *     {"node-a": {"count": 8, "memory_gb": 141, "bandwidth_tb_s": 4.3, "tflop_s": 790}, ...}
 *
 * Devices that are comparatively good at the AR panel get it. How many: as many as make the slower
 * of the two panels as fast as it can be. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/limits.h"
#include "cli/cli.h"
#include "cli/json.h"
#include "model/cost.h"
#include "model/shard.h"

/* Shares of a device's rates, and times that no rate explains; see docs/planning.md. */
#define AR_BANDWIDTH_SHARE 0.88
#define MATRIX_SHARE       0.75
#define PREFILL_SHARE      0.60
#define DIFFUSION_SHARE    0.69
#define DECODER_SHARE      0.55
#define LAYER_S            4e-6
#define STEP_S             15e-6
#define REDUCE_S           6.5e-6 /* one exchange between ranks; two a layer */

enum { KINDS_MAX = 64, PROMPT_TOKENS = 128, BATCH = 64, NAME_BYTES = 64 };

struct kind {
    char name[NAME_BYTES];
    int count;
    double memory_bytes, bandwidth, flops; /* of one device, a second */
    bool can_ar, can_diffusion;            /* their weights fit */
    double ar_latency_s, ar_rate;          /* of a group; images a second */
    double diffusion_s;                    /* of an image */
    int ar_groups, diffusion;              /* the plan */
};

struct plan {
    struct dip_config config;
    int degree;
    struct kind kinds[KINDS_MAX]; /* best at the AR panel first */
    int kind_count, ar_groups, diffusion;
    double ar_rate, diffusion_rate, rate, latency_s;
    bool is_shared; /* a single device does both */
};

/* ---- prediction ---- */

static int token_count(const struct dip_config *c)
{
    return c->generation.grid_height * c->generation.grid_width;
}

static double ar_step_s(const struct plan *p, const struct kind *k, int degree, int batch)
{
    const struct dip_ar_config *ar = &p->config.ar;
    double keys = PROMPT_TOKENS + token_count(&p->config) / 2.0;
    struct dip_cost cost = dip_cost_ar(ar, degree, batch, batch, keys);
    double work_s = fmax(cost.bytes / (k->bandwidth * AR_BANDWIDTH_SHARE),
                         cost.flops / (k->flops * MATRIX_SHARE));
    double exchange_s = degree > 1 ? 2 * ar->layers * REDUCE_S : 0;
    return work_s + ar->layers * LAYER_S + STEP_S + exchange_s;
}

/* All prompts of a batch, each read at once. */
static double prefill_s(const struct plan *p, const struct kind *k, int degree, int batch)
{
    struct dip_cost weights = dip_cost_ar(&p->config.ar, degree, 0, 0, 0);
    struct dip_cost rows =
        dip_cost_ar(&p->config.ar, degree, batch * PROMPT_TOKENS, 0, PROMPT_TOKENS / 2.0);
    return fmax(weights.bytes / (k->bandwidth * AR_BANDWIDTH_SHARE),
                rows.flops / (k->flops * PREFILL_SHARE));
}

static double ar_latency_s(const struct plan *p, const struct kind *k, int degree, int batch)
{
    return prefill_s(p, k, degree, batch) +
           token_count(&p->config) * ar_step_s(p, k, degree, batch);
}

static double diffusion_s(const struct plan *p, const struct kind *k)
{
    int rows = token_count(&p->config) + 1;
    struct dip_cost step = dip_cost_dit_step(&p->config, rows);
    struct dip_cost context = dip_cost_context(&p->config, rows);
    struct dip_cost vae = dip_cost_vae(&p->config);
    double step_s =
        fmax(step.flops / (k->flops * DIFFUSION_SHARE), step.bytes / (k->bandwidth * MATRIX_SHARE));
    return p->config.generation.steps * step_s + context.flops / (k->flops * MATRIX_SHARE) +
           fmax(vae.flops / (k->flops * DECODER_SHARE), vae.bytes / k->bandwidth);
}

static void predict(const struct plan *p, struct kind *k)
{
    double keys = PROMPT_TOKENS + token_count(&p->config);
    double ar_bytes = dip_cost_ar_weight_bytes(&p->config.ar, p->degree) +
                      BATCH * dip_cost_kv_bytes(&p->config.ar, p->degree, keys);
    k->can_ar = ar_bytes < 0.9 * k->memory_bytes && k->count >= p->degree;
    k->can_diffusion = dip_cost_diffusion_weight_bytes(&p->config) < 0.9 * k->memory_bytes;
    k->ar_latency_s = ar_latency_s(p, k, p->degree, 1);
    k->ar_rate = BATCH / ar_latency_s(p, k, p->degree, BATCH);
    k->diffusion_s = diffusion_s(p, k);
}

/* ---- the inventory ---- */

static enum dip_status read_kind(const struct dip_json *inventory, const char *name,
                                 struct dip_why *why, struct kind *ret_kind)
{
    struct dip_json entry;
    struct kind k = {.count = 0};
    int64_t count = 1;
    double memory_gb = 0, bandwidth_tb = 0, tflops = 0;
    DIP_TRY(dip_json_object(inventory, name, why, &entry));
    DIP_TRY(dip_json_int(&entry, "count", 1, 4096, why, &count));
    DIP_TRY(dip_json_double(&entry, "memory_gb", 1e-3, 1e6, why, &memory_gb));
    DIP_TRY(dip_json_double(&entry, "bandwidth_tb_s", 1e-4, 1e4, why, &bandwidth_tb));
    DIP_TRY(dip_json_double(&entry, "tflop_s", 1e-4, 1e6, why, &tflops));
    if (memory_gb == 0 || bandwidth_tb == 0 || tflops == 0)
        return dip_fail(why, DIP_INVALID,
                        "--inventory: \"%.60s\" needs memory_gb, bandwidth_tb_s and tflop_s", name);
    snprintf(k.name, sizeof k.name, "%s", name);
    k.count = (int)count;
    k.memory_bytes = memory_gb * 1e9;
    k.bandwidth = bandwidth_tb * 1e12;
    k.flops = tflops * 1e12;
    *ret_kind = k;
    return DIP_OK;
}

static enum dip_status read_inventory(struct plan *p, const char *path, struct dip_why *why)
{
    struct dip_json inventory = {0};
    void *cursor = NULL;
    DIP_TRY(dip_json_open(path, why, &inventory));
    enum dip_status status = DIP_OK;
    for (const char *name; !status && (name = dip_json_next(&inventory, &cursor)) != NULL;) {
        if (p->kind_count == KINDS_MAX)
            status = dip_fail(why, DIP_LIMIT, "--inventory: more than %d kinds", KINDS_MAX);
        else
            status = read_kind(&inventory, name, why, &p->kinds[p->kind_count]);
        p->kind_count += !status;
    }
    dip_json_close(&inventory);
    if (!status && p->kind_count == 0)
        status = dip_fail(why, DIP_INVALID, "--inventory: %s names no device", path);
    return status;
}

/* ---- placement ---- */

static int by_advantage(const void *left, const void *right)
{
    const struct kind *a = left, *b = right;
    double x = a->ar_rate * a->diffusion_s, y = b->ar_rate * b->diffusion_s;
    return x < y ? 1 : x > y ? -1 : strcmp(a->name, b->name);
}

/* The first `groups` groups in the order of the kinds draw, everything else diffuses. Keeps the
 * placement when it is better than what was tried before. */
static void try_groups(struct plan *p, int groups)
{
    struct plan trial = *p;
    int left = groups;
    trial.ar_rate = trial.diffusion_rate = 0;
    trial.diffusion = 0;
    trial.latency_s = 0;
    double ar_s = 0, picture_s = 0;
    for (int i = 0; i < trial.kind_count; i++) {
        struct kind *k = &trial.kinds[i];
        int most = k->can_ar ? k->count / trial.degree : 0;
        k->ar_groups = left < most ? left : most;
        left -= k->ar_groups;
        k->diffusion = k->can_diffusion ? k->count - k->ar_groups * trial.degree : 0;
        trial.ar_rate += k->ar_groups * k->ar_rate;
        trial.diffusion_rate += k->diffusion / k->diffusion_s;
        trial.diffusion += k->diffusion;
        ar_s = k->ar_groups > 0 ? fmax(ar_s, k->ar_latency_s) : ar_s;
        picture_s = k->diffusion > 0 ? fmax(picture_s, k->diffusion_s) : picture_s;
    }
    trial.ar_groups = groups;
    trial.rate = fmin(trial.ar_rate, trial.diffusion_rate);
    trial.latency_s = ar_s + picture_s;
    if (left == 0 && trial.rate > p->rate)
        *p = trial;
}

/* One device: the panels take turns. */
static void share_one(struct plan *p)
{
    struct kind *k = &p->kinds[0];
    if (!k->can_ar || !k->can_diffusion)
        return;
    k->ar_groups = k->diffusion = p->ar_groups = p->diffusion = 1;
    p->is_shared = true;
    p->ar_rate = k->ar_rate;
    p->diffusion_rate = 1 / k->diffusion_s;
    p->rate = 1 / (1 / k->ar_rate + k->diffusion_s);
    p->latency_s = k->ar_latency_s + k->diffusion_s;
}

static enum dip_status place(struct plan *p, struct dip_why *why)
{
    int groups_max = 0, devices = 0;
    for (int i = 0; i < p->kind_count; i++) {
        predict(p, &p->kinds[i]);
        groups_max += p->kinds[i].count / p->degree;
        devices += p->kinds[i].count;
    }
    qsort(p->kinds, (size_t)p->kind_count, sizeof p->kinds[0], by_advantage);
    for (int groups = 1; groups <= groups_max; groups++)
        try_groups(p, groups);
    if (devices == 1 && p->degree == 1)
        share_one(p);
    if (p->rate > 0)
        return DIP_OK;
    return dip_fail(why, DIP_UNSUPPORTED,
                    "nothing in the inventory can hold both panels: the AR panel needs %.1f GB on "
                    "each of %d ranks with %d images at a time, the diffusion panel %.1f GB; try a "
                    "larger --ar-tp or more memory",
                    (dip_cost_ar_weight_bytes(&p->config.ar, p->degree) +
                     BATCH * dip_cost_kv_bytes(&p->config.ar, p->degree,
                                               PROMPT_TOKENS + token_count(&p->config))) /
                        1e9,
                    p->degree, BATCH, dip_cost_diffusion_weight_bytes(&p->config) / 1e9);
}

/* ---- in words ---- */

static void print_degrees(const struct plan *p)
{
    const struct kind *k = &p->kinds[0];
    double alone_s = ar_latency_s(p, k, 1, 1);
    printf("\nlatency of the AR panel on %s, one image:\n", k->name);
    for (int degree = 1; degree <= DIP_SHARD_DEGREE_MAX; degree *= 2) {
        if (dip_shard_check(&p->config.ar, degree, NULL))
            continue;
        double s = ar_latency_s(p, k, degree, 1);
        printf("  --ar-tp %-2d %8.3f s  %.2fx%s\n", degree, s, alone_s / s,
               degree > 1 && alone_s / s < 1.2 ? "  does not pay" : "");
    }
}

static void print_plan(const struct plan *p)
{
    printf("predicted, not measured: %d image tokens, %d steps, %d x %d cells; see "
           "docs/planning.md\n\n",
           token_count(&p->config), p->config.generation.steps, p->config.generation.latent_height,
           p->config.generation.latent_width);
    printf("%-20s %7s %10s %10s %12s %12s %14s\n", "DEVICE", "COUNT", "AR GROUPS", "DIFFUSION",
           "AR s/IMAGE", "AR IMAGES/s", "DIFFUSION s");
    for (int i = 0; i < p->kind_count; i++) {
        const struct kind *k = &p->kinds[i];
        printf("%-20s %7d %10d %10d %12.3f %12.2f %14.3f\n", k->name, k->count, k->ar_groups,
               k->diffusion, k->ar_latency_s, k->ar_rate, k->diffusion_s);
    }
    printf("\n%d AR %s of %d, %d diffusion %s%s\n", p->ar_groups,
           p->ar_groups == 1 ? "group" : "groups", p->degree, p->diffusion,
           p->diffusion == 1 ? "worker" : "workers", p->is_shared ? ", on one device in turn" : "");
    printf("%.2f images/s (AR %.2f, diffusion %.2f); one image alone %.2f s\n", p->rate, p->ar_rate,
           p->diffusion_rate, p->latency_s);
    printf("one AR group of %s feeds %.1f diffusion workers like it\n", p->kinds[0].name,
           p->kinds[0].ar_rate * p->kinds[0].diffusion_s);
    print_degrees(p);
}

static void print_json(const struct plan *p)
{
    struct json_writer w = {.out = stdout};
    dip__json_open(&w, NULL, '{');
    dip__json_bool(&w, "predicted", true);
    dip__json_int(&w, "ar_tp", p->degree);
    dip__json_int(&w, "ar_groups", p->ar_groups);
    dip__json_int(&w, "diffusion", p->diffusion);
    dip__json_real(&w, "images_per_s", p->rate, 6);
    dip__json_real(&w, "latency_s", p->latency_s, 6);
    dip__json_real(&w, "balance", p->kinds[0].ar_rate * p->kinds[0].diffusion_s, 6);
    dip__json_open(&w, "devices", '[');
    for (int i = 0; i < p->kind_count; i++) {
        const struct kind *k = &p->kinds[i];
        dip__json_open(&w, NULL, '{');
        dip__json_string(&w, "name", k->name);
        dip__json_int(&w, "count", k->count);
        dip__json_int(&w, "ar_groups", k->ar_groups);
        dip__json_int(&w, "diffusion", k->diffusion);
        dip__json_real(&w, "ar_latency_s", k->ar_latency_s, 6);
        dip__json_real(&w, "ar_images_per_s", k->ar_rate, 6);
        dip__json_real(&w, "diffusion_s", k->diffusion_s, 6);
        dip__json_close(&w, '}');
    }
    dip__json_close(&w, ']');
    dip__json_close(&w, '}');
}

enum exit_code dip__plan(const struct arguments *arguments)
{
    const struct options *o = &arguments->options;
    struct plan *plan = calloc(1, sizeof *plan);
    struct dip_why why = {0};
    char directory[DIP_PATH_BYTES_MAX];
    enum dip_status status = plan ? DIP_OK : DIP_NO_MEMORY;
    if (!status && !o->inventory)
        status = dip_fail(&why, DIP_INVALID, "plan needs --inventory FILE; see docs/planning.md");
    if (!status)
        status = dip__model_directory(o, &why, directory, sizeof directory);
    if (!status) {
        plan->degree = (int)o->ar_tp;
        status = dip_status_of_file(dip_config_load(directory, &why, &plan->config));
    }
    if (!status)
        status = dip_shard_check(&plan->config.ar, plan->degree, &why);
    if (!status)
        status = read_inventory(plan, o->inventory, &why);
    if (!status)
        status = place(plan, &why);
    if (!status && o->json)
        print_json(plan);
    else if (!status)
        print_plan(plan);
    free(plan);
    return status ? dip__fail(status, &why) : EXIT_DONE;
}
