/* cli/drain.c - `diptych drain` and `diptych undrain`: an operator's wish about one member. */
#include "base/clock.h"
#include "cli/members.h"
#include "cli/remote.h"
#include "cli/signals.h"
#include "proto/time.h"
#include "proto/wire.h"

enum { TIMEOUT_S = 10 };

static char *text_of(const char *text)
{
    return (char *)(uintptr_t)text;
}

static enum dip_status ask_drain(struct remote *remote, const struct arguments *arguments,
                                 struct remote_end *ret_end, ProtobufCMessage **ret_answer)
{
    Diptych__V1__DrainRequest request = DIPTYCH__V1__DRAIN_REQUEST__INIT;
    Google__Protobuf__Duration grace = GOOGLE__PROTOBUF__DURATION__INIT;
    dip_duration_encode(arguments->options.grace * DIP_SECOND_NS, &grace);
    request.worker = text_of(arguments->operand);
    request.grace = &grace;
    request.reason = text_of("diptych drain");
    return dip__remote_ask(remote, "/diptych.v1.ClusterService/Drain", &request.base,
                           &diptych__v1__drain_response__descriptor, ret_end, ret_answer);
}

static enum dip_status ask_undrain(struct remote *remote, const struct arguments *arguments,
                                   struct remote_end *ret_end, ProtobufCMessage **ret_answer)
{
    Diptych__V1__UndrainRequest request = DIPTYCH__V1__UNDRAIN_REQUEST__INIT;
    request.worker = text_of(arguments->operand);
    return dip__remote_ask(remote, "/diptych.v1.ClusterService/Undrain", &request.base,
                           &diptych__v1__undrain_response__descriptor, ret_end, ret_answer);
}

static void print_answer(const struct arguments *arguments, const ProtobufCMessage *answer)
{
    bool is_drain = arguments->command == COMMAND_DRAIN;
    const Diptych__V1__Worker *worker =
        is_drain ? ((const Diptych__V1__DrainResponse *)answer)->worker
                 : ((const Diptych__V1__UndrainResponse *)answer)->worker;
    uint32_t jobs = is_drain ? ((const Diptych__V1__DrainResponse *)answer)->jobs_left : 0;
    const char *state = worker ? dip__state_text(worker->state) : "?";
    if (arguments->options.json) {
        struct json_writer w = {.out = stdout};
        dip__json_open(&w, NULL, '{');
        dip__json_string(&w, "name", arguments->operand);
        dip__json_string(&w, "state", state);
        if (is_drain)
            dip__json_uint(&w, "jobs_left", jobs);
        dip__json_close(&w, '}');
    } else if (is_drain) {
        printf("%s: %s, %u %s left\n", arguments->operand, state, jobs, jobs == 1 ? "job" : "jobs");
    } else {
        printf("%s: %s\n", arguments->operand, state);
    }
}

static enum exit_code change(const struct arguments *arguments)
{
    struct remote remote = {0};
    struct dip_why why = {0};
    struct remote_end end = {0};
    ProtobufCMessage *answer = NULL;
    dip__signals_catch();
    enum dip_status status = dip__remote_open(&arguments->options, TIMEOUT_S, &why, &remote);
    if (status)
        return dip__fail(status, &why);
    status = arguments->command == COMMAND_DRAIN ? ask_drain(&remote, arguments, &end, &answer)
                                                 : ask_undrain(&remote, arguments, &end, &answer);
    enum exit_code code = EXIT_DONE;
    if (status == DIP_CANCELLED) {
        dip__print_error("stopped");
        code = EXIT_FAILED;
    } else if (status) {
        code = dip__fail(status, &why);
    } else if (!answer) {
        code = dip__remote_fail(&remote, &end);
    } else {
        print_answer(arguments, answer);
    }
    dip_proto_free(answer);
    dip__remote_close(&remote);
    return code;
}

enum exit_code dip__drain(const struct arguments *arguments)
{
    return change(arguments);
}

enum exit_code dip__undrain(const struct arguments *arguments)
{
    return change(arguments);
}
