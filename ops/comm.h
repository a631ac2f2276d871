/* ops/comm.h - collectives between the ranks of a tensor-parallel group, one process each.
 *
 * A group is formed once, by all its ranks, and lives until one of them is lost, aborts or closes:
 * it is never repaired; a new one is formed under a new id. All ranks call the same collectives in
 * the same order with the same sizes (another order is noticed: CORRUPT). Every rank computes the
 * result by the same operations in the same order, so all ranks hold equal bits.
 *
 * The canonical reduction (design: determinism). A row-parallel product over K in C chunks is cut
 * so that each rank owns C / n neighbouring chunks. dip_linear with chunk_count = C / n on the
 * rank's columns, without bias, activation or residual, leaves the rank's finished sub-tree;
 * dip_comm_sum joins the sub-trees as dip_linear joins chunks. Any power of two of ranks gives the
 * bits of one process with C chunks.
 *
 * Two ways to move bytes, for ranks in host memory:
 *   "shm"  all ranks on one host: anonymous shared memory handed over a socket, so there is no name
 *          that could be left behind
 *   "tcp"  any hosts: one connection between each pair
 * A sum of 2 ranks on the 2 cores of a Zen 3 host, mean of 3,000, best of 28 such runs beside other
 * load (4, 16, 64, 256 KB): shm 0.6, 1.5, 10, 80 us; tcp over loopback 15, 17, 39, 112 us. With 4
 * ranks on 2 cores: shm 15, 20, 41, 129 us; tcp 83, 116, 216, 945 us.
 *
 * Besides, each pair holds a liveness connection. Its end says within milliseconds that a process
 * died (kill -9, 2 ranks: 0.2 to 4 ms in 20 tries); silence for silence_ns_max says that it is
 * stopped or cut off (SIGSTOP: 0.92 to 1.03 s of 1 s); a rank that is alive but does not come is
 * given up after wait_ns_max. Each of these is a status, never a hang, and ends the group for every
 * rank.
 *
 * The transport is neither encrypted nor authenticated beyond the secret in the id: it belongs on
 * the network of the cluster. Threads: the device thread calls the collectives; dip_comm_error and
 * dip_comm_abort may be called from any thread until dip_comm_close. One thread of its own watches
 * the liveness connections. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/status.h"
#include "ops/ops.h"

enum { DIP_COMM_RANKS_MAX = 16, DIP_COMM_ID_BYTES = 128, DIP_COMM_SMALL_BYTES_MAX = 64 << 10 };

/* Names one group that is being formed: where rank 0 waits and the secret that admits. Bytes that
 * can be sent anywhere; keep them from strangers, never reuse them. */
struct dip_comm_id {
    uint8_t bytes[DIP_COMM_ID_BYTES];
};

/* Rank 0's end before the others come: a listening socket. Opened in rank 0's process, which hands
 * the id to the others by its own means. */
struct dip_comm_root;
struct dip_comm_root_options {
    const char *backend; /* "shm" or "tcp" */
    const char *address; /* tcp: this host as the others reach it, a numeric IPv4 or IPv6 address */
};

/* Errors: INVALID (unknown backend, address not of this host), NO_MEMORY, IO. */
DIP_MUST_USE enum dip_status dip_comm_root_open(const struct dip_comm_root_options *options,
                                                struct dip_why *why,
                                                struct dip_comm_root **ret_root);
void dip_comm_root_close(struct dip_comm_root *root);
const struct dip_comm_id *dip_comm_root_id(const struct dip_comm_root *root);

struct dip_comm_options {
    const struct dip_comm_id *id;
    struct dip_comm_root *root; /* rank 0's, read during open; other ranks leave it NULL */
    int rank;
    int count;              /* 1..DIP_COMM_RANKS_MAX */
    int64_t join_ns_max;    /* how long to wait for all ranks; 0 = 30 s */
    int64_t silence_ns_max; /* no sign of life for so long means lost; 0 = 1 s */
    int64_t wait_ns_max;    /* a living rank that is so late is given up; 0 = 10 s */
    /* Asked many times a second while joining; false gives up. NULL = wait to the end. */
    bool (*is_wanted)(void *context);
    void *context;
    int *ret_unreached; /* NULL, or where to put the rank that could not be reached (UNREACHABLE);
                         * untouched when it is not known */
};

/* Returns when all ranks have joined. A group of one needs no id and moves nothing.
 * Errors: TIMEOUT (not all came), CANCELLED (not wanted any more), UNREACHABLE, CORRUPT (not an id,
 * or not a rank of this group), NO_MEMORY, IO. */
struct dip_comm;
DIP_MUST_USE enum dip_status dip_comm_open(const struct dip_comm_options *options,
                                           struct dip_why *why, struct dip_comm **ret_comm);
/* Tells the others that this rank leaves in good order, which is an error only to those that still
 * wait for it. */
void dip_comm_close(struct dip_comm *comm);

int dip_comm_rank(const struct dip_comm *comm);
int dip_comm_count(const struct dip_comm *comm);

/* The collectives. Tensors are dense f32 or i32 in memory of the stream's device; complete after
 * dip_wait. Gathers, sums and draws can be part of a recorded step: of a linked group they lie in
 * the recording, else the step is cut there and every launch of it goes through the host. Errors of
 * all, and of every later call: UNREACHABLE (a rank died), TIMEOUT (a rank is silent or late),
 * CANCELLED (some rank aborted), CORRUPT (ranks do not do the same). Output is undefined then. */

/* Once before the first collective on tensors of a device that does not read host memory, by all
 * ranks: large exchanges then go from device to device where each rank has one of its own that can
 * be linked, else through host memory. The results are the same bits. bytes_max: of the largest
 * partial of a sum. On the CPU it is nothing. Errors: those of the collectives, NO_MEMORY, DEVICE.
 */
DIP_MUST_USE enum dip_status dip_comm_attach(struct dip_comm *comm, struct dip_stream *s,
                                             size_t bytes_max);
/* Before the stream's device is closed. */
void dip_comm_detach(struct dip_comm *comm);
/* "shm", "tcp", or of an attached group "nccl". */
const char *dip_comm_transport(const struct dip_comm *comm);

/* all[count * rows, columns] = the ranks' mine[rows, columns], in rank order. all may not alias
 * mine. */
DIP_MUST_USE enum dip_status dip_comm_gather(struct dip_comm *comm, struct dip_stream *s,
                                             struct dip_tensor all, struct dip_tensor mine);

/* In place, f32: each rank's partial becomes the sum of all, neighbours joining first, then pairs
 * of them: ((p0 + p1) + (p2 + p3)) + ... The number of ranks is a power of two. */
DIP_MUST_USE enum dip_status dip_comm_sum(struct dip_comm *comm, struct dip_stream *s,
                                          struct dip_tensor partial);

/* One id per row from logits that are cut by columns: rank r holds [vocab r / n, vocab (r + 1) /
 * n). The ids are those of dip_sample on whole rows, on every rank; one exchange, and one more for
 * each row in which a rank has too many candidates to send them first (top_k 0, or very many ties).
 * Every rank's note, a word of its own, travels along: with row_count 0 it alone does. Complete on
 * return. */
struct dip_comm_sample_args {
    struct dip_tensor ids;        /* i32[row_count] */
    struct dip_tensor logits;     /* f32[row_count, this rank's columns] */
    const struct dip_draw *draws; /* host [row_count], equal on all ranks */
    int64_t row_count;            /* 0: ids, logits and draws are not looked at */
    int64_t vocab;                /* columns of all ranks, at least one for each */
    int32_t note;
    int32_t *ret_notes; /* host [ranks], in rank order */
};
/* Device memory for it. */
size_t dip_comm_sample_scratch_bytes(const struct dip_comm *comm, int64_t row_count, int64_t vocab);
DIP_MUST_USE enum dip_status dip_comm_sample(struct dip_comm *comm, struct dip_stream *s,
                                             const struct dip_comm_sample_args *a,
                                             struct dip_arena *scratch);

/* The same as part of a recorded step (ops.h: steps without the host), where nothing is looked at
 * by the host: draws, the note and what becomes of it are device memory. A rank sends its first
 * `room` candidates of a row and no more: where one has more, the row's id is -1, and
 * dip_comm_sample has to draw it. */
struct dip_comm_draw_args {
    struct dip_tensor ids;        /* i32[row_count] */
    struct dip_tensor logits;     /* f32[row_count, this rank's columns] */
    const struct dip_draw *draws; /* [row_count] */
    int64_t vocab, room;
    const int32_t *note; /* [1] */
    int32_t *notes;      /* [ranks], in rank order */
};
DIP_MUST_USE enum dip_status dip_comm_draw(struct dip_comm *comm, struct dip_stream *s,
                                           const struct dip_comm_draw_args *a,
                                           struct dip_arena *scratch);

/* Host memory, complete on return: data of rank `from` becomes that of all. For control data, at
 * most DIP_COMM_SMALL_BYTES_MAX. */
DIP_MUST_USE enum dip_status dip_comm_broadcast(struct dip_comm *comm, int from, void *data,
                                                size_t bytes);

/* Waits at most wait_ns for rank `from` to begin a collective that this rank has not: how a rank
 * with nothing to do waits for work without being late. A group of two or more, another rank than
 * this one. Errors: BUSY (not yet), those of the collectives. */
DIP_MUST_USE enum dip_status dip_comm_await(struct dip_comm *comm, int from, int64_t wait_ns);

/* OK, or why the group ended. */
enum dip_status dip_comm_error(struct dip_comm *comm);

/* The rank that this one noticed to be dead or silent; -1 when none was, or another rank said so
 * first. */
int dip_comm_missing(struct dip_comm *comm);

/* Ends the group for all ranks: collectives under way and later ones return CANCELLED. */
void dip_comm_abort(struct dip_comm *comm);
