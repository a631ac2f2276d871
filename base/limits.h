/* base/limits.h - every ceiling in one place. A declared length is compared with its ceiling before
 * memory is reserved. */
#pragma once

enum {
    DIP_PATH_BYTES_MAX = 4096,
    DIP_JSON_BYTES_MAX = 64 << 20, /* tokenizer.json of the published model is 12-20 MB */
    DIP_JSON_VALUES_MAX =
        2 << 20, /* a parsed value costs about 100 bytes; the tokenizer has 1.1 M */
    DIP_JSON_DEPTH_MAX = 64,
    DIP_JSON_TOKEN_BYTES_MAX = 1 << 20, /* one string or number */
    DIP_SAFETENSORS_HEADER_BYTES_MAX = 64 << 20,
    DIP_TENSORS_MAX = 1 << 16,
    DIP_SHARDS_MAX = 1024,
    DIP_TENSOR_RANK_MAX = 4,
    DIP_VOCAB_MAX = 1 << 20,
    DIP_TOKEN_BYTES_MAX = 1024,     /* one vocabulary entry, one added token */
    DIP_TEXT_BYTES_MAX = 256 << 10, /* one tokenizer call; a prompt is far shorter */
    DIP_PROMPT_BYTES_MAX = 16 << 10,
    DIP_PROMPT_TOKENS_MAX = 2048,
    DIP_LAYERS_MAX = 512,
    DIP_WIDTH_MAX = 1 << 16, /* channels, heads, hidden sizes */
    DIP_STEPS_MAX = 1000,
    DIP_IMAGES_MAX = 64, /* -n */
    DIP_IMAGE_TOKENS_MAX = 1 << 14,
    DIP_LATENT_EDGE_MAX = 512,
    DIP_IMAGE_EDGE_MAX = 8192,
    DIP_THREADS_MAX = 256,
    DIP_SLOTS_MAX = 256,
    DIP_GPUS_MAX = 64, /* of one machine */
};
