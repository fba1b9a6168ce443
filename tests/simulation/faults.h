// What goes wrong in a simulation: each fault has a probability, drawn once for a seed, and is counted when it happens.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "tests/simulation/random.h"

namespace hud::simulation {

enum class Fault : uint8_t {
  kShortSend,           // a socket with room takes a part
  kShortReceive,        // fewer bytes than are there
  kRefusingSocket,      // says that it has room, and takes nothing for a while
  kNoDescriptor,        // EMFILE, ENFILE, ENOMEM: accept, socket, pipe
  kSmallPipe,           // the user's budget of pipes is used up: 8 KiB are granted
  kConnectRefused,
  kConnectLate,
  kConnectNever,
  kConnectCannotBegin,  // -ENOMEM: both completions of a connect and its send
  kUnixBacklogFull,
  kResetBeforeSend,     // a reset comes just before a send, which is told of it
  kResetWithinTransfer, // a reset comes while a transfer is under way, which stops short and keeps the error to itself
  kNetworkError,        // ETIMEDOUT, EHOSTUNREACH and the like: what the kernel makes of ICMP messages and of silence
  kErrorBehindFin,      // and the peer's FIN had been sent before
  kTimeWithinTurn,      // time passes within a turn of the worker
  kCancelLoses,         // what is cancelled completes as it would have
  kLateCompletion,      // what could complete does so a turn later
  kPartialSubmission,   // the kernel takes a part of what was submitted
  kZeroCopyCopied,
  kZeroCopyRefused,     // -EOPNOTSUPP
  kZeroCopyNoMemory,    // -ENOMEM
  kZeroCopyLate,        // the notification comes seconds later
  kReceiveNoMemory,     // -ENOMEM, -ENOBUFS: of a receive, a send, a poll, a transfer by splice(2)
  kSendNoMemory,
  kPollNoMemory,
  kSpliceNoMemory,
  kNoMemory,            // std::bad_alloc in a turn of the worker
  kTimeJump,            // SIGSTOP
  kCompletionLost,      // -EBADR
  kCount
};
inline constexpr size_t kFaultCount = static_cast<size_t>(Fault::kCount);

struct FaultKind {
  std::string_view name;
  double most;    // its highest probability, each time that it could happen
  double seeds;   // of how many seeds it is part
};
inline constexpr std::array<FaultKind, kFaultCount> kFaultKinds{{
    {"short send", 0.5, 0.5},
    {"short receive", 0.5, 0.5},
    {"refusing socket", 0.05, 0.3},
    {"no descriptor", 0.2, 0.3},
    {"small pipe", 0.9, 0.2},
    {"connect refused", 0.5, 0.3},
    {"connect late", 0.5, 0.3},
    {"connect never", 0.3, 0.3},
    {"connect cannot begin", 0.3, 0.3},
    {"unix backlog full", 0.4, 0.4},
    {"reset before a send", 0.05, 0.5},
    {"reset within a transfer", 0.5, 0.5},
    {"network error", 0.9, 0.5},
    {"error behind a FIN", 1, 1},
    {"time within a turn", 0.2, 0.5},
    {"cancel loses", 0.5, 0.5},
    {"late completion", 0.5, 0.5},
    {"partial submission", 0.2, 0.3},
    {"zero copy copied", 0.3, 0.3},
    {"zero copy refused", 0.15, 0.3},
    {"zero copy no memory", 0.1, 0.2},
    {"zero copy late", 0.3, 0.3},
    {"receive: no memory", 0.02, 0.1},
    {"send: no memory", 0.02, 0.1},
    {"poll: no memory", 0.03, 0.15},
    {"splice: no memory", 0.05, 0.15},
    {"no memory", 0.02, 0.15},
    {"time jump", 0.02, 0.25},
    {"completion lost", 0.01, 0.06},
}};

class Faults {
 public:
  explicit Faults(Random& random) : random_(random) {
    for (size_t i = 0; i < kFaultCount; ++i) {
      const FaultKind& kind = kFaultKinds[i];
      if (random.Chance(kind.seeds)) probability_[i] = kind.most * static_cast<double>(random.Magnitude(10, 1000)) / 1000;
    }
  }

  bool Happens(Fault fault) {
    const size_t i = static_cast<size_t>(fault);
    if (calm_ || !random_.Chance(probability_[i])) return false;
    ++counts_[i];
    return true;
  }
  bool Possible(Fault fault) const { return probability_[static_cast<size_t>(fault)] > 0; }
  // None of them ever.
  void Forbid(Fault fault) { probability_[static_cast<size_t>(fault)] = 0; }
  void ForbidAll() { probability_ = {}; }
  // None from now on.
  void Calm() { calm_ = true; }
  bool calm() const { return calm_; }
  uint64_t count(Fault fault) const { return counts_[static_cast<size_t>(fault)]; }

 private:
  Random& random_;
  std::array<double, kFaultCount> probability_{};
  std::array<uint64_t, kFaultCount> counts_{};
  bool calm_ = false;
};

}  // namespace hud::simulation
