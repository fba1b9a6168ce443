// What control may say to a worker, who reads it when its eventfd fires: a bounded queue, of which control is the one producer and the
// worker the one consumer; and, beside it, what must never fail for want of room there.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <utility>
#include <variant>

#include "core/base/spsc_queue.h"
#include "core/base/types.h"
#include "ring/loop/acceptor.h"

namespace hud {

// The route table that has this listener is published already.
struct AddListenerOrder {
  ListeningSocket socket;
};
// Closes all its sockets. Who has connected by then is served, as long as there are places. The route table has the listener until its last connection is gone.
struct RemoveListenerOrder {
  ListenerIndex listener;
};
// Newcomers are neither accepted nor refused, but wait in the backlog, at the sockets that the listener has by then.
struct PauseListenerOrder {
  ListenerIndex listener;
  bool paused;
};
using WorkerOrder = std::variant<std::monostate, AddListenerOrder, RemoveListenerOrder, PauseListenerOrder>;

class WorkerOrders {
 public:
  static constexpr size_t kMost = 1024;  // that wait: every listener may have some addresses

  // By control. False: too many wait already; the order is gone, and with it the socket in it.
  bool Push(WorkerOrder order) { return queue_.Push(std::move(order)); }
  size_t room() const { return queue_.room(); }
  std::optional<WorkerOrder> Pop() {
    WorkerOrder order;
    if (!queue_.Pop(order)) return std::nullopt;
    return order;
  }

  // No more accepts. What is in the backlog is served, and what is in the middle goes on until it ends or the deadline is over.
  void Drain(Instant deadline) { drain_until_.store(deadline.time_since_epoch().count(), std::memory_order_release); }
  std::optional<Instant> drains_until() const {
    const int64_t until = drain_until_.load(std::memory_order_acquire);
    if (until == kNever) return std::nullopt;
    return Instant(Duration(until));
  }
  // Ends everything at once, whatever waits in the queue.
  void Stop() { stop_.store(true, std::memory_order_release); }
  bool stopped() const { return stop_.load(std::memory_order_acquire); }

 private:
  static constexpr int64_t kNever = INT64_MIN;

  SpscQueue<WorkerOrder> queue_{kMost};
  std::atomic<int64_t> drain_until_{kNever};
  std::atomic<bool> stop_{false};
};

}  // namespace hud
