// The invariants of the data plane find what they are for. Every other test of the ring runs with them; here each is broken.
#include <gtest/gtest.h>

#include "ring/pass_through/invariants.h"
#include "tests/unit/ring/test_bed.h"

namespace hud::testing {
namespace {

constexpr Side kClient = Side::kClient, kNode = Side::kNode;

// A relay that is as it should be: both sides are received from, and nothing is held.
struct Sample {
  Sample() {
    c.state = ConnectionState::kRelaying;
    c.active = true;
    for (Endpoint& end : c.ends) end.fd = Fd(::eventfd(0, EFD_CLOEXEC));
    Owe(kClient, Op::kRecv);
    Owe(kNode, Op::kRecv);
    TimerIn(5s);
  }
  ~Sample() { timers.Cancel(c); }
  Sample(const Sample&) = delete;
  Sample& operator=(const Sample&) = delete;

  void Owe(Side side, Op op) { c.end(side).owed |= static_cast<uint16_t>(1u << static_cast<int>(op)); }
  void Pay(Side side, Op op) { c.end(side).owed &= static_cast<uint16_t>(~(1u << static_cast<int>(op))); }
  void TimerIn(Duration d) { timers.Set(c, now + d); }
  Direction& from(Side source) { return c.direction[Index(source)]; }
  static void Fill(PrivateBytes& place) {
    place.data = std::make_unique<uint8_t[]>(10);
    place.size = place.capacity = 10;
  }
  // The node takes nothing: what came from the client is held, and more of it is not received.
  void StallNode() {
    Pay(kClient, Op::kRecv);
    Owe(kClient, Op::kPollError);
    Owe(kNode, Op::kPollOut);
    Fill(from(kClient).EnsureHeld().rest);
  }
  void StallNodeWithAPipe() {
    StallNode();
    from(kClient).engine = Engine::kSplice;
    from(kClient).held->rest = PrivateBytes();
    from(kClient).held->pipe_bytes = 10;
    from(kClient).held->stalled_since = now;
    TimerIn(100ms);
  }
  // All buffers are sent, and the kernel has let go of none.
  void AwaitNotifications() {
    Pay(kClient, Op::kRecv);
    Owe(kClient, Op::kPollError);
    from(kClient).engine = Engine::kZeroCopy;
    from(kClient).EnsureHeld().zero_copy.assign(ZeroCopyPool::kPerDirection, {.size = 10, .offset = 10, .notifications = 1});
    c.end(kNode).notifications = ZeroCopyPool::kPerDirection;
  }
  void End(ConnectionState state) {
    timers.Cancel(c);
    c.state = state;
    c.active = false;
    for (Endpoint& end : c.ends) {
      end.owed = 0;
      end.fd.Reset();
    }
  }
  std::string Broken() const {
    const char* broken = BrokenInvariant(c, now);
    return broken == nullptr ? "" : std::string(broken).substr(0, std::string_view(broken).find(':'));
  }

  const Instant now = Instant(1h);
  TimerWheel timers{now};
  Connection c;
};

struct Case {
  const char* what;
  void (*change)(Sample&);
  const char* breaks;  // "" for what is as it should be
};

constexpr Case kCases[] = {
    {"both sides are received from", [](Sample&) {}, ""},
    {"a quiet relay waits with polls",
     [](Sample& s) { s.Pay(kClient, Op::kRecv), s.Pay(kNode, Op::kRecv), s.Owe(kClient, Op::kPollIn), s.Owe(kNode, Op::kPollIn); }, ""},
    {"a source waits for a shared buffer", [](Sample& s) { s.Pay(kNode, Op::kRecv), s.from(kNode).starved = true; }, ""},
    {"a sink has stalled", [](Sample& s) { s.StallNode(); }, ""},
    {"a sink has stalled before a pipe", [](Sample& s) { s.StallNodeWithAPipe(); }, ""},
    {"a sink is tried by the clock",
     [](Sample& s) { s.StallNode(), s.Pay(kNode, Op::kPollOut), s.from(kClient).held->wait_by_timer = true, s.TimerIn(10ms); }, ""},
    {"all zero-copy buffers are on their way", [](Sample& s) { s.AwaitNotifications(); }, ""},
    {"a reset waits for acknowledgements",
     [](Sample& s) { s.Pay(kClient, Op::kRecv), s.from(kClient).stream = Stream::kFlushing, s.TimerIn(80ms); }, ""},
    {"a direction is over, and its source will be watched",
     [](Sample& s) { s.Pay(kClient, Op::kRecv), s.from(kClient).stream = Stream::kFinished, s.TimerIn(30ms); }, ""},
    {"a direction is over, and its source is watched",
     [](Sample& s) { s.Pay(kClient, Op::kRecv), s.from(kClient).stream = Stream::kFinished, s.Owe(kClient, Op::kPollError); }, ""},
    {"a direction is over, and nobody watches its source",
     [](Sample& s) { s.Pay(kClient, Op::kRecv), s.from(kClient).stream = Stream::kFinished; }, "TimersAreInTime"},
    {"a closed connection waits for a notification",
     [](Sample& s) { s.AwaitNotifications(), s.End(ConnectionState::kTerminating); }, ""},
    {"a free slot", [](Sample& s) { s.End(ConnectionState::kFree); }, ""},

    {"nobody asks the client", [](Sample& s) { s.Pay(kClient, Op::kRecv); }, "SomethingAlwaysFollows"},
    {"only its end is watched", [](Sample& s) { s.Pay(kClient, Op::kRecv), s.Owe(kClient, Op::kPollError); }, "SomethingAlwaysFollows"},
    {"nobody waits for a stalled sink", [](Sample& s) { s.StallNode(), s.Pay(kNode, Op::kPollOut); }, "SomethingAlwaysFollows"},
    {"the end of a stream is not passed on",
     [](Sample& s) { s.Pay(kClient, Op::kRecv), s.from(kClient).stream = Stream::kEnded; }, "SomethingAlwaysFollows"},
    {"what is thrown away is not read",
     [](Sample& s) { s.Pay(kClient, Op::kRecv), s.from(kClient).stream = Stream::kDiscard; }, "SomethingAlwaysFollows"},
    {"both streams are over",
     [](Sample& s) { s.from(kClient).stream = s.from(kNode).stream = Stream::kFinished; }, "SomethingAlwaysFollows"},
    {"a relay without a timer", [](Sample& s) { s.timers.Cancel(s.c); }, "SomethingAlwaysFollows"},
    {"a hello without a timer", [](Sample& s) { s.c.state = ConnectionState::kHello, s.timers.Cancel(s.c); }, "SomethingAlwaysFollows"},
    {"a hello that is not received", [](Sample& s) { s.c.state = ConnectionState::kHello, s.Pay(kClient, Op::kRecv); }, "SomethingAlwaysFollows"},
    {"a rejected client that is not read",
     [](Sample& s) { s.c.state = ConnectionState::kRejecting, s.Pay(kClient, Op::kRecv); }, "SomethingAlwaysFollows"},
    {"neither a connect nor a wait for one",
     [](Sample& s) { s.c.state = ConnectionState::kDialing, s.c.context = std::make_unique<HelloContext>(); }, "SomethingAlwaysFollows"},
    {"it is to end, and nothing is owed", [](Sample& s) { s.End(ConnectionState::kTerminating); }, "SomethingAlwaysFollows"},

    {"a reset is looked at too late", [](Sample& s) { s.from(kClient).stream = Stream::kFlushing; }, "TimersAreInTime"},
    {"a node that is to be reset is looked at too late", [](Sample& s) { s.from(kNode).stream = Stream::kDiscard; }, "TimersAreInTime"},
    {"a sink is tried too late",
     [](Sample& s) { s.StallNode(), s.Pay(kNode, Op::kPollOut), s.from(kClient).held->wait_by_timer = true; }, "TimersAreInTime"},
    {"a pipe is let go too late", [](Sample& s) { s.StallNodeWithAPipe(), s.TimerIn(5s); }, "TimersAreInTime"},

    {"a paused source is not watched", [](Sample& s) { s.StallNode(), s.Pay(kClient, Op::kPollError); }, "WhoIsNotReadIsWatched"},

    {"a receive beside another engine", [](Sample& s) { s.from(kClient).engine = Engine::kSplice; }, "OneReader"},
    {"a receive beside a pipe",
     [](Sample& s) { s.StallNodeWithAPipe(), s.from(kClient).engine = Engine::kSmall, s.Owe(kClient, Op::kRecv); }, "OneReader"},
    {"a receive of who waits for a buffer", [](Sample& s) { s.from(kClient).starved = true; }, "OneReader"},

    {"a shared buffer that nobody sends",
     [](Sample& s) { s.from(kClient).has_buffer = true, s.Owe(kNode, Op::kPollOut); }, "BytesStayInOrder"},
    {"bytes behind nothing",
     [](Sample& s) { s.StallNode(), std::swap(s.from(kClient).held->rest, s.from(kClient).held->behind); }, "BytesStayInOrder"},
    {"bytes in a pipe beside others", [](Sample& s) { s.StallNodeWithAPipe(), s.Fill(s.from(kClient).held->rest); }, "BytesStayInOrder"},
    {"a shared buffer before private bytes",
     [](Sample& s) { s.StallNode(), s.from(kClient).has_buffer = true, s.Owe(kNode, Op::kSend); }, "BytesStayInOrder"},
    {"a zero-copy buffer that another has overtaken",
     [](Sample& s) { s.AwaitNotifications(), s.from(kClient).held->zero_copy[1].offset = 5; }, "BytesStayInOrder"},

    {"a descriptor is closed too early", [](Sample& s) { s.c.end(kNode).fd.Reset(); }, "InFlightPinsMemory"},
    {"a send of memory that is gone", [](Sample& s) { s.Owe(kNode, Op::kSend); }, "InFlightPinsMemory"},
    {"a zero-copy send of a buffer that is gone", [](Sample& s) { s.Owe(kNode, Op::kZeroCopy); }, "InFlightPinsMemory"},
    {"a zero-copy buffer is given back too early",
     [](Sample& s) { s.AwaitNotifications(), s.from(kClient).held->zero_copy.pop_back(); }, "InFlightPinsMemory"},
    {"a connect without the hello behind it",
     [](Sample& s) { s.c.state = ConnectionState::kDialing, s.Owe(kNode, Op::kConnect); }, "InFlightPinsMemory"},
    {"a closed connection that keeps a pool busy",
     [](Sample& s) { s.AwaitNotifications(), s.End(ConnectionState::kTerminating), s.c.counted_in_pool = true; }, "InFlightPinsMemory"},
    {"a free slot that owes", [](Sample& s) { s.End(ConnectionState::kFree), s.Owe(kClient, Op::kRecv); }, "InFlightPinsMemory"},

    {"memory for held bytes of which there are none", [](Sample& s) { s.from(kClient).EnsureHeld(); }, "IdleIsFree"},
    {"a hello that nobody needs any more", [](Sample& s) { s.c.context = std::make_unique<HelloContext>(); }, "IdleIsFree"},
};

TEST(Invariants, OfAConnectionAreFoundBrokenWhereTheyAreAndNowhereElse) {
  for (const Case& test : kCases) {
    Sample sample;
    test.change(sample);
    EXPECT_EQ(sample.Broken(), test.breaks) << test.what << ": " << Describe(sample.c, sample.now);
  }
}

TEST(Invariants, ASendIsAwaitedWhereSomethingIsToFollowIt) {
  Sample sample;
  sample.Owe(kNode, Op::kSend);
  sample.from(kClient).has_buffer = true;
  EXPECT_FALSE(FollowsASend(sample.c, kNode)) << "only a buffer goes back";
  EXPECT_FALSE(FollowsASend(sample.c, kClient)) << "nothing is sent there";
  sample.Pay(kClient, Op::kRecv);
  EXPECT_TRUE(FollowsASend(sample.c, kNode)) << "then it is read on";
  sample.Owe(kClient, Op::kRecv);
  Sample::Fill(sample.from(kClient).EnsureHeld().behind);
  EXPECT_TRUE(FollowsASend(sample.c, kNode)) << "bytes wait behind it";
  sample.from(kClient).held.reset();
  sample.from(kClient).stream = Stream::kEnded;
  EXPECT_TRUE(FollowsASend(sample.c, kNode)) << "the end of the stream waits behind it";
}

TEST(Invariants, ADescriptionSaysWhatIsOwedAndHeld) {
  Sample sample;
  sample.StallNode();
  sample.c.slot = 7;
  const std::string text = Describe(sample.c, sample.now);
  for (const char* part : {"connection 7.0 relaying", " owes pollerror; node fd ", " owes recv pollout",
                           "open small rest 10 behind 0", "timer in 5000 ms"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << " in " << text;
  }
}

}  // namespace
}  // namespace hud::testing
