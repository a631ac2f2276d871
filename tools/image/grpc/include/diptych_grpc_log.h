/* tools/image/grpc/include/diptych_grpc_log.h - gpr_set_log_function, as gRPC had it until 1.65.
 *
 * Since then the core's words go through Abseil's log, which has no interface for C: without a
 * function of ours every peer that breaks off a handshake would write a line to standard error. */
#pragma once

#include <grpc/support/log.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gpr_log_func_args {
    const char *file;
    int line;
    gpr_log_severity severity;
    const char *message;
} gpr_log_func_args;

typedef void (*gpr_log_func)(gpr_log_func_args *args);

/* From now on `log` gets what the core has to say, from any thread. Words of an abort are written
 * to standard error all the same. */
void gpr_set_log_function(gpr_log_func log);

#ifdef __cplusplus
}
#endif
