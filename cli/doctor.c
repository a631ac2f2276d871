/* cli/doctor.c - `diptych doctor`: what this machine can run, what is missing, and the fix.
 *
 * Checks in order, each one line; a failed one says what to do. The last check is a real image.
 * Ends with one verdict. */
#include <jansson.h>
#include <openssl/crypto.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <png.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utf8proc.h>

#include "base/mailbox.h"
#include "base/pool.h"
#include "cli/cli.h"
#include "cli/device.h"
#include "cli/local.h"

struct doctor {
    const struct options *options;
    int problem_count;
    uint64_t model_bytes;
    struct dip_device_report gpu;
};

static void say(const char *mark, const char *name, const char *format, ...) DIP_PRINTF(3, 4);

static void say(const char *mark, const char *name, const char *format, ...)
{
    va_list arguments;
    printf("%-5s %-10s ", mark, name);
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n");
    fflush(stdout);
}

static void problem(struct doctor *d, const char *name, const char *what, const char *fix)
{
    d->problem_count++;
    say("FAIL", name, "%s", what);
    say("", "", "fix: %s", fix);
}

/* ---- the machine ---- */

static void check_cpu(struct doctor *d)
{
    (void)d;
#if defined(__x86_64__)
    bool is_fast = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    say(is_fast ? "ok" : "note", "cpu", "x86-64%s%s%s%s%s",
        __builtin_cpu_supports("avx2") ? ", AVX2" : "",
        __builtin_cpu_supports("fma") ? ", FMA" : "",
        __builtin_cpu_supports("avx512f") ? ", AVX-512" : "",
        is_fast ? "" : "; without AVX2 and FMA the plain kernels run,",
        is_fast ? "" : " many times slower");
#else
    say("note", "cpu", "not x86-64: the plain kernels run");
#endif
    say("ok", "threads", "%d of this process's CPUs", dip_cpu_count());
}

/* MemAvailable counts what the page cache would give back: mapped weights live there. */
static uint64_t memory_available(void)
{
    static const char name[] = "MemAvailable:";
    uint64_t kib = 0;
    char line[128];
    FILE *file = fopen("/proc/meminfo", "r");
    while (file && kib == 0 && fgets(line, sizeof line, file))
        if (strncmp(line, name, sizeof name - 1) == 0)
            kib = strtoull(line + sizeof name - 1, NULL, 10);
    if (file)
        fclose(file);
    return kib * 1024;
}

static void check_memory(struct doctor *d)
{
    uint64_t bytes = memory_available();
    if (bytes == 0)
        say("note", "memory", "this system does not say how much is available");
    else if (bytes < d->model_bytes + d->model_bytes / 5)
        problem(d, "memory", "less is available than the model needs (weights and a fifth more)",
                "close other programs, or use a smaller model");
    else
        say("ok", "memory", "%.1f GiB available, the weights are %.2f GiB",
            (double)bytes / (1 << 30), (double)d->model_bytes / (1 << 30));
}

static void check_libraries(struct doctor *d)
{
    (void)d;
    char pcre2[64] = "?";
    pcre2_config(PCRE2_CONFIG_VERSION, pcre2);
    pcre2[strcspn(pcre2, " ")] = '\0';
    say("ok", "libraries", "jansson %s, %s, PCRE2 %s, utf8proc %s, libpng %s",
        jansson_version_str(), OpenSSL_version(OPENSSL_VERSION), pcre2, utf8proc_version(),
        png_get_libpng_ver(NULL));
}

static const char *gpu_fix(enum dip_device_lack lack)
{
    switch (lack) {
    case DIP_LACK_DRIVER:
        return "to use a GPU, install NVIDIA's driver (580 or newer, for CUDA 13)";
    case DIP_LACK_LIBRARY:
        return "put that library beside the plug-in or where the loader looks: libcudart.so.13, "
               "libcublasLt.so.13 and libnccl.so.2 come with the wheels nvidia-cuda-runtime, "
               "nvidia-cublas and nvidia-nccl-cu13";
    case DIP_LACK_NEW_DRIVER:
        return "update NVIDIA's driver to 580 or newer";
    case DIP_LACK_DEVICE:
        return "give --device one of the GPUs there are, or a container or pod a GPU "
               "(nvidia-smi -L lists what it sees)";
    default:
        return "build where a CUDA 13 toolkit is, and put libdiptych-cuda.so beside the program";
    }
}

/* What is there for the CUDA backend. Its absence is a problem only to who asked for it. */
static void check_gpu(struct doctor *d)
{
    struct dip_why why = {0};
    struct dip_device_report *r = &d->gpu;
    struct dip_device_options options = dip__device_options(d->options);
    if (strcmp(d->options->backend, "cpu") == 0)
        return;
    enum dip_status status = dip_device_probe(&options, &why, r);
    if (r->has_plugin)
        say("ok", "cuda", "plug-in with %s; CUDA %s, driver for %s", r->features,
            r->runtime[0] ? r->runtime : "?", r->driver[0] ? r->driver : "none");
    if (!status) {
        say("ok", "gpu", "%s; %.1f of %.1f GiB free; %d in this machine", r->device,
            (double)r->memory_free_bytes / (1 << 30), (double)r->memory_bytes / (1 << 30),
            r->device_count);
        return;
    }
    say("note", "gpu", "%s", why.text);
    say("", "", "fix: %s", gpu_fix(r->lack));
}

/* Weights and a fifth more, of a GPU that would be used. */
static void check_gpu_memory(struct doctor *d)
{
    double needed = 1.2 * (double)d->model_bytes;
    double left = (double)d->gpu.memory_free_bytes;
    if (d->gpu.memory_bytes == 0 || left >= needed)
        return;
    char what[160];
    snprintf(what, sizeof what,
             "the model needs %.2f GiB (weights and a fifth more) and %.2f are free, %.2f too few",
             needed / (1 << 30), left / (1 << 30), (needed - left) / (1 << 30));
    problem(
        d, "gpu memory", what,
        "end what else uses the GPU (nvidia-smi shows it), use a smaller model or a larger GPU");
}

/* Convolutions without cuDNN are slower, and nothing worse. */
static void check_cudnn(const struct dip_device *device)
{
    const char *remark = dip_device_remark(device);
    const char *version = strstr(dip_device_class(device), "-cudnn");
    if (version)
        say("ok", "cudnn", "version %s computes the decoder's convolutions", version + 6);
    if (!remark[0])
        return;
    say("note", "cudnn", "%s", remark);
    say("", "",
        "fix: put libcudnn.so.9 and its parts (the wheel nvidia-cudnn-cu13) beside the "
        "plug-in or where the loader looks, or say --cudnn off");
}

static void check_backend(struct doctor *d)
{
    struct dip_why why = {0};
    struct dip_device *device = NULL;
    struct dip_device_options options = dip__device_options(d->options);
    if (dip_device_open(&options, &why, &device))
        problem(d, "backend", why.text, "use --backend cpu");
    else
        say("ok", "backend", "%s (%s), %d threads, activations in %s", dip_device_backend(device),
            dip_device_class(device), dip_device_threads(device),
            dip_dtype_name(dip_device_activation(device)));
    if (device)
        check_cudnn(device);
    dip_device_close(device);
}

static void check_folder(struct doctor *d)
{
    if (access(".", W_OK | X_OK) == 0)
        say("ok", "folder", "this folder can be written to");
    else
        problem(d, "folder", "this folder cannot be written to",
                "use generate -o elsewhere/out.png");
}

/* ---- the model and one image ---- */

static struct dip_local *check_model(struct doctor *d)
{
    struct dip_why why = {0};
    struct dip_local *local = NULL;
    char directory[DIP_PATH_BYTES_MAX];
    enum dip_status status = dip__model_directory(d->options, &why, directory, sizeof directory);
    if (!status)
        status = dip__local_open(directory, &why, &local);
    if (status) {
        problem(d, "model", why.text[0] ? why.text : dip_status_text(status),
                "give --model a directory as published; diptych inspect lists its tensors");
        return NULL;
    }
    d->model_bytes = dip__local_weights_bytes(local);
    say("ok", "model", "%s, %.1f MB, sha256 %.16s", directory, (double)d->model_bytes / 1e6,
        dip__local_model(local).digest);
    return local;
}

/* What the loop thread hands to the main thread when the image has ended. */
struct outcome {
    enum dip_status status;
    struct dip_why why;
    struct dip_timings timings;
    char sha256[DIP_SHA256_HEX_BYTES];
};

struct trial {
    struct outcome outcome; /* of the loop thread until it is sent */
    struct dip_mailbox *ended;
};

static void on_update(void *context, const struct dip_update *update)
{
    struct trial *trial = context;
    if (update->kind == DIP_UPDATE_IMAGE) {
        trial->outcome.timings = *update->timings;
        memcpy(trial->outcome.sha256, update->picture->sha256, sizeof trial->outcome.sha256);
    } else if (update->kind == DIP_UPDATE_ENDED) {
        trial->outcome.status = update->status;
        if (update->status)
            trial->outcome.status =
                dip_fail(&trial->outcome.why, update->status, "%s", update->text);
        if (dip_mailbox_push(trial->ended, &trial->outcome))
            return; /* cannot be: it holds one and gets one */
    }
}

/* The smallest picture of two steps. */
static enum dip_status make_image(const struct doctor *d, struct dip_local *local,
                                  struct trial *trial)
{
    static const char prompt[] = "a red circle";
    struct dip_why *why = &trial->outcome.why;
    const struct dip_config *config = dip__local_config(local);
    int edge = config->vae.factor * config->dit.patch;
    struct dip_request request = {.prompt = prompt,
                                  .prompt_bytes = sizeof prompt - 1,
                                  .image_count = 1,
                                  .given = DIP_GIVEN_SEED | DIP_GIVEN_STEPS | DIP_GIVEN_SIZE,
                                  .seed = 1,
                                  .steps = 2,
                                  .width = edge,
                                  .height = edge};
    struct dip_served_model model = dip__local_model(local);
    struct dip_resolved resolved = {0};
    uint64_t request_id = 0;
    DIP_TRY(dip_request_resolve(&request, &model, why, &resolved));
    struct dip_device_options device = dip__device_options(d->options);
    enum dip_status status = dip__local_start(local, &resolved, &device, why);
    if (!status)
        status = dip_coordinator_submit(dip__local_coordinator(local), &resolved, on_update, trial,
                                        &request_id);
    dip_resolved_deinit(&resolved);
    if (!status)
        status = dip_mailbox_pop(trial->ended, -1, &trial->outcome);
    return status ? status : trial->outcome.status;
}

static void check_image(struct doctor *d, struct dip_local *local)
{
    struct trial trial = {0};
    enum dip_status status = dip_mailbox_new(sizeof trial.outcome, 1, &trial.ended);
    if (!status)
        status = make_image(d, local, &trial);
    const struct outcome *o = &trial.outcome;
    if (status)
        problem(d, "image", o->why.text[0] ? o->why.text : dip_status_text(status),
                "report this with the output of diptych inspect --json");
    else
        say("ok", "image",
            "made one in %.0f ms (AR %.0f, diffusion %.0f, decoder %.0f), sha256 %.16s",
            (double)o->timings.total_ns / 1e6,
            (double)(o->timings.stage_ns[DIP_STAGE_PREFILL] +
                     o->timings.stage_ns[DIP_STAGE_DECODE]) /
                1e6,
            (double)o->timings.stage_ns[DIP_STAGE_DIFFUSION] / 1e6,
            (double)o->timings.stage_ns[DIP_STAGE_VAE] / 1e6, o->sha256);
    dip__local_stop(local); /* before the mailbox that its loop thread may still hold */
    dip_mailbox_free(trial.ended);
}

enum exit_code dip__doctor(const struct arguments *arguments)
{
    struct doctor d = {.options = &arguments->options};
    say("ok", "program", "diptych %s", DIP_VERSION);
    check_cpu(&d);
    check_libraries(&d);
    check_gpu(&d);
    check_backend(&d);
    check_folder(&d);
    struct dip_local *local = check_model(&d);
    check_memory(&d);
    check_gpu_memory(&d);
    if (local)
        check_image(&d, local);
    dip__local_close(local);
    if (d.problem_count == 0)
        printf("\nverdict: this machine is ready\n");
    else
        printf("\nverdict: %d problem%s; see the fixes above\n", d.problem_count,
               d.problem_count > 1 ? "s" : "");
    return d.problem_count == 0 ? EXIT_DONE : EXIT_FAILED;
}
