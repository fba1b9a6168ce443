// One thread, one io_uring, and everything that it touches (OneOwner): listeners, connections, buffers, pipes, timers,
// counters. All that a worker learns comes as a completion of its ring; the loop in Run() is the only place it waits.
//
// The methods are in the file of the stage they belong to:
//   worker.cc      the loop and the one switch where every completion goes
//   accept.cc      accept, back-off, the limit of connections
//   room.cc        who makes room at a limit
//   hello.cc       read and judge the ClientHello, choose a route; the unrecognized_name alert
//   dial.cc        choose a node, connect, try another
//   relay.cc       the small engine: copy through shared buffers; ends, resets, stalls
//   bulk.cc        the splice engine
//   zero_copy.cc   the zero-copy engine
//   node_answer.cc whether a node answers at all
//   hidden_ends.cc ends that a multishot receive does not tell
//   terminate.cc   terminate → join → close, and the connection's record
//   count.cc       what is counted by listener, pool and node
//   invariants.cc  what is true at the end of every turn
#pragma once

#include <array>
#include <atomic>
#include <deque>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <vector>

#include "core/admission/source_table.h"
#include "core/base/timer_wheel.h"
#include "core/policy/gather_policy.h"
#include "ring/connection_table.h"
#include "ring/data_plane.h"
#include "ring/invariants.h"
#include "ring/io/ring.h"
#include "ring/io/socket_calls.h"
#include "ring/pipe_pool.h"
#include "ring/places.h"
#include "ring/zero_copy_pool.h"

namespace hud {

namespace testing {
struct WorkerAccess;  // breaks what the invariants are to find
}  // namespace testing

// What control may say to a worker; written by control, read when the worker's eventfd fires.
struct WorkerOrders {
  std::atomic<bool> drain{false};
  std::atomic<int64_t> drain_deadline_ns{0};  // of the steady clock
  std::atomic<bool> stop{false};
};

// ring/CMakeLists.txt says it for builds that look for bugs; unit tests say it of each worker.
#ifdef HUD_CHECK_INVARIANTS
inline constexpr bool kCheckInvariants = true;
#else
inline constexpr bool kCheckInvariants = false;
#endif

struct ListeningSocket {
  ListenerIndex listener;
  Fd fd;
};

class Worker {
 public:
  struct Options {
    unsigned index = 0;
    RelayMode relay_mode = RelayMode::kAuto;
    size_t pipe_bytes = 1024 * 1024;
    unsigned pipes = 128;
    bool log_connections = true;
    bool zero_copy_send = false;    // the kernel has it
    Duration quiet_after = std::chrono::seconds(5);    // of a relay, before it waits with polls and keep-alive
    Duration node_silence = std::chrono::seconds(30);  // of a node that owes acknowledgements, before it counts as gone
    Duration reset_patience = std::chrono::seconds(10);  // with a side that takes nothing of what came before the other's reset
    Duration lost_after = std::chrono::seconds(10);  // a completion that a loss may have taken is no longer waited for
    SipKey digest_key;
    uint64_t random_seed = 1;
    bool check_invariants = kCheckInvariants;  // at the end of every turn
  };

  Worker(const Options& options, const DataPlane::Shared& shared, Places& places, std::unique_ptr<Ring> ring, SocketCalls& calls,
         std::vector<ListeningSocket> listeners, Fd wake, const WorkerOrders& orders, WorkerCounters& counters,
         SpscQueue<ConnectionRecord>& records);
  ~Worker();

  // Until stopped or drained. Leaves no connection and no request behind.
  void Run();
  // One turn of Run(), for whoever wants to look between them. False, and nothing is done: it has ended.
  bool RunTurn();

 private:
  friend struct testing::WorkerAccess;

  static constexpr uint32_t kNoSlot = 0xffffffff;

  struct Acceptor {
    ListeningSocket socket;
    bool armed = false;
    bool multishot = false;
    bool cancelling = false;
    uint8_t round = 0;    // in the tag: what was armed before a loss of completions is not what is armed now
    Instant retry_at{};  // not armed before: the last accept found no descriptor or memory
  };
  struct Turn {  // a direction that has more to do now, or waits for a shared buffer
    uint32_t slot;
    uint16_t generation;
    Side source;
  };

  // worker.cc
  void RunOnce();
  bool NothingLeft() const;
  Duration TimeToWait() const;
  void Dispatch(const Completion& completion);
  // What a connection does may find no memory. That ends the connection, and not the process.
  template <typename Act>
  void Guarded(Connection& c, Act&& act) {
    try {
      act();
    } catch (const std::bad_alloc&) {
      const bool lives = c.state != ConnectionState::kTerminating && c.state != ConnectionState::kFree;
      if (lives) Abort(c, CloseReason::kLocalError);
    }
  }
  void DispatchConnection(Connection& c, Tag tag, const Completion& completion);
  void OnWake(Tag tag);
  void AdvanceTimers(bool was_absent);
  void OnTimer(Connection& c);
  void Enter(Connection& c, ConnectionState state);
  void TakeTurns();
  void FeedStarved();
  void UpdateGauges();
  uint64_t Random();

  // accept.cc
  void ArmAcceptors();
  Tag TagOf(const Acceptor& acceptor) const;
  void OnAccept(Tag tag, const Completion& completion);
  void TakeMore(Acceptor& acceptor);
  void BackOff(Acceptor& acceptor);
  void StopAccepting();
  void TakeBacklog();
  void Admit(Fd client, ListenerIndex listener);

  // room.cc
  void WatchSources();
  void CountSources();
  SourceKey SourceOf(Connection& c);
  uint32_t EnterSource(Connection& c);
  void LeaveSource(const Connection& c);
  bool Welcome(Connection& c, size_t used);
  bool WithinSourceLimit(Connection& c, uint32_t held);
  bool SourceIsKnown(Connection& c);
  SourceTable::Holder LargestHere() const;
  bool MakeRoom(const Connection& newcomer);
  Instant QuietSince(uint32_t slot);
  bool EvictOf(uint64_t source, uint32_t except, const SourceTable::Quiet& quiet);
  template <typename MayGo>
  bool EvictAnywhere(uint32_t except, const SourceTable::Quiet& quiet, MayGo&& may_go);
  bool EvictSlot(std::optional<uint32_t> slot);
  void EndForRoom(Connection& c);
  void MakeRoomForOthers();
  bool MakeHelloRoom(Connection& c, size_t bytes);
  bool EvictHellos(Connection* newcomer, size_t wanted);

  // hello.cc
  void BeginHello(Connection& c, size_t used);
  const InternetEndpoint& ClientEndpoint(Connection& c);
  SocketAddress ClientAddress(Connection& c);
  void OnHelloBytes(Connection& c, Bytes bytes);
  void JudgeHello(Connection& c);
  bool PeerIsBelieved(Connection& c);
  bool TakeProxyHeader(Connection& c);
  void HelloDone(Connection& c, HelloVerdict verdict);
  void Reject(Connection& c);
  bool ComesRound(Connection& c);
  bool Hold(Connection& c, Bytes bytes);

  // dial.cc
  void BeginDial(Connection& c);
  void DialNext(Connection& c);
  void ConnectAndSendHello(Connection& c);
  void OnDialed(Connection& c, Tag tag, const Completion& completion);
  bool WaitForShortage(Connection& c);
  bool OpenNodeSocket(Connection& c, const SocketAddress& address);
  std::shared_ptr<const NodeLabel> LabelOf(NodeIndex index, const NodeView& node);
  void OnConnectFailed(Connection& c, int error);
  void OnHelloSent(Connection& c, int result);
  void OnDialTimer(Connection& c);
  void NoMoreNodes(Connection& c);
  void DialFailed(Connection& c, int error);
  void Joined(Connection& c);
  void PrependProxyHeader(Connection& c);
  void ReleaseNode(Connection& c);

  // relay.cc
  void BeginRelay(Connection& c);
  void OnRecv(Connection& c, Side source, const Completion& completion);
  void OnRelayBytes(Connection& c, Side source, uint16_t buffer, uint32_t length, Expected next);
  void OnSent(Connection& c, Side sink, int result);
  void SendHeld(Connection& c, Side source);
  void Advance(Connection& c, Side source);
  void Read(Connection& c, Side source);
  void HoldSource(Connection& c, Side source);
  void Stall(Connection& c, Side source);
  void RequestRelayRecv(Connection& c, Side source, Expected expected);
  void WaitForRoom(Connection& c, Side sink);
  bool KeepRest(Direction& d, Bytes bytes);
  bool KeepBehind(Direction& d, Bytes bytes);
  bool Append(PrivateBytes& place, Bytes bytes);
  void DropHeld(Connection& c, Side source);
  void DropBuffer(Direction& d);
  void FreePrivate(PrivateBytes& place);
  void FreeHeldIfUnused(Direction& d);
  void OnSourceEnd(Connection& c, Side source);
  void OnSourceError(Connection& c, Side source, int error);
  void OnSinkError(Connection& c, Side sink, int error);
  void DropDirection(Connection& c, Side source);
  void OnPollOut(Connection& c, Side sink, const Completion& completion);
  void OnPollError(Connection& c, Side side, const Completion& completion);
  void WatchErrors(Connection& c, Side side);
  void FinishDirection(Connection& c, Side source);
  bool WantsBulk(const Connection& c, Side source, bool full_run) const;
  void ReadVerdict(Connection& c, Bytes bytes);
  void OnRelayTimer(Connection& c);
  void GoQuiet(Connection& c);
  void Abort(Connection& c, CloseReason reason);
  bool ResetDiscardedSource(Connection& c, Side source);
  bool ResetFlushedSink(Connection& c, Side source);

  // node_answer.cc
  void NodeAnswered(Connection& c);
  bool OwesAnswer(const Connection& c) const;
  void NodeDidNotAnswer(Connection& c, std::atomic<uint64_t> NodeCounters::*how);
  Instant MuteAt(const Connection& c) const;

  // hidden_ends.cc
  void NoteHeard(const Connection& c, Direction& d, Side source);
  void LookForHiddenEnds();
  void LookAgain(Connection& c, Side source);

  // bulk.cc
  void EnterBulk(Connection& c, Side source);
  void LeaveBulk(Connection& c, Side source);
  void PumpSplice(Connection& c, Side source);
  void BulkWithoutPipe(Connection& c, Side source);
  void TakeTurnLater(Connection& c, Side source);
  void OnPollIn(Connection& c, Side source, int events);
  void OnDirectEnd(Connection& c, Side source);
  void OnNothingToRead(Connection& c, Side source);
  void GiveBackPipe(Direction& d);
  size_t SinkChunk(const Connection& c, Side sink, const Pipe& pipe) const;
  void EmptyPipeToMemory(Connection& c, Side source);

  // zero_copy.cc
  void PumpZeroCopy(Connection& c, Side source);
  void SendZeroCopy(Connection& c, Side source);
  void OnZeroCopy(Connection& c, Tag tag, const Completion& completion);
  void OnZeroCopyResult(Connection& c, Side sink, int result);
  void FreeZeroCopyBuffers(Direction& d);
  bool WaitsForNotification(const Connection& c, Side source) const;
  bool ZeroCopyIsUseful(const Direction& d) const;

  // terminate.cc
  void Terminate(Connection& c, CloseReason reason);
  void SetReset(Connection& c, Side side);
  void JoinIfDone(Connection& c);
  void CloseDescriptors(Connection& c);
  void Record(const Connection& c);
  void EndAllAfterALoss();
  void Abandon(Connection& c);

  // invariants.cc
  void CheckInvariants(size_t completions);
  void CheckConnection(const Connection& c) const;
  void CheckSums();

  // count.cc
  void CountBytes(Connection& c, Side source, uint64_t bytes);
  void CountClose(ListenerIndex listener, CloseReason reason);

  // Requests, and the bits that say what the kernel owes.
  void Owe(Connection& c, Op op, Side side) { c.pending[Index(side)] |= static_cast<uint16_t>(1u << static_cast<int>(op)); }
  void Paid(Connection& c, Op op, Side side) { c.pending[Index(side)] &= static_cast<uint16_t>(~(1u << static_cast<int>(op))); }
  void RequestRecv(Connection& c, Side side, Expected expected);
  void RequestSend(Connection& c, Side sink, Bytes data);
  // *WhoAwaitsASendSaysSo*: something is to happen once the sink's send is done. Without this it is heard of when something
  // else happens.
  void AwaitSend(const Connection& c, Side sink) { sends_awaited_ |= c.IsPending(sink, Op::kSend); }
  void RequestPoll(Connection& c, Side side, Op op, uint32_t events, bool changes = false);
  void CancelAll(Connection& c);
  void SetTimer(Connection& c, Instant deadline) { timers_.Set(c, deadline); }
  void SetTimerAtMost(Connection& c, Instant deadline) {
    if (!c.IsSet() || deadline < c.deadline()) timers_.Set(c, deadline);
  }

  const Options options_;
  const DataPlane::Shared shared_;
  Places& places_;
  const WorkerOrders& orders_;
  WorkerCounters& counters_;
  SpscQueue<ConnectionRecord>& records_;
  std::unique_ptr<Ring> ring_;
  SocketCalls& calls_;
  Fd wake_;
  std::array<Completion, 512> completions_;  // of this turn; here, because to make 12 KB anew costs every turn 150 ns
  std::vector<Acceptor> acceptors_;
  ConnectionTable connections_;
  SourceTable sources_;  // empty until they are counted
  bool watching_ = false;
  size_t next_to_count_ = 0;  // slot
  TimerWheel timers_;
  PipePool pipes_;
  int64_t bytes_in_pipes_ = 0;  // of all directions
  ZeroCopyPool zero_copy_pool_;
  std::deque<Turn> ready_;
  std::vector<Turn> starved_;
  std::vector<Turn> taking_;  // reused by FeedStarved
  std::vector<Turn> heard_;   // multishot receives that may hide an end
  Instant look_at_{};         // meaningful while there are some
  GatherPolicy gather_;
  size_t bulk_bytes_ = 0;        // spliced in this turn
  bool moved_messages_ = false;  // in this turn
  bool sends_awaited_ = false;   // the next wait must not last
  size_t arrivals_ = 0;          // in this turn: completions that are not of sends
  std::vector<std::shared_ptr<const NodeLabel>> node_labels_;  // by NodeIndex, of those dialed; only for the log

  const RouteTable* table_ = nullptr;  // valid until the next turn of the loop
  Instant now_{};
  uint64_t random_state_;
  uint64_t next_id_;  // of a connection, in the log; the first is random, so that no two workers or processes have the same
  size_t held_hello_bytes_ = 0;
  size_t published_hello_bytes_ = 0;
  uint64_t published_changes_ = 0;  // of sources_, when what the largest holds was last published
  size_t others_hello_bytes_ = 0;  // held by the other workers when this turn began
  bool accepting_ = true;
  bool at_limit_ = false;  // all places are in use
  bool over_limit_ = false;  // more than that: newcomers wait until those who make room have left
  bool draining_ = false;
  bool wake_armed_ = false;
  uint8_t wake_round_ = 0;  // as Acceptor::round
  bool stopping_ = false;
  uint64_t losses_ = 0;  // of completions, by the kernel
  bool catching_up_ = false;  // after an absence, until
  Instant caught_up_at_{};
  Instant drain_deadline_ = Instant::max();
  std::unique_ptr<InvariantChecks> checks_;  // null: not looked at
};

}  // namespace hud
