// The process's log: structured lines through spdlog into a LogWriter, so that logging never waits for the sink.
#pragma once

#include <initializer_list>
#include <memory>
#include <string_view>
#include <utility>
#include <variant>

#include "core/os/log_line.h"
#include "core/os/log_writer.h"

namespace hud {

enum class LogLevel : uint8_t { kDebug, kInfo, kWarning, kError };
inline constexpr std::pair<std::string_view, LogLevel> kLogLevelNames[] = {{"debug", LogLevel::kDebug},
                                                                           {"info", LogLevel::kInfo},
                                                                           {"warning", LogLevel::kWarning},
                                                                           {"error", LogLevel::kError}};

struct LogField {
  std::string_view key;
  std::variant<std::string_view, int64_t> value;
};

class Log {
 public:
  // `writer` outlives the log.
  Log(LogWriter* writer, LogFormat format, LogLevel level);
  ~Log();
  Log(const Log&) = delete;
  Log& operator=(const Log&) = delete;

  // Any thread.
  void Debug(std::string_view message, std::initializer_list<LogField> fields = {}) const;
  void Info(std::string_view message, std::initializer_list<LogField> fields = {}) const;
  void Warning(std::string_view message, std::initializer_list<LogField> fields = {}) const;
  void Error(std::string_view message, std::initializer_list<LogField> fields = {}) const;
  void Write(LogLevel level, const LogLine& line) const;
  // A line of the access log: written whatever the level, it has a switch of its own.
  void Access(const LogLine& line) const;

  LogWriter& writer() const { return *writer_; }
  LogFormat format() const { return format_; }
  uint64_t dropped() const { return writer_->dropped(); }

 private:
  void Write(LogLevel level, std::string_view message, std::initializer_list<LogField> fields) const;
  void Put(LogLevel level, const LogLine& line) const;

  struct Impl;
  LogWriter* writer_;
  LogFormat format_;
  LogLevel level_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace hud
