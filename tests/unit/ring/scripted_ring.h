// A ring around another one, the kernel's or a simulated one, that does otherwise where the script of a test says so.
#pragma once

#include <algorithm>
#include <deque>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "ring/io/operation.h"
#include "ring/io/ring.h"

namespace hud::testing {

// Called in the worker's thread. What is not set changes nothing.
struct Script {
  enum class Fate { kHandedOut, kHeldBack, kLost };

  // Of each request. True: the kernel never hears of it; what it completes with is for Answer() to say. Of a connect and the send
  // behind it the connect is asked first.
  std::function<bool(uint64_t user_data)> takes_request;
  // Of each completion. What is held back is asked for again with each wait; what is lost is counted so.
  std::function<Fate(const Completion&)> fate;
  // Before each wait. True: it ends at once, with nothing.
  std::function<bool()> interrupts;
  std::function<void()> after_wait;
  Duration longest_wait = Duration::max();
  uint64_t losses = 0;
  size_t buffers_missing = 0;  // of those that are free

  void Answer(uint64_t user_data, int result) { answers.push_back({.user_data = user_data, .result = result}); }

  std::deque<Completion> answers;
};

class ScriptedRing final : public Ring {
 public:
  ScriptedRing(std::unique_ptr<Ring> inner, Script& script) : inner_(std::move(inner)), script_(script) {}

  void AcceptMultishot(int fd, uint64_t u) override { Taken(u) || (inner_->AcceptMultishot(fd, u), true); }
  void AcceptOne(int fd, uint64_t u) override { Taken(u) || (inner_->AcceptOne(fd, u), true); }
  void Recv(int fd, Expected e, uint64_t u) override { Taken(u) || (inner_->Recv(fd, e, u), true); }
  void RecvMultishot(int fd, Expected e, uint32_t limit, uint64_t u) override { Taken(u) || (inner_->RecvMultishot(fd, e, limit, u), true); }
  void Send(int fd, Bytes data, uint64_t u) override { Taken(u) || (inner_->Send(fd, data, u), true); }
  void SendZeroCopy(int fd, Bytes data, uint64_t u) override { Taken(u) || (inner_->SendZeroCopy(fd, data, u), true); }
  void ConnectAndSend(int fd, const sockaddr* a, socklen_t n, uint64_t u, Bytes data, uint64_t v) override {
    Taken(u) || Taken(v) || (inner_->ConnectAndSend(fd, a, n, u, data, v), true);
  }
  void Poll(int fd, uint32_t events, uint64_t u) override { Taken(u) || (inner_->Poll(fd, events, u), true); }
  void PollChanges(int fd, uint32_t events, uint64_t u) override { Taken(u) || (inner_->PollChanges(fd, events, u), true); }
  void Cancel(uint64_t target) override { inner_->Cancel(target); }
  void Submit() override { inner_->Submit(); }
  void Close(Fd fd) override { inner_->Close(std::move(fd)); }
  Bytes BufferBytes(uint16_t b) const override { return inner_->BufferBytes(b); }
  void ReturnBuffer(uint16_t b) override { inner_->ReturnBuffer(b); }
  size_t buffer_size() const override { return inner_->buffer_size(); }
  size_t buffers_free() const override {
    return inner_->buffers_free() + static_cast<size_t>(std::ranges::count_if(held_, &Completion::has_buffer)) - script_.buffers_missing;
  }
  uint64_t overflows() const override { return inner_->overflows(); }
  uint64_t losses() const override { return inner_->losses() + script_.losses; }

  size_t Wait(std::span<Completion> out, Duration timeout, Batch batch) override {
    if (script_.interrupts && script_.interrupts()) return 0;
    size_t n = TakeHeld(out);
    // Answers come one a turn, so that what belongs together may find its connection gone.
    if (!script_.answers.empty() && n < out.size()) {
      out[n++] = script_.answers.front();
      script_.answers.pop_front();
    }
    const std::span<Completion> rest = out.subspan(n);
    const size_t more = rest.empty() ? 0 : inner_->Wait(rest, n > 0 ? Duration::zero() : std::min(timeout, script_.longest_wait), batch);
    n += Judge(rest.first(more));
    if (script_.after_wait) script_.after_wait();
    return n;
  }

 private:
  bool Taken(uint64_t user_data) { return script_.takes_request && script_.takes_request(user_data); }

  // Those that are held back no longer, in their order.
  size_t TakeHeld(std::span<Completion> out) {
    size_t n = 0;
    std::erase_if(held_, [&](const Completion& c) {
      if (n == out.size() || script_.fate(c) == Script::Fate::kHeldBack) return false;
      out[n++] = c;
      return true;
    });
    return n;
  }
  // Leaves those that are handed out in front, and says how many they are.
  size_t Judge(std::span<Completion> completions) {
    if (!script_.fate) return completions.size();
    size_t kept = 0;
    for (const Completion& c : completions) {
      switch (script_.fate(c)) {
        case Script::Fate::kHandedOut: completions[kept++] = c; break;
        case Script::Fate::kHeldBack: held_.push_back(c); break;
        case Script::Fate::kLost: ++script_.losses; break;
      }
    }
    return kept;
  }

  std::unique_ptr<Ring> inner_;
  Script& script_;
  std::vector<Completion> held_;
};

}  // namespace hud::testing
