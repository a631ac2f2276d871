// tools/image/grpc/log.cc - see include/diptych_grpc_log.h.
#include "include/diptych_grpc_log.h"

#include <atomic>
#include <string>

#include "absl/base/log_severity.h"
#include "absl/log/globals.h"
#include "absl/log/initialize.h"
#include "absl/log/log_entry.h"
#include "absl/log/log_sink.h"
#include "absl/log/log_sink_registry.h"

namespace {

std::atomic<gpr_log_func> log_function{nullptr};

class Sink final : public absl::LogSink {
 public:
  void Send(const absl::LogEntry &entry) override {
    gpr_log_func log = log_function.load();
    if (!log)
      return;
    std::string file(entry.source_filename()), message(entry.text_message());
    gpr_log_func_args args = {file.c_str(), entry.source_line(), GPR_LOG_SEVERITY_INFO, message.c_str()};
    if (entry.log_severity() >= absl::LogSeverity::kError)
      args.severity = GPR_LOG_SEVERITY_ERROR;
    log(&args);
  }
};

}  // namespace

extern "C" void gpr_set_log_function(gpr_log_func log) {
  static bool is_set = [] {
    absl::InitializeLog();  // before that Abseil writes everything to standard error
    absl::SetStderrThreshold(absl::LogSeverityAtLeast::kFatal);
    absl::AddLogSink(new Sink);  // for the life of the process
    return true;
  }();
  (void)is_set;
  log_function.store(log);
}
