// The data plane as the control thread sees it: bind the listeners, create the workers, start them, read their counters,
// drain them. Everything else goes through values in core/: RouteTable, AffinityMap, NodeTable, ConnectionRecord.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/admission/source.h"
#include "core/base/siphash.h"
#include "core/base/spsc_queue.h"
#include "core/policy/relay_policy.h"
#include "core/report/connection_record.h"
#include "core/report/worker_counters.h"
#include "ring/listening_socket.h"
#include "ring/pass_through/routing_state.h"
#include "ring/worker_orders.h"

namespace hud {

struct DataPlaneOptions {
  unsigned workers = 1;
  bool pin_workers = true;            // worker i to the i-th core that this process may use
  RelayMode relay_mode = RelayMode::kAuto;
  unsigned max_connections = 1000;    // of the whole process; at the limit, the source that holds most makes room
  unsigned max_connections_per_source = 0;  // 0: none
  size_t pipe_bytes = 1024 * 1024;    // size asked for a pipe; the one granted is read back
  unsigned pipes_per_worker = 128;    // budget
  size_t hello_budget_bytes = 64 << 20;  // of the whole process, for held hellos
  bool log_connections = true;        // queue a ConnectionRecord when a connection ends
  SipKey digest_key;                  // for ConnectionRecord::token_digest
};

// Can this kernel run the data plane? An error is one sentence that says what is missing; the value says, for the log,
// what was found and what is done without.
absl::StatusOr<std::string> ProbeKernel();

class DataPlane {
 public:
  // Creates the rings (in their threads) and returns when every worker accepts, or with the first error.
  static absl::StatusOr<std::unique_ptr<DataPlane>> Start(const DataPlaneOptions& options, const RoutingState& routing,
                                                          std::vector<ListenerSockets> listeners);
  ~DataPlane();  // stops at once what still runs

  unsigned workers() const;
  const WorkerCounters& counters(unsigned worker) const;
  SourceKey LastToMakeRoom() const;  // or whose newcomer was refused by max_connections_per_source; for the log
  SpscQueue<ConnectionRecord>& records(unsigned worker);
  // Their slots are free: what was counted there is not their next owners'.
  void ForgetPool(PoolIndex pool);
  void ForgetListener(ListenerIndex listener);

  // Graceful stop: no more accepts; what is in the middle goes on until it ends or `deadline` from now is over.
  void Drain(Duration deadline);
  // Can the workers be told of so many listeners' addresses, or listeners removed, that what follows cannot fail?
  bool HasRoomFor(size_t orders) const;
  // What follows fails while the workers have too many orders to follow.
  // One that the published route table has already; its sockets listen and do not block. Of several addresses, those before one that
  // failed do listen; the others are closed.
  absl::Status AddListener(ListenerSockets listener);
  // Before a listener is removed: from now on the first packets of newcomers are dropped, so that nobody comes while it closes. Who has
  // connected and was not shown to us yet, for he has said nothing (TCP_DEFER_ACCEPT), is shown within kSilentClientsCome.
  void TurnNewcomersAway(ListenerIndex listener);
  static constexpr Duration kSilentClientsCome = std::chrono::seconds(2);
  // Who has been shown by then is served, as long as there are places. The route table keeps the listener until its last connection is gone.
  absl::Status RemoveListener(ListenerIndex listener);
  // Newcomers wait in the backlog as long as it is paused.
  absl::Status PauseListener(ListenerIndex listener, bool paused);
  // A new snapshot is in the channel: workers that sleep need not be woken for it. What shrinks timeouts may call this.
  void Wake();
  bool Drained() const;  // every worker has ended
  void Join();           // waits for that

 private:
  struct Impl;
  explicit DataPlane(std::unique_ptr<Impl> impl);
  absl::Status Tell(const std::function<WorkerOrder(size_t worker)>& order);
  std::unique_ptr<Impl> impl_;
};

}  // namespace hud
