// One thread of hud-load's client: its share of the connections, kept busy until it is told to stop.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "core/base/types.h"
#include "core/os/fd.h"
#include "perf/load/client_options.h"
#include "perf/load/hello.h"
#include "perf/load/histogram.h"
#include "perf/load/lanes.h"
#include "perf/load/pace.h"
#include "perf/load/pattern.h"
#include "perf/load/socket.h"

namespace hud::load {

enum class Phase : uint8_t { kSettingUp, kWarmingUp, kMeasuring, kStopping };

// Written by the client's one thread, read by another: adding needs no atomic instruction.
class Counter {
 public:
  void Add(uint64_t count) { value_.store(value_.load(std::memory_order_relaxed) + count, std::memory_order_relaxed); }
  uint64_t Get() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

struct ClientCounters {
  Counter operations;
  Counter bytes;  // of the load, both directions
  Counter failures;
  Counter stalled;         // of the failures: connections that awaited an answer in the end
  Counter down_ns;         // of all connections: from a failure until the server answers a hello again
  Counter connections_up;  // that reached the server at least once
};

class ClientThread {
 public:
  // `first` and `count` are its share of options.connections. `options` outlives it.
  static absl::StatusOr<std::unique_ptr<ClientThread>> Create(const ClientOptions& options, uint32_t first,
                                                              uint32_t count, HelloTemplate hello);

  // Returns when the phase is kStopping, or when something has failed without which no measurement makes sense.
  void Run();
  // From any thread: Run has returned or is about to.
  bool HasEnded() const { return ended_.load(std::memory_order_acquire); }

  // From any thread.
  void Enter(Phase phase);
  const ClientCounters& counters() const { return counters_; }
  // The errno of the newest failure; 0: the other side finished or answered wrong.
  int last_error() const { return last_error_.load(std::memory_order_relaxed); }

  // Once Run has returned.
  const absl::Status& failure() const { return failure_; }
  const Histogram& latencies() const { return latencies_; }  // of the operations that ended while measuring
  bool is_realtime() const { return realtime_; }             // it exchanged in a mixed load, ahead of all others

 private:
  enum class Stage : uint8_t {
    kClosed,
    kHello,     // connecting, or the hello is not sent whole
    kGreeting,  // awaiting the server's answer to the hello
    kRequest,   // the request is not sent whole
    kResponse,
    kPaused,  // in a paced load, until the next request is due
    kUpload,
    kDownload,
    kHolding,  // idle
  };
  struct Connection {
    Fd fd;
    Stage stage = Stage::kClosed;
    Operation operation = Operation::kExchange;
    bool is_up = false;     // greeted since it failed last
    bool queued = false;    // in paused_
    uint64_t seed = 0;      // of its hello
    uint32_t sent = 0;      // of the hello or the request
    uint64_t received = 0;  // of the greeting or the response
    Instant started;        // the operation; in a paced load when it should have
    Instant down_since;     // unless it is up; zero: it never was
  };

  ClientThread(const ClientOptions& options, uint32_t first, uint32_t count, HelloTemplate hello);

  // client_thread.cc: the life of a connection.
  const timespec* Patience(timespec& timeout) const;
  void FollowPhase();
  void TakeBackFailed();
  void OpenClosed();
  void Open(uint32_t index);
  bool BindToNextSource(int fd);
  void Handle(uint32_t index, uint32_t events);
  void Close(Connection& connection);
  void Finish(Connection& connection);  // as its load wants it: it is opened again at once
  void Fail(Connection& connection, int error);
  void Return(Connection& connection);
  void CountDown(const Connection& connection, Instant now);
  void CountStalled(Instant now);
  Order OrderOf(const Connection& connection) const;
  uint32_t IndexOf(const Connection& connection) const;

  // client_traffic.cc: what goes over it. Each is false when the connection is over, of which `error_` is the errno (0:
  // the other side finished or answered wrong).
  bool Move(Connection& connection, uint32_t events);
  bool SendHello(Connection& connection);
  bool ReceiveMessage(Connection& connection);
  bool Greeted(Connection& connection);
  bool NextExchange(Connection& connection, Instant now);
  bool StartExchange(Connection& connection, Instant start);
  bool SendRequest(Connection& connection);
  bool Upload(Connection& connection);
  bool Download(Connection& connection);
  uint64_t MessageBytes(const Connection& connection) const;
  void Count(Connection& connection, Instant now);
  bool End(int error);

  // client_pace.cc: a paced load.
  bool StartWhenDue(Connection& connection, Instant now);
  void StartDue();
  void CountOverdue(Instant now);
  Connection* LongestPaused();

  static constexpr size_t kReceiveBytes = 1024 * 1024;
  static constexpr uint64_t kWakeTag = uint64_t{1} << 32;  // other tags are indices
  static constexpr uint32_t kOpeningAtOnce = 128;          // before all are up; a listener's queue takes them

  const ClientOptions& options_;
  const uint32_t first_;
  HelloTemplate hello_;
  Pattern pattern_;
  Lanes lanes_;
  Fd wake_;
  std::atomic<Phase> phase_{Phase::kSettingUp};
  Phase seen_phase_ = Phase::kSettingUp;
  ClientCounters counters_;
  std::atomic<int> last_error_{0};
  std::atomic<bool> ended_{false};
  int error_ = 0;
  bool realtime_ = false;
  absl::Status failure_;
  Histogram latencies_;
  std::vector<uint8_t> received_;
  std::vector<Connection> connections_;
  std::vector<uint32_t> closed_;  // to be opened
  std::vector<uint32_t> failed_;  // to be opened from retry_at_ on
  Instant retry_at_;
  uint32_t opening_ = 0;  // opened and not greeted yet
  uint64_t opened_ = 0;   // ever
  std::optional<Pace> pace_;
  std::vector<uint32_t> paused_;  // a ring: those that have waited longest go first
  size_t paused_first_ = 0;
  size_t paused_count_ = 0;
};

}  // namespace hud::load
