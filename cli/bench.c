/* cli/bench.c - `diptych bench`: the rows of the engine's measurements as a table or as JSON. */
#include <string.h>

#include "base/clock.h"
#include "cli/bench_control.h"
#include "cli/cli.h"
#include "cli/device.h"
#include "cli/json.h"
#include "engine/engine.h"

enum { ROW_NS = 1500 * DIP_MS_NS };

struct report {
    bool is_json;
    struct json_writer json;
};

static void print_head(void)
{
    printf("%-22s %10s %10s %-8s %7s %10s  %s\n", "row", "value", "bound", "unit", "share",
           "median", "note");
}

static void on_machine(void *context, const struct dip_bench_limits *machine)
{
    struct report *report = context;
    if (!report->is_json) {
        printf("%s, %d threads: reads %.1f GB/s, %.1f GFLOP/s of multiply-adds\n\n",
               machine->device_class, machine->threads, machine->read_bytes_s / 1e9,
               machine->fma_flops_s / 1e9);
        print_head();
        return;
    }
    struct json_writer *w = &report->json;
    dip__json_open(w, "machine", '{');
    dip__json_string(w, "backend", machine->backend);
    dip__json_string(w, "device_class", machine->device_class);
    dip__json_int(w, "threads", machine->threads);
    dip__json_real(w, "read_bytes_s", machine->read_bytes_s, 6);
    dip__json_real(w, "fma_flops_s", machine->fma_flops_s, 6);
    if (machine->launch_s > 0)
        dip__json_real(w, "launch_s", machine->launch_s, 9);
    dip__json_close(w, '}');
    dip__json_open(w, "rows", '[');
}

static void on_row(void *context, const struct dip_bench_row *row)
{
    struct report *report = context;
    if (!report->is_json) {
        printf("%-22s %10.4g %10.4g %-8s %6.1f%% %10.4g  %s\n", row->name, row->value, row->bound,
               row->unit, 100 * row->share, row->median, row->note ? row->note : "");
        fflush(stdout);
        return;
    }
    struct json_writer *w = &report->json;
    dip__json_open(w, NULL, '{');
    dip__json_string(w, "name", row->name);
    dip__json_real(w, "value", row->value, 6);
    dip__json_string(w, "unit", row->unit);
    dip__json_real(w, "bound", row->bound, 6);
    dip__json_real(w, "share", row->share, 6);
    dip__json_real(w, "median", row->median, 6);
    dip__json_int(w, "repeats", row->repeats);
    dip__json_string(w, "note", row->note ? row->note : "");
    dip__json_close(w, '}');
}

static const struct {
    const char *name;
    unsigned parts; /* 0: not the engine's */
} parts[] = {
    {"ar", DIP_BENCH_AR},
    {"diffusion", DIP_BENCH_DIFFUSION},
    {"decode", DIP_BENCH_DECODE},
    {"e2e", DIP_BENCH_E2E},
    {"control", 0},
};
enum { PARTS = sizeof parts / sizeof parts[0] };

static enum dip_status find_parts(const char *name, struct dip_why *why, unsigned *ret_parts)
{
    for (int i = 0; i < PARTS; i++) {
        if (strcmp(parts[i].name, name) != 0)
            continue;
        *ret_parts = parts[i].parts;
        return DIP_OK;
    }
    const char *names[PARTS];
    for (int i = 0; i < PARTS; i++)
        names[i] = parts[i].name;
    const char *near = dip__suggest(name, names, PARTS);
    return dip_fail(why, DIP_INVALID,
                    "there is no bench \"%.40s\"%s%s; there are ar, diffusion, decode, e2e and "
                    "control",
                    name, near ? "; did you mean " : "", near ? near : "");
}

/* Where the weights come from: --model, --shape (demo means the demo model), or what the part
 * brings itself; end to end runs a whole model, so the demo one. */
static enum dip_status choose_weights(const struct options *o, struct dip_why *why,
                                      struct dip_bench_options *bench, char *directory)
{
    bool is_demo = o->shape && strcmp(o->shape, "demo") == 0;
    if (o->model && o->shape)
        return dip_fail(why, DIP_INVALID, "--model and --shape exclude each other");
    if (o->shape && !is_demo) {
        bench->shape = o->shape;
        return DIP_OK;
    }
    if (!o->model && !is_demo && bench->parts != DIP_BENCH_E2E)
        return DIP_OK;
    bench->directory = directory;
    return dip__model_directory(o, why, directory, DIP_PATH_BYTES_MAX);
}

/* No arithmetic, so nothing that the machine's limits say anything about. */
static enum dip_status run_control(const struct options *o, struct report *report,
                                   struct dip_why *why)
{
    char directory[DIP_PATH_BYTES_MAX];
    DIP_TRY(dip__model_directory(o, why, directory, sizeof directory));
    if (report->is_json)
        dip__json_open(&report->json, "rows", '[');
    else
        print_head();
    return dip__bench_control(directory, on_row, report, why);
}

enum exit_code dip__bench(const struct arguments *arguments)
{
    const struct options *o = &arguments->options;
    struct dip_why why = {0};
    char directory[DIP_PATH_BYTES_MAX];
    struct report report = {.is_json = o->json, .json = {.out = stdout}};
    struct dip_bench_options bench = {.device = dip__device_options(o),
                                      .row_ns = ROW_NS,
                                      .on_machine = on_machine,
                                      .on_row = on_row,
                                      .context = &report};
    enum dip_status status = find_parts(arguments->operand, &why, &bench.parts);
    bool is_control = !status && bench.parts == 0;
    if (!status && !is_control)
        status = choose_weights(o, &why, &bench, directory);
    if (status)
        return dip__fail(status, &why);
    if (report.is_json)
        dip__json_open(&report.json, NULL, '{');
    status = is_control ? run_control(o, &report, &why) : dip_bench_run(&bench, &why);
    if (report.is_json && report.json.depth == 2)
        dip__json_close(&report.json, ']');
    if (report.is_json)
        dip__json_close(&report.json, '}');
    return status ? dip__fail(status, &why) : EXIT_DONE;
}
