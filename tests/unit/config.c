/* tests/unit/config.c - what a model directory states: read right, defaulted right, and every
 * broken rule answered with a sentence that names file and key. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/config.h"
#include "tests/scratch.h"

/* The smallest whole config.json; `%s` takes more members. */
#define MODEL                                                                                      \
    "{\"hidden_size\":64,\"intermediate_size\":160,\"num_hidden_layers\":2,"                       \
    "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":24,\"vocab_size\":395,"      \
    "\"rope_theta\":1000000.0,\"image_start_tag_id\":326,\"scale_start_token_id\":328,"            \
    "\"image_start_token_id\":331,\"num_image_tokens\":64%s}"
#define TRANSFORMER                                                                                \
    "{\"in_channels\":8,\"patch_size\":2,\"num_attention_heads\":6,\"attention_head_dim\":8,"      \
    "\"num_cross_attention_heads\":3,\"cross_attention_head_dim\":16,\"caption_channels\":40,"     \
    "\"num_layers\":2,\"qk_norm\":\"rms_norm_across_heads\"%s}"
#define VAE                                                                                        \
    "{\"latent_channels\":8,\"attention_head_dim\":8,\"decoder_block_types\":[\"ResBlock\","       \
    "\"EfficientViTBlock\"],\"decoder_block_out_channels\":[16,32],"                               \
    "\"decoder_layers_per_block\":[1,2],\"decoder_qkv_multiscales\":[[],[5]],"                     \
    "\"upsample_block_type\":\"interpolate\",\"scaling_factor\":0.5%s}"

/* The texts of one directory; NULL is an absent file. */
struct folder {
    const char *texts[DIP_CONFIG_FILE_COUNT];
};

static enum dip_status parse(const struct folder *folder, struct dip_why *why,
                             struct dip_config *config)
{
    struct dip_config_text files[DIP_CONFIG_FILE_COUNT] = {0};
    for (int i = 0; i < DIP_CONFIG_FILE_COUNT; i++)
        if (folder->texts[i])
            files[i] = (struct dip_config_text){folder->texts[i], strlen(folder->texts[i])};
    return dip_config_parse(files, "m", why, config);
}

/* A template with more members in place of its %s. */
static const char *with(const char *format, const char *members)
{
    static char texts[4][2048];
    static unsigned next;
    char *text = texts[next++ % 4];
    const char *hole = strstr(format, "%s");
    snprintf(text, sizeof texts[0], "%.*s%s%s", (int)(hole - format), format, members, hole + 2);
    return text;
}

/* A template with `from` replaced by `to`. */
static const char *swapped(const char *format, const char *from, const char *to)
{
    static char texts[4][2048];
    static unsigned next;
    char *text = texts[next++ % 4];
    const char *whole = with(format, "");
    const char *at = strstr(whole, from);
    assert_non_null(at);
    snprintf(text, sizeof texts[0], "%.*s%s%s", (int)(at - whole), whole, to, at + strlen(from));
    return text;
}

static struct dip_config expect_ok(const struct folder *folder)
{
    struct dip_why why = {0};
    struct dip_config config = {0};
    if (parse(folder, &why, &config))
        fail_msg("%s", why.text);
    return config;
}

static void expect_refused(const struct folder *folder, const char *sentence)
{
    struct dip_why why = {0};
    struct dip_config config = {.ar.hidden = 12345};
    if (parse(folder, &why, &config) == DIP_OK)
        fail_msg("accepted, expected: %s", sentence);
    if (!strstr(why.text, sentence))
        fail_msg("\"%s\" does not say \"%s\"", why.text, sentence);
    assert_int_equal(config.ar.hidden, 12345); /* untouched on failure */
}

/* A small whole folder, one file of which is then replaced. */
static struct folder small(void)
{
    return (struct folder){.texts = {
                               [DIP_CONFIG_MODEL] = with(MODEL, ""),
                               [DIP_CONFIG_TRANSFORMER] = with(TRANSFORMER, ""),
                               [DIP_CONFIG_VAE] = with(VAE, ""),
                               [DIP_CONFIG_DIPTYCH] = "{\"latent_size\":[4,6]}",
                           }};
}

static void expect_file_refused(enum dip_config_file file, const char *text, const char *sentence)
{
    struct folder folder = small();
    folder.texts[file] = text;
    expect_refused(&folder, sentence);
}

/* ---- what is read ---- */

static void tiny_checkpoints_load(void **state)
{
    (void)state;
    struct dip_why why = {0};
    struct dip_config a = {0};
    struct dip_config b = {0};
    struct dip_config c = {0};
    assert_int_equal(dip_config_load("tests/golden/tiny-a/model", &why, &a), DIP_OK);
    assert_int_equal(dip_config_load("tests/golden/tiny-b/model", &why, &b), DIP_OK);
    assert_int_equal(dip_config_load("tests/golden/tiny-c/model", &why, &c), DIP_OK);
    assert_true(a.ar.is_tied && !b.ar.is_tied && c.ar.is_tied);
    assert_int_equal(a.ar.heads * a.ar.head_dim, 96);
    assert_int_equal(a.ar.image_token_count, 64);
    assert_int_equal(a.ar.eos_count, 2);
    assert_true(a.ar.eos_ids[0] == 302 && a.ar.eos_ids[1] == 300);
    assert_int_equal(b.dit.patch, 2);
    assert_int_equal(b.vae.stages, 4);
    assert_int_equal(b.vae.factor, 8);
    assert_int_equal(b.vae.layers[3], 2);
    assert_true(!a.vae.is_pixel_shuffle && c.vae.is_pixel_shuffle);
    assert_int_equal(a.dit.ffn, 120);
    assert_true(a.scheduler.shift == 1 &&
                a.scheduler.flow_shift == 3); /* flow_shift is not shift */
    assert_true(b.generation.latent_height == 4 && b.generation.latent_width == 8);
    assert_true(a.generation.temperature == 1.0); /* not the 0.6 of generation_config.json */
    assert_int_equal(a.generation.top_k, 395);    /* min(1200, vocabulary) */
}

static void absent_files_give_published_values(void **state)
{
    (void)state;
    struct folder folder = {.texts = {[DIP_CONFIG_MODEL] = with(MODEL, "")}};
    struct dip_config c = {0};
    struct dip_why why = {0};
    /* 729 tokens fit the default number of positions. */
    assert_int_equal(parse(&folder, &why, &c), DIP_OK);
    assert_int_equal(c.dit.width, 2240);
    assert_int_equal(c.dit.ffn, 5600);
    assert_int_equal(c.dit.layers, 20);
    assert_int_equal(c.dit.cross_heads * c.dit.cross_head_dim, 2240);
    assert_int_equal(c.vae.stages, 6);
    assert_int_equal(c.vae.factor, 32);
    assert_true(c.vae.scaling_factor == 0.41407);
    assert_int_equal(c.vae.block[3], DIP_VAE_VIT);
    assert_int_equal(c.vae.scale_kernel[5], 5);
    assert_true(c.generation.grid_height == 27 && c.generation.grid_width == 27);
    assert_true(c.generation.latent_height == 32 && c.generation.latent_width == 32);
    assert_int_equal(c.generation.steps, 30);
    assert_true(c.generation.guidance == 2 && c.generation.top_p == 0.95);
    assert_int_equal(c.generation.sampler, DIP_SAMPLER_EULER);
    assert_false(c.generation.has_preview);
    assert_int_equal(c.scheduler.train_timesteps, 1000);
    assert_int_equal(c.ar.eos_count, 0);
    assert_false(c.ar.is_tied);
}

static void small_folder_is_accepted(void **state)
{
    (void)state;
    struct folder folder = small();
    struct dip_config c = expect_ok(&folder);
    assert_int_equal(c.dit.width, 48);
    assert_int_equal(c.vae.block[0], DIP_VAE_RES);
    assert_int_equal(c.vae.scale_kernel[1], 5);
    assert_int_equal(c.ar.image_token_count, 64);
}

static void diptych_json_overrides(void **state)
{
    (void)state;
    struct folder folder = small();
    folder.texts[DIP_CONFIG_DIPTYCH] =
        "{\"image_grid\":[3,5],\"latent_size\":[2,4],\"steps\":7,\"guidance\":3.5,"
        "\"temperature\":0.5,\"top_k\":0,\"top_p\":1,\"sampler\":\"dpm++\",\"preview_rgb\":"
        "[[1,2,3],[0,0,0],[0,0,0],[0,0,0],[0,0,0],[0,0,0],[0,0,0],[4,5,6],[0.1,0.2,0.3]]}";
    struct dip_config c = expect_ok(&folder);
    assert_true(c.generation.grid_height == 3 && c.generation.grid_width == 5);
    assert_int_equal(c.generation.steps, 7);
    assert_int_equal(c.generation.top_k, 0);
    assert_int_equal(c.generation.sampler, DIP_SAMPLER_DPM);
    assert_true(c.generation.has_preview);
    assert_true(c.generation.preview_rgb[7][2] == 6);
    assert_true(c.generation.preview_bias[1] == 0.2f);
    assert_true(c.generation.preview_rgb[8][1] == 0); /* the ninth row was the offset */
}

static void end_ids_come_from_either_file(void **state)
{
    (void)state;
    struct folder folder = small();
    folder.texts[DIP_CONFIG_MODEL] = with(MODEL, ",\"eos_token_id\":302");
    struct dip_config c = expect_ok(&folder);
    assert_true(c.ar.eos_count == 1 && c.ar.eos_ids[0] == 302);
    folder.texts[DIP_CONFIG_GENERATION] = "{\"eos_token_id\":[301,300],\"temperature\":0.6}";
    c = expect_ok(&folder);
    assert_true(c.ar.eos_count == 2 && c.ar.eos_ids[0] == 301);
}

static void runs_of_ids_may_be_given_by_their_end(void **state)
{
    (void)state;
    struct folder folder = small();
    folder.texts[DIP_CONFIG_MODEL] =
        swapped(MODEL, "\"num_image_tokens\":64", "\"image_end_token_id\":394");
    assert_int_equal(expect_ok(&folder).ar.image_token_count, 64);
    folder.texts[DIP_CONFIG_MODEL] = with(MODEL, ",\"image_end_token_id\":394");
    assert_int_equal(expect_ok(&folder).ar.image_token_count, 64);
}

/* ---- what is refused ---- */

static void broken_model_files(void **state)
{
    (void)state;
    static const struct {
        const char *from;
        const char *to;
        const char *sentence;
    } cases[] = {
        {"\"hidden_size\":64,", "", "m/config.json: hidden_size is missing"},
        {"\"hidden_size\":64", "\"hidden_size\":0", "hidden_size is 0, expected an integer from 1"},
        {"\"hidden_size\":64", "\"hidden_size\":\"64\"", "hidden_size is \"64\""},
        {"\"hidden_size\":64", "\"hidden_size\":1000000", "hidden_size is 1000000"},
        {"\"num_hidden_layers\":2", "\"num_hidden_layers\":600", "num_hidden_layers is 600"},
        {"\"num_key_value_heads\":2", "\"num_key_value_heads\":3",
         "num_attention_heads is 4, expected a multiple of num_key_value_heads (3)"},
        {"\"head_dim\":24", "\"head_dim\":25", "head_dim is 25, expected an even number"},
        {"\"num_attention_heads\":4", "\"num_attention_heads\":65536",
         "num_attention_heads x head_dim is 1572864, expected at most 65536"},
        {"\"vocab_size\":395", "\"vocab_size\":2000000", "vocab_size is 2000000"},
        {"\"vocab_size\":395", "\"vocab_size\":394",
         "num_image_tokens is 64, but vocab_size (394) leaves room for 63 ids from 331 on"},
        {"\"rope_theta\":1000000.0,", "", "rope_theta is missing"},
        {"\"rope_theta\":1000000.0", "\"rope_theta\":0", "rope_theta is 0, expected a number"},
        {"\"image_start_tag_id\":326", "\"image_start_tag_id\":395",
         "image_start_tag_id is 395, expected an id below vocab_size (395)"},
        {"\"image_start_tag_id\":326,", "", "image_start_tag_id is missing"},
        {"\"scale_start_token_id\":328", "\"scale_start_token_id\":-1",
         "scale_start_token_id is -1"},
        {",\"num_image_tokens\":64", "", "image_end_token_id is missing"},
        {"\"image_start_token_id\":331,", "", "image_start_token_id is missing"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        expect_file_refused(DIP_CONFIG_MODEL, swapped(MODEL, cases[i].from, cases[i].to),
                            cases[i].sentence);
}

static void unsupported_model_variants(void **state)
{
    (void)state;
    static const struct {
        const char *members;
        const char *sentence;
    } cases[] = {
        {",\"hidden_act\":\"gelu\"", "hidden_act is \"gelu\", only \"silu\" is supported"},
        {",\"attention_bias\":true", "attention_bias is true, only false is supported"},
        {",\"use_sliding_window\":true", "use_sliding_window is true, only false is supported"},
        {",\"rope_scaling\":{\"type\":\"yarn\"}", "rope_scaling is set, only null is supported"},
        {",\"tie_word_embeddings\":1", "tie_word_embeddings is 1, expected true or false"},
        {",\"image_end_tag_id\":500", "image_end_tag_id is 500"},
        {",\"image_end_token_id\":393",
         "image_end_token_id is 393, expected it to end a run of num_image_tokens ids that begins "
         "at 331"},
        {",\"image_end_token_id\":300", "image_end_token_id is 300"},
        {",\"scale_end_token_id\":327", "scale_end_token_id is 327"},
        {",\"num_scale_tokens\":3,\"scale_end_token_id\":331", "scale_end_token_id is 331"},
        {",\"eos_token_id\":395", "eos_token_id is 395, expected an integer from 0 to 394"},
        {",\"eos_token_id\":[1,2,3,4,5,6,7,8,9]", "eos_token_id has 9 elements"},
        {",\"rms_norm_eps\":1", "rms_norm_eps is 1"},
        {",\"max_position_embeddings\":700",
         "image_grid has 729 tokens, but max_position_embeddings is 700"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        expect_file_refused(DIP_CONFIG_MODEL, with(MODEL, cases[i].members), cases[i].sentence);
}

static void broken_transformer_files(void **state)
{
    (void)state;
    static const struct {
        const char *from;
        const char *to;
        const char *sentence;
    } cases[] = {
        {"\"in_channels\":8", "\"in_channels\":4",
         "transformer/config.json has 4 in_channels, vae/config.json 8 latent_channels"},
        {"\"in_channels\":8,", "", "m/transformer/config.json: in_channels is missing"},
        {"\"in_channels\":8", "\"in_channels\":8,\"out_channels\":16",
         "out_channels is 16, expected in_channels (8)"},
        {"\"cross_attention_head_dim\":16", "\"cross_attention_head_dim\":8",
         "num_cross_attention_heads x cross_attention_head_dim is 3 x 8, expected the width 48"},
        {"\"num_layers\":2", "\"num_layers\":2,\"cross_attention_dim\":64",
         "cross_attention_dim is 64, expected the width 48"},
        {"\"num_layers\":2", "\"num_layers\":0", "num_layers is 0"},
        {"\"num_layers\":2", "\"num_layers\":2,\"mlp_ratio\":0.02", "leaves no hidden channel"},
        {"\"num_attention_heads\":6", "\"num_attention_heads\":60000",
         "num_attention_heads x attention_head_dim is 480000"},
        {"\"patch_size\":2", "\"patch_size\":3",
         "latent_size is [4, 6], expected multiples of the"},
        {",\"qk_norm\":\"rms_norm_across_heads\"", "", "qk_norm is missing"},
        {"rms_norm_across_heads", "layer_norm", "qk_norm is \"layer_norm\", only"},
        {"\"num_layers\":2", "\"num_layers\":2,\"interpolation_scale\":2.0",
         "interpolation_scale is set, only null"},
        {"\"num_layers\":2", "\"num_layers\":2,\"guidance_embeds\":true",
         "guidance_embeds is true"},
        {"\"num_layers\":2", "\"num_layers\":2,\"attention_bias\":true", "attention_bias is true"},
        {"\"num_layers\":2", "\"num_layers\":2,\"norm_elementwise_affine\":true",
         "norm_elementwise_affine is true"},
        {"\"num_layers\":2", "\"num_layers\":2,\"timestep_scale\":1000", "timestep_scale is 1000"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        expect_file_refused(DIP_CONFIG_TRANSFORMER,
                            swapped(TRANSFORMER, cases[i].from, cases[i].to), cases[i].sentence);
}

static void broken_vae_files(void **state)
{
    (void)state;
    static const struct {
        const char *from;
        const char *to;
        const char *sentence;
    } cases[] = {
        {"[16,32]", "[]", "m/vae/config.json: decoder_block_out_channels is empty"},
        {"[16,32]", "[16,24]",
         "decoder_block_out_channels[0] and [1] are 16 and 24, expected four"},
        {"[16,32]", "[256,32]", "decoder_block_out_channels[0] and [1] are 256 and 32"},
        {"[16,32]", "[16,128]", "decoder_block_out_channels[0] and [1] are 16 and 128"},
        {"[16,32]", "[1,1,1,1,1,1,1,1,1]", "decoder_block_out_channels has 9 elements"},
        {"[16,32]", "[16,32,32]", "decoder_layers_per_block has 2 elements, expected 3"},
        {"[1,2]", "[1]", "decoder_layers_per_block has 1 elements, expected 2"},
        {"[1,2]", "[0,2]", "decoder_layers_per_block[0] is 0"},
        {"[\"ResBlock\",", "[\"DownBlock\",", "decoder_block_types has \"DownBlock\""},
        {"[\"ResBlock\",\"EfficientViTBlock\"]", "[\"ResBlock\",\"ResBlock\",\"ResBlock\"]",
         "decoder_block_types has 3 elements, expected 2"},
        {"[[],[5]]", "[[5]]", "decoder_qkv_multiscales has 1 elements, expected 2"},
        {"[[],[5]]", "[[],[4]]", "decoder_qkv_multiscales[1] is 4, expected an odd kernel size"},
        {"[[],[5]]", "[[],[3,5]]", "decoder_qkv_multiscales[1] has 2 elements, expected at most 1"},
        {"[[],[5]]", "[[],5]", "decoder_qkv_multiscales[1] is 5, expected an array"},
        {"\"attention_head_dim\":8", "\"attention_head_dim\":12",
         "decoder_block_out_channels[1] is 32, expected a multiple of attention_head_dim (12)"},
        {"\"latent_channels\":8", "\"latent_channels\":12",
         "ends with 32, expected a multiple of latent_channels (12)"},
        {",\"scaling_factor\":0.5", "", "scaling_factor is missing"},
        {"\"scaling_factor\":0.5", "\"scaling_factor\":0", "scaling_factor is 0"},
        {"\"scaling_factor\":0.5", "\"scaling_factor\":0.5,\"shift_factor\":0.1", "shift_factor"},
        {"\"upsample_block_type\":\"interpolate\",", "", "upsample_block_type is missing"},
        {"\"scaling_factor\":0.5",
         "\"scaling_factor\":0.5,\"decoder_norm_types\":[\"rms_norm\",\"batch_norm\"]",
         "decoder_norm_types has \"batch_norm\", only \"rms_norm\" is supported"},
        {"\"scaling_factor\":0.5", "\"scaling_factor\":0.5,\"decoder_act_fns\":\"relu\"",
         "decoder_act_fns has \"relu\""},
        {"\"scaling_factor\":0.5", "\"scaling_factor\":0.5,\"decoder_in_shortcut\":false",
         "decoder_in_shortcut is false"},
        {"\"scaling_factor\":0.5", "\"scaling_factor\":0.5,\"in_channels\":4", "in_channels is 4"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        expect_file_refused(DIP_CONFIG_VAE, swapped(VAE, cases[i].from, cases[i].to),
                            cases[i].sentence);
}

static void broken_scheduler_files(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *sentence;
    } cases[] = {
        {"{\"prediction_type\":\"epsilon\"}", "prediction_type is \"epsilon\", only"},
        {"{\"use_dynamic_shifting\":true}", "use_dynamic_shifting is true, only false"},
        {"{\"use_karras_sigmas\":true}", "use_karras_sigmas is true"},
        {"{\"shift_terminal\":0.1}", "shift_terminal is set"},
        {"{\"shift\":0}", "shift is 0, expected a number"},
        {"{\"num_train_timesteps\":0}", "num_train_timesteps is 0"},
        {"[]", "m/scheduler/scheduler_config.json: expected a JSON object"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        expect_file_refused(DIP_CONFIG_SCHEDULER, cases[i].text, cases[i].sentence);
    struct folder folder = small();
    folder.texts[DIP_CONFIG_SCHEDULER] = "{\"shift\":3.0,\"lambda_min_clipped\":-Infinity}";
    assert_true(expect_ok(&folder).scheduler.shift == 3);
}

static void broken_diptych_files(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *sentence;
    } cases[] = {
        {"{\"step\":30}", "m/diptych.json: unknown key \"step\", expected image_grid, latent_size"},
        {"{\"image_grid\":[0,4]}", "image_grid[0] is 0"},
        {"{\"image_grid\":27}", "image_grid has 1 numbers, expected [rows, columns]"},
        {"{\"image_grid\":[200,100]}", "image_grid has 20000 tokens, expected at most 16384"},
        {"{\"latent_size\":[4,5]}",
         "latent_size is [4, 5], expected multiples of the patch size 2"},
        {"{\"latent_size\":[4,1000]}", "latent_size[1] is 1000, expected an integer from 1 to 512"},
        {"{\"steps\":0}", "steps is 0, expected an integer from 1 to 1000"},
        {"{\"steps\":1001}", "steps is 1001"},
        {"{\"guidance\":-1}", "guidance is -1"},
        {"{\"temperature\":0}", "temperature is 0"},
        {"{\"top_k\":-1}", "top_k is -1"},
        {"{\"top_p\":0}", "top_p is 0"},
        {"{\"top_p\":1.1}", "top_p is 1.1"},
        {"{\"sampler\":\"ddim\"}", "sampler is \"ddim\", expected euler or dpm++"},
        {"{\"preview_rgb\":[[1,2,3]]}", "preview_rgb has 1 rows, expected 8"},
        {"{\"preview_rgb\":[[1,2]]}", "preview_rgb[0] has 2 numbers"},
        {"{\"preview_rgb\":[[1,2,\"3\"]]}", "preview_rgb[0][2] is \"3\", expected a number"},
        {"{\"preview_rgb\":[[1,2,3,4]]}", "preview_rgb[0] has 4 elements"},
        {"{\"steps\":7", "m/diptych.json: line 1, column"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        expect_file_refused(DIP_CONFIG_DIPTYCH, cases[i].text, cases[i].sentence);
}

static void folders_are_read_from_disk(void **state)
{
    (void)state;
    struct scratch scratch = scratch_open();
    struct dip_why absent = {0};
    struct dip_why broken = {0};
    struct dip_why large = {0};
    struct dip_config config = {0};
    assert_int_equal(dip_config_load(scratch.path, &absent, &config), DIP_NOT_FOUND);
    assert_non_null(strstr(absent.text, "found no config.json"));
    scratch_write_text(&scratch, "config.json", with(MODEL, ""));
    scratch_write_text(&scratch, "vae/config.json", "{\"latent");
    assert_int_equal(dip_config_load(scratch.path, &broken, &config), DIP_CORRUPT);
    assert_non_null(strstr(broken.text, "vae/config.json: line 1, column"));
    scratch_write_text(&scratch, "vae/config.json", with(VAE, ""));
    scratch_write_text(&scratch, "transformer/config.json", with(TRANSFORMER, ""));
    assert_int_equal(dip_config_load(scratch.path, NULL, &config), DIP_OK);
    assert_int_equal(config.dit.width, 48);
    char *text = calloc(1, 5 << 20);
    assert_non_null(text);
    scratch_write(&scratch, "config.json", text, 5 << 20);
    assert_int_equal(dip_config_load(scratch.path, &large, &config), DIP_LIMIT);
    free(text);
    scratch_close(&scratch);
}

static void shapes_are_those_published(void **state)
{
    (void)state;
    struct dip_config c = {0};
    struct dip_why why = {0};
    assert_int_equal(dip_config_shape("qwen3-0.6b", NULL, &c), DIP_OK);
    assert_true(c.ar.hidden == 1024 && c.ar.intermediate == 3072 && c.ar.layers == 28);
    assert_true(c.dit.layers == 0 && c.vae.stages == 0);
    assert_int_equal(dip_config_shape("full", NULL, &c), DIP_OK);
    assert_true(c.ar.hidden == 2048 && c.ar.vocab == 217210 && c.dit.layers == 20);
    assert_int_equal(c.ar.image_first_id + c.ar.image_token_count, c.ar.vocab);
    assert_int_equal(c.vae.factor, 32);
    assert_int_equal(c.generation.steps, 30);
    assert_int_equal(dip_config_shape("sana-1.6b", NULL, &c), DIP_OK);
    assert_true(c.ar.layers == 0 && c.dit.width == 2240);
    assert_int_equal(dip_config_shape("dcae", NULL, &c), DIP_OK);
    assert_true(c.dit.layers == 0 && c.vae.channels[5] == 1024);
    assert_int_equal(dip_config_shape("qwen4", &why, &c), DIP_NOT_FOUND);
    assert_non_null(strstr(why.text, "\"qwen4\" is not one of qwen3-0.6b, qwen3-1.7b"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tiny_checkpoints_load),
        cmocka_unit_test(absent_files_give_published_values),
        cmocka_unit_test(small_folder_is_accepted),
        cmocka_unit_test(diptych_json_overrides),
        cmocka_unit_test(end_ids_come_from_either_file),
        cmocka_unit_test(runs_of_ids_may_be_given_by_their_end),
        cmocka_unit_test(broken_model_files),
        cmocka_unit_test(unsupported_model_variants),
        cmocka_unit_test(broken_transformer_files),
        cmocka_unit_test(broken_vae_files),
        cmocka_unit_test(broken_scheduler_files),
        cmocka_unit_test(broken_diptych_files),
        cmocka_unit_test(folders_are_read_from_disk),
        cmocka_unit_test(shapes_are_those_published),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
