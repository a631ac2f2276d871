/* net/fetch.c - see net/fetch.h; libcurl, one transfer at a time. */
#include "net/fetch.h"

#include <curl/curl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

struct dip_fetch {
    CURL *easy;
};

struct answer {
    char *text; /* terminated */
    size_t bytes, bytes_max;
    bool is_too_large;
};

enum dip_status dip_fetch_open(struct dip_fetch **ret_fetch)
{
    struct dip_fetch *fetch = calloc(1, sizeof *fetch);
    if (!fetch)
        return DIP_NO_MEMORY;
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        free(fetch);
        return DIP_NO_MEMORY;
    }
    fetch->easy = curl_easy_init();
    if (!fetch->easy) {
        dip_fetch_close(fetch);
        return DIP_NO_MEMORY;
    }
    *ret_fetch = fetch;
    return DIP_OK;
}

void dip_fetch_close(struct dip_fetch *fetch)
{
    if (!fetch)
        return;
    if (fetch->easy)
        curl_easy_cleanup(fetch->easy);
    curl_global_cleanup();
    free(fetch);
}

static size_t take_bytes(char *data, size_t size, size_t count, void *context)
{
    struct answer *answer = context;
    size_t bytes = size * count;
    if (bytes > answer->bytes_max - answer->bytes) {
        answer->is_too_large = true;
        return 0; /* anything but the count ends the transfer */
    }
    char *text = realloc(answer->text, answer->bytes + bytes + 1);
    if (!text)
        return 0;
    memcpy(text + answer->bytes, data, bytes);
    answer->text = text;
    answer->bytes += bytes;
    text[answer->bytes] = '\0';
    return bytes;
}

static bool set_options(CURL *easy, const char *url, int64_t wait_ns, struct answer *answer)
{
    CURLcode bad = CURLE_OK;
    curl_easy_reset(easy); /* its connections stay */
    bad |= curl_easy_setopt(easy, CURLOPT_URL, url);
    bad |= curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http");
    bad |= curl_easy_setopt(easy, CURLOPT_PROXY, "");
    bad |= curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    bad |= curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)(wait_ns / DIP_MS_NS));
    bad |= curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_bytes);
    bad |= curl_easy_setopt(easy, CURLOPT_WRITEDATA, answer);
    return bad == CURLE_OK;
}

enum dip_status dip_fetch_get(struct dip_fetch *fetch, int port, const char *path, int64_t wait_ns,
                              size_t bytes_max, int *ret_code, char **ret_text)
{
    char url[128];
    long code = 0;
    struct answer answer = {.text = calloc(1, 1), .bytes_max = bytes_max};
    if (!answer.text)
        return DIP_NO_MEMORY;
    snprintf(url, sizeof url, "http://127.0.0.1:%d%s", port, path);
    CURLcode result = set_options(fetch->easy, url, wait_ns, &answer)
                          ? curl_easy_perform(fetch->easy)
                          : CURLE_OUT_OF_MEMORY;
    curl_easy_getinfo(fetch->easy, CURLINFO_RESPONSE_CODE, &code);
    if (result != CURLE_OK) {
        free(answer.text);
        return answer.is_too_large             ? DIP_LIMIT
               : result == CURLE_OUT_OF_MEMORY ? DIP_NO_MEMORY
                                               : DIP_UNREACHABLE;
    }
    *ret_code = (int)code;
    *ret_text = answer.text;
    return DIP_OK;
}
