// The control thread: one epoll loop. The only writer of the affinity map and the only publisher of route tables. It reads
// beacons, judges silence, probes nodes, applies reloads, and answers signals. Whatever could make it wait is elsewhere:
// files are read in the reloader's thread, HTTP and logs have threads of their own.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "control/config/reloader.h"
#include "control/nodes/beacon_intake.h"
#include "control/nodes/health_checker.h"
#include "control/process/event_loop.h"
#include "control/process/limit_watch.h"
#include "control/process/pause_meter.h"
#include "control/status/status_snapshot.h"
#include "core/base/rate_limit.h"
#include "core/os/fd.h"
#include "core/os/log.h"
#include "core/os/reload_report.h"
#include "core/policy/memory_return.h"
#include "core/policy/stall_watch.h"
#include "ring/data_plane.h"

namespace hud {

class ControlThread {
 public:
  // Route tables are published at most this often, except for bad news.
  static constexpr Duration kPublishEvery = std::chrono::milliseconds(10);
  // After a table the thread does other things for so many times as long as the table took.
  static constexpr int kPublishShare = 10;
  // So many tables for bad news do not wait for that.
  static constexpr Duration kUrgentEach = std::chrono::milliseconds(250);
  static constexpr int64_t kUrgentBurst = 4;
  // /status is at most this old.
  static constexpr Duration kSnapshotEvery = std::chrono::milliseconds(100);
  static constexpr Duration kLongestSleep = std::chrono::milliseconds(500);
  // How much longer than its deadline a drain may take before the process ends without it.
  static constexpr Duration kDrainGrace = std::chrono::seconds(5);

  struct Parts {  // all outlive the thread
    EventLoop* loop;
    const Log* log;
    NodeTable* nodes;
    AffinityMap* affinity;
    SnapshotChannel<RouteTable>* routes;
    DataPlane* data_plane;
    StatusBoard* board;
    Cluster* cluster;  // with the configuration applied
    BeaconReceiver* receiver;
    BeaconIntake* intake;
    Reloader* reloader;  // null: started without a file
    ReloadReporter* reports;
    int signals;         // of TakeSignals
  };

  ControlThread(const Parts& parts, std::shared_ptr<const LoadedConfiguration> loaded);
  ~ControlThread();

  // Until the process is to end; returns its exit code.
  int Run();
  // It ended because a worker hangs and the configuration wants that.
  bool gave_up() const { return gave_up_; }

  // For the reloader, in this thread.
  std::shared_ptr<const LoadedConfiguration> loaded() const { return loaded_; }
  void OnReloaded(ConfigurationChange change);

 private:
  enum class Phase : uint8_t { kServing, kDraining, kEnded };

  Duration SleepTime(Instant now) const;
  void Turn(Instant now, Duration paused);
  void JudgeSilence(Instant now, Duration paused);
  void Withdraw();
  void Probe(Instant now);
  Duration PublishPause() const { return std::max(kPublishEvery, kPublishShare * publish_took_); }
  void PublishRoutes(Instant now, bool bad_news);
  void PublishSnapshot(Instant now);
  std::shared_ptr<StatusSnapshot> TakeSnapshot(Instant now) const;
  void LogNodeStates(const StatusSnapshot& snapshot);
  void LogEmptyPools(const StatusSnapshot& snapshot, Instant now);
  void Sweep(Instant now);
  void WarnOfLimits(Instant now);
  void ReturnMemory(Instant now);

  void OnSignal();
  void ReopenLog(bool says_if_none);
  void TellOfReopenedLog();
  int64_t ActiveConnections() const;
  int64_t CutByDrain() const;
  void BeginReload();
  absl::Status Apply(ConfigurationChange change, Instant now);
  void TellOfListeners(std::vector<std::pair<std::string, ListenerSockets>> added, const std::vector<std::string>& removed, Instant now);
  void CloseRemovedListeners(Instant now);
  void FreeListeners(Instant now);
  void AnswerReload(bool ok, std::string text);
  void BeginDrain(Instant now);
  void CloseListeners();
  void CheckDrain(Instant now);
  void WatchWorkers(Instant now);
  void FeedWatchdog(Instant now);

  Parts parts_;
  std::shared_ptr<const LoadedConfiguration> loaded_;
  HealthChecker checker_;
  PauseMeter pause_;
  LimitWatch limits_;
  MemoryReturn memory_return_;
  Instant started_;
  bool first_reports_over_ = false;
  Phase phase_ = Phase::kServing;
  int exit_code_ = 0;

  bool more_beacons_ = false;
  bool bad_news_ = false;
  Instant judged_at_ = Instant::min();
  Duration unjudged_pause_{0};
  Duration unjudged_doubt_{0};
  Instant last_publish_ = Instant::min();
  Duration publish_took_{0};
  RateLimit urgent_{kUrgentEach, kUrgentBurst};  // tables for bad news that did not wait
  Instant last_snapshot_ = Instant::min();
  uint64_t snapshot_of_beacons_ = 0;  // receiver's count when the last snapshot was taken
  bool snapshot_due_ = true;
  Instant last_sweep_ = Instant::min();
  Instant listeners_close_ = Instant::max();  // set while a drain has begun and new connections are still taken
  bool listeners_closed_ = false;
  Instant drain_ends_ = Instant::max();
  Instant tell_drain_ = Instant::max();
  int64_t drain_had_ = 0;  // connections when the listeners closed
  ReloadStats reloads_;
  std::map<ListenerIndex, Instant> closing_;  // removed by a reload: no newcomers, and when they close

  std::map<std::string, bool, std::less<>> pools_empty_;           // by name, as last logged
  std::map<std::string, std::string, std::less<>> node_states_;    // by name, as last logged
  std::map<std::pair<uint16_t, uint16_t>, std::string> node_names_;  // by index and generation, until the node is gone

  Duration watchdog_every_{0};
  Instant next_watchdog_ = Instant::max();
  StallWatch stalls_;
  bool gave_up_ = false;
  std::vector<int64_t> worker_loops_;  // when they were last woken for the watchdog
};

}  // namespace hud
