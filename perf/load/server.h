// hud-load's server: the node behind the proxy that is measured. It obeys the order in each connection's ClientHello.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/statusor.h"
#include "core/net/address.h"
#include "core/os/fd.h"
#include "perf/load/lanes.h"
#include "perf/load/order.h"
#include "perf/load/pattern.h"
#include "perf/load/socket.h"

namespace hud::load {

// One thread's share: its own listening socket (SO_REUSEPORT spreads the connections) and the connections it accepted.
class ServerThread {
 public:
  // `stop` is an eventfd that outlives this; once it is signalled Run returns. `urgent` outlives this, too: it is given
  // the connections that order a kProbe.
  static absl::StatusOr<std::unique_ptr<ServerThread>> Create(Fd listener, int stop, ServerThread& urgent);
  // One that accepts nothing, and serves what it is given ahead of all other threads on its core, if that is permitted.
  static absl::StatusOr<std::unique_ptr<ServerThread>> CreateUrgent(int stop);

  // An error is one that makes every later measurement meaningless: out of descriptors, for example.
  absl::Status Run();

 private:
  enum class Stage : uint8_t {
    kHello,     // reading the record with the order
    kExchange,  // reading requests and answering them
    kUpload,
    kDownload,
    kFinishing,  // sending, and then finishing
    kAnswered,   // nothing more is expected but the end
  };
  struct Connection {
    Fd fd;
    Stage stage = Stage::kHello;
    uint8_t head_filled = 0;                      // of the hello
    std::array<uint8_t, kHelloHeadBytes> head{};  // of the hello
    uint32_t hello_left = 0;                      // bytes of the hello behind its head
    Order order;
    uint64_t request_received = 0;  // bytes that no response has answered yet
    uint64_t response_sent = 0;
    uint64_t response_left = 0;
  };

  ServerThread() = default;
  absl::Status Open(int stop);
  bool IsForUrgent(const Connection& connection) const;
  void GiveToUrgent(Connection& connection);
  void TakeGiven();
  void Accept();
  Connection& At(int fd);
  void Handle(int fd, uint32_t events);
  // Each is false when the connection is over, or another thread's.
  bool Receive(Connection& connection, bool to_the_end);
  bool Take(Connection& connection, Bytes bytes);
  bool TakeHello(Connection& connection, Bytes& bytes);
  bool Obey(Connection& connection);
  bool Discard(Connection& connection);
  bool Answer(Connection& connection);

  Fd listener_;
  ServerThread* urgent_ = nullptr;  // null: this is the urgent one
  Fd given_event_;                  // of the urgent one
  std::mutex given_mutex_;
  std::vector<Connection> given_;  // under the mutex: by other threads, and not adopted yet
  Lanes lanes_;
  Pattern pattern_;
  std::vector<uint8_t> received_;
  std::vector<Connection> connections_;  // by descriptor
  absl::Status failure_;
  bool stopping_ = false;
};

// Serves until SIGTERM or SIGINT, after which it is OK. Prints "ready on ADDRESS" once it listens.
absl::Status Serve(const SocketAddress& address, int threads);

}  // namespace hud::load
