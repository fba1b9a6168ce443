#include "core/os/log_writer.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/os/log_file.h"

namespace hud {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kLastFlush = std::chrono::milliseconds(500);

// poll() says of a pipe that it takes at least PIPE_BUF bytes; a larger write could wait. The sink may be shared with
// other processes, so its O_NONBLOCK is not ours to set.
constexpr size_t kPipeChunk = 4096;
constexpr size_t kFileChunk = 1 << 20;

}  // namespace

struct LogWriter::State {
  std::string path;  // empty: the sink is not a file of ours
  Fd sink;
  bool is_socket = false;
  size_t chunk = kPipeChunk;

  std::mutex mutex;
  std::condition_variable changed;
  std::string filling;
  bool stopping = false;
  bool reopen = false;
  std::optional<absl::Status> reopened;
  bool done = false;
  Clock::time_point give_up{};

  std::atomic<uint64_t> dropped{0};
  std::atomic<uint64_t> reopens_failed{0};
  bool torn = false;  // the last thing written was a part of a line

  void Run();
  void SetSink(Fd next);
  absl::Status OpenAgain();
  void WriteAll(const std::string& text);
  bool MayWait();
  ssize_t WriteSome(const char* data, size_t size);
};

ssize_t LogWriter::State::WriteSome(const char* data, size_t size) {
  size = std::min(size, chunk);
  if (is_socket) return ::send(sink.get(), data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
  return ::write(sink.get(), data, size);
}

bool LogWriter::State::MayWait() {
  std::lock_guard lock(mutex);
  return !stopping || Clock::now() < give_up;
}

void LogWriter::State::WriteAll(const std::string& text) {
  size_t offset = 0;
  if (torn) torn = WriteSome("\n", 1) != 1;
  while (offset < text.size()) {
    pollfd ready{sink.get(), POLLOUT, 0};
    const int n = ::poll(&ready, 1, 100);
    if (n == 0) {
      if (MayWait()) continue;
      break;
    }
    const ssize_t written = WriteSome(text.data() + offset, text.size() - offset);
    if (written > 0) {
      offset += static_cast<size_t>(written);
    } else if (written < 0 && errno != EINTR && errno != EAGAIN) {
      break;  // EPIPE, ENOSPC, EIO: these lines are lost; the next ones try again
    }
  }
  if (offset == text.size()) return;
  if (offset > 0) torn = text[offset - 1] != '\n';
  const auto lost = std::count(text.begin() + static_cast<ptrdiff_t>(offset), text.end(), '\n');
  dropped.fetch_add(static_cast<uint64_t>(lost), std::memory_order_relaxed);
}

void LogWriter::State::Run() {
  ::pthread_setname_np(::pthread_self(), "log");
  std::string writing;
  std::unique_lock lock(mutex);
  while (true) {
    changed.wait(lock, [this] { return stopping || reopen || !filling.empty(); });
    if (filling.empty() && !reopen) break;
    const bool open_again = std::exchange(reopen, false);
    writing.clear();
    std::swap(writing, filling);
    lock.unlock();
    std::optional<absl::Status> result;
    if (open_again) result = OpenAgain();
    WriteAll(writing);
    lock.lock();
    if (result) reopened = std::move(result);
  }
  done = true;
  changed.notify_all();
}

void LogWriter::State::SetSink(Fd next) {
  struct stat info {};
  if (::fstat(next.get(), &info) == 0) {
    is_socket = S_ISSOCK(info.st_mode);
    chunk = S_ISREG(info.st_mode) ? kFileChunk : kPipeChunk;
  }
  sink = std::move(next);
}

absl::Status LogWriter::State::OpenAgain() {
  absl::StatusOr<Fd> next = OpenLogFile(path);
  if (next.ok()) {
    SetSink(*std::move(next));
    return absl::OkStatus();
  }
  reopens_failed.fetch_add(1, std::memory_order_relaxed);
  pollfd ready{STDERR_FILENO, POLLOUT, 0};
  if (::poll(&ready, 1, 0) == 1) {
    const std::string line = absl::StrCat("log.file: ", next.status().message(), "; lines go on into the file that was open\n");
    [[maybe_unused]] const ssize_t n = ::write(STDERR_FILENO, line.data(), std::min(line.size(), kPipeChunk));
  }
  return next.status();
}

LogWriter::LogWriter(Fd sink) : LogWriter(std::move(sink), "") {}

LogWriter::LogWriter(Fd sink, std::string path) : state_(std::make_shared<State>()) {
  state_->path = std::move(path);
  state_->SetSink(std::move(sink));
  thread_ = std::thread([state = state_] { state->Run(); });
}

LogWriter::~LogWriter() {
  bool done = false;
  {
    std::unique_lock lock(state_->mutex);
    state_->stopping = true;
    state_->give_up = Clock::now() + kLastFlush;
    state_->changed.notify_all();
    // A little longer than the thread itself is given: it ends by itself unless it hangs in a write.
    done = state_->changed.wait_for(lock, 2 * kLastFlush, [this] { return state_->done; });
  }
  if (done) {
    thread_.join();
  } else {
    thread_.detach();
  }
}

bool LogWriter::Append(std::string_view line) {
  std::lock_guard lock(state_->mutex);
  if (state_->filling.size() + line.size() > kBufferBytes) {
    state_->dropped.fetch_add(1, std::memory_order_relaxed);
    return false;
  }
  const bool was_empty = state_->filling.empty();
  state_->filling.append(line);
  if (was_empty) state_->changed.notify_one();
  return true;
}

void LogWriter::Reopen() {
  if (state_->path.empty()) return;
  std::lock_guard lock(state_->mutex);
  state_->reopen = true;
  state_->changed.notify_one();
}

const std::string& LogWriter::path() const { return state_->path; }

std::optional<absl::Status> LogWriter::TakeReopened() {
  std::lock_guard lock(state_->mutex);
  return std::exchange(state_->reopened, std::nullopt);
}

uint64_t LogWriter::reopens_failed() const { return state_->reopens_failed.load(std::memory_order_relaxed); }

uint64_t LogWriter::dropped() const { return state_->dropped.load(std::memory_order_relaxed); }

}  // namespace hud
