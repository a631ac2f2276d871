/* engine/bench_decode.c - the rows behind the sampler: the autoencoder's decoder and the PNG. */
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/assert.h"
#include "engine/bench_private.h"
#include "engine/place.h"
#include "ops/bench.h"

enum { EDGE_DEFAULT = 8, CONV_EDGE = 64, PNG_EDGE = 1024 };

/* ---- decoder ---- */

static enum dip_status time_conv(struct dip__bench *bench, const char *name,
                                 const struct dip_bench_conv *shape)
{
    struct dip_bench_result result;
    DIP_TRY(dip_bench_conv(bench->device, shape, &result));
    struct dip__bench_times times = dip__bench_times_best(result.seconds);
    struct dip__bench_rate rate = {"GFLOP/s", 1e9, result.flops, bench->machine.fma_flops_s};
    dip__bench_report_rate(
        bench, name, &times, &rate, "3x3%s, %lld x %lld x %lld to %lld; bound: %s",
        shape->has_act ? " + bias + SiLU" : "", (long long)shape->height, (long long)shape->width,
        (long long)shape->in_channels, (long long)shape->out_channels,
        dip__bench_is_on_gpu(bench) ? "the largest product" : "multiply-adds in registers");
    return DIP_OK;
}

/* The convolution of the widest residual blocks; on a GPU at the size it has in a picture, with its
 * epilogue, and the last enlarging one beside it. */
static enum dip_status bench_conv(struct dip__bench *bench)
{
    const struct dip_vae_config *c = &bench->model->config.vae;
    const struct dip_generation_config *g = &bench->model->config.generation;
    bool is_on_gpu = dip__bench_is_on_gpu(bench);
    int widest = -1;
    for (int stage = 0; stage < c->stages; stage++)
        if (c->block[stage] == DIP_VAE_RES &&
            (widest < 0 || c->channels[stage] > c->channels[widest]))
            widest = stage;
    if (widest < 0)
        return DIP_OK;
    int64_t edge = CONV_EDGE;
    if (is_on_gpu)
        edge = (int64_t)g->latent_height << (c->stages - 1 - widest);
    struct dip_bench_conv shape = {edge, edge,     c->channels[widest], c->channels[widest],
                                   1,    is_on_gpu};
    DIP_TRY(time_conv(bench, "vae.conv", &shape));
    if (!is_on_gpu || c->stages < 2 || c->is_pixel_shuffle)
        return DIP_OK;
    edge = (int64_t)g->latent_height << (c->stages - 2);
    shape = (struct dip_bench_conv){edge, edge, c->channels[1], c->channels[0], 2, false};
    return time_conv(bench, "vae.conv.up", &shape);
}

static enum dip_status time_vae(struct dip__bench *bench, struct dip_arena *arena, int edge)
{
    const struct dip_model *m = bench->model;
    int64_t side = (int64_t)edge * m->config.vae.factor;
    struct dip_tensor latent;
    DIP_TRY(dip__bench_normals(bench, arena, (int64_t)edge * edge, m->config.vae.latent_channels,
                               &latent));
    latent.rank = 3;
    latent.dims[2] = latent.dims[1];
    latent.dims[0] = edge;
    latent.dims[1] = edge;
    struct dip_tensor image = dip__place_rows(arena, side * side, 3);
    struct dip__bench_times times = dip__bench_times(bench);
    size_t mark = dip_arena_mark(arena);
    if (dip_plans_begin(bench->stream)) { /* as an engine does at its start */
        DIP_TRY(dip_vae_decode(m->vae, bench->stream, image, latent, arena));
        DIP_TRY(dip_wait(bench->stream));
        dip_plans_end(bench->stream);
    }
    while (dip__bench_more(&times)) {
        dip_arena_reset(arena, mark);
        dip__bench_start(&times);
        DIP_TRY(dip_vae_decode(m->vae, bench->stream, image, latent, arena));
        DIP_TRY(dip_wait(bench->stream));
        dip__bench_stop(&times);
    }
    struct dip__cost cost = dip__cost_vae(m, edge, edge);
    dip__bench_report_time(bench, "vae.decode", &times, dip__cost_s(bench, cost),
                           "%s, %lld x %lld pixels, %.3g TFLOP", bench->model_name, (long long)side,
                           (long long)side, cost.flops * 1e-12);
    return DIP_OK;
}

static enum dip_status bench_vae(struct dip__bench *bench)
{
    const struct dip_model *m = bench->model;
    const struct dip_generation_config *g = &m->config.generation;
    int edge = g->latent_height < g->latent_width ? g->latent_height : g->latent_width;
    edge = edge < EDGE_DEFAULT || dip__bench_is_on_gpu(bench) ? edge : EDGE_DEFAULT;
    edge = bench->options->latent_edge ? bench->options->latent_edge : edge;
    int64_t side = (int64_t)edge * m->config.vae.factor;
    size_t bytes = dip__rows_bytes((int64_t)edge * edge, m->config.vae.latent_channels) +
                   dip__rows_bytes(side * side, 3) +
                   dip_arena_round(dip_vae_scratch_bytes(m->vae, edge, edge));
    struct dip_mem mem = {0};
    struct dip_arena arena;
    DIP_TRY(dip__bench_reserve(bench, bytes, &mem, &arena));
    enum dip_status status = time_vae(bench, &arena, edge);
    dip_release(bench->device, &mem);
    return status;
}

/* ---- PNG ---- */

/* Like a photograph to a compressor: slow waves under a little noise. */
static void picture_fill(unsigned char *rgb, int edge)
{
    struct dip_rng_key key = {.seed = 1, .purpose = DIP_RNG_TEST};
    for (int y = 0; y < edge; y++)
        for (int x = 0; x < edge; x++) {
            uint32_t noise[4];
            dip_rng_words(&key, (uint64_t)y * (uint64_t)edge + (uint64_t)x, noise);
            for (int c = 0; c < 3; c++) {
                int ramp = (x * (c + 1) + y * (3 - c)) / 8 % 384;
                int wave = ramp < 192 ? ramp : 384 - ramp;
                *rgb++ = (unsigned char)(wave + 20 + (int)(noise[c] % 7));
            }
        }
}

/* zlib with the encoder's strategy on the same filtered pixels: what is left is libpng's share. */
static enum dip_status time_zlib(struct dip__bench *bench, const unsigned char *rgb, size_t bytes,
                                 double *ret_bytes_s)
{
    uLong bound = compressBound((uLong)bytes);
    unsigned char *filtered = malloc(bytes);
    unsigned char *packed = malloc(bound);
    enum dip_status status = filtered && packed ? DIP_OK : DIP_NO_MEMORY;
    struct dip__bench_times times = dip__bench_times(bench);
    for (size_t i = 0; i < bytes && !status; i++)
        filtered[i] = (unsigned char)(rgb[i] - (i >= 3 ? rgb[i - 3] : 0));
    while (!status && dip__bench_more(&times)) {
        z_stream z = {.next_in = filtered, .avail_in = (uInt)bytes};
        z.next_out = packed;
        z.avail_out = (uInt)bound;
        dip__bench_start(&times);
        if (deflateInit2(&z, 1, Z_DEFLATED, 15, 8, Z_HUFFMAN_ONLY) != Z_OK)
            status = DIP_NO_MEMORY;
        else if (deflate(&z, Z_FINISH) != Z_STREAM_END)
            status = DIP_INVALID;
        dip__bench_stop(&times);
        deflateEnd(&z);
    }
    if (!status)
        *ret_bytes_s = (double)bytes / dip__bench_best_s(&times);
    free(filtered);
    free(packed);
    return status;
}

static enum dip_status time_png(struct dip__bench *bench, const unsigned char *rgb, size_t bytes)
{
    double zlib_bytes_s = 0;
    size_t png_bytes = 0;
    struct dip__bench_times times = dip__bench_times(bench);
    DIP_TRY(time_zlib(bench, rgb, bytes, &zlib_bytes_s));
    while (dip__bench_more(&times)) {
        unsigned char *data = NULL;
        dip__bench_start(&times);
        DIP_TRY(dip_png_encode(rgb, PNG_EDGE, PNG_EDGE, NULL, 0, &data, &png_bytes));
        dip__bench_stop(&times);
        free(data);
    }
    dip__bench_report_rate(
        bench, "png.encode", &times,
        &(struct dip__bench_rate){
            .unit = "MB/s", .scale = 1e6, .work = (double)bytes, .bound = zlib_bytes_s},
        "%d x %d pixels to %.0f %% of their bytes, one core; bound: zlib alone", PNG_EDGE, PNG_EDGE,
        100.0 * (double)png_bytes / (double)bytes);
    return DIP_OK;
}

static enum dip_status bench_png(struct dip__bench *bench)
{
    size_t bytes = (size_t)PNG_EDGE * PNG_EDGE * 3;
    unsigned char *rgb = malloc(bytes);
    if (!rgb)
        return DIP_NO_MEMORY;
    picture_fill(rgb, PNG_EDGE);
    enum dip_status status = time_png(bench, rgb, bytes);
    free(rgb);
    return status;
}

enum dip_status dip__bench_decode(struct dip__bench *bench)
{
    if (!bench->model->vae)
        return dip_fail(bench->why, DIP_INVALID, "%s has no decoder", bench->model_name);
    DIP_TRY(bench_conv(bench));
    DIP_TRY(bench_vae(bench));
    return bench_png(bench);
}
