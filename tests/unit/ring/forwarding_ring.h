// A ring of a test's around another one: passes everything on, unless it is overridden.
#pragma once

#include <memory>
#include <utility>

#include "ring/io/ring.h"

namespace hud::testing {

class ForwardingRing : public Ring {
 public:
  explicit ForwardingRing(std::unique_ptr<Ring> inner) : inner_(std::move(inner)) {}
  void AcceptMultishot(int fd, uint64_t u) override { inner_->AcceptMultishot(fd, u); }
  void AcceptOne(int fd, uint64_t u) override { inner_->AcceptOne(fd, u); }
  void Recv(int fd, Expected e, uint64_t u) override { inner_->Recv(fd, e, u); }
  void RecvMultishot(int fd, Expected e, uint32_t limit, uint64_t u) override { inner_->RecvMultishot(fd, e, limit, u); }
  void Send(int fd, Bytes data, uint64_t u) override { inner_->Send(fd, data, u); }
  void SendZeroCopy(int fd, Bytes data, uint64_t u) override { inner_->SendZeroCopy(fd, data, u); }
  void ConnectAndSend(int fd, const sockaddr* a, socklen_t n, uint64_t u, Bytes data, uint64_t v) override {
    inner_->ConnectAndSend(fd, a, n, u, data, v);
  }
  void Poll(int fd, uint32_t events, uint64_t u) override { inner_->Poll(fd, events, u); }
  void PollChanges(int fd, uint32_t events, uint64_t u) override { inner_->PollChanges(fd, events, u); }
  void Cancel(uint64_t target) override { inner_->Cancel(target); }
  void Submit() override { inner_->Submit(); }
  void Close(Fd fd) override { inner_->Close(std::move(fd)); }
  size_t Wait(std::span<Completion> out, Duration timeout, Batch batch) override { return inner_->Wait(out, timeout, batch); }
  Bytes BufferBytes(uint16_t b) const override { return inner_->BufferBytes(b); }
  void ReturnBuffer(uint16_t b) override { inner_->ReturnBuffer(b); }
  size_t buffer_size() const override { return inner_->buffer_size(); }
  size_t buffers_free() const override { return inner_->buffers_free(); }
  uint64_t overflows() const override { return inner_->overflows(); }
  uint64_t losses() const override { return inner_->losses(); }

 protected:
  std::unique_ptr<Ring> inner_;
};

}  // namespace hud::testing
