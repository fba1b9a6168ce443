// The kernel's own socket calls. Has no state.
#pragma once

#include "ring/io/socket_calls.h"

namespace hud {

class KernelSockets final : public SocketCalls {
 public:
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
};

}  // namespace hud
