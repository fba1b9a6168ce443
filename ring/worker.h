// One thread, one io_uring, and everything that it touches (OneOwner). All that a worker learns comes as a completion of its ring; the
// loop in Run() is the only place it waits. A worker composes rooms that do not know each other: its loop, its listening sockets, and
// what becomes of those whom they let in.
#pragma once

#include <memory>
#include <vector>

#include "core/report/connection_record.h"
#include "core/report/worker_counters.h"
#include "ring/listeners.h"
#include "ring/loop/ring_loop.h"
#include "ring/pass_through/pass_through.h"
#include "ring/pass_through/places.h"
#include "ring/pass_through/routing_state.h"
#include "ring/worker_orders.h"

namespace hud {

namespace testing {
struct WorkerAccess;  // breaks what the invariants are to find
}  // namespace testing

// ring/CMakeLists.txt says it for builds that look for bugs; unit tests say it of each worker.
#ifdef HUD_CHECK_INVARIANTS
inline constexpr bool kCheckInvariants = true;
#else
inline constexpr bool kCheckInvariants = false;
#endif

class Worker {
 public:
  // `places`, `calls`, `orders`, `counters`, `records` and what `routing` names outlive the worker. It lives on one thread from its
  // first to its last breath, as does its ring. `wake` is an eventfd: whoever writes to it has given an order, or asks for room.
  Worker(const PassThrough::Options& options, const RoutingState& routing, Places& places, std::unique_ptr<Ring> ring, SocketCalls& calls,
         std::vector<ListeningSocket> listeners, Fd wake, WorkerOrders& orders, WorkerCounters& counters,
         SpscQueue<ConnectionRecord>& records);
  ~Worker();

  // Until stopped or drained. Leaves no connection and no request behind.
  void Run();
  // One turn of Run(), for whoever wants to look between them. False, and nothing is done: it has ended.
  bool RunTurn();

 private:
  friend struct testing::WorkerAccess;

  bool NothingLeft() const { return pass_through_.used() == 0 && listeners_.AreQuiet(); }
  Instant WakeAt() const;
  void TakeTable();
  void OnCompletion(const Completion& completion);
  void OnWake(Tag tag);
  void ArmWake();
  void Obey(const std::monostate&) {}
  void Obey(AddListenerOrder& order) { listeners_.Add(std::move(order.socket)); }
  void Obey(const RemoveListenerOrder& order) { listeners_.Remove(order.listener); }
  void Obey(const PauseListenerOrder& order) { listeners_.Pause(order.listener, order.paused); }
  void ObeyOrders();
  void BeginDrain(Instant deadline);
  void AfterALoss();
  void EndTurn();
  Tag WakeTag() const { return {.op = Op::kWake, .number = wake_round_, .room = Room::kWorker}; }

  const unsigned index_;
  const bool check_invariants_;
  const RoutingState routing_;
  WorkerOrders& orders_;
  WorkerCounters& counters_;
  RingLoop loop_;
  Fd wake_;
  PassThrough pass_through_;
  Listeners listeners_;
  bool draining_ = false;
  bool stopping_ = false;
  bool wake_armed_ = false;
  bool orders_wait_ = false;
  uint8_t wake_round_ = 0;   // in its tag: what was armed before a loss of completions is not what is armed now
  Instant drain_deadline_ = Instant::max();
};

}  // namespace hud
