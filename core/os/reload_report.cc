#include "core/os/reload_report.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <thread>

#include "absl/strings/str_cat.h"
#include "core/os/fd.h"

namespace hud {
namespace {

constexpr char kFileName[] = "/reload";
constexpr size_t kMostBytes = 64 * 1024;
constexpr Duration kLookEvery = std::chrono::milliseconds(20);

// The number behind `word`, which must come next in `text`.
template <typename T>
bool Take(std::string_view* text, std::string_view word, T* value) {
  if (!text->starts_with(word)) return false;
  const char* end = text->data() + text->size();
  const auto [rest, error] = std::from_chars(text->data() + word.size(), end, *value);
  if (error != std::errc()) return false;
  *text = std::string_view(rest, static_cast<size_t>(end - rest));
  return true;
}

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  const Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", path));
  std::string content(kMostBytes, '\0');
  const ssize_t n = ::read(file.get(), content.data(), content.size());
  if (n < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path));
  content.resize(static_cast<size_t>(n));
  return content;
}

// Written whole or not at all: a reader sees the old report or the new one.
std::string WriteFile(const std::string& path, std::string_view content) {
  const std::string fresh = path + ".new";
  ::unlink(fresh.c_str());
  const Fd file(::open(fresh.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0640));
  const bool written = file && ::write(file.get(), content.data(), content.size()) == static_cast<ssize_t>(content.size()) &&
                       ::rename(fresh.c_str(), path.c_str()) == 0;
  return written ? "" : absl::StrCat("cannot write ", path, ": ", std::strerror(errno));
}

std::string NameOf(const std::string& process) {
  const absl::StatusOr<std::string> name = ReadFile(absl::StrCat("/proc/", process, "/comm"));
  return name.ok() ? *name : "";
}

absl::StatusOr<ReloadReport> ReadReport(const std::string& folder) {
  const std::string path = folder + kFileName;
  const absl::StatusOr<std::string> content = ReadFile(path);
  if (!content.ok()) {
    return absl::NotFoundError(absl::StrCat(content.status().message(), ": no service that runs tells there what becomes of a reload; a proxy that was started by hand is sent SIGHUP, and answers in its log"));
  }
  std::optional<ReloadReport> report = ReloadReport::Parse(*content);
  if (!report) return absl::InternalError(absl::StrCat(path, ": is not the report of a reload"));
  return *std::move(report);
}

}  // namespace

std::string ReloadReport::Format() const {
  return absl::StrCat("pid=", pid, " asked=", asked, " answered=", answered, " ok=", ok ? 1 : 0, "\n",
                      absl::string_view(text).substr(0, kMostBytes / 2));
}

std::optional<ReloadReport> ReloadReport::Parse(std::string_view content) {
  ReloadReport report;
  int ok = 0;
  if (!Take(&content, "pid=", &report.pid) || !Take(&content, " asked=", &report.asked) ||
      !Take(&content, " answered=", &report.answered) || !Take(&content, " ok=", &ok) || !content.starts_with('\n')) {
    return std::nullopt;
  }
  if (report.pid <= 1 || report.answered > report.asked) return std::nullopt;
  report.ok = ok == 1;
  report.text = content.substr(1);
  return report;
}

ReloadReporter::ReloadReporter(std::string folder) {
  if (folder.empty()) return;
  path_ = std::move(folder) + kFileName;
  last_.pid = ::getpid();
  Write();
}

// systemd separates several by colons; the first is the unit's own.
std::string ReloadReporter::FolderFromEnvironment() {
  const char* folders = ::getenv("RUNTIME_DIRECTORY");
  const std::string_view all = folders == nullptr ? "" : folders;
  return std::string(all.substr(0, all.find(':')));
}

void ReloadReporter::Ask() {
  count_.Ask();
  Write();
}

void ReloadReporter::Answer(bool ok, std::string text) {
  count_.Answer();
  last_.ok = ok;
  last_.text = std::move(text);
  Write();
}

void ReloadReporter::Write() {
  if (path_.empty()) return;
  last_.asked = count_.asked();
  last_.answered = count_.answered();
  fault_ = WriteFile(path_, last_.Format());
}

absl::StatusOr<std::string> AskForReload(const std::string& folder, pid_t expected, Duration patience) {
  absl::StatusOr<ReloadReport> report = ReadReport(folder);
  if (!report.ok()) return report.status();
  const pid_t pid = static_cast<pid_t>(report->pid);
  if (expected != 0 && pid != expected) {
    return absl::FailedPreconditionError(absl::StrCat("the report in ", folder, " is of process ", pid, ", not of ", expected));
  }
  // A process that was killed leaves its report behind, and its number may be another's by now.
  if (expected == 0 && NameOf(absl::StrCat(pid)) != NameOf("self")) {
    return absl::FailedPreconditionError(absl::StrCat("process ", pid, ", whose report is in ", folder, ", does not run any more"));
  }
  const uint64_t before = report->asked;
  if (::kill(pid, SIGHUP) != 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot send SIGHUP to process ", pid));

  // The request that is taken next is ours, or one that it fell together with: whichever is answered was made after `before`.
  std::optional<uint64_t> ours;
  for (Duration waited{0}; waited < patience; waited += kLookEvery) {
    if (report = ReadReport(folder); report.ok() && report->pid == pid) {
      if (!ours && report->asked > before) ours = report->asked;
      if (ours && report->answered >= *ours) {
        if (!report->ok) return absl::FailedPreconditionError(report->text);
        return report->text;
      }
    }
    if (::kill(pid, 0) != 0) return absl::AbortedError(absl::StrCat("process ", pid, " ended before it answered"));
    std::this_thread::sleep_for(kLookEvery);
  }
  return absl::DeadlineExceededError(absl::StrCat("process ", pid, " did not answer within ",
      std::chrono::duration_cast<std::chrono::seconds>(patience).count(), " s; its log and metrics will tell whether it has reloaded"));
}

}  // namespace hud
