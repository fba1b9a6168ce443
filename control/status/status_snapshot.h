// What the control thread knows, as plain values for those who show it: the status server and the access log.
// Immutable once published (SnapshotsAreImmutable). What changes with every connection is not in it: that is read from
// the counters, which are atomics.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/beacon/beacon_receiver.h"
#include "core/cluster/cluster.h"

namespace hud {

struct PoolSnapshot {
  PoolIndex index = PoolIndex::kNone;
  std::string name;  // empty: no such pool (any more)
  Balance balance = Balance::kPowerOfTwo;
  std::vector<Cluster::NodeStatus> nodes;
};

struct BeaconSocketStats {
  uint64_t dropped = 0;        // by the kernel: the receive buffer was full
  uint64_t answers_failed = 0; // that the kernel would not send
};

struct ReloadStats {
  uint64_t ok = 0;
  uint64_t failed = 0;
  std::string last_error;  // empty if the last one was good
  Instant last_ok{};       // when the configuration in use was taken on; at the start, if there was no reload
};

struct WorkerHealth {
  bool hangs = false;   // it was woken and does not turn
  uint64_t stalls = 0;  // times that it was found to hang
};

struct StatusSnapshot {
  Instant taken{};
  uint64_t route_table_version = 0;
  size_t prefixes = 0;
  bool draining = false;
  std::vector<std::string> listeners;  // names, by ListenerIndex
  std::vector<PoolSnapshot> pools;     // by PoolIndex
  std::vector<Cluster::LeavingNode> leaving;
  std::vector<std::string> status_hosts;  // names under which the status address may be asked, besides its own
  size_t beacon_keys = 0;
  BeaconStats beacons;
  BeaconSocketStats beacon_sockets;
  uint64_t beacons_refused = 0;   // by the cluster: no such pool, table full
  uint64_t tokens_unowned = 0;    // of nodes that are in no pool
  ReloadStats reloads;
  std::vector<WorkerHealth> workers;
};

// "ready", or why nobody is to be sent here. One pool that is down does not concern the clients of others.
inline std::string_view Readiness(const StatusSnapshot& snapshot) {
  if (snapshot.draining) return "draining";
  for (const PoolSnapshot& pool : snapshot.pools) {
    for (const Cluster::NodeStatus& node : pool.nodes) {
      if (node.verdicts.Usable()) return "ready";
    }
  }
  return "no usable node";
}

// Where the newest one hangs. The lock is held for the copy of a pointer, never for work.
class StatusBoard {
 public:
  void Publish(std::shared_ptr<const StatusSnapshot> snapshot) {
    {
      std::lock_guard lock(mutex_);
      std::swap(latest_, snapshot);
    }  // the old one, if this was its last owner, ends outside the lock
  }
  std::shared_ptr<const StatusSnapshot> Latest() const {
    std::lock_guard lock(mutex_);
    return latest_;
  }

  // The control thread is seen to turn, by whoever reads /metrics.
  void NoteControlTurn(Instant now) { control_turn_ns_.store(now.time_since_epoch().count(), std::memory_order_relaxed); }
  Instant LastControlTurn() const { return Instant(Duration(control_turn_ns_.load(std::memory_order_relaxed))); }

  // Whether anybody goes by /ready, and so has to be given time to see a drain begin.
  void NoteReadyAsked(Instant now) { ready_asked_ns_.store(now.time_since_epoch().count(), std::memory_order_relaxed); }
  bool ReadyAskedSince(Instant since) const {
    return ready_asked_ns_.load(std::memory_order_relaxed) >= since.time_since_epoch().count();
  }

 private:
  std::atomic<int64_t> control_turn_ns_{0};
  std::atomic<int64_t> ready_asked_ns_{INT64_MIN};
  mutable std::mutex mutex_;
  std::shared_ptr<const StatusSnapshot> latest_ = std::make_shared<StatusSnapshot>();
};

}  // namespace hud
