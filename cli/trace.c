/* cli/trace.c - see cli/trace.h. */
#include "cli/trace.h"

#include <stdlib.h>
#include <string.h>

#include "model/safetensors.h"

enum { TENSORS_MAX = 2 * DIP_STEPS_MAX + 16 }; /* velocity and latent of every step, and the rest */

struct trace {
    int count;
    struct dip_message_trace tensors[TENSORS_MAX]; /* their data is ours */
};

enum dip_status dip__trace_new(struct trace **ret_trace)
{
    struct trace *trace = calloc(1, sizeof *trace);
    if (!trace)
        return DIP_NO_MEMORY;
    *ret_trace = trace;
    return DIP_OK;
}

void dip__trace_free(struct trace *trace)
{
    if (!trace)
        return;
    for (int i = 0; i < trace->count; i++)
        free(trace->tensors[i].data.data);
    free(trace);
}

enum dip_status dip__trace_add(struct trace *trace, const struct dip_message_trace *tensor)
{
    int index = 0;
    while (index < trace->count && strcmp(trace->tensors[index].name, tensor->name) != 0)
        index++;
    if (index == TENSORS_MAX)
        return DIP_LIMIT;
    void *data = malloc(tensor->data.bytes > 0 ? tensor->data.bytes : 1);
    if (!data)
        return DIP_NO_MEMORY;
    if (tensor->data.bytes > 0)
        memcpy(data, tensor->data.data, tensor->data.bytes);
    if (index == trace->count)
        trace->count++;
    else
        free(trace->tensors[index].data.data);
    trace->tensors[index] = *tensor;
    trace->tensors[index].data.data = data;
    return DIP_OK;
}

enum dip_status dip__trace_write(const struct trace *trace, const char *path, struct dip_why *why)
{
    struct dip_safetensors_part *parts = calloc((size_t)trace->count + 1, sizeof *parts);
    if (!parts)
        return dip_fail(why, DIP_NO_MEMORY, "%s: no memory to write the trace", path);
    for (int i = 0; i < trace->count; i++) {
        const struct dip_message_trace *tensor = &trace->tensors[i];
        parts[i] = (struct dip_safetensors_part){.name = tensor->name,
                                                 .dtype = (enum dip_dtype)tensor->dtype,
                                                 .rank = tensor->rank,
                                                 .data = tensor->data.data};
        memcpy(parts[i].dims, tensor->dims, sizeof parts[i].dims);
    }
    enum dip_status status = dip_safetensors_write(path, parts, (size_t)trace->count, why);
    free(parts);
    return status;
}
