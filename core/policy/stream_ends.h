// How the two streams of a relay end: who ended, what that makes of the other direction, and when all is over. Pure: the relay tells
// what it saw, and does what the step says. tests/unit/core/policy/stream_ends_test.cc walks every state that can be reached.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "core/base/check.h"

namespace hud {

// Of one source.
enum class Stream : uint8_t {
  kOpen,      // the source may send more
  kEnded,     // its stream was read to the end; what is held still goes to the sink
  kFlushing,  // it ended with a reset, and the sink has been given all: once that is acknowledged, the sink is reset, too
  kFinished,  // the sink has been given the FIN
  kDiscard,   // the sink is gone: read and throw away until the source ends
};

enum class EndStep : uint8_t {
  kGoOn,      // with what is under way
  kDeliver,   // what is held goes to the sink; when it has all: Delivered()
  kPassEnd,   // the sink is given the FIN
  kFlush,     // when the sink has acknowledged all, it is reset
  kDiscard,   // what the source still says is read and thrown away
  kDone,      // both streams have ended. Behind Delivered() the sink is given its FIN first
  kAbort,     // both sides see a reset: a clean end would make a truncated stream look whole
};

class StreamEnds {
 public:
  struct End {
    Stream stream = Stream::kOpen;
    bool reset = false;  // the source was, and its stream ends with that
    bool operator==(const End&) const = default;
  };

  StreamEnds() = default;
  StreamEnds(End first, End second) : ends_{first, second} {}
  bool operator==(const StreamEnds&) const = default;

  const End& of(size_t source) const { return ends_[source]; }

  // The source's stream was read to its end, which was a reset or not. Precondition: kOpen or kDiscard.
  EndStep SourceEnded(size_t source) {
    End& s = ends_[source];
    End& other = ends_[1 - source];
    if (s.stream == Stream::kDiscard) {
      if (s.reset) return EndStep::kAbort;  // both are gone
      s.stream = Stream::kFinished;
      return other.stream == Stream::kFinished ? EndStep::kDone : EndStep::kGoOn;
    }
    HUD_CHECK(s.stream == Stream::kOpen);
    if (s.reset && other.reset) return EndStep::kAbort;
    s.stream = Stream::kEnded;
    if (s.reset) (void)Drop(1 - source);  // who was reset takes no more either
    return EndStep::kDeliver;
  }

  // The sink has all that the source said. Precondition: kEnded.
  EndStep Delivered(size_t source) {
    End& s = ends_[source];
    HUD_CHECK(s.stream == Stream::kEnded);
    if (s.reset) {
      s.stream = Stream::kFlushing;
      return EndStep::kFlush;
    }
    s.stream = Stream::kFinished;
    return ends_[1 - source].stream == Stream::kFinished ? EndStep::kDone : EndStep::kPassEnd;
  }

  // The sink takes no more. `by_reset`: it was told of a reset; else its FIN had come before, or somebody else was told. What it said
  // itself is still read to its end.
  EndStep SinkFailed(size_t sink, bool by_reset) {
    End& from_sink = ends_[sink];
    if (by_reset && from_sink.stream == Stream::kOpen) from_sink.reset = true;
    if (ends_[1 - sink].reset || from_sink.stream == Stream::kDiscard) return EndStep::kAbort;  // nobody is left
    return Drop(1 - sink);
  }

 private:
  // The direction of this source is over, for its sink is gone.
  EndStep Drop(size_t source) {
    End& s = ends_[source];
    HUD_CHECK(s.stream != Stream::kFlushing);
    const bool had_ended = s.stream == Stream::kEnded || s.stream == Stream::kFinished;
    s.stream = had_ended ? Stream::kFinished : Stream::kDiscard;
    if (!had_ended) return EndStep::kDiscard;
    return ends_[1 - source].stream == Stream::kFinished ? EndStep::kDone : EndStep::kGoOn;
  }

  std::array<End, 2> ends_;
};

}  // namespace hud
