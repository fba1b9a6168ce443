// A kernel for one worker, simulated: descriptors, and the calls that the worker makes beside its ring. The ring is
// simulated_ring.h. Both behave as Linux 6.18 does where the worker could notice; ring_contract_test.cc holds them
// to the real one. Descriptors begin at 2^30, so that a stray ::close() is harmless, and the descriptor is missed at the end.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "ring/io/socket_calls.h"
#include "tests/simulation/simulated_sockets.h"

namespace hud::simulation {

// What becomes of a connect, as its node decides.
struct Answer {
  enum class Kind : uint8_t { kAccepted, kRefused, kNever } kind = Kind::kAccepted;
  Duration after{};
};

// Something to connect to: a node.
class Destination {
 public:
  virtual ~Destination() = default;
  virtual Answer Decide() = 0;
  virtual void Connected(const std::shared_ptr<Endpoint>& their_end) = 0;
};

class SimulatedKernel final : public SocketCalls {
 public:
  explicit SimulatedKernel(World& world) : world_(world) {}

  // ---- SocketCalls
  Instant Now() override;
  int Accept(int listener) override;
  int Open(const SocketAddress& address) override;
  int Connect(int fd, const SocketAddress& address) override;
  bool IsConnected(int fd) override;
  SocketAddress PeerOf(int fd) override;
  SocketAddress LocalOf(int fd) override;
  void Close(Fd fd) override;
  ssize_t Receive(int fd, std::span<uint8_t> into) override;
  ssize_t Send(int fd, Bytes data) override;
  ssize_t Splice(int from, int to, size_t bytes) override;
  ssize_t ReadPipe(const Pipe& pipe, std::span<uint8_t> into) override;
  std::optional<Pipe> MakePipe(size_t bytes) override;
  void EndStream(int fd) override;
  void ResetOnClose(int fd) override;
  int TakeError(int fd) override;
  std::optional<bool> FinCame(int fd) override;
  int Poll(std::span<pollfd> sockets) override;
  std::optional<SendMemory> SendMemoryOf(int fd) override;
  uint32_t Unacknowledged(int fd) override;
  std::optional<PeerSilence> SilenceOf(int fd) override;
  void KeepAlive(int fd, const KeepAliveTimes& times) override;
  void TakeEvents(int eventfd) override;

  // ---- For the ring
  std::shared_ptr<File> FileOf(int fd);  // null, and a violation, for what is no open descriptor
  template <typename Kind>
  std::shared_ptr<Kind> As(int fd) {
    return std::dynamic_pointer_cast<Kind>(FileOf(fd));
  }
  int Give(std::shared_ptr<File> file);
  void Release(const std::shared_ptr<File>& file);  // by a request that has ended
  // As accept4(2) of the first in the queue, a fault of its own included.
  int AcceptFrom(Listener& listener);
  // What answers there; null: nobody.
  Destination* DestinationAt(const SocketAddress& address);
  // An operation on this socket fails for want of memory: how.
  int MeetShortage(Endpoint& end);
  // Some time passes, and what happens in it.
  void Enter();

  // ---- For the test
  World& world() { return world_; }
  std::shared_ptr<Listener> Listen(const SocketAddress& address, size_t backlog);
  void SetDestination(const SocketAddress& address, Destination* destination) { destinations_[address.ToString()] = destination; }
  // *AConnectGoesToANode*: whatever is connected to is one of them.
  void ExpectDestinationsOnly() { somebody_is_everywhere_ = true; }
  // Those that nobody has closed.
  std::vector<std::string> OpenDescriptors() const;

 private:
  std::shared_ptr<Endpoint> Socket(int fd) { return As<Endpoint>(fd); }
  void CheckOneReader(const Endpoint& end);
  bool SpliceFails(File& source, File& sink);
  ssize_t SpliceIn(Endpoint& from, PipeBuffer& pipe, size_t bytes);
  ssize_t SpliceOut(PipeBuffer& pipe, Endpoint& to, size_t bytes);

  static constexpr int kFirst = 1 << 30;

  World& world_;
  int next_ = kFirst;
  int sockets_ = 0;
  std::map<int, std::shared_ptr<File>> files_;
  std::map<std::string, Destination*> destinations_;
  bool somebody_is_everywhere_ = false;
};

}  // namespace hud::simulation
