// The zero-copy engine: for bulk that must pass user space, on devices that can send from our memory. Receives into a
// large private buffer and sends it with SEND_ZC; the buffer rests until the last notification for it has come, and the
// direction goes on with the next one meanwhile. Waiting for each notification before the next send would be ruinous.
#pragma once

#include "ring/relay/pump.h"
#include "ring/relay/relay_state.h"
#include "ring/relay/zero_copy_pool.h"

namespace hud {

class ZeroCopyPump {
 public:
  explicit ZeroCopyPump(SocketCalls& calls) : calls_(calls) {}

  // Precondition: every byte received has been accepted by the sink. `useful`: is a buffer worth its while?
  Pumped Receive(int source, Direction& d, bool useful);
  // The buffer that a completion is for.
  static ZeroCopyBuffer& Find(Direction& d, uint8_t number);
  static bool AllOnTheirWay(const Direction& d) { return d.held && d.held->zero_copy.size() >= ZeroCopyPool::kPerDirection; }

  // Gives back the buffers of which every byte is sent and every notification has come.
  void FreeSent(Direction& d);
  // No more of the last one will be sent.
  static void GiveUpUnsent(Direction& d);

 private:
  SocketCalls& calls_;
  ZeroCopyPool pool_;
};

}  // namespace hud
