/* cluster/held.c - see cluster/held.h. */
#include "cluster/held.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

enum { NONE = -1 };

struct entry {
    struct dip_held held;
    int32_t *ids; /* [held.id_count] */
    uint32_t member;
    int64_t until_ns;
    int next;      /* of the bucket, or free */
    int next_here; /* of the member */
};

struct dip_held_book {
    struct entry *entries; /* [entry_count_max] */
    int entry_count_max, count, free;
    int *buckets; /* [bucket_count], by digest */
    unsigned bucket_count;
    int *members; /* [member_count_max] */
    int member_count_max;
};

/* A digest is as good as random. */
static int *bucket_of(const struct dip_held_book *book, const unsigned char *digest)
{
    unsigned hash = (unsigned)digest[0] | (unsigned)digest[1] << 8 | (unsigned)digest[2] << 16;
    return &book->buckets[hash & (book->bucket_count - 1)];
}

static bool reserve(struct dip_held_book *book)
{
    book->bucket_count = 1;
    while (book->bucket_count < (unsigned)book->entry_count_max)
        book->bucket_count *= 2;
    book->entries = calloc((size_t)book->entry_count_max, sizeof *book->entries);
    book->buckets = malloc(book->bucket_count * sizeof *book->buckets);
    book->members = malloc((size_t)book->member_count_max * sizeof *book->members);
    return book->entries && book->buckets && book->members;
}

enum dip_status dip_held_book_new(int entry_count_max, int member_count_max,
                                  struct dip_held_book **ret_book)
{
    dip_assert(entry_count_max > 0 && member_count_max > 0);
    struct dip_held_book *book = calloc(1, sizeof *book);
    if (!book)
        return DIP_NO_MEMORY;
    book->entry_count_max = entry_count_max;
    book->member_count_max = member_count_max;
    if (!reserve(book)) {
        dip_held_book_free(book);
        return DIP_NO_MEMORY;
    }
    for (unsigned i = 0; i < book->bucket_count; i++)
        book->buckets[i] = NONE;
    for (int i = 0; i < member_count_max; i++)
        book->members[i] = NONE;
    book->free = NONE;
    for (int i = entry_count_max - 1; i >= 0; i--) {
        book->entries[i].next = book->free;
        book->free = i;
    }
    *ret_book = book;
    return DIP_OK;
}

void dip_held_book_free(struct dip_held_book *book)
{
    if (!book)
        return;
    for (int i = 0; book->entries && i < book->entry_count_max; i++)
        free(book->entries[i].ids);
    free(book->entries);
    free(book->buckets);
    free(book->members);
    free(book);
}

/* ---- in and out ---- */

static void entry_free(struct dip_held_book *book, int index)
{
    struct entry *entry = &book->entries[index];
    int *at = bucket_of(book, entry->held.digest);
    while (*at != index)
        at = &book->entries[*at].next;
    *at = entry->next;
    at = &book->members[entry->member];
    while (*at != index)
        at = &book->entries[*at].next_here;
    *at = entry->next_here;
    free(entry->ids);
    *entry = (struct entry){.next = book->free};
    book->free = index;
    book->count--;
}

void dip_held_book_lose(struct dip_held_book *book, uint32_t member)
{
    dip_assert(member < (uint32_t)book->member_count_max);
    while (book->members[member] != NONE)
        entry_free(book, book->members[member]);
}

/* Without memory for its tokens an entry is as good as new without them. */
static void ids_take(struct entry *entry, const struct dip_message_held *held)
{
    size_t bytes = (size_t)entry->held.id_count * sizeof *entry->ids;
    const int32_t *ids = held->ids.data;
    if (bytes > 0)
        entry->ids = malloc(bytes);
    if (entry->ids)
        memcpy(entry->ids, ids + entry->held.id_first, bytes);
    else
        entry->held.id_count = 0;
}

static void entry_add(struct dip_held_book *book, int64_t now_ns, uint32_t member,
                      const struct dip_held *said, const struct dip_message_held *held)
{
    int index = book->free;
    struct entry *entry = &book->entries[index];
    book->free = entry->next;
    book->count++;
    int *bucket = bucket_of(book, said->digest);
    *entry = (struct entry){.held = *said,
                            .member = member,
                            .until_ns = said->left_ns < INT64_MAX - now_ns ? now_ns + said->left_ns
                                                                           : INT64_MAX,
                            .next = *bucket,
                            .next_here = book->members[member]};
    ids_take(entry, held);
    *bucket = index;
    book->members[member] = index;
}

void dip_held_book_take(struct dip_held_book *book, int64_t now_ns, uint32_t member,
                        const struct dip_message_held *held)
{
    const struct dip_held *said = held->entries.data;
    size_t count = held->entries.bytes / sizeof *said;
    dip_held_book_lose(book, member);
    for (size_t i = 0; i < count && book->free != NONE; i++)
        entry_add(book, now_ns, member, &said[i], held);
}

bool dip_held_book_drop(struct dip_held_book *book, uint32_t member, uint64_t held_epoch,
                        uint64_t held_job_id)
{
    for (int i = book->members[member]; i != NONE; i = book->entries[i].next_here) {
        const struct dip_held *held = &book->entries[i].held;
        if (held->epoch == held_epoch && held->job_id == held_job_id) {
            entry_free(book, i);
            return true;
        }
    }
    return false;
}

void dip_held_book_expire(struct dip_held_book *book, int64_t now_ns)
{
    for (int i = 0; book->count > 0 && i < book->entry_count_max; i++)
        if (book->entries[i].held.job_id != 0 && book->entries[i].until_ns <= now_ns)
            entry_free(book, i);
}

/* ---- looking ---- */

static void put(const struct entry *entry, struct dip_held_entry *ret_entry)
{
    const struct dip_held *held = &entry->held;
    ret_entry->offer = (struct dip_offer){.member = entry->member,
                                          .image_index = (int32_t)held->image_index,
                                          .stage = held->stage,
                                          .done = held->done,
                                          .token_count = held->token_count,
                                          .ids = entry->ids,
                                          .id_count = held->id_count,
                                          .held_epoch = held->epoch,
                                          .held_job_id = held->job_id};
    memcpy(ret_entry->digest, held->digest, sizeof ret_entry->digest);
}

static int by_stage(const void *a, const void *b)
{
    const struct dip_offer *left = &((const struct dip_held_entry *)a)->offer;
    const struct dip_offer *right = &((const struct dip_held_entry *)b)->offer;
    if (left->stage != right->stage)
        return left->stage < right->stage ? -1 : 1;
    if (left->done != right->done)
        return left->done < right->done ? -1 : 1;
    return left->member < right->member ? -1 : left->member > right->member;
}

int dip_held_book_find(const struct dip_held_book *book, int64_t now_ns,
                       const unsigned char digest[DIP_DIGEST_BYTES],
                       struct dip_held_entry *ret_entries, int entry_count_max)
{
    int count = 0;
    if (book->count == 0)
        return 0;
    for (int i = *bucket_of(book, digest); i != NONE && count < entry_count_max;
         i = book->entries[i].next) {
        const struct entry *entry = &book->entries[i];
        if (entry->until_ns > now_ns && memcmp(entry->held.digest, digest, DIP_DIGEST_BYTES) == 0)
            put(entry, &ret_entries[count++]);
    }
    qsort(ret_entries, (size_t)count, sizeof *ret_entries, by_stage);
    return count;
}

int dip_held_book_of(const struct dip_held_book *book, int64_t now_ns, uint32_t member,
                     struct dip_held_entry *ret_entries, int entry_count_max)
{
    int count = 0;
    for (int i = book->members[member]; i != NONE && count < entry_count_max;
         i = book->entries[i].next_here)
        if (book->entries[i].until_ns > now_ns)
            put(&book->entries[i], &ret_entries[count++]);
    qsort(ret_entries, (size_t)count, sizeof *ret_entries, by_stage);
    return count;
}

int dip_held_book_count(const struct dip_held_book *book)
{
    return book->count;
}
