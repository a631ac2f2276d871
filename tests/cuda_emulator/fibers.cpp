/* tests/cuda_emulator/fibers.cpp - threads of a block as fibers: who runs, who waits, who is
 * missing.
 *
 * One thread of a block runs until it ends or waits. A thread that ends gives its stack to the
 * next, so a kernel without barriers runs on one stack. Waiting has two forms: for the block, and
 * for the lanes of a mask within a warp; when nobody can run and somebody waits, the kernel is
 * wrong, and the process ends with what it waited for.
 *
 * Not thread-safe: runtime.cpp runs one kernel at a time under its lock. */
#include <dip_emulated_device.h>

#include <stdlib.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define WITH_ASAN 1
#else
#define WITH_ASAN 0
#endif
/* Under the thread sanitizer this file itself is compiled without it: its own state passes from
 * fiber to fiber by construction, and what is to be judged are the kernels. */
#if defined(DIP_EMULATOR_TSAN)
#include <sanitizer/tsan_interface.h>
#define WITH_TSAN 1
#else
#define WITH_TSAN 0
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace
{

enum { THREADS_MAX = 1024, WARPS_MAX = THREADS_MAX / 32, SLOT_BYTES = 64 };
enum { STACK_BYTES = WITH_ASAN || WITH_TSAN ? 256 << 10 : 64 << 10 };
enum { COPIES_MAX = 64 };
enum state { FRESH, READY, AT_BLOCK, AT_WARP, ENDED };

struct stack {
    char *base;
    size_t bytes;
    void *fake; /* address sanitizer's */
    void *tsan;
#if !defined(__x86_64__)
    ucontext_t context;
#else
    void *sp;
#endif
};

struct thread {
    enum state state;
    int stack; /* index, while alive */
    unsigned int mask;
    const char *what;  /* the warp operation it waits in */
    unsigned int turn; /* warp operations done: which half of the slots */
};

/* Copies under way to shared memory: nothing has arrived before it is waited for. */
struct copies {
    int count, group_count;
    int groups[8]; /* where each committed group ends */
    struct {
        void *to;
        const void *from;
        unsigned int bytes; /* of 16; the rest are zeros */
    } list[COPIES_MAX];
};

struct warp {
    alignas(16) char slots[2][32][SLOT_BYTES];
};

struct stack stacks[THREADS_MAX];
int free_stacks[THREADS_MAX], free_count;
struct thread threads[THREADS_MAX];
struct warp warps[WARPS_MAX];
struct copies copies[THREADS_MAX];
struct stack scheduler; /* the context that picks */
int thread_count, current;
char *shared_memory;
dip_emulator_body the_body;
const void *the_closure;
unsigned int launch_count;
char block_sync, warp_sync[WARPS_MAX], kernel_sync; /* addresses for the thread sanitizer */

void fail(const char *sentence, int thread)
{
    fprintf(stderr, "cuda emulator: block (%u, %u, %u), thread %d: %s\n", blockIdx.x, blockIdx.y,
            blockIdx.z, thread, sentence);
    abort();
}

/* ---- switching ---- */

#if defined(__x86_64__)
extern "C" void dip_emulator_switch(void **ret_sp, void *sp);
asm(".text\n.type dip_emulator_switch, @function\ndip_emulator_switch:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, (%rdi)\n  movq %rsi, %rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n  ret\n"
    ".size dip_emulator_switch, . - dip_emulator_switch\n");
#endif

void switch_to(struct stack *from, struct stack *to, bool is_last)
{
    (void)is_last;
#if WITH_ASAN
    __sanitizer_start_switch_fiber(is_last ? NULL : &from->fake, to->base, to->bytes);
#endif
#if WITH_TSAN
    __tsan_switch_to_fiber(to->tsan, 1 /* no synchronisation */);
#endif
#if defined(__x86_64__)
    dip_emulator_switch(&from->sp, to->sp);
#else
    swapcontext(&from->context, &to->context);
#endif
#if WITH_ASAN
    const void *bottom;
    size_t bytes;
    __sanitizer_finish_switch_fiber(from->fake, &bottom, &bytes);
#endif
}

void release(void *address)
{
    (void)address;
#if WITH_TSAN
    __tsan_release(address);
#endif
}

void acquire(void *address)
{
    (void)address;
#if WITH_TSAN
    __tsan_acquire(address);
#endif
}

void enter(void)
{
#if WITH_ASAN
    const void *bottom;
    size_t bytes;
    __sanitizer_finish_switch_fiber(NULL, &bottom, &bytes);
    if (!scheduler.base) {
        scheduler.base = (char *)bottom;
        scheduler.bytes = bytes;
    }
#endif
    acquire(&kernel_sync);
    the_body(the_closure);
    release(&kernel_sync);
    threads[current].state = ENDED;
    switch_to(&stacks[threads[current].stack], &scheduler, true);
    abort(); /* nobody comes back to an ended thread */
}

void prepare(struct stack *s)
{
    if (!s->base) {
        void *memory = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED)
            fail("no memory for its stack", current);
        s->base = (char *)memory;
        s->bytes = STACK_BYTES;
#if WITH_TSAN
        s->tsan = __tsan_create_fiber(0);
#endif
    }
#if WITH_ASAN
    __asan_unpoison_memory_region(s->base, s->bytes); /* frames of a thread that ended in them */
#endif
#if defined(__x86_64__)
    void **top = (void **)(s->base + STACK_BYTES);
    *--top = NULL; /* where a call would have left its return address */
    *--top = (void *)enter;
    top -= 6;
    memset(top, 0, 6 * sizeof *top);
    s->sp = top;
#else
    getcontext(&s->context);
    s->context.uc_stack.ss_sp = s->base;
    s->context.uc_stack.ss_size = STACK_BYTES;
    s->context.uc_link = NULL;
    makecontext(&s->context, enter, 0);
#endif
}

void place(int index)
{
    unsigned int i = (unsigned int)index;
    threadIdx.x = i % blockDim.x;
    threadIdx.y = i / blockDim.x % blockDim.y;
    threadIdx.z = i / (blockDim.x * blockDim.y);
}

void resume(int index)
{
    struct thread *t = &threads[index];
    if (t->state == FRESH) {
        t->stack = WITH_TSAN ? index : free_stacks[--free_count];
        t->state = READY;
        prepare(&stacks[t->stack]);
    }
    current = index;
    place(index);
    switch_to(&scheduler, &stacks[t->stack], false);
    if (t->state == ENDED && !WITH_TSAN)
        free_stacks[free_count++] = t->stack;
}

void wait_as(enum state state)
{
    struct thread *t = &threads[current];
    t->state = state;
    switch_to(&stacks[t->stack], &scheduler, false);
}

/* ---- who may go on ---- */

int lanes_of(int warp)
{
    int rest = thread_count - warp * 32;
    return rest < 32 ? rest : 32;
}

/* Lets groups go whose lanes are all there. */
bool release_warp(int warp)
{
    struct thread *t = threads + warp * 32;
    int lanes = lanes_of(warp);
    bool is_any = false;
    for (int lane = 0; lane < lanes; lane++) {
        if (t[lane].state != AT_WARP)
            continue;
        bool is_whole = true;
        for (int other = 0; other < 32 && is_whole; other++)
            if (t[lane].mask >> other & 1)
                is_whole = other < lanes && t[other].state == AT_WARP &&
                           t[other].mask == t[lane].mask && t[other].what == t[lane].what;
        if (!is_whole)
            continue;
        unsigned int mask = t[lane].mask;
        for (int other = 0; other < lanes; other++)
            if (mask >> other & 1)
                t[other].state = READY;
        is_any = true;
    }
    return is_any;
}

/* Runs a warp until all of its lanes wait for the block or have ended. */
void run_warp(int warp, unsigned int turn)
{
    int lanes = lanes_of(warp);
    for (bool is_moving = true; is_moving;) {
        is_moving = false;
        for (int i = 0; i < lanes; i++) {
            int lane = (int)((unsigned int)i + turn) % lanes;
            enum state state = threads[warp * 32 + lane].state;
            if (state != FRESH && state != READY)
                continue;
            resume(warp * 32 + lane);
            is_moving = true;
        }
        is_moving = release_warp(warp) || is_moving;
    }
    for (int lane = 0; lane < lanes; lane++) {
        const struct thread *t = &threads[warp * 32 + lane];
        if (t->state != AT_WARP)
            continue;
        char sentence[160];
        (void)snprintf(sentence, sizeof sentence,
                       "waits in %s for lanes %08x, and not all of them come", t->what, t->mask);
        fail(sentence, warp * 32 + lane);
    }
}

void run_block(size_t shared_bytes)
{
    int warp_count = (thread_count + 31) / 32;
    memset(shared_memory, 0xff, shared_bytes);
    release(&kernel_sync);
    for (int i = 0; i < thread_count; i++) {
        threads[i] = (struct thread){FRESH, 0, 0, NULL, 0};
        copies[i].count = copies[i].group_count = 0;
    }
    free_count = 0;
    for (int i = THREADS_MAX - 1; i >= 0; i--)
        free_stacks[free_count++] = i;
    unsigned int turn = launch_count + blockIdx.x * 7 + blockIdx.y * 3;
    for (;;) {
        int waiting = 0, ended = 0;
        for (int i = 0; i < warp_count; i++)
            run_warp((int)((unsigned int)i + turn) % warp_count, turn);
        for (int i = 0; i < thread_count; i++) {
            waiting += threads[i].state == AT_BLOCK;
            ended += threads[i].state == ENDED;
        }
        if (ended == thread_count)
            return;
        if (waiting != thread_count)
            for (int i = 0; i < thread_count; i++)
                if (threads[i].state == AT_BLOCK)
                    fail("waits at __syncthreads, and another thread of its block has ended", i);
        for (int i = 0; i < thread_count; i++)
            threads[i].state = READY;
    }
}

} // namespace

void dip_emulator_block_barrier(void)
{
    release(&block_sync);
    wait_as(AT_BLOCK);
    acquire(&block_sync);
}

void *dip_emulator_exchange(unsigned int mask, const void *given, size_t bytes, const char *what)
{
    struct thread *t = &threads[current];
    int warp = current / 32, lane = current % 32;
    if (bytes > SLOT_BYTES)
        fail("gives more than a warp operation carries", current);
    if (!(mask >> lane & 1))
        fail("is not in the mask of its own warp operation", current);
    char(*slots)[SLOT_BYTES] = warps[warp].slots[t->turn++ % 2];
    if (bytes)
        memcpy(slots[lane], given, bytes);
    t->mask = mask;
    t->what = what;
    release(&warp_sync[warp]);
    wait_as(AT_WARP);
    acquire(&warp_sync[warp]);
    return slots;
}

void dip_emulator_copy_async(void *to, const void *from, unsigned int bytes)
{
    struct copies *c = &copies[current];
    if (c->count == COPIES_MAX)
        fail("has more copies under way than the emulator holds", current);
    if ((uintptr_t)to % 16 || (uintptr_t)from % 16)
        fail("copies 16 bytes from or to an address that is no multiple of 16", current);
    c->list[c->count++] = {to, from, bytes};
}

void dip_emulator_copy_commit(void)
{
    struct copies *c = &copies[current];
    if (c->group_count == 8)
        fail("has more groups of copies under way than the emulator holds", current);
    c->groups[c->group_count++] = c->count;
}

/* All groups but the youngest `left` arrive. */
void dip_emulator_copy_wait(int left)
{
    struct copies *c = &copies[current];
    int done = c->group_count - left;
    if (done <= 0)
        return;
    int end = c->groups[done - 1];
    for (int i = 0; i < end; i++) {
        memset(c->list[i].to, 0, 16);
        memcpy(c->list[i].to, c->list[i].from, c->list[i].bytes);
    }
    for (int i = end; i < c->count; i++)
        c->list[i - end] = c->list[i];
    c->count -= end;
    for (int i = done; i < c->group_count; i++)
        c->groups[i - done] = c->groups[i] - end;
    c->group_count -= done;
}

void *dip_emulator_shared(void)
{
    return shared_memory;
}

void dip_emulator_run(dim3 grid, dim3 block, size_t shared_bytes, dip_emulator_body body,
                      const void *closure)
{
    launch_count++;
    blockDim = block;
    gridDim = grid;
    thread_count = (int)(block.x * block.y * block.z);
    the_body = body;
    the_closure = closure;
    void *memory;
    if (posix_memalign(&memory, 128, shared_bytes ? shared_bytes : 1))
        fail("no memory for what it shares", 0);
    shared_memory = (char *)memory;
#if WITH_TSAN
    scheduler.tsan = __tsan_get_current_fiber();
#endif
#if WITH_ASAN
    scheduler.base = NULL; /* learnt anew: another thread of the process may be running this */
#endif
    release(&kernel_sync);
    unsigned int blocks = grid.x * grid.y * grid.z;
    for (unsigned int i = 0; i < blocks; i++) {
        unsigned int b = launch_count & 1 ? i : blocks - 1 - i;
        blockIdx.x = b % grid.x;
        blockIdx.y = b / grid.x % grid.y;
        blockIdx.z = b / (grid.x * grid.y);
        run_block(shared_bytes);
        acquire(
            &kernel_sync); /* shared memory is used again: blocks are ordered for the sanitizer */
        release(&kernel_sync);
    }
    free(shared_memory);
    shared_memory = NULL;
}
