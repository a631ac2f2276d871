/* tests/fuzz/wire.c - any bytes as what a worker, a coordinator or a sender of hinges says: refused
 * with a sentence, or a message that is the same after another journey.
 *
 * The first byte picks the direction; the rest is one frame or several, each with its length in two
 * bytes before it, so that pictures in chunks are reached, too. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "cluster/wire.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes);

struct frame {
    void *data;
    size_t bytes;
};

static enum dip_status keep_last(void *context, void *data, size_t bytes)
{
    struct frame *frame = context;
    free(frame->data);
    *frame = (struct frame){data, bytes};
    return DIP_OK;
}

/* What was taken in can be said again, and then is the same bytes for ever. */
static void again(bool is_command, const struct dip_message *message,
                  const struct dip_wire_envelope *envelope)
{
    struct frame first = {0}, second = {0};
    struct dip_wire_envelope read_envelope;
    struct dip_message back;
    if (message->kind == DIP_MESSAGE_IMAGE)
        return; /* several frames */
    enum dip_status status = is_command
                                 ? dip_wire_encode_command(message, envelope, keep_last, &first)
                                 : dip_wire_encode_event(message, envelope, keep_last, &first);
    dip_assert(status == DIP_OK);
    status = is_command
                 ? dip_wire_read_command(NULL, first.data, first.bytes, NULL, &read_envelope, &back)
                 : dip_wire_read_event(NULL, first.data, first.bytes, NULL, &read_envelope, &back);
    dip_assert(status == DIP_OK);
    status = is_command ? dip_wire_encode_command(&back, &read_envelope, keep_last, &second)
                        : dip_wire_encode_event(&back, &read_envelope, keep_last, &second);
    dip_assert(status == DIP_OK);
    dip_assert(first.bytes == second.bytes);
    dip_assert(memcmp(first.data, second.data, first.bytes) == 0);
    dip_message_release(&back);
    free(first.data);
    free(second.data);
}

static void read_frame(struct dip_wire_reader *reader, bool is_command, const void *data,
                       size_t bytes)
{
    struct dip_wire_envelope envelope = {0};
    struct dip_message message;
    struct dip_why why = {0};
    enum dip_status status =
        is_command ? dip_wire_read_command(reader, data, bytes, &why, &envelope, &message)
                   : dip_wire_read_event(reader, data, bytes, &why, &envelope, &message);
    if (status) {
        dip_assert(status == DIP_TIMEOUT || why.text[0] != '\0');
        return;
    }
    again(is_command, &message, &envelope);
    dip_message_release(&message);
}

static void read_other(unsigned kind, const void *data, size_t bytes)
{
    struct dip_wire_welcome welcome;
    struct dip_wire_put put = {0};
    struct dip_why why = {0};
    uint64_t number = 0, other = 0;
    enum dip_status status = DIP_OK;
    if (kind == 2)
        status = dip_wire_read_welcome(data, bytes, &why, &welcome);
    else if (kind == 3)
        status = dip_wire_read_put(data, bytes, &why, &put);
    else if (kind == 4)
        status = dip_wire_read_offset_request(data, bytes, &why, &number, &other);
    else
        status = dip_wire_read_received(data, bytes, &why, &number);
    dip_wire_put_release(&put);
    dip_assert(status == DIP_OK || why.text[0] != '\0');
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes)
{
    struct dip_wire_reader *reader = NULL;
    if (bytes == 0 || dip_wire_reader_new(&reader))
        return 0;
    unsigned kind = data[0] % 6;
    size_t at = 1;
    while (kind < 2 && at + 2 <= bytes) {
        size_t length = data[at] * (size_t)256 + data[at + 1];
        at += 2;
        if (length > bytes - at)
            length = bytes - at;
        read_frame(reader, kind == 0, data + at, length);
        at += length;
    }
    if (kind >= 2)
        read_other(kind, data + 1, bytes - 1);
    dip_wire_reader_free(reader);
    return 0;
}
