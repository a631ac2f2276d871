/* cluster/wire.h - messages between coordinator and workers as bytes and back.
 *
 * The bytes are those of proto/diptych/internal/v1/worker.proto. Pure functions: no I/O, no clock.
 * A message that is too large for one frame (a picture's file) becomes several; the reader puts
 * them together. What comes from a peer is checked against every ceiling before memory is set aside
 * (proto/wire.h), and against the ranges that the .proto states. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "cluster/job.h"

/* The coordinator's answer to APPEARED, before any command. */
struct dip_wire_welcome {
    uint64_t epoch;
    uint32_t protocol;    /* of dip_member_facts */
    int64_t heartbeat_ns; /* a heartbeat comes at least this often */
    char cluster_id[129]; /* empty = unnamed */
};

/* What travels beside the message. */
struct dip_wire_envelope {
    uint64_t epoch;          /* down: the coordinator's own; up: the largest seen */
    char hinge_address[256]; /* HAND_OVER: "host:port" of the receiver, from its facts */
};

/* Where the frames of one message go. Owns `data` (malloc) when it returns OK; any other status
 * ends the encoding and is passed on. */
typedef enum dip_status (*dip_wire_frame_fn)(void *context, void *data, size_t bytes);

/* Commands (ConnectResponse) and events (ConnectRequest). The message stays the caller's. What
 * serves one process only does not travel: traces, injected hidden states and noise are UNSUPPORTED
 * by name, and the texts of a picture's file are left out, because a diffusion worker never knows
 * the prompt. Errors: NO_MEMORY, UNSUPPORTED, LIMIT (a preview of more than 1 MiB), those of
 * `frame`. */
DIP_MUST_USE enum dip_status dip_wire_encode_command(const struct dip_message *message,
                                                     const struct dip_wire_envelope *envelope,
                                                     dip_wire_frame_fn frame, void *context);
DIP_MUST_USE enum dip_status dip_wire_encode_event(const struct dip_message *message,
                                                   const struct dip_wire_envelope *envelope,
                                                   dip_wire_frame_fn frame, void *context);

/* Puts the parts of large messages together: one for each stream. */
struct dip_wire_reader;
DIP_MUST_USE enum dip_status dip_wire_reader_new(struct dip_wire_reader **ret_reader);
void dip_wire_reader_free(struct dip_wire_reader *reader);

/* One frame. TIMEOUT: it was taken in and more must follow before there is a message, or it is of a
 * kind that this version does not know and skips. HAND_OVER has no member in it (`to` is 0): the
 * envelope says where. Errors: CORRUPT, LIMIT, INVALID (with one sentence), NO_MEMORY. */
DIP_MUST_USE enum dip_status dip_wire_read_command(struct dip_wire_reader *reader, const void *data,
                                                   size_t bytes, struct dip_why *why,
                                                   struct dip_wire_envelope *ret_envelope,
                                                   struct dip_message *ret_message);
DIP_MUST_USE enum dip_status dip_wire_read_event(struct dip_wire_reader *reader, const void *data,
                                                 size_t bytes, struct dip_why *why,
                                                 struct dip_wire_envelope *ret_envelope,
                                                 struct dip_message *ret_message);

/* The first frame down. */
DIP_MUST_USE enum dip_status dip_wire_encode_welcome(const struct dip_wire_welcome *welcome,
                                                     void **ret_data, size_t *ret_bytes);
DIP_MUST_USE enum dip_status dip_wire_read_welcome(const void *data, size_t bytes,
                                                   struct dip_why *why,
                                                   struct dip_wire_welcome *ret_welcome);

/* ---- hinges, worker to worker: HingeService ---- */

enum { DIP_WIRE_CHUNK_BYTES_MAX = 1 << 20 };

struct dip_wire_hinge {
    uint64_t job_id; /* the diffusion job's */
    uint64_t epoch;
    uint32_t rows, width; /* f32 [rows, width] */
    uint64_t offset;      /* where the chunks begin */
    char sha256[DIP_SHA256_HEX_BYTES];
};

/* One message of Put: header first, then chunks. */
struct dip_wire_put {
    bool is_header;
    struct dip_wire_hinge header;
    /* Chunk: `data` lies in `owner`, which the caller frees when it has used it. */
    uint64_t offset;
    const void *data;
    size_t bytes;
    void *owner;
};

DIP_MUST_USE enum dip_status dip_wire_encode_put_header(const struct dip_wire_hinge *hinge,
                                                        void **ret_data, size_t *ret_bytes);
DIP_MUST_USE enum dip_status dip_wire_encode_put_chunk(uint64_t offset, const void *chunk,
                                                       size_t chunk_bytes, void **ret_data,
                                                       size_t *ret_bytes);
/* Errors: CORRUPT (also: the checksum of a chunk is wrong), LIMIT, INVALID, NO_MEMORY. */
DIP_MUST_USE enum dip_status dip_wire_read_put(const void *data, size_t bytes, struct dip_why *why,
                                               struct dip_wire_put *ret_put);
/* Of what dip_wire_read_put gave. */
void dip_wire_put_release(struct dip_wire_put *put);

/* GetOffset's request, and the number of bytes that both methods answer. */
DIP_MUST_USE enum dip_status dip_wire_encode_offset_request(uint64_t job_id, uint64_t epoch,
                                                            void **ret_data, size_t *ret_bytes);
DIP_MUST_USE enum dip_status dip_wire_read_offset_request(const void *data, size_t bytes,
                                                          struct dip_why *why, uint64_t *ret_job_id,
                                                          uint64_t *ret_epoch);
DIP_MUST_USE enum dip_status dip_wire_encode_received(uint64_t received_bytes, void **ret_data,
                                                      size_t *ret_bytes);
DIP_MUST_USE enum dip_status dip_wire_read_received(const void *data, size_t bytes,
                                                    struct dip_why *why, uint64_t *ret_bytes);
