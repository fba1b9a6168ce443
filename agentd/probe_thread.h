// Runs one TicketProbe in a thread of its own, so that a beacon never waits for a slow server. What it finds goes to
// the agent's loop through a bounded mailbox with a descriptor to poll. The thread owns its probe; nothing else is shared.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "agentd/ticket_probe.h"
#include "core/os/fd.h"

namespace hud {

struct ProbeReport {
  size_t probe = 0;  // index into AgentConfig::probes
  bool ready = false;
  SessionEnd end = SessionEnd::kLocalError;
  std::string detail;  // why it is not ready
  uint32_t probe_micros = 0;
  std::vector<ProbeFinding> findings;  // empty: only readiness was looked at
};

class ProbeMailbox {
 public:
  static absl::StatusOr<std::unique_ptr<ProbeMailbox>> Make();
  int fd() const { return event_.get(); }
  // Drops the report if the loop has let kMostWaiting pile up: it comes again.
  void Post(ProbeReport report);
  std::vector<ProbeReport> TakeAll();

 private:
  static constexpr size_t kMostWaiting = 1024;
  explicit ProbeMailbox(Fd event) : event_(std::move(event)) {}
  Fd event_;
  std::mutex mutex_;
  std::vector<ProbeReport> waiting_;  // guarded by mutex_
};

class ProbeThread {
 public:
  // `mailbox` must outlive the thread. Fails if the client certificate cannot be used.
  static absl::StatusOr<std::unique_ptr<ProbeThread>> Start(size_t index, const ProbeConfig& config,
                                                            ProbeMailbox* mailbox);
  // Stops within milliseconds, in the middle of a session if need be.
  ~ProbeThread();

  // Look at the tickets again now; any thread.
  void LookNow();

 private:
  ProbeThread(size_t index, const ProbeConfig& config, ProbeMailbox* mailbox, Fd stop, Fd wake)
      : index_(index), config_(config), mailbox_(mailbox), stop_(std::move(stop)), wake_(std::move(wake)) {}
  void Loop(TicketProbe probe);
  ProbeReport Turn(TicketProbe& probe, Readiness& readiness, Instant& last_look_at_tickets);
  bool SleepUntil(Instant when);

  const size_t index_;
  const ProbeConfig config_;
  ProbeMailbox* const mailbox_;
  const Fd stop_;  // readable from the moment the thread is to end
  const Fd wake_;
  std::atomic<bool> look_now_{false};
  std::thread thread_;
};

}  // namespace hud
