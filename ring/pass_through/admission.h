// Who is let in, and who makes room for it when a limit is reached (places.h has the rule, core/admission/source_table.h who goes of
// one source, core/admission/hello_room.h whose hello).
#pragma once

#include <optional>

#include "core/admission/source_table.h"
#include "core/report/worker_counters.h"
#include "ring/loop/ring_loop.h"
#include "ring/pass_through/connection_table.h"
#include "ring/pass_through/places.h"

namespace hud {

class AdmissionOwner {
 public:
  // Empty of one that is gone.
  virtual const InternetEndpoint& ClientOf(Connection& c) = 0;
  // For another's sake, or for want of memory: never the connection that is spoken of in the call that is under way.
  virtual void EndAtLimit(Connection& c, CloseReason reason) = 0;

 protected:
  ~AdmissionOwner() = default;
};

class Admission {
 public:
  enum class Verdict : uint8_t { kWelcome, kOverLimit, kSourceLimit };

  // `worker`: its index.
  Admission(unsigned worker, RingLoop& loop, Places& places, ConnectionTable& connections, AdmissionOwner& owner, WorkerCounters& counters)
      : worker_(worker), loop_(loop), places_(places), connections_(connections), owner_(owner), counters_(counters) {}

  // Of this turn.
  void BeginTurn() { others_hello_bytes_ = places_.HelloBytesOfOthers(worker_); }
  void EndTurn();
  bool HasMoreNow() const { return watching_ && next_to_count_ < connections_.slots(); }
  // Other workers have asked for something.
  void OnWake();

  // A newcomer that has taken a place, the `used`-th. `speaks_for_others`: who is counted is known when its header has come.
  Verdict Welcome(Connection& c, size_t used, bool speaks_for_others);
  // The PROXY header has said who the client is.
  Verdict SourceIsKnown(Connection& c);
  void HelloIsDone(const Connection& c);
  void Leave(const Connection& c);

  // May so much more of this client's hello be held? Others may be ended for it. Whoever holds it says so with CountHelloBytes().
  bool HasHelloRoom(Connection& c, size_t bytes);
  void GiveBackHelloBytes(size_t bytes) { held_hello_bytes_ -= bytes; }
  void CountHelloBytes(size_t bytes) { held_hello_bytes_ += bytes; }
  size_t held_hello_bytes() const { return held_hello_bytes_; }

 private:
  friend struct AdmissionAccess;

  void Watch();
  void CountSources();
  SourceKey SourceOf(Connection& c) { return SourceKey::Of(owner_.ClientOf(c).ToSocketAddress()); }
  uint32_t Enter(Connection& c);
  Verdict WithinSourceLimit(Connection& c, uint32_t held);
  SourceTable::Holder LargestHere() const;
  bool MakeRoom(const Connection& newcomer);
  Instant QuietSince(uint32_t slot);
  bool EvictOf(uint64_t source, uint32_t except, const SourceTable::Quiet& quiet);
  template <typename MayGo>
  bool EvictAnywhere(uint32_t except, const SourceTable::Quiet& quiet, MayGo&& may_go);
  bool EvictSlot(std::optional<uint32_t> slot);
  void MakeRoomForOthers();
  bool MakeHelloRoom(Connection& c, size_t bytes);
  bool EvictHellos(Connection* newcomer, size_t wanted);

  static constexpr uint32_t kNoSlot = 0xffffffff;

  const unsigned worker_;
  RingLoop& loop_;
  Places& places_;
  ConnectionTable& connections_;
  AdmissionOwner& owner_;
  WorkerCounters& counters_;
  SourceTable sources_;  // empty until they are counted
  bool watching_ = false;
  size_t next_to_count_ = 0;        // slot
  uint64_t published_changes_ = 0;  // of sources_, when what the largest holds was last published
  size_t held_hello_bytes_ = 0;
  size_t published_hello_bytes_ = 0;
  size_t others_hello_bytes_ = 0;   // held by the other workers when this turn began
};

}  // namespace hud
