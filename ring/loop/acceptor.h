// One listening socket of a worker. May be made and ended while the worker runs.
#pragma once

#include <optional>

#include "core/report/worker_counters.h"
#include "ring/loop/ring_loop.h"

namespace hud {

struct ListeningSocket {
  ListenerIndex listener;
  Fd fd;
};

class Acceptor {
 public:
  // `number` names it in its tags; no other has had it of late. The socket listens, and does not block.
  Acceptor(RingLoop& loop, WorkerCounters& counters, uint32_t number, ListeningSocket socket);
  ~Acceptor();
  Acceptor(const Acceptor&) = delete;
  Acceptor& operator=(const Acceptor&) = delete;

  ListenerIndex listener() const { return socket_.listener; }
  // Nothing is owed: also an accept that was cancelled has completed. It may have brought a client.
  bool IsQuiet() const { return !armed_; }
  bool IsClosed() const { return !socket_.fd; }
  // When it wants to be armed: now, or later where the last accept found no descriptor or memory; never while it is.
  Instant ArmsAt() const { return armed_ || paused_ || IsClosed() ? Instant::max() : retry_at_; }

  // `headroom`: how many could be accepted at once. None: it takes back what it has asked for.
  void Arm(std::optional<size_t> headroom);
  // A client, if one came.
  Fd OnCompletion(Tag tag, const Completion& completion);
  // One that waits in the backlog, if there is one.
  Fd TakeOne();
  // A completion brings one client only: what else the backlog holds is for the caller to take.
  bool TakesOneByOne() const { return !multishot_ && !paused_; }

  void Stop();           // no more
  void Pause(bool paused) { paused_ = paused; }
  void Close();          // behind Stop(), when the backlog is empty; an accept that is still owed holds the file
  void AfterALoss();     // what was asked for may never complete

 private:
  Tag MyTag() const;
  void BackOff();

  RingLoop& loop_;
  WorkerCounters& counters_;
  const uint32_t number_;
  ListeningSocket socket_;
  bool armed_ = false;
  bool multishot_ = false;
  bool cancelling_ = false;
  bool paused_ = false;
  uint8_t round_ = 0;    // in the tag: what was armed before a loss of completions is not what is armed now
  Instant retry_at_{};
};

}  // namespace hud
