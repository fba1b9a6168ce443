// A UDP socket on which beacons arrive. Reads in bounded batches, says what address each datagram was sent to, and answers
// from exactly that address: behind a wildcard bind or a NAT, an answer from another one would never reach the agent.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "core/base/limits.h"
#include "core/base/types.h"
#include "core/net/address.h"
#include "core/os/fd.h"

namespace hud {

class BeaconSocket {
 public:
  static constexpr size_t kBatch = 64;
  static constexpr int kReceiveBufferBytes = 8 << 20;

  struct Datagram {
    Bytes bytes;         // valid until the next Receive
    SocketAddress from;  // where an answer goes
    size_t slot;         // for Answer
  };

  // Bound, non-blocking. Call it before privileges are dropped: the port may be low, and SO_RCVBUFFORCE asks for them.
  static absl::StatusOr<std::unique_ptr<BeaconSocket>> Bind(const SocketAddress& address);
  ~BeaconSocket();

  int fd() const;
  const SocketAddress& address() const;  // with the port that the kernel chose, if it was 0
  int receive_buffer_bytes() const;      // as granted
  // The most datagrams that the receive buffer can hold: what was in it at some moment has been read after as many.
  size_t most_queued() const;

  // Calls handle(datagram) for at most kBatch datagrams. Returns how many there were: less than kBatch means that the
  // socket was drained. Datagrams too long for a beacon are handed over cut off, and fail the length check.
  template <typename Handle>
  size_t Receive(Handle&& handle) {
    const size_t n = Fill();
    for (size_t i = 0; i < n; ++i) handle(At(i));
    return n;
  }

  // To the sender of a datagram of the last Receive, from the address that it was sent to. Never waits; a kernel that will
  // not take it is counted, and the agent asks again by going on.
  void Answer(const Datagram& to, Bytes answer);

  uint64_t dropped() const;         // by the kernel, as it last said (SO_RXQ_OVFL)
  uint64_t answers_failed() const;

 private:
  struct Impl;
  explicit BeaconSocket(std::unique_ptr<Impl> impl);
  size_t Fill();
  Datagram At(size_t slot) const;
  std::unique_ptr<Impl> impl_;
};

}  // namespace hud
