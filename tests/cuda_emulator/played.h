/* tests/cuda_emulator/played.h - what tests do to the libraries that are played. */
#pragma once

#ifdef __cplusplus
extern "C" {
#endif

enum {
    DIP_NCCL_WELL,
    DIP_NCCL_ABSENT, /* this rank's initialisation never gets to the others */
    DIP_NCCL_BROKEN, /* the next look at a communicator finds a remote error */
};

struct dip_nccl_play {
    int play;                       /* any thread looks at it: __atomic_store_n */
    int opened, aborted, destroyed; /* communicators of this process */
};

__attribute__((visibility("default"))) struct dip_nccl_play *dip_played_nccl(void);

#ifdef __cplusplus
}
#endif
