// The splice engine: socket → pipe → socket inside the kernel, in a loop with a quantum. splice(2) and not IORING_OP_SPLICE, which
// parks a kernel thread for each idle direction. The sockets are non-blocking; readiness comes from one-shot polls in the ring.
// SPLICE_F_MORE is never set: it makes the tail of a stream wait 200 ms.
#pragma once

#include "ring/relay/pipe_pool.h"
#include "ring/relay/pump.h"
#include "ring/relay/relay_state.h"

namespace hud {

class SplicePump {
 public:
  SplicePump(SocketCalls& calls, PrivateMemory& memory, size_t pipes, size_t pipe_bytes)
      : calls_(calls), memory_(memory), pipes_(calls, pipes, pipe_bytes) {}

  // Precondition: the direction holds no bytes but those in its pipe. `may_return`: it may stop with kSmallAgain.
  Pumped Pump(int source, int sink, Direction& d, bool may_return);

  // With the bytes that are in it, if any.
  void GiveBackPipe(Direction& d);
  // The sink has been stalled for a while: its bytes go to private memory, and the pipe to another direction. 0; ENOMEM: they stay;
  // EIO: the pipe could not be read.
  int EmptyToMemory(Direction& d);

  const PipePool& pipes() const { return pipes_; }
  int64_t bytes_in_pipes() const { return bytes_in_pipes_; }  // of all directions

 private:
  friend struct RelayAccess;

  bool FillPipe(int source, int sink, Direction& d, bool may_return, Pumped& pumped, bool& source_is_empty);
  bool EmptyPipe(int sink, Direction& d, Pumped& pumped);
  size_t ChunkFor(int sink, const Pipe& pipe) const;

  SocketCalls& calls_;
  PrivateMemory& memory_;
  PipePool pipes_;
  int64_t bytes_in_pipes_ = 0;
};

}  // namespace hud
