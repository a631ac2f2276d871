/* ops/comm_join.c - from an id to a full mesh of sockets.
 *
 *     rank r                      rank 0                      all
 *     hello, own address  ----->  waits until all are there
 *     addresses of all    <-----  (shm: and the memory)
 *     connects to ranks 1..r-1, accepts r+1..n-1; tcp: a second connection for data
 *     ready               ----->  waits until all are ready
 *     go                  <-----                              watching begins
 *
 * A connection whose hello is late, wrong or a second one of its kind is dropped and the waiting
 * goes on: a stranger at the port costs a second and ruins nothing. All messages are structs in
 * host order; another byte order shows in the magic number. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"

#include "ops/comm_private.h"
#include "ops/comm_socket.h"

static const uint32_t MAGIC = 0x64697031; /* changes with the layout of any message */
static const int64_t HELLO_NS_MAX = DIP_SECOND_NS;
/* Who is connected to listens already: not to come through says that the way there is cut. */
static const int64_t REACH_NS_MAX = 2 * DIP_SECOND_NS;
static const char READY = 'r';
static const char GO = 'g';

struct id {
    uint32_t magic;
    char backend[8];
    uint8_t key[DIP__COMM_KEY_BYTES];
    struct dip__endpoint root;
};
static_assert(sizeof(struct id) <= DIP_COMM_ID_BYTES, "an id holds it");

struct hello {
    uint32_t magic;
    uint8_t key[DIP__COMM_KEY_BYTES];
    int32_t rank, count, channel;
    uint32_t piece_bytes;
    struct dip__endpoint own;
};

struct welcome {
    uint32_t magic;
    struct dip__endpoint ranks[DIP_COMM_RANKS_MAX];
};

struct dip_comm_root {
    int listener;
    struct dip_comm_id id;
};

struct join {
    struct dip_comm *comm;
    struct id id;
    struct dip__until until;
    int listener;
    bool is_listener_own; /* rank 0's belongs to its root */
    int shared_fd;
    int awaited; /* the rank that is being waited for by itself, -1 = whoever comes */
    struct welcome welcome;
};

/* ---- the root ---- */

static const struct dip__comm_backend *backend_named(const char *name)
{
    if (strcmp(name, dip__comm_shm.name) == 0)
        return &dip__comm_shm;
    return strcmp(name, dip__comm_tcp.name) == 0 ? &dip__comm_tcp : NULL;
}

static void make_key(uint8_t *key)
{
    uint64_t halves[2] = {dip_entropy_seed(), dip_entropy_seed()};
    static_assert(sizeof halves == DIP__COMM_KEY_BYTES, "two halves");
    memcpy(key, halves, sizeof halves);
}

enum dip_status dip_comm_root_open(const struct dip_comm_root_options *options, struct dip_why *why,
                                   struct dip_comm_root **ret_root)
{
    const struct dip__comm_backend *backend = backend_named(options->backend);
    if (!backend)
        return dip_fail(why, DIP_INVALID,
                        "collectives: there is no way \"%s\"; choose \"shm\" or \"tcp\"",
                        options->backend);
    struct dip__endpoint at = dip__endpoint_unix();
    const char *address = options->address ? options->address : "";
    if (backend == &dip__comm_tcp && dip__endpoint_parse(address, &at))
        return dip_fail(why, DIP_INVALID,
                        "collectives: \"%s\" is not a numeric IPv4 or IPv6 address", address);

    struct dip_comm_root *root = calloc(1, sizeof *root);
    if (!root)
        return DIP_NO_MEMORY;
    struct id id = {.magic = MAGIC};
    snprintf(id.backend, sizeof id.backend, "%s", backend->name);
    make_key(id.key);
    enum dip_status status = dip__socket_listen(&at, &root->listener, &id.root);
    if (status) {
        free(root);
        return dip_fail(why, status, "collectives: cannot listen on \"%s\"", address);
    }
    memcpy(root->id.bytes, &id, sizeof id);
    *ret_root = root;
    return DIP_OK;
}

void dip_comm_root_close(struct dip_comm_root *root)
{
    if (!root)
        return;
    dip__socket_close(root->listener);
    free(root);
}

const struct dip_comm_id *dip_comm_root_id(const struct dip_comm_root *root)
{
    return &root->id;
}

/* ---- hello ---- */

static enum dip_status send_hello(struct join *j, int fd, int channel,
                                  const struct dip__endpoint *own)
{
    struct hello hello = {.magic = MAGIC,
                          .rank = j->comm->rank,
                          .count = j->comm->count,
                          .channel = channel,
                          .piece_bytes = DIP__COMM_PIECE_BYTES};
    memcpy(hello.key, j->id.key, sizeof hello.key);
    if (own)
        hello.own = *own;
    return dip__socket_send(fd, &hello, sizeof hello, &j->until);
}

/* A first packet that is lost is sent again after a second; a cut may say so at once. */
static enum dip_status reach(const struct join *j, const struct dip__endpoint *to, int *ret_fd)
{
    struct dip__until until = j->until;
    int64_t reach_ns = dip_clock_now_ns() + REACH_NS_MAX;
    if (reach_ns < until.ns)
        until.ns = reach_ns;
    for (;;) {
        enum dip_status status = dip__socket_connect(to, &until, ret_fd);
        bool is_over = dip_clock_now_ns() + DIP__WANTED_MS * DIP_MS_NS >= until.ns;
        if (status == DIP_TIMEOUT)
            return DIP_UNREACHABLE;
        if (status != DIP_UNREACHABLE || is_over)
            return status;
        if (until.is_wanted && !until.is_wanted(until.context))
            return DIP_CANCELLED;
        dip_clock_sleep(DIP__WANTED_MS * DIP_MS_NS);
    }
}

static enum dip_status connect_channel(struct join *j, int rank, int channel,
                                       const struct dip__endpoint *own)
{
    const struct dip__endpoint *to = rank == 0 ? &j->id.root : &j->welcome.ranks[rank];
    int *fd = &j->comm->peers[rank].fds[channel];
    j->awaited = rank;
    DIP_TRY(reach(j, to, fd));
    return send_hello(j, *fd, channel, own);
}

/* Whether all ranks from `first` on have so many channels. */
static bool is_complete(const struct dip_comm *comm, int first, int channels)
{
    for (int r = first; r < comm->count; r++)
        for (int c = 0; c < channels; c++)
            if (comm->peers[r].fds[c] < 0)
                return false;
    return true;
}

static bool is_welcome(const struct join *j, const struct hello *hello, int first)
{
    const struct dip_comm *comm = j->comm;
    return hello->magic == MAGIC && memcmp(hello->key, j->id.key, sizeof hello->key) == 0 &&
           hello->count == comm->count && hello->piece_bytes == DIP__COMM_PIECE_BYTES &&
           hello->rank >= first && hello->rank < comm->count && hello->channel >= 0 &&
           hello->channel < comm->backend->channels &&
           comm->peers[hello->rank].fds[hello->channel] < 0;
}

/* Waits for ranks `first` and on, which are higher than this one. */
static enum dip_status accept_ranks(struct join *j, int first, int channels)
{
    j->awaited = -1;
    while (!is_complete(j->comm, first, channels)) {
        int fd = -1;
        DIP_TRY(dip__socket_accept(j->listener, &j->until, &fd));
        struct hello hello;
        struct dip__until hello_until = j->until;
        int64_t hello_ns = dip_clock_now_ns() + HELLO_NS_MAX;
        if (hello_ns < hello_until.ns)
            hello_until.ns = hello_ns;
        if (dip__socket_receive(fd, &hello, sizeof hello, &hello_until) ||
            !is_welcome(j, &hello, first)) {
            dip__socket_close(fd);
            continue;
        }
        j->comm->peers[hello.rank].fds[hello.channel] = fd;
        if (hello.channel == DIP__COMM_LIFE)
            j->welcome.ranks[hello.rank] = hello.own;
    }
    return DIP_OK;
}

/* ---- rank 0 ---- */

static enum dip_status welcome_all(struct join *j)
{
    j->welcome.magic = MAGIC;
    for (int r = 1; r < j->comm->count; r++) {
        int fd = j->comm->peers[r].fds[DIP__COMM_LIFE];
        j->awaited = r;
        DIP_TRY(dip__socket_send(fd, &j->welcome, sizeof j->welcome, &j->until));
        if (j->shared_fd >= 0)
            DIP_TRY(dip__socket_send_fd(fd, j->shared_fd, &j->until));
    }
    return DIP_OK;
}

static enum dip_status start_all(struct join *j)
{
    for (int r = 1; r < j->comm->count; r++) {
        char ready = 0;
        int fd = j->comm->peers[r].fds[DIP__COMM_LIFE];
        j->awaited = r;
        DIP_TRY(dip__socket_receive(fd, &ready, 1, &j->until));
        if (ready != READY)
            return DIP_CORRUPT;
    }
    for (int r = 1; r < j->comm->count; r++)
        DIP_TRY(dip__socket_send(j->comm->peers[r].fds[DIP__COMM_LIFE], &GO, 1, &j->until));
    return DIP_OK;
}

static enum dip_status lead(struct join *j)
{
    const struct dip__comm_backend *backend = j->comm->backend;
    DIP_TRY(accept_ranks(j, 1, 1));
    DIP_TRY(backend->share(j->comm->count, &j->shared_fd));
    DIP_TRY(welcome_all(j));
    DIP_TRY(accept_ranks(j, 1, backend->channels));
    return start_all(j);
}

/* ---- the others ---- */

static enum dip_status greet_root(struct join *j)
{
    struct dip_comm *comm = j->comm;
    struct dip__endpoint at;
    struct dip__endpoint own;
    int *root = &comm->peers[0].fds[DIP__COMM_LIFE];
    j->awaited = 0;
    DIP_TRY(reach(j, &j->id.root, root));
    DIP_TRY(dip__endpoint_beside(*root, &at));
    DIP_TRY(dip__socket_listen(&at, &j->listener, &own));
    j->is_listener_own = true;
    DIP_TRY(send_hello(j, *root, DIP__COMM_LIFE, &own));
    DIP_TRY(dip__socket_receive(*root, &j->welcome, sizeof j->welcome, &j->until));
    if (j->welcome.magic != MAGIC)
        return DIP_CORRUPT;
    if (comm->backend == &dip__comm_shm)
        DIP_TRY(dip__socket_receive_fd(*root, &j->until, &j->shared_fd));
    return DIP_OK;
}

static enum dip_status follow(struct join *j)
{
    struct dip_comm *comm = j->comm;
    DIP_TRY(greet_root(j));
    for (int r = 0; r < comm->rank; r++)
        for (int c = 0; c < comm->backend->channels; c++)
            if (comm->peers[r].fds[c] < 0)
                DIP_TRY(connect_channel(j, r, c, NULL));
    DIP_TRY(accept_ranks(j, comm->rank + 1, comm->backend->channels));
    int root = comm->peers[0].fds[DIP__COMM_LIFE];
    j->awaited = 0;
    DIP_TRY(dip__socket_send(root, &READY, 1, &j->until));
    char go = 0;
    DIP_TRY(dip__socket_receive(root, &go, 1, &j->until));
    return go == GO ? DIP_OK : DIP_CORRUPT;
}

/* ---- both ---- */

/* Who did not come, for the sentence. */
static enum dip_status say_missing(const struct dip_comm *comm, enum dip_status status,
                                   struct dip_why *why)
{
    char missing[DIP_COMM_RANKS_MAX * 4] = "";
    size_t length = 0;
    for (int r = comm->rank + 1; r < comm->count; r++)
        if (comm->peers[r].fds[DIP__COMM_LIFE] < 0)
            length += (size_t)snprintf(missing + length, sizeof missing - length, " %d", r);
    return dip_fail(why, status, "collectives: rank %d of %d could not join its group: %s%s%s",
                    comm->rank, comm->count, dip_status_text(status),
                    length ? "; still missing: rank" : "", missing);
}

static enum dip_status read_id(const struct dip_comm_id *bytes, struct id *ret_id)
{
    struct id id;
    memcpy(&id, bytes->bytes, sizeof id);
    if (id.magic != MAGIC || !memchr(id.backend, 0, sizeof id.backend) ||
        !backend_named(id.backend))
        return DIP_CORRUPT;
    *ret_id = id;
    return DIP_OK;
}

enum dip_status dip__comm_join(struct dip_comm *comm, const struct dip_comm_options *options,
                               struct dip_why *why, int *ret_fd)
{
    struct join j = {.comm = comm, .listener = -1, .shared_fd = -1, .awaited = -1};
    if (read_id(options->id, &j.id))
        return dip_fail(why, DIP_CORRUPT, "collectives: these bytes are not a group's id");
    comm->backend = backend_named(j.id.backend);
    int64_t wait_ns = comm->join_ns_max;
    j.until = (struct dip__until){.ns = dip_clock_now_ns() + wait_ns,
                                  .is_wanted = options->is_wanted,
                                  .context = options->context};
    if (comm->rank == 0) {
        dip_assert(options->root);
        j.listener = options->root->listener;
    }
    enum dip_status status = comm->rank == 0 ? lead(&j) : follow(&j);
    if (j.is_listener_own)
        dip__socket_close(j.listener);
    if (status) {
        dip__socket_close(j.shared_fd);
        if (status == DIP_UNREACHABLE && options->ret_unreached)
            *options->ret_unreached = j.awaited;
        return say_missing(comm, status, why);
    }
    *ret_fd = j.shared_fd;
    return DIP_OK;
}
