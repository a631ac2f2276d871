/* base/page.c - see base/page.h. */
#include "base/page.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct dip_page {
    pthread_mutex_t lock;
    char *text; /* NULL = none yet */
    size_t bytes;
};

enum dip_status dip_page_new(struct dip_page **ret_page)
{
    struct dip_page *page = calloc(1, sizeof *page);
    if (!page)
        return DIP_NO_MEMORY;
    pthread_mutex_init(&page->lock, NULL);
    *ret_page = page;
    return DIP_OK;
}

void dip_page_free(struct dip_page *page)
{
    if (!page)
        return;
    pthread_mutex_destroy(&page->lock);
    free(page->text);
    free(page);
}

static char *copy_of(const char *text, size_t bytes)
{
    char *copy = malloc(bytes + 1);
    if (!copy)
        return NULL;
    if (bytes > 0)
        memcpy(copy, text, bytes);
    copy[bytes] = '\0';
    return copy;
}

enum dip_status dip_page_publish(struct dip_page *page, const char *text, size_t bytes)
{
    char *copy = copy_of(text, bytes);
    if (!copy)
        return DIP_NO_MEMORY;
    pthread_mutex_lock(&page->lock);
    char *old = page->text;
    page->text = copy;
    page->bytes = bytes;
    pthread_mutex_unlock(&page->lock);
    free(old);
    return DIP_OK;
}

enum dip_status dip_page_read(struct dip_page *page, char **ret_text, size_t *ret_bytes)
{
    pthread_mutex_lock(&page->lock);
    enum dip_status status = page->text ? DIP_OK : DIP_NOT_FOUND;
    size_t bytes = page->bytes;
    char *copy = page->text ? copy_of(page->text, bytes) : NULL;
    pthread_mutex_unlock(&page->lock);
    if (status || !copy)
        return status ? status : DIP_NO_MEMORY;
    *ret_text = copy;
    *ret_bytes = bytes;
    return DIP_OK;
}
