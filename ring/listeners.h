// The listening sockets of a worker: which of them accept, how many at once, and whom they let in. They come and go while it runs.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "core/report/worker_counters.h"
#include "ring/loop/acceptor.h"
#include "ring/loop/ring_loop.h"
#include "ring/pass_through/pass_through.h"
#include "ring/pass_through/places.h"

namespace hud {

class Listeners {
 public:
  Listeners(RingLoop& loop, Places& places, PassThrough& pass_through, WorkerCounters& counters, std::vector<ListeningSocket> sockets);

  // Before each wait: asks for as many clients as there are places.
  void Arm();
  // When a wait must end so that they can be armed.
  Instant ArmsAt() const;
  void OnCompletion(Tag tag, const Completion& completion);

  void Add(ListeningSocket socket);
  // Who has finished the TCP handshake is served, as long as there are places.
  void Remove(ListenerIndex listener);
  void Pause(ListenerIndex listener, bool paused);
  // No more accepts. CloseAll() serves the backlogs besides, and closes.
  void StopAll();
  void CloseAll();
  void AfterALoss();  // of completions, by the kernel

  // Nothing is owed for any of them.
  bool AreQuiet() const;

 private:
  void Close(Acceptor& acceptor);
  void ForgetClosed();

  RingLoop& loop_;
  Places& places_;
  PassThrough& pass_through_;
  WorkerCounters& counters_;
  std::map<uint32_t, Acceptor> acceptors_;  // by the number in their tags
  uint32_t next_number_ = 0;
  bool accepting_ = true;
  bool at_limit_ = false;    // all places are in use
  bool over_limit_ = false;  // more than that: newcomers wait until those who make room have left
};

}  // namespace hud
