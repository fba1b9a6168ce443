// The part of hud-load's client that holds exchanges back until they are due.
#include "perf/load/client_thread.h"

namespace hud::load {

bool ClientThread::StartWhenDue(Connection& connection, Instant now) {
  if (pace_->IsDue(now)) return StartExchange(connection, pace_->Take());
  connection.stage = Stage::kPaused;
  if (!connection.queued) {
    connection.queued = true;
    paused_[(paused_first_ + paused_count_++) % paused_.size()] = IndexOf(connection);
  }
  return true;
}

// Null when none is paused. One that has ended meanwhile leaves the queue here.
ClientThread::Connection* ClientThread::LongestPaused() {
  while (paused_count_ > 0) {
    Connection& connection = connections_[paused_[paused_first_]];
    paused_first_ = (paused_first_ + 1) % paused_.size();
    --paused_count_;
    connection.queued = false;
    if (connection.stage == Stage::kPaused) return &connection;
  }
  return nullptr;
}

void ClientThread::StartDue() {
  const Instant now = std::chrono::steady_clock::now();
  while (pace_->IsDue(now)) {
    Connection* connection = LongestPaused();
    if (connection == nullptr) return;
    error_ = 0;
    if (!StartExchange(*connection, pace_->Take())) Fail(*connection, error_);
  }
}

// What is not answered at the end has taken this long at least, whether it was begun or could not be: without these the
// worst stall, the one that lasts to the end, would not show.
void ClientThread::CountOverdue(Instant now) {
  for (const Connection& connection : connections_) {
    if (connection.stage != Stage::kRequest && connection.stage != Stage::kResponse) continue;
    latencies_.Add(static_cast<uint64_t>((now - connection.started).count()));
  }
  while (pace_->IsDue(now)) latencies_.Add(static_cast<uint64_t>((now - pace_->Take()).count()));
}

}  // namespace hud::load
