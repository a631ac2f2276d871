/* cluster/wire.h - messages between coordinator and workers as bytes and back.
 *
 * The bytes are those of proto/diptych/internal/v1/worker.proto. Pure functions: no I/O, no clock.
 * A message that is too large for one frame (a picture's file) becomes several; the reader puts
 * them together. What comes from a peer is checked against every ceiling before memory is set aside
 * (proto/wire.h), and against the ranges that the .proto states. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "cluster/job.h"

/* What travels beside the message. */
struct dip_wire_envelope {
    uint64_t epoch;          /* down: the coordinator's own; up: the largest seen */
    char hinge_address[256]; /* HAND_OVER: "host:port" of the receiver, from its facts */
};

/* Where the frames of one message go. Owns `data` (malloc) when it returns OK; any other status
 * ends the encoding and is passed on. */
typedef enum dip_status (*dip_wire_frame_fn)(void *context, void *data, size_t bytes);

/* Commands (ConnectResponse) and events (ConnectRequest). The message stays the caller's.
 * Errors: NO_MEMORY, UNSUPPORTED (not a message that travels), those of `frame`. */
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

/* One frame. TIMEOUT: it was taken in and more must follow before there is a message.
 * Errors: CORRUPT, LIMIT, INVALID (with one sentence), NO_MEMORY. */
DIP_MUST_USE enum dip_status dip_wire_read_command(struct dip_wire_reader *reader, const void *data,
                                                   size_t bytes, struct dip_why *why,
                                                   struct dip_wire_envelope *ret_envelope,
                                                   struct dip_message *ret_message);
DIP_MUST_USE enum dip_status dip_wire_read_event(struct dip_wire_reader *reader, const void *data,
                                                 size_t bytes, struct dip_why *why,
                                                 struct dip_wire_envelope *ret_envelope,
                                                 struct dip_message *ret_message);
