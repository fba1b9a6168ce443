// The network of a simulated kernel: virtual time, and streams between sockets that behave as Linux's do (6.18): bounded
// buffers, FIN and RST that arrive at any byte, an error that is told once to whoever asks first. A comment names what in the
// kernel a rule is taken from. Nothing here knows of descriptors or of rings.
#pragma once

#include <cerrno>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <queue>
#include <span>
#include <string>
#include <vector>

#include "core/base/types.h"
#include "core/net/address.h"
#include "tests/simulation/faults.h"
#include "tests/simulation/random.h"

namespace hud::simulation {

// Virtual time, and what happens in it. Events of one instant happen in the order in which they were asked for.
class Events {
 public:
  Instant now() const { return now_; }
  void At(Instant when, std::function<void()> what);
  void After(Duration delay, std::function<void()> what) { At(now_ + delay, std::move(what)); }
  Instant next() const { return queue_.empty() ? Instant::max() : queue_.top().when; }
  // All that happens until then; time ends up there.
  void RunUntil(Instant when);
  uint64_t count() const { return ran_; }

 private:
  struct Event {
    Instant when;
    uint64_t number;
    std::function<void()> what;
    bool operator<(const Event& other) const {
      return when != other.when ? when > other.when : number > other.number;
    }
  };
  Instant now_{std::chrono::hours(1000)};
  uint64_t numbers_ = 0;
  uint64_t ran_ = 0;
  std::priority_queue<Event> queue_;
};

class Endpoint;

// What a seed orders, for all parts of its world.
struct World {
  explicit World(uint64_t number) : seed(number), random(number), faults(random) {}
  ~World();

  const uint64_t seed;
  Random random;
  Faults faults;
  Events events;
  uint64_t progress = 0;                // whatever moved: bytes, ends, connections
  std::vector<std::string> violations;  // of properties; the first is the one to read
  bool tracing = false;
  bool at_once = false;                 // the trace, for what ends the process
  std::deque<std::string> trace;        // the last of what happened
  std::vector<std::weak_ptr<Endpoint>> joined;  // who hold each other
  std::function<bool()> interrupts;     // asked while the worker waits: the wait ends, as a signal ends it
  // The last absence of the process, of which it can know, because its wait should have ended sooner.
  Instant away_from{}, away_until{};
  uint64_t nodes_faults = 0;            // connects that failed by the node's fault, or that may have

  // It came while the process was away, which has hardly come back.
  bool CameInAnAbsence(Instant when) const;

  void Violation(std::string what);
  void Trace(const std::string& what);
};

// Built only when somebody reads it.
#define HUD_TRACE(world, ...) \
  do {                        \
    if ((world).tracing) (world).Trace(absl::StrCat(__VA_ARGS__)); \
  } while (false)

class ByteQueue {
 public:
  size_t size() const { return bytes_.size() - taken_; }
  bool empty() const { return size() == 0; }
  void Push(Bytes bytes) { bytes_.insert(bytes_.end(), bytes.begin(), bytes.end()); }
  Bytes front(size_t n) const { return {bytes_.data() + taken_, n}; }
  void Pop(size_t n);
  void Clear() { bytes_.clear(), taken_ = 0; }

 private:
  std::vector<uint8_t> bytes_;
  size_t taken_ = 0;
};

// Whatever a descriptor can name. Requests of a ring wait for it, and hold it open.
class File {
 public:
  explicit File(std::string file_name) : name(std::move(file_name)) {}
  virtual ~File() = default;
  virtual short Events() = 0;    // as poll(2) says, all that is true
  virtual void LastClose() {}    // no descriptor and no request is left

  // `key`: what woke, as a wait queue of the kernel says it; 0: anything.
  void Wake(short key) {
    if (on_wake) on_wake(key);
  }

  const std::string name;
  std::function<void(short key)> on_wake;
  int holders = 0;  // requests
  bool closed = false;
};

// One end of a stream.
class Endpoint final : public File, public std::enable_shared_from_this<Endpoint> {
 public:
  enum class State : uint8_t { kFresh, kConnecting, kConnected, kClosed };

  Endpoint(World& world, std::string name, bool is_unix);

  // They become each other's.
  static void Join(const std::shared_ptr<Endpoint>& a, const std::shared_ptr<Endpoint>& b);
  // Both ends become connected. The owner of `peer` may use it at once.
  static void Connect(const std::shared_ptr<Endpoint>& a, const std::shared_ptr<Endpoint>& b);

  // ---- As system calls: what they return, or -errno.
  ssize_t Send(Bytes bytes);
  ssize_t Receive(std::span<uint8_t> into) { return Take(into.data(), into.size()); }
  ssize_t Take(uint8_t* into, size_t most);
  void EndStream();
  void ResetOnClose() { linger_zero_ = !is_unix; }
  int TakeError() { return std::exchange(error, 0); }
  short Events() override;
  void LastClose() override;
  uint32_t Unacknowledged() const;

  size_t room() const { return used() >= send_capacity ? 0 : send_capacity - used(); }
  size_t used() const { return is_unix ? (peer ? peer->received.size() : 0) : sending_.size(); }
  bool IsWritable() const { return room() >= used() / 2 + 1; }  // as poll says, which is more than a send needs
  bool IsOrphan() const { return orphan_; }
  bool IsConnected() const { return state == State::kConnected && !dead; }
  // More may be read now or the end: what TCP_INQ and IORING_CQE_F_SOCK_NONEMPTY say after a read.
  bool MoreToRead() const { return !received.empty() || (fin_came && !is_unix); }

  // The reset of a peer that means to reset some time arrives now. Does it?
  bool ResetStrikes();
  // Perhaps one does while a transfer is being made; its error is told to that transfer and to nobody else.
  void ResetMayStrikeTransfer();

  // ---- For its peers and for the test.
  void Reset();   // as a close with linger 0
  void TimeOut(int how = ETIMEDOUT);  // nothing answers it any more: tcp_write_err()
  void CutOff(int error);  // its peer is told so; nothing leaves it or arrives there any more
  void Vanish();  // its machine loses its power: nothing leaves it or arrives there any more

  World& world;
  const bool is_unix;
  State state = State::kFresh;
  std::shared_ptr<Endpoint> peer;
  SocketAddress local, remote;
  size_t send_capacity, receive_capacity;
  ByteQueue received;
  int error = 0;           // sk_err: told once
  bool send_shut = false;  // SEND_SHUTDOWN
  bool receive_shut = false;
  bool fin_came = false;   // SOCK_DONE
  bool reset_came = false;
  bool dead = false;       // TCP_CLOSE
  uint64_t arrived = 0;    // bytes that were ever put into `received`
  Instant connected_at{};
  Instant last_came{};     // bytes
  Instant unread_since{};  // meaningful while there is something to read
  bool met_a_shortage = false;  // an operation on it was told so
  uint64_t sent = 0;       // bytes that Send() took
  int readers = 0;         // receives of a ring that wait for it
  bool vanished = false;
  bool means_to_reset = false;
  Instant refuses_until{};
  Instant last_heard{};

 private:
  ssize_t SendError();
  void ScheduleDelivery();
  void WakeIfThereIsRoom();
  void Deliver();
  void DeliverBytes(size_t n);
  void Arrive(Bytes bytes);
  void DeliverFin();
  void ResetArrives();
  void SendReset();
  void LoseInFlight();
  void CloseUnix();

  ByteQueue sending_;      // sent, and not acknowledged
  bool fin_queued_ = false, fin_delivered_ = false;
  bool linger_zero_ = false;
  bool orphan_ = false;    // its owner has closed it
  bool delivery_scheduled_ = false;
  bool reset_on_its_way_ = false;  // towards the peer
  bool no_space_ = false;  // SOCK_NOSPACE: somebody waits for room
};

class Listener final : public File {
 public:
  Listener(World& world, SocketAddress at, size_t most) : File("listener " + at.ToString()), address(at), backlog(most), world_(world) {}
  short Events() override { return queue.empty() ? 0 : 1; }  // POLLIN
  void LastClose() override;
  // A client's end. Its connection waits in the backlog; where that is full, SYN by SYN for room.
  std::shared_ptr<Endpoint> ConnectFrom(const SocketAddress& client);

  const SocketAddress address;
  const size_t backlog;
  std::deque<std::shared_ptr<Endpoint>> queue;

 private:
  void Arrives(const std::shared_ptr<Endpoint>& end, int tries);
  World& world_;
};

class EventCounter final : public File {
 public:
  EventCounter() : File("eventfd") {}
  short Events() override { return count > 0 ? 1 : 0; }
  void Signal() {
    ++count;
    Wake(1);
  }
  uint64_t count = 0;
};

// Its capacity is in slots, each of which holds a fragment, however small: a byte or a compound page of 64 KiB.
class PipeBuffer final : public File {
 public:
  PipeBuffer(std::string its_name, size_t capacity) : File(std::move(its_name)), slots(capacity / 4096) {}
  short Events() override { return 0; }
  size_t free_slots() const { return fragments.size() >= slots ? 0 : slots - fragments.size(); }
  size_t size() const { return bytes.size(); }
  void Take(size_t n);

  const size_t slots;
  ByteQueue bytes;
  std::deque<size_t> fragments;
};

}  // namespace hud::simulation
