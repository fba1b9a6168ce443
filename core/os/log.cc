#include "core/os/log.h"

#include <spdlog/details/null_mutex.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>

namespace hud {
namespace {

// The formatter keeps a cache of the last second's text, so lines are formatted one at a time.
class WriterSink : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit WriterSink(LogWriter* writer) : writer_(writer) {}

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    writer_->Append({line.data(), line.size()});
  }
  void flush_() override {}

  LogWriter* writer_;
};

spdlog::level::level_enum LevelOf(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug: return spdlog::level::debug;
    case LogLevel::kInfo: return spdlog::level::info;
    case LogLevel::kWarning: return spdlog::level::warn;
    case LogLevel::kError: return spdlog::level::err;
  }
  return spdlog::level::err;
}

constexpr const char* kLogfmtPattern = "ts=%Y-%m-%dT%H:%M:%S.%eZ level=%l %v";
constexpr const char* kJsonPattern = R"({"ts":"%Y-%m-%dT%H:%M:%S.%eZ","level":"%l",%v})";

}  // namespace

struct Log::Impl {
  explicit Impl(LogWriter* writer) : logger("log", std::make_shared<WriterSink>(writer)) {}
  mutable spdlog::logger logger;
};

Log::Log(LogWriter* writer, LogFormat format, LogLevel level)
    : writer_(writer), format_(format), level_(level), impl_(std::make_unique<Impl>(writer)) {
  const char* pattern = format == LogFormat::kJson ? kJsonPattern : kLogfmtPattern;
  impl_->logger.set_formatter(std::make_unique<spdlog::pattern_formatter>(pattern, spdlog::pattern_time_type::utc, "\n"));
  impl_->logger.set_level(spdlog::level::trace);  // what is below `level` does not come as far as here
}

Log::~Log() = default;

void Log::Put(LogLevel level, const LogLine& line) const {
  impl_->logger.log(LevelOf(level), spdlog::string_view_t(line.text().data(), line.text().size()));
}

void Log::Write(LogLevel level, const LogLine& line) const {
  if (level >= level_) Put(level, line);
}

void Log::Access(const LogLine& line) const { Put(LogLevel::kInfo, line); }

void Log::Write(LogLevel level, std::string_view message, std::initializer_list<LogField> fields) const {
  if (level < level_) return;
  LogLine line(format_, message);
  for (const LogField& field : fields) {
    if (const auto* text = std::get_if<std::string_view>(&field.value)) {
      line.Text(field.key, *text);
    } else {
      line.Number(field.key, std::get<int64_t>(field.value));
    }
  }
  Put(level, line);
}

void Log::Debug(std::string_view message, std::initializer_list<LogField> fields) const {
  Write(LogLevel::kDebug, message, fields);
}
void Log::Info(std::string_view message, std::initializer_list<LogField> fields) const {
  Write(LogLevel::kInfo, message, fields);
}
void Log::Warning(std::string_view message, std::initializer_list<LogField> fields) const {
  Write(LogLevel::kWarning, message, fields);
}
void Log::Error(std::string_view message, std::initializer_list<LogField> fields) const {
  Write(LogLevel::kError, message, fields);
}

}  // namespace hud
