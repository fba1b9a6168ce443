#include "core/policy/stream_ends.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

namespace hud {
namespace {

std::string Text(const StreamEnds& ends) {
  static constexpr const char* kNames[] = {"open", "ended", "flushing", "finished", "discard"};
  std::string text;
  for (size_t s : {0, 1}) text += std::string(kNames[static_cast<size_t>(ends.of(s).stream)]) + (ends.of(s).reset ? "! " : " ");
  return text;
}

struct Event {
  const char* name;
  // None where it cannot happen.
  std::function<bool(const StreamEnds&, size_t)> can_happen;
  std::function<EndStep(StreamEnds&, size_t)> happens;
};

StreamEnds WithReset(const StreamEnds& ends, size_t source) {
  StreamEnds::End of[2] = {ends.of(0), ends.of(1)};
  of[source].reset = true;
  return {of[0], of[1]};
}

bool IsRead(const StreamEnds& ends, size_t source) {
  return ends.of(source).stream == Stream::kOpen || ends.of(source).stream == Stream::kDiscard;
}

// Of the direction towards it something may still be sent.
bool IsSentTo(const StreamEnds& ends, size_t sink) {
  return ends.of(1 - sink).stream == Stream::kOpen || ends.of(1 - sink).stream == Stream::kEnded;
}

const std::vector<Event>& Events() {
  static const std::vector<Event> events = {
      {"its stream ends", IsRead, [](StreamEnds& e, size_t s) { return e.SourceEnded(s); }},
      {"it is reset", IsRead,
       [](StreamEnds& e, size_t s) {
         e = WithReset(e, s);
         return e.SourceEnded(s);
       }},
      {"all of it is delivered", [](const StreamEnds& e, size_t s) { return e.of(s).stream == Stream::kEnded; },
       [](StreamEnds& e, size_t s) { return e.Delivered(s); }},
      {"a send to it meets its reset", IsSentTo, [](StreamEnds& e, size_t s) { return e.SinkFailed(s, true); }},
      {"a send to it meets EPIPE", IsSentTo, [](StreamEnds& e, size_t s) { return e.SinkFailed(s, false); }},
  };
  return events;
}

// Calls visit(before, event, side, step, after) for every event in every state that can be reached, once.
template <typename Visit>
size_t Walk(Visit&& visit) {
  std::vector<StreamEnds> seen = {StreamEnds()};
  for (size_t i = 0; i < seen.size(); ++i) {
    for (const Event& event : Events()) {
      for (size_t side : {size_t{0}, size_t{1}}) {
        const StreamEnds before = seen[i];
        if (!event.can_happen(before, side)) continue;
        StreamEnds after = before;
        const EndStep step = event.happens(after, side);
        visit(before, event, side, step, after);
        const bool over = step == EndStep::kDone || step == EndStep::kAbort;
        if (!over && std::find(seen.begin(), seen.end(), after) == seen.end()) seen.push_back(after);
      }
    }
  }
  return seen.size();
}

TEST(StreamEnds, AreWalkedThroughAllThatCanBeReached) {
  const size_t states = Walk([](auto&&...) {});
  EXPECT_GE(states, 10u);
  EXPECT_LE(states, 100u);
}

TEST(StreamEnds, FromEveryStateSomethingLeadsOn) {
  Walk([](const StreamEnds&, const Event& event, size_t side, EndStep step, const StreamEnds& after) {
    if (step == EndStep::kDone || step == EndStep::kAbort) return;
    bool goes_on = false;
    for (size_t s : {0, 1}) {
      // kFlushing ends by the relay's timer.
      goes_on |= IsRead(after, s) || after.of(s).stream == Stream::kEnded || after.of(s).stream == Stream::kFlushing;
    }
    EXPECT_TRUE(goes_on) << Text(after) << "after " << event.name << " of " << side;
  });
}

TEST(StreamEnds, AResetNeverBecomesAFin) {
  Walk([](const StreamEnds& before, const Event& event, size_t side, EndStep step, const StreamEnds& after) {
    if (step == EndStep::kPassEnd) {
      EXPECT_FALSE(before.of(side).reset) << Text(before) << event.name;
    }
    if (step == EndStep::kDone && std::string_view(event.name) == "all of it is delivered") {
      EXPECT_FALSE(before.of(side).reset) << Text(before) << event.name;
    }
    for (size_t s : {0, 1}) {
      if (after.of(s).stream == Stream::kFlushing) {
        EXPECT_TRUE(after.of(s).reset) << Text(after) << event.name;
      }
      EXPECT_TRUE(after.of(s).reset || !before.of(s).reset) << "a reset is forgotten: " << Text(before) << event.name;
    }
  });
}

TEST(StreamEnds, AllIsDoneOnlyWhenBothStreamsAreOver) {
  Walk([](const StreamEnds& before, const Event& event, size_t, EndStep step, const StreamEnds& after) {
    const bool both = after.of(0).stream == Stream::kFinished && after.of(1).stream == Stream::kFinished;
    if (step == EndStep::kDone) {
      EXPECT_TRUE(both) << Text(before) << event.name;
    }
    if (step != EndStep::kDone && step != EndStep::kAbort) {
      EXPECT_FALSE(both) << Text(before) << event.name;
    }
  });
}

// A stream that ended well is passed on whole, unless its sink is gone.
TEST(StreamEnds, AStreamIsGivenUpOnlyWithItsSink) {
  Walk([](const StreamEnds& before, const Event& event, size_t side, EndStep, const StreamEnds& after) {
    for (size_t s : {0, 1}) {
      const bool given_up = after.of(s).stream == Stream::kDiscard && before.of(s).stream != Stream::kDiscard;
      if (given_up) {
        EXPECT_EQ(side, 1 - s) << Text(before) << event.name << ": it was not its sink that failed";
      }
    }
  });
}

struct Row {
  const char* what;
  StreamEnds before;
  std::function<EndStep(StreamEnds&)> event;
  EndStep step;
  StreamEnds after;
};

TEST(StreamEnds, ByTheTable) {
  using S = Stream;
  const Row rows[] = {
      {"an ordinary end", {}, [](StreamEnds& e) { return e.SourceEnded(0); }, EndStep::kDeliver, {{S::kEnded}, {}}},
      {"it is passed on", {{S::kEnded}, {}}, [](StreamEnds& e) { return e.Delivered(0); }, EndStep::kPassEnd, {{S::kFinished}, {}}},
      {"the other one is passed on, too", {{S::kFinished}, {S::kEnded}}, [](StreamEnds& e) { return e.Delivered(1); }, EndStep::kDone,
       {{S::kFinished}, {S::kFinished}}},
      {"a reset lets what came before it be delivered", {{S::kOpen, true}, {}}, [](StreamEnds& e) { return e.SourceEnded(0); },
       EndStep::kDeliver, {{S::kEnded, true}, {S::kDiscard}}},
      {"and then waits for its acknowledgement", {{S::kEnded, true}, {S::kDiscard}}, [](StreamEnds& e) { return e.Delivered(0); },
       EndStep::kFlush, {{S::kFlushing, true}, {S::kDiscard}}},
      {"a server closes, and answers the client's close_notify with a reset", {}, [](StreamEnds& e) { return e.SinkFailed(1, false); },
       EndStep::kDiscard, {{S::kDiscard}, {S::kOpen}}},
      {"its last words are delivered", {{S::kDiscard}, {S::kOpen}}, [](StreamEnds& e) { return e.SourceEnded(1); }, EndStep::kDeliver,
       {{S::kDiscard}, {S::kEnded}}},
      {"a sink that is reset says so of its own stream", {}, [](StreamEnds& e) { return e.SinkFailed(1, true); }, EndStep::kDiscard,
       {{S::kDiscard}, {S::kOpen, true}}},
      {"nobody is left", {{S::kOpen, true}, {}}, [](StreamEnds& e) { return e.SinkFailed(1, true); }, EndStep::kAbort,
       {{S::kOpen, true}, {S::kOpen, true}}},
      {"a client that had ended goes while the answer comes", {{S::kFinished}, {}}, [](StreamEnds& e) { return e.SinkFailed(0, false); },
       EndStep::kDiscard, {{S::kFinished}, {S::kDiscard}}},
  };
  for (const Row& row : rows) {
    StreamEnds ends = row.before;
    EXPECT_EQ(row.event(ends), row.step) << row.what;
    EXPECT_EQ(Text(ends), Text(row.after)) << row.what;
  }
}

}  // namespace
}  // namespace hud
