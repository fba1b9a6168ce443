// Notices that a server has clients and its feed has brought no line at all: its log goes elsewhere, or its workers may not write
// to the socket, of which servers say nothing. Pure.
#pragma once

#include <cstdint>
#include <optional>

namespace hud {

class FeedSilence {
 public:
  // A line comes at the end of a request, so a client that has just connected proves nothing; neither do a few.
  static constexpr int kLooks = 15;

  // Once in a while, like each second. `connections`: to the server now, if that is known; `own`: how many of them may be the
  // agent's probes; `lines`: that have come so far. True when it is time to say something, once.
  bool Look(std::optional<uint32_t> connections, uint32_t own, uint64_t lines) {
    if (over_) return false;
    over_ = lines > 0;
    if (over_ || connections.value_or(0) <= own) return false;
    return over_ = ++looks_with_clients_ == kLooks;
  }

 private:
  int looks_with_clients_ = 0;
  bool over_ = false;  // a line came, or it was said
};

}  // namespace hud
